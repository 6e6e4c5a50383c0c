"""Statistics of sampled networks that do not depend on the order of neurons, each with its Monte-Carlo error.

A neuron of a sampled network is told by its code only: which classes drive it above the midpoint of phi (the convention
of the theory). For a phi that is unbounded and not linear neurons are the bulk, and outliers: those whose mean
activation on some class exceeds `OUTLIER_LEVEL` standard deviations of the prior. Which parts there are, the
`meanfield.posterior.division.Division` of the network says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from meanfield.posterior.division import OUTLIER_LEVEL, Division, word_shares
from meanfield.posterior.registry import division_of
from meanfield.problem.class_task import ClassTask
from meanfield.problem.data_task import DataTask
from meanfield.problem.layers import layer_index
from meanfield.problem.network import Network
from meanfield.sampling.diagnostics import ess_bulk, ess_mean, ess_tail, rhat
from meanfield.validation import FloatArray, IntArray, short

__all__ = [
    "FEWEST_DRAWS",
    "OUTLIER_LEVEL",
    "Draws",
    "Observable",
    "SampledEstimate",
    "all_shares",
    "as_draws",
    "estimate",
    "layer_suffix",
    "normal_deviate",
    "observables",
]

FEWEST_DRAWS = 4  # of a chain whose own scatter tells an error; R-hat splits chains in halves
_DISAGREE = 0.95  # confidence at which chains are said to disagree: then only they are independent


@dataclass(frozen=True, eq=False)
class SampledEstimate:
    """Posterior means with Monte-Carlo standard errors; all fields have the shape of the quantity.

    Attributes
    ----------
    value, standard_error : arrays
    dof : array
        Degrees of freedom of the standard error: effective draws, or chains - 1 where the chains disagree.
    rhat, ess_bulk, ess_tail : arrays
        Rank-normalised split R-hat and effective sample sizes.
    chain_means : (k, ...) array
    """

    value: FloatArray
    standard_error: FloatArray
    dof: FloatArray
    rhat: FloatArray
    ess_bulk: FloatArray
    ess_tail: FloatArray
    chain_means: FloatArray

    def z(self) -> FloatArray:
        """value / standard_error as the deviation of a normal variable of the same significance (Student's t)."""
        return normal_deviate(self.value / self.standard_error, self.dof)

    def __repr__(self) -> str:
        if self.value.ndim == 0:
            return f"<Estimate {self.value:.5g} +- {self.standard_error:.2g}>"
        return f"<Estimate of shape {self.value.shape}, standard errors up to {self.standard_error.max():.2g}>"


def normal_deviate(t: ArrayLike, dof: ArrayLike) -> FloatArray:
    """The normal deviate with the tail probability of Student's t; t itself beyond 200 degrees of freedom."""
    t, dof = np.broadcast_arrays(np.asarray(t, dtype=float), np.asarray(dof, dtype=float))
    tail = np.maximum(stats.t.sf(np.abs(t), np.minimum(dof, 200.0)), 1e-300)
    return np.where(dof > 200, t, np.sign(t) * stats.norm.isf(tail))


def estimate(series: ArrayLike) -> SampledEstimate:
    """Mean over chains and draws with an error that holds for autocorrelated chains, also if they do not mix.

    Two errors are computed: from within the chains, sd / sqrt(ESS) of the draws about their chain's mean, and from
    the scatter of the chain means; the larger one is taken. Where the scatter exceeds what the first allows (95 %
    confidence), the chains are the only independent units and the error has k - 1 degrees of freedom.

    Parameters
    ----------
    series : (k, d, ...) array
        k chains of d draws.

    Raises
    ------
    ValueError
        For fewer than 4 draws of a single chain, or values that are not finite.

    Notes
    -----
    Of several chains of fewer draws (networks that were trained independently) only the scatter between them counts;
    R-hat is NaN. Of a quantity that never changes, in any chain, the error is unknown: NaN.
    """
    x = np.asarray(series, dtype=float)
    if x.ndim < 2 or x.shape[0] < 1 or x.shape[1] < (FEWEST_DRAWS if x.shape[0] == 1 else 1):
        raise ValueError(f"series must have shape (chains, draws >= 4, ...), got {x.shape}; draw more samples.")
    if not np.isfinite(x).all():
        raise ValueError("series holds values that are not finite; the sampler diverged.")
    k, shape = x.shape[0], x.shape[2:]
    flat = x.reshape(*x.shape[:2], -1)
    means = flat.mean(axis=1)
    error, dof, r, bulk, tail = (values.reshape(shape) for values in _diagnose(flat, means))
    means = means.reshape(k, *shape)
    return SampledEstimate(means.mean(axis=0), error, dof, r, bulk, tail, means)


def _diagnose(x: FloatArray, means: FloatArray) -> FloatArray:
    """(5, q): standard errors, their degrees of freedom, R-hat, bulk and tail ESS of (k, d, q) series."""
    k, d, _ = x.shape
    found = np.full((5, x.shape[2]), np.nan)
    scale = np.abs(x).max(axis=(0, 1))
    moving = np.ptp(x, axis=(0, 1)) > 1e-14 * scale  # frozen at one value in every chain: nothing tells the error
    x, means, scale = x[:, :, moving], means[:, moving], scale[moving]
    if not x.size:
        return found
    if d < FEWEST_DRAWS:
        error = np.std(means, axis=0, ddof=1) / np.sqrt(k)
        found[:, moving] = np.stack(np.broadcast_arrays(error, k - 1.0, np.nan, float(k), float(k)))
        return found
    centred = x - means[:, None]
    variance = np.mean(centred**2, axis=(0, 1)) * d / (d - 1)
    still = variance <= 1e-28 * scale**2
    effective = np.where(still, float(k * d), np.fmax(1.0, ess_mean(centred)))
    within = np.where(still, 0.0, variance / effective)
    dof = np.maximum(effective - 1.0, 1.0)
    if k > 1:
        between = np.var(means, axis=0, ddof=1) / k
        disagree = (within == 0) | (between > within * stats.f.ppf(_DISAGREE, k - 1, dof))
        dof = np.where(disagree, k - 1.0, dof)
        within = np.maximum(within, between)
    found[:, moving] = np.sqrt(within), dof, rhat(x), ess_bulk(x), ess_tail(x)
    return found


# ---- draws of one or several runs ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Draws:
    """What statistics read of one or several runs of the same problem; chains of all runs side by side.

    Attributes
    ----------
    network : Network
    task : ClassTask or DataTask
    width : int
        N.
    tau : float
    labels : (P,) integer array
        Class of every training sample.
    counts : (C,) integer array
        Samples of each class.
    readout : (k, d, N, m) array
    class_activation : (k, d, N, C) array
        Mean of phi(z^L) over the samples of a class, per neuron.
    lower_activation : (k, d, L - 1, max N_l, C) array or None
        The same in the layers below the last; NaN beyond the N_l neurons of a layer that is narrower than others.
    kernel_between : (k, d, L, C, C) array
        Mean of K_mu,nu over pairs of different samples.
    kernel_diagonal : (k, d, L, C) array
    residual : (k, d, C, m) array
        y - f, mean over the samples of a class.
    prediction : (k, d, n, m) array or None
        f on new inputs.
    by_neuron : bool
        The "draws" are the neurons of one network, one by one: N stands for d, 1 for N.
    """

    network: Network
    task: ClassTask | DataTask
    width: int
    tau: float
    labels: NDArray[np.intp]
    readout: FloatArray
    class_activation: FloatArray
    kernel_between: FloatArray
    kernel_diagonal: FloatArray
    residual: FloatArray
    prediction: FloatArray | None = None
    lower_activation: FloatArray | None = None
    by_neuron: bool = False
    counts: NDArray[np.intp] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", np.bincount(self.labels, minlength=self.class_activation.shape[3]))

    @property
    def n_chains(self) -> int:
        """k."""
        return len(self.readout)

    def records(self, layer: int) -> bool:
        """Whether `activation(layer)` is known at all draws."""
        return layer_index(layer, self.network.depth) == self.network.depth - 1 or self.lower_activation is not None

    def activation(self, layer: int) -> FloatArray:
        """(k, d, N_l, C) mean activation on the samples of a class, of the neurons of layer 1..L (or -1, ...)."""
        below = layer_index(layer, self.network.depth)
        if below == self.network.depth - 1:
            return self.class_activation
        if self.lower_activation is None:
            raise ValueError("these chains have no record of the activations below the last layer; sample again.")
        found = self.lower_activation[:, :, below]
        return np.asarray(found[:, :, ~np.isnan(found[0, 0, :, 0])])

    @cached_property
    def division(self) -> Division:
        """How the neurons divide into parts."""
        return division_of(self.network, self.task)

    @cached_property
    def words(self) -> NDArray[np.int64]:
        """(k, d, N) code of every neuron."""
        return self.division.words(self.class_activation, self.network)


class Run(Protocol):
    """Sampled networks of one problem, `meanfield.sampling.chains.Chains` for example."""

    @property
    def network(self) -> Network: ...
    @property
    def task(self) -> ClassTask | DataTask: ...
    @property
    def width(self) -> int: ...
    @property
    def tau(self) -> float: ...
    @property
    def labels(self) -> IntArray: ...
    @property
    def readout(self) -> FloatArray: ...
    @property
    def class_activation(self) -> FloatArray: ...


def as_draws(chains: object, *, whole: bool = False) -> Draws:
    """One door for `Chains`, several `Chains` of the same problem, networks of a user (`Observed`), or `Draws`.

    `whole` keeps a single observed network together, whose neurons are draws otherwise.

    Raises
    ------
    ValueError
        If the runs belong to different problems or have different numbers of draws.
    """
    if isinstance(chains, Draws):
        return chains
    if hasattr(chains, "as_draws"):
        found: Draws = chains.as_draws(whole=whole)
        return found
    runs = cast("Sequence[Run]", list(chains) if isinstance(chains, (list, tuple)) else [chains])
    if not runs:
        raise ValueError("no chains given; sample some with mf.sample(network, task, width, tau).")
    for run in runs:
        if not all(hasattr(run, name) for name in ("network", "task", "width", "tau", "labels", "readout")):
            raise ValueError(
                f"chains must be what mf.sample or mf.observe returned, or a list of such, got {short(run)}."
            )
    first = runs[0]
    for run in runs[1:]:
        for name in ("network", "task", "width", "tau"):
            if getattr(run, name) != getattr(first, name):
                raise ValueError(
                    f"the runs differ in {name}: {getattr(first, name)} and {getattr(run, name)}; compare each alone."
                )
        if run.readout.shape[1:] != first.readout.shape[1:]:
            raise ValueError(
                f"the runs have {first.readout.shape[1]} and {run.readout.shape[1]} draws per chain; they must agree."
            )

    def joined(name: str) -> FloatArray:
        return np.concatenate([getattr(run, name) for run in runs])

    def joined_if_known(name: str) -> FloatArray | None:
        parts = [getattr(run, name, None) for run in runs]
        known = [part for part in parts if part is not None and part.size]
        return np.concatenate(known) if len(known) == len(parts) else None

    labels = np.asarray(first.labels, dtype=np.intp)
    residual = joined("residual")
    n_classes = first.class_activation.shape[3]
    if residual.shape[2] == labels.size and labels.size != n_classes:
        indicator = np.eye(n_classes)[labels] / np.bincount(labels, minlength=n_classes)
        residual = np.einsum("kdpm,pc->kdcm", residual, indicator)
    return Draws(
        network=first.network,
        task=first.task,
        width=int(first.width),
        tau=float(first.tau),
        labels=labels,
        readout=joined("readout"),
        class_activation=joined("class_activation"),
        kernel_between=joined("kernel_between"),
        kernel_diagonal=joined("kernel_diagonal"),
        residual=residual,
        prediction=joined_if_known("prediction"),
        lower_activation=joined_if_known("lower_activation"),
    )


# ---- observables ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Observable:
    """A permutation-invariant quantity along the chains.

    Attributes
    ----------
    name : str
        e.g. "residual", "readout 1-1-0".
    group : str
        Which statistics it belongs to, one of `compare.STATISTICS`.
    series : (k', d, ...) array
        For averages over the neurons of a code, a ratio of two averages, the linearised ratio whose mean over the
        draws is the ratio of the means.
    chains : (k',) integer array
        The chains in which it exists (in which there are such neurons).
    """

    name: str
    group: str
    series: FloatArray
    chains: NDArray[np.intp]


def observables(draws: Draws, patterns: Iterable[str]) -> list[Observable]:
    """All quantities that can be held against a theory with codes (or outliers) `patterns`.

    Residual y - f per class, class blocks of the kernel of every layer (on class tasks of deep networks also what its
    diagonal has beyond them), first and second moments of the readout over all neurons (an unbounded phi: second
    moment), and per code: fraction of the neurons, mean readout and covariance,
    mean activations. For an unbounded phi the bulk takes the place of the codes, and per pattern of outliers: total
    weight sum |a|^2 / N, abar and zbar, the two being root-mean-square totals over the neurons that share the outlier.
    """
    if (draws.counts < 2).any():
        raise ValueError(f"every class needs two samples or more, got {draws.counts.tolist()}; sample at a larger P.")
    everywhere = np.arange(draws.n_chains)
    a = draws.readout
    found = [
        Observable("residual", "residual", draws.residual, everywhere),
        *_of_kernels(draws, everywhere),
    ]
    if draws.prediction is not None:
        deviation = draws.prediction - draws.prediction.mean(axis=1, keepdims=True)
        n_draws = deviation.shape[1]
        variance = draws.width * n_draws / (n_draws - 1) * deviation**2
        found.append(Observable("prediction", "predictor", draws.prediction, everywhere))
        found.append(Observable("prediction variance times N", "predictor", variance, everywhere))
    if draws.division.alike:  # outliers add O(N^-1/2) to the mean readout: there the mean of the bulk is compared
        found.append(Observable("readout mean", "readout", a.mean(axis=2), everywhere))
    moment = np.einsum("kdni,kdnj->kdij", a, a) / a.shape[2]
    found.append(Observable("readout second moment", "readout", moment, everywhere))
    members = draws.division.members(draws.words, patterns)
    for label, member in members.codes.items():
        found += _of_code(draws, member, label)
    for pattern, member in members.outliers.items():
        found += _of_outlier(draws, member, pattern)
    return found


def _of_kernels(draws: Draws, chains: NDArray[np.intp]) -> list[Observable]:
    """Class blocks of the kernels, last layer first."""
    found = []
    depth, known = draws.network.depth, draws.kernel_between.shape[2]  # of networks of a user maybe the last ones only
    deep_classes = depth > 1 and isinstance(draws.task, ClassTask)
    for layer in range(depth, depth - known, -1):
        where, at = layer_suffix(layer, depth), layer - depth - 1
        block, diagonal = draws.kernel_between[:, :, at], draws.kernel_diagonal[:, :, at]
        found.append(Observable(f"kernel between samples{where}", "kernel", block, chains))
        found.append(Observable(f"kernel diagonal{where}", "kernel", diagonal, chains))
        if deep_classes:
            excess = diagonal - np.diagonal(block, axis1=2, axis2=3)
            found.append(Observable(f"kernel excess{where}", "kernel", excess, chains))
    return found


def layer_suffix(layer: int, depth: int) -> str:
    """What names of statistics of a layer end with; nothing for the last layer."""
    return "" if layer == depth else f", layer {layer}"


def _of_code(draws: Draws, member: NDArray[np.bool_], label: str) -> list[Observable]:
    """Fraction, readout (mean and covariance) and activations of the neurons with a code."""
    share = member.mean(axis=2)
    present = np.flatnonzero(member.any(axis=2).mean(axis=1) > (0.0 if draws.by_neuron else 0.5))
    found = [Observable(f"fraction {label}", "fractions", share, np.arange(draws.n_chains))]
    if not _enough(present, draws):
        return found
    a, inside, share = draws.readout[present], member[present].astype(float), share[present]
    total = np.einsum("kdn,kdni->kdi", inside, a) / a.shape[2]
    mean = (total.mean(axis=1) / share.mean(axis=1)[:, None])[:, None, None, :]
    spread = np.einsum("kdn,kdni,kdnj->kdij", inside, a - mean, a - mean) / a.shape[2]
    activation = np.einsum("kdn,kdnc->kdc", inside, draws.class_activation[present]) / a.shape[2]
    for name, numerator in (("readout", total), ("covariance", spread), ("activation", activation)):
        found.append(Observable(f"{name} {label}", "codes", _ratio(numerator, share), present))
    return found


def _enough(present: NDArray[np.intp], draws: Draws) -> bool:
    """Whether an error can be told: from several chains, or from the draws of one."""
    return present.size > (0 if draws.readout.shape[1] >= FEWEST_DRAWS else 1)


def _ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Linearised ratio of two series (k, d, ...) and (k, d): its mean is the ratio of the means, chain by chain."""
    weight = denominator.reshape(*denominator.shape, *[1] * (numerator.ndim - 2))
    level = weight.mean(axis=1, keepdims=True)
    ratio = numerator.mean(axis=1, keepdims=True) / level
    return np.asarray(ratio + (numerator - ratio * weight) / level)


def _of_outlier(draws: Draws, member: NDArray[np.bool_], pattern: str) -> list[Observable]:
    label, driven = "-".join(pattern), [c for c, bit in enumerate(pattern) if bit == "1"]
    present = np.flatnonzero(np.all(member.any(axis=2), axis=1))
    found = [Observable(f"number of outliers {label}", "fractions", member.sum(axis=2), np.arange(draws.n_chains))]
    if not _enough(present, draws):
        return found
    inside, a = member[present].astype(float), draws.readout[present]
    length = np.linalg.norm(a, axis=3) * inside
    weight = (length**2).sum(axis=2) / draws.width
    readout = np.einsum("kdn,kdni->kdi", length, a) / draws.width / np.sqrt(weight)[..., None]
    activation = draws.class_activation[present][..., driven]
    total = np.sqrt(np.einsum("kdn,kdnc->kdc", inside, activation**2) / draws.width)
    return [
        *found,
        Observable(f"outlier weight {label}", "outliers", weight, present),
        Observable(f"outlier readout {label}", "outliers", readout, present),
        Observable(f"outlier activation {label}", "outliers", total, present),
    ]


def all_shares(draws: Draws) -> FloatArray:
    """(k, 2^C) fraction of the neurons with each code word, mean over the draws of a chain."""
    return word_shares(draws.words, draws.class_activation.shape[3])
