"""The single-neuron posterior: codes, bulk, outliers or a Gaussian; its kernels, densities and drawn neurons."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from meanfield.archive import write_archive
from meanfield.posterior.certificate import Certificate, ConvergenceError
from meanfield.posterior.division import pattern_of
from meanfield.posterior.kernel import Kernel
from meanfield.posterior.neurons import Neurons
from meanfield.posterior.parts import Code, Outlier, code_pattern
from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.theories.single_layer.code_averages import MIN_MASS, CodeAverages, NetworkMoments
from meanfield.theories.single_layer.draw import draw
from meanfield.theories.single_layer.kernels import ClassKernels
from meanfield.theories.single_layer.kinds.classes import orbit_size
from meanfield.theories.single_layer.kinds.orbit_code import OrbitCode
from meanfield.theories.single_layer.solution import Solution, pack_solution
from meanfield.theories.single_layer.table import posterior_table
from meanfield.validation import FloatArray, read_only, real_array

_MOST_MISSING = 0.02  # of the neurons, with codes of which there is no theory


@dataclass(frozen=True, eq=False)
class SingleNeuronPosterior(ClassKernels):
    """Posterior of the readout a in R^m and the preactivations z of one neuron; what `solve` returns.

    Parameters
    ----------
    network : Network
    task : ClassTask
    tau : float
        N T, the rescaled temperature.
    solution : Solution
        Order parameters, readouts and weights with their certificate.
    """

    network: Network
    task: ClassTask
    tau: float
    solution: Solution

    @property
    def theory(self) -> str:
        """The theory that was solved: "linear" for affine phi, else "single_layer"."""
        return "single_layer" if self.solution.gaussian_covariance is None else "linear"

    # ---- what was found --------------------------------------------------------------------------

    @property
    def scheme(self) -> str:
        """The coding scheme, decided by the growth of G.

        "analog": Gaussian readouts (phi affine). "redundant": codes only (bounded phi). "sparse": a bulk,
        and outliers where the constraint on t is active (phi unbounded). "mixed": several codes besides outliers.
        """
        if self.solution.gaussian_covariance is not None:
            return "analog"
        if self.network.activation.parts == "codes":
            return "redundant"
        return "sparse" if len(self.codes) == 1 else "mixed"

    @cached_property
    def codes(self) -> tuple[Code, ...]:
        """Codes, heaviest first; the bulk is one of them, a Gaussian posterior has none.

        Where exchangeable classes make them too many to list, each is an `OrbitCode`: one of `count` codes that share
        its weight.
        """
        s = self.solution
        if s.gaussian_covariance is not None:
            return ()
        covariance = [None] * s.weight.size if s.covariance is None else s.covariance
        return tuple(self._code(*parts) for parts in zip(s.weight, s.readout, covariance, strict=True))

    def _code(self, weight: float, readout: FloatArray, covariance: FloatArray | None) -> Code:
        fields = self._kappa(readout)
        if covariance is None:
            _, first, second = self._cumulant.direct(fields)
        else:
            first, second = np.empty_like(fields), np.empty_like(fields)
            for c, law in enumerate(self._laws(readout, covariance, alone=self.solution.weight.size == 1)):
                share, kappa = np.array(law).T
                _, mean, variance = self._cumulant.direct(kappa)
                first[c] = share @ mean
                second[c] = share @ (variance + (mean - first[c]) ** 2)
            covariance = read_only(covariance)
        pattern = code_pattern(self.network, first)
        parts = pattern, float(weight), read_only(readout), read_only(first), read_only(second), covariance
        kinds = self._kinds
        if kinds is None:
            return Code(*parts)
        return OrbitCode(*parts, kind=kinds.kind, count=orbit_size(kinds.kind, fields))

    @property
    def bulk(self) -> Code | None:
        """The readout a_0 shared by all neurons that are not outliers, where phi allows outliers; else None."""
        return self.codes[0] if self.network.activation.parts == "outliers" else None

    @cached_property
    def outliers(self) -> tuple[Outlier, ...]:
        """Outliers, heaviest first; empty where there are none."""
        s, phi, k = self.solution, self.network.activation, self.network.k
        found = []
        for direction, weight in zip(s.outlier_direction, s.outlier_weight, strict=True):
            readout = math.sqrt(max(weight, 0.0)) * direction  # below zero where a solution has failed
            kappa = self._kappa(readout)
            # zbar maximises kappa phi(zbar) - zbar^2/2k with phi = slope * z on the branch of zbar's sign.
            slope_minus, slope_plus = phi.slopes
            right, left = np.maximum(kappa * slope_plus, 0.0), np.minimum(kappa * slope_minus, 0.0)
            zbar = k * np.where(right >= -left, right, left)
            active = np.where(zbar > 0, slope_plus, slope_minus) * zbar
            threshold = 1e-9 * np.abs(active).max()
            pattern = "".join("1" if x > threshold else "0" for x in active)
            found.append(Outlier(pattern, float(weight), read_only(readout), read_only(zbar), read_only(active)))
        found.sort(key=lambda outlier: outlier.pattern, reverse=True)
        return tuple(sorted(found, key=lambda outlier: -round(outlier.weight, 9)))  # equal weights: by pattern

    @cached_property
    def readout_covariance(self) -> FloatArray:
        """(m, m) covariance of the readout over all neurons, outliers included; U of the analog scheme."""
        s = self.solution
        if s.gaussian_covariance is not None:
            return s.gaussian_covariance
        if self._kinds is not None:
            mean, second = self._kinds.moments(s.readout, s.weight)
            if s.covariance is not None:
                second = second + self._kinds.averaged_covariance(np.einsum("n,nij->ij", s.weight, s.covariance))
            return read_only(second - np.outer(mean, mean))
        centred = s.readout - s.weight @ s.readout
        total = np.einsum("n,ni,nj->ij", s.weight, centred, centred)
        if s.covariance is not None:
            total = total + np.einsum("n,nij->ij", s.weight, s.covariance)
        return read_only(total + sum(np.outer(o.readout, o.readout) for o in self.outliers))

    @property
    def order_parameters(self) -> dict[str, object]:
        """Named solution of the stationarity conditions: t (C, m), level s = max_a h(a; t), readout, weight, ..."""
        s = self.solution
        values: dict[str, object] = {"t": s.t, "level": s.level}
        if s.gaussian_covariance is not None:
            return values | {"covariance": s.gaussian_covariance}
        values |= {"readout": s.readout, "weight": s.weight}
        if self.outliers:
            values |= {"outlier_direction": s.outlier_direction, "outlier_weight": s.outlier_weight}
        return values

    @property
    def objective(self) -> float:
        """min J."""
        return self.solution.objective

    @property
    def certificate(self) -> Certificate:
        """The proof that the solution is the right one."""
        return self.solution.certificate

    # ---- kernel and densities --------------------------------------------------------------------

    def frozen(self, fractions: object) -> SingleNeuronPosterior:
        """The same network with given fractions of its neurons in each code, as sampled networks have them.

        Neurons of sampled networks do not hop between codes: they keep the fractions of their start, and t and the
        readouts adapt to them.

        Parameters
        ----------
        fractions : (codes,) array-like, or mapping of pattern to number
            In the order of `codes`, or e.g. ``{"110": 0.4, "101": 0.6}``; normalised.

        Raises
        ------
        NotAvailable
            For phi that are not bounded, whose readouts have no codes to be frozen, and where codes are orbits.
        ValueError
            At P = infinity, and for fractions that do not fit.
        ConvergenceError
            If no solution is found.
        """
        if self.scheme == "redundant":
            self._named_fractions(fractions)
        return self._by_activation(fractions, None)

    def by_activation(self, counts: object) -> SingleNeuronPosterior:
        """This posterior with neurons assigned to codes by their mean activations over `counts` (C,) samples."""
        sizes = self._counts(counts)
        return self if self.scheme != "redundant" else self._by_activation(None, sizes)

    def _by_activation(self, fractions: object, counts: object) -> SingleNeuronPosterior:
        if self.scheme != "redundant":
            self._refuse("a solution at given fractions of the codes")
        return _frozen(self, fractions, counts)

    def sample_neurons(self, n: int, *, rng: object = None, samples_per_class: object = None) -> Neurons:
        """Draw `n` neurons of a network from the theory, with their responses to a few samples of every class.

        Parameters
        ----------
        n : int
            Number of neurons N; outliers are among them, with readout sqrt(N) abar.
        rng : None, int, SeedSequence or Generator
        samples_per_class : int or (C,) sequence of int, optional
            Samples shown of each class; about 100 in all, in proportion to the class fractions, if left out.

        Raises
        ------
        ValueError
            For numbers that are not positive integers, and if there are not more neurons than outliers.
        """
        return draw(self, n, rng, samples_per_class)

    # ---- printing, saving ------------------------------------------------------------------------

    def __repr__(self) -> str:
        found = [f"{code.label} ({code.weight:.3g})" for code in self.codes[:4]] + ["..."] * (len(self.codes) > 4)
        if self.scheme == "analog":
            body = f"Gaussian readouts of rank {np.linalg.matrix_rank(self.readout_covariance)}"
        elif self.scheme == "sparse":
            body = "bulk and outliers " + ", ".join(f"{o.label} ({o.weight:.3g})" for o in self.outliers)
        else:
            body = f"{len(self.codes)} code{'s' * (len(self.codes) > 1)} " + ", ".join(found)
            body += f" and {len(self.outliers)} outliers" * bool(self.outliers)
        return f"<{type(self).__name__}: {self.scheme}, {body}; J = {self.objective:.9g}, {self.status}>"

    def table(self) -> str:
        """The posterior as a printed table."""
        return posterior_table(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to an ``.npz`` file (no pickle inside); returns its path."""
        header, arrays = self._packed()
        header = {"network": self.network.to_dict(), "task": self.task.to_dict(), "solution": header}
        return write_archive(path, "posterior", header, arrays)

    # ---- helpers ---------------------------------------------------------------------------------

    def _packed(self) -> tuple[dict[str, object], dict[str, FloatArray]]:
        """Header and arrays of a file."""
        return pack_solution(self.solution)

    def _kappa(self, readout: FloatArray) -> FloatArray:
        return np.asarray(self.solution.t @ readout)


