"""`summarize`: what a sampled network looks like, whatever the order of its neurons."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

from meanfield.sampling.statistics import (
    SampledEstimate,
    as_draws,
    estimate,
    layer_suffix,
    observables,
)
from meanfield.validation import FloatArray

__all__ = ["ChainSummary", "SampledCode", "SampledOutlier", "summarize"]


@dataclass(frozen=True, eq=False)
class SampledCode:
    """Neurons with the same code.

    Attributes
    ----------
    label : str
        "1-1-0", or "bulk".
    fraction : SampledEstimate
        Of all neurons.
    readout : SampledEstimate (m,)
        Mean readout.
    covariance : SampledEstimate (m, m)
    activation : SampledEstimate (C,)
        Mean activation on the training samples of each class.
    """

    label: str
    fraction: SampledEstimate
    readout: SampledEstimate
    covariance: SampledEstimate
    activation: SampledEstimate


@dataclass(frozen=True, eq=False)
class SampledOutlier:
    """Neurons of an unbounded phi whose activations grow like sqrt(N); see `meanfield.posterior.parts.Outlier`.

    Attributes
    ----------
    label : str
        The classes that drive them.
    number : SampledEstimate
        How many neurons share the outlier.
    weight : SampledEstimate
        sum |a|^2 / N.
    readout : SampledEstimate (m,)
        abar, that of a single neuron with the total weight.
    activation : SampledEstimate (driven classes,)
        zbar on the classes that drive it, sqrt(sum phi^2 / N).
    """

    label: str
    number: SampledEstimate
    weight: SampledEstimate
    readout: SampledEstimate
    activation: SampledEstimate


@dataclass(frozen=True, eq=False)
class ChainSummary:
    """Permutation-invariant results of sampled networks, see `summarize`.

    Attributes
    ----------
    width : int
    tau : float
    codes : tuple of SampledCode
        Heaviest first; only the bulk for an unbounded phi, none for an affine one.
    outliers : tuple of SampledOutlier
    kernel_between : SampledEstimate (L, C, C)
        Class blocks of the kernel of every hidden layer, over pairs of different samples.
    kernel_diagonal : SampledEstimate (L, C)
    residual : SampledEstimate (C, m)
        y - f, mean over the training samples of a class.
    order_parameter : SampledEstimate (C, m) or None
        t = residual / tau; None where tau is not known.
    readout_mean : (m,) SampledEstimate
    readout_moment : (m, m) SampledEstimate
        Second moment of the readouts of all neurons.
    prediction : SampledEstimate (n, m) or None
        Mean predictor on the new inputs.
    prediction_variance : (n, m) array or None
        Posterior variance of the predictor, over draws and chains.
    depth : int
        L; of networks of a user the kernels may be those of the last layers only.
    """

    width: int
    tau: float
    codes: tuple[SampledCode, ...]
    outliers: tuple[SampledOutlier, ...]
    kernel_between: SampledEstimate
    kernel_diagonal: SampledEstimate
    residual: SampledEstimate
    order_parameter: SampledEstimate | None
    readout_mean: SampledEstimate
    readout_moment: SampledEstimate
    prediction: SampledEstimate | None = None
    prediction_variance: FloatArray | None = None
    depth: int = 1

    def table(self) -> str:
        """Residuals, kernels (last layer first), codes or outliers, with standard errors."""
        tau = "unknown" if math.isnan(self.tau) else f"{self.tau:g}"
        lines = [f"N = {self.width}, tau = {tau}; mean (standard error)", ""]
        known = len(self.kernel_diagonal.value)
        kernels = [
            (f"{name}{layer_suffix(self.depth + 1 - below, self.depth)}", _of_layer(found, known - below))
            for below in range(1, known + 1)
            for name, found in (
                ("kernel between samples", self.kernel_between),
                ("kernel diagonal", self.kernel_diagonal),
            )
        ]
        for name, found in (
            ("residual y - f by class", self.residual),
            *kernels,
            ("readout second moment", self.readout_moment),
        ):
            lines.append(name)
            lines += ["  " + row for row in _rows(found)]
        for code in self.codes:
            lines.append(f"{code.label}: fraction {_rows(code.fraction)[0].strip()}")
            lines += [f"  readout    {_rows(code.readout)[0]}", f"  activation {_rows(code.activation)[0]}"]
        for outlier in self.outliers:
            number, weight = (_rows(found)[0].strip() for found in (outlier.number, outlier.weight))
            lines.append(f"outlier {outlier.label}: weight {weight} on {number} neurons")
            lines += [f"  readout    {_rows(outlier.readout)[0]}", f"  activation {_rows(outlier.activation)[0]}"]
        return "\n".join(lines)

    def __repr__(self) -> str:
        parts = ", ".join(f"{code.label} ({code.fraction.value:.3g})" for code in self.codes)
        parts += "".join(f", outlier {o.label} ({o.weight.value:.3g})" for o in self.outliers)
        return f"<ChainSummary at N = {self.width}: {parts or 'no codes'}>"


def summarize(chains: object) -> ChainSummary:
    """Permutation-invariant results of sampled networks with Monte-Carlo standard errors, R-hat and effective sizes.

    Parameters
    ----------
    chains : Chains, sequence of Chains, or Observed
        One run, several of the same problem, or networks of your own (`meanfield.observe`).

    Raises
    ------
    ValueError
        For classes of a single sample, fewer than 4 draws, and as `as_draws`.
    """
    draws = as_draws(chains)
    patterns = draws.division.patterns(draws.words, draws.class_activation.shape[3])
    found = {observable.name: estimate(observable.series) for observable in observables(draws, patterns)}
    codes, outliers = [], []
    for label in (name.removeprefix("fraction ") for name in found if name.startswith("fraction ")):
        names = ("fraction", "readout", "covariance", "activation")
        if f"readout {label}" in found:
            codes.append(SampledCode(label, *(found[f"{name} {label}"] for name in names)))
    for label in map("-".join, patterns):
        names = ("number of outliers", "outlier weight", "outlier readout", "outlier activation")
        if f"outlier weight {label}" in found:
            outliers.append(SampledOutlier(label, *(found[f"{name} {label}"] for name in names)))
    residual = found["residual"]
    prediction = draws.prediction
    return ChainSummary(
        width=draws.width,
        tau=draws.tau,
        codes=tuple(sorted(codes, key=lambda code: -float(code.fraction.value))),
        outliers=tuple(sorted(outliers, key=lambda outlier: -float(outlier.weight.value))),
        kernel_between=estimate(draws.kernel_between),
        kernel_diagonal=estimate(draws.kernel_diagonal),
        depth=draws.network.depth,
        residual=residual,
        order_parameter=None if math.isnan(draws.tau) else estimate(draws.residual / draws.tau),
        readout_mean=estimate(draws.readout.mean(axis=2)),
        readout_moment=found["readout second moment"],
        prediction=None if prediction is None else estimate(prediction),
        prediction_variance=None if prediction is None else prediction.var(axis=(0, 1), ddof=1),
    )


def _of_layer(found: SampledEstimate, layer: int) -> SampledEstimate:
    """One layer, counted from 0, of an estimate for all."""
    values = {field.name: getattr(found, field.name)[layer] for field in fields(found)}
    return SampledEstimate(**values | {"chain_means": found.chain_means[:, layer]})


def _rows(found: SampledEstimate) -> list[str]:
    value, error = np.atleast_1d(found.value), np.atleast_1d(found.standard_error)
    value, error = np.atleast_2d(value), np.atleast_2d(error)
    return [
        " ".join(f"{v:10.5f} ({e:.0e})" for v, e in zip(row, errors, strict=True))
        for row, errors in zip(value, error, strict=True)
    ]