@dataclass(frozen=True, eq=False, repr=False)
class FrozenPosterior(SingleNeuronPosterior):
    """The posterior of a class task whose neurons are assigned to codes by their mean activations, as in samples.

    Densities and drawn neurons take the readouts of a code as Gaussian; that its samples show it is in `codes` and
    `kernel` only.

    Attributes
    ----------
    averages : CodeAverages
    shares : (2^C,) array
        Fractions of the code words: frozen ones, or those of equilibrium.
    given : bool
        Whether they are frozen ones.
    """

    averages: CodeAverages
    shares: FloatArray

    given: bool = True

    @cached_property
    def _moments(self) -> NetworkMoments:
        return self.averages.moments(self.solution.t, self.shares)

    @property
    def residual(self) -> FloatArray:
        """(C, m) y_c - f_c of the mixture of codes; tau t_c where it solves the frozen dual."""
        return self._moments.residual

    @cached_property
    def codes(self) -> tuple[Code, ...]:
        """Codes, heaviest first, with moments over the neurons that show them; weightless ones of equilibrium last."""
        words = np.flatnonzero(self.averages.shares > MIN_MASS)  # rarer ones have no theory
        shares = self.shares / self.shares[words].sum()
        order = sorted(words, key=lambda word: (-shares[word], word))
        return tuple(self._of_word(int(word), float(shares[word])) for word in order)

    def _of_word(self, word: int, share: float) -> Code:
        mean, covariance, activation, variance = self.averages.of_code(self.solution.t, word)
        parts = (read_only(part) for part in (mean, activation, variance, covariance))
        return Code(pattern_of(word, self.task.n_classes), share, *parts)

    @cached_property
    def readout_covariance(self) -> FloatArray:
        """(m, m) covariance of the readout over all neurons."""
        return read_only(self._moments.moment - np.outer(self._moments.mean, self._moments.mean))

    @property
    def order_parameters(self) -> dict[str, object]:
        """t (C, m), and readout and weight of the codes at these fractions."""
        codes = self.codes
        readout, weight = np.array([code.readout for code in codes]), np.array([code.weight for code in codes])
        return {"t": self.solution.t, "readout": readout, "weight": weight}

    @cached_property
    def objective(self) -> float:
        """min J_p(t), the dual at these fractions (see `meanfield.theories.single_layer.code_averages`)."""
        return self.averages.dual(self.solution.t, self.shares)

    @cached_property
    def certificate(self) -> Certificate:
        """Stationarity at these fractions, recomputed without splines; J_p is convex, so that it is its minimum."""
        residual = self.averages.violation(self.solution.t, self.shares)
        return Certificate(residual, math.nan, math.nan, global_check=True, unique=True)

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """Codes that their neurons would leave, as they are not locally stable at these fractions."""
        t, sigma_a = self.solution.t, self.network.sigma_a
        codes = [code for code in self.codes if code.weight > 0.0]
        leaving = [c.label for c in codes if self.averages.leaving(t, c.readout, sigma_a, int(c.pattern, 2))]
        if not leaving:
            return ()
        return (
            f"not locally stable at these fractions: {', '.join(leaving)}; their neurons lie beside the cut to another "
            "code and would leave, so that sampled networks do not stay there",
        )

    def readout_density(self, a: object) -> FloatArray:
        """Refused: at given fractions each code has a density of its own."""
        self._refuse("the density of the readout", "fractions of codes are given; read mean and covariance of .codes")

    def table(self) -> str:
        """The posterior as a printed table."""
        proof = [
            f"fractions of the codes are given; min J_p = {self.objective:.10g}   ({self.status})",
            f"certificate: residual {self.certificate.kkt_residual:.1e}, global minimum of a convex J_p",
            *(f"note: {note}" for note in self.notes),
        ]
        return posterior_table(self, proof if self.given else None)

    def _packed(self) -> tuple[dict[str, object], dict[str, FloatArray]]:
        """The posterior at equilibrium, fractions and numbers of samples: all else follows when it is read."""
        header, arrays = pack_solution(replace(self.solution, t=self.averages.t))
        header["frozen"] = self.given
        return header, arrays | {"shares": self.shares, "counts": self.averages.counts}

    def kernel(self, layer: int = -1) -> Kernel:
        """Posterior kernel at these fractions; samples of a class share the mean activation that tells its code."""
        self._layer(layer)
        return Kernel(read_only(self._moments.block), read_only(self._moments.diagonal))


def _frozen(posterior: SingleNeuronPosterior, fractions: object, counts: object) -> FrozenPosterior:
    """See `SingleNeuronPosterior.frozen` and `by_activation`; equilibrium fractions if `fractions` is None."""
    task = posterior.task
    if isinstance(posterior, FrozenPosterior) and counts is None:
        return _at(posterior, posterior.averages, fractions)
    if math.isinf(task.n_samples):
        raise ValueError(
            "at P = infinity codes have no width and their fractions no theory of their own; solve the task with a "
            "finite n_samples."
        )
    if posterior.solution.kind is not None:
        posterior._refuse("a solution at given fractions of the codes", "codes are orbits of exchangeable classes")
    sizes = task.fractions * task.n_samples if counts is None else counts
    return _at(posterior, CodeAverages(posterior, sizes), fractions)


def _at(posterior: SingleNeuronPosterior, averages: CodeAverages, fractions: object) -> FrozenPosterior:
    shares, t = averages.shares, averages.t
    if fractions is not None:
        shares = _shares(posterior, fractions)
        missing = 1.0 - shares[averages.known(shares)].sum()
        if missing > _MOST_MISSING:
            raise ConvergenceError(
                f"{missing:.3g} of the neurons are given codes that none has at equilibrium, and that have no theory."
            )
        t = averages.given(shares)
    return _frozen_at(posterior, averages, t, shares, fractions is not None)


def _frozen_at(
    posterior: SingleNeuronPosterior, averages: CodeAverages, t: FloatArray, shares: FloatArray, given: bool
) -> FrozenPosterior:
    solution = replace(posterior.solution, t=t)
    return FrozenPosterior(posterior.network, posterior.task, posterior.tau, solution, averages, shares, given)


def frozen_from(posterior: SingleNeuronPosterior, given: bool, shares: object, counts: object) -> FrozenPosterior:
    """What `FrozenPosterior.save` wrote, solved again from its posterior at equilibrium.

    Raises
    ------
    ValueError
        For shares and numbers of samples that do not fit.
    ConvergenceError
        If there is no solution.
    """
    if posterior.scheme != "redundant" or math.isinf(posterior.task.n_samples) or posterior.solution.kind is not None:
        raise ValueError("its codes have no fractions that could be given.")
    averages = CodeAverages(posterior, posterior._counts(counts))
    fractions = real_array("shares", shares)
    if fractions.shape != averages.shares.shape or (fractions < 0.0).any() or abs(fractions.sum() - 1.0) > 1e-9:
        raise ValueError(f"its shares are no {averages.shares.size} fractions of the codes.")
    if not given:
        return _frozen_at(posterior, averages, averages.t, averages.shares, given)
    return _frozen_at(posterior, averages, averages.given(fractions), fractions, given)


def _shares(posterior: SingleNeuronPosterior, fractions: object) -> FloatArray:
    """(2^C,) fractions of all code words, from a mapping of patterns or numbers in the order of the codes."""
    n_classes = posterior.task.n_classes
    shares = np.zeros(2**n_classes)
    for pattern, value in posterior._named_fractions(fractions):
        if len(pattern) != n_classes or set(pattern) - {"0", "1"}:
            raise ValueError(f"{pattern!r} is no code of {n_classes} classes; write one 0 or 1 per class.")
        shares[int(pattern, 2)] += value
    return np.asarray(shares / shares.sum())
