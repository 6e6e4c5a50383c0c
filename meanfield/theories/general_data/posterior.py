"""Posterior of a nonlinear network with one hidden layer on data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, NamedTuple

import numpy as np

from meanfield.numerics.limits import OutOfTime, interruptible, one_blas_thread, time_limit
from meanfield.posterior.certificate import ConvergenceError
from meanfield.posterior.data_posterior import DataPosterior
from meanfield.posterior.parts import by_pattern
from meanfield.posterior.status import Status
from meanfield.posterior.table import data_table
from meanfield.theories.general_data.exact.check import RMS, scale_of
from meanfield.theories.general_data.exact.examine import Examined
from meanfield.theories.general_data.exact.particles import ParticleSolution, frozen_particles
from meanfield.theories.general_data.exact.predictor import ParticlePredictor
from meanfield.theories.general_data.parts import (
    DataCode,
    DataOutlier,
    codes_of,
    outliers_of,
    parts_table,
    ranked,
)
from meanfield.theories.general_data.predictor import GeneralPredictor
from meanfield.theories.general_data.solution import GeneralSolution
from meanfield.validation import FloatArray, real_number

__all__ = ["GeneralDataPosterior", "MeasuredError"]

_MOST_COMPARED = 200  # training inputs on which predictors are held against the solution
_FAR_OFF = 0.05  # difference there, in units of the largest target, that is worth a word


class MeasuredError(NamedTuple):
    """How well an answer is known.

    Attributes
    ----------
    difference : array
        The answer minus that of the exact theory, as far as it is measured.
    standard_error : array
        Of this measurement.
    """

    difference: FloatArray
    standard_error: FloatArray


@dataclass(frozen=True, eq=False, repr=False)
class GeneralDataPosterior(DataPosterior):
    """Codes, a bulk and outliers on data, from expectation propagation inside the convex dual."""

    solution: GeneralSolution  # outliers in the order of `ranked`

    theory: ClassVar[str] = "general_data"
    kind: ClassVar[str] = "general"

    def __post_init__(self) -> None:
        object.__setattr__(self, "solution", ranked(self.network, self.task, self.solution))

    @property
    def scheme(self) -> str:
        """ "redundant" (codes) for bounded phi, "sparse" (a bulk, and outliers) or "mixed" for unbounded phi."""
        if not self._has_bulk:
            return "redundant"
        return "sparse" if len(self.codes) == 1 else "mixed"

    @property
    def _has_bulk(self) -> bool:
        return self.network.activation.parts == "outliers"

    @cached_property
    def codes(self) -> tuple[DataCode, ...]:
        """Codes, heaviest first: basins of the readout posterior."""
        return codes_of(self.network, self.task, self.solution)

    @property
    def bulk(self) -> DataCode | None:
        """The heaviest code, of the neurons that are not outliers, where phi allows outliers; else None."""
        return self.codes[0] if self._has_bulk else None

    @cached_property
    def outliers(self) -> tuple[DataOutlier, ...]:
        """Outliers, heaviest first; empty where there are none."""
        return outliers_of(self.network, self.task, self.solution)

    @cached_property
    def readout_covariance(self) -> FloatArray:
        """(m, m) covariance of the readout over neurons, outliers included."""
        s = self.solution
        centred = s.code_readout - s.code_weight @ s.code_readout
        total = np.einsum("g,gij->ij", s.code_weight, s.code_covariance) + (centred.T * s.code_weight) @ centred
        return np.asarray(total + (s.outlier_direction.T * s.outlier_weight) @ s.outlier_direction)

    def code_activations(self, X: object = None) -> FloatArray:
        """(codes, n) mean activation of the neurons of each code on raw inputs (the training inputs if left out)."""
        if X is None:  # moments of expectation propagation, where new inputs are taken as Gaussian
            return np.array([code.sample_activation for code in self.codes])
        return self._predictor.code_activations(self._inputs(X))

    def prediction_error(self, X: object = None) -> MeasuredError:
        """How well `predict(X)` is known: the distance to the exact theory, and its standard error, on any inputs.

        A corrected solution is an average over a sample: the distance is zero, the standard error that of the sample
        (of a quadrature, what other nodes change). Solutions of expectation propagation are compared with the corrected
        one, which is found for this purpose in seconds.

        Parameters
        ----------
        X : raw inputs, as for `predict`
            The training inputs by default.

        Returns
        -------
        MeasuredError
            difference, standard_error : (n, m) arrays.

        Raises
        ------
        ConvergenceError
            Where the exact theory could not be sampled.
        """
        new, known = self._inputs(X), self._exact
        mean = self.predictions if X is None else self._predictor.mean(new)
        difference = np.zeros_like(mean) if known is self._predictor else mean - known.mean(new)
        return MeasuredError(difference, known.noise(new))

    def predictor_shortcoming(self) -> str | None:
        """What is to be said where `predict(X)` misses the solution's own outputs on training inputs; None elsewhere.

        Expectation propagation matches moments on training inputs, and its Gaussians are what new inputs see: where
        they are a bad image of the neurons, outputs on new inputs are off however well those of training are known.
        """
        if self.status != Status.OPTIMAL or isinstance(self.solution, ParticleSolution):
            return None
        rows = slice(0, _MOST_COMPARED)
        off = np.abs(self._predictor.mean(np.asarray(self.task.inputs)[rows]) - self.predictions[rows])
        scale, root = scale_of(self.task.targets), float(np.sqrt(np.mean(off**2)))
        if root <= RMS * scale and float(off.max()) <= _FAR_OFF * scale:
            return None
        return (
            f"outputs on new inputs are less well known: on training inputs predict(X) differs from predictions by "
            f"{root:.1g} (root mean square) and up to {off.max():.1g}; refine=True corrects it, prediction_error(X) "
            "measures it"
        )

    def kernel_error(self, X: object = None, X2: object = None) -> MeasuredError:
        """How well `kernel(X, X2)` is known, as `prediction_error` says it of outputs; (n, n') arrays."""
        left, known = self._inputs(X), self._exact
        right = None if X2 is None else self._inputs(X2)
        kernel = np.asarray(self.kernel(X, X2))
        difference = np.zeros_like(kernel) if known is self._predictor else kernel - known.kernel(left, right, 1)
        return MeasuredError(difference, known.kernel_noise(left, right))

    @cached_property
    def _exact(self) -> ParticlePredictor:
        """The predictor of the corrected solution: this one's own, if it is corrected."""
        from meanfield.theories.general_data.exact.examine import corrected

        if isinstance(self._predictor, ParticlePredictor):
            return self._predictor

        def work() -> ParticleSolution | None:
            with one_blas_thread():
                return corrected(self.solution, self.task.labels)

        found = interruptible(work)
        if found is None:
            raise ConvergenceError("the exact theory could not be sampled; use a larger tau or fewer samples.", self)
        return ParticlePredictor(self.network, self.task, self.tau, found, self._part_names)

    def frozen(self, fractions: object, *, max_seconds: float | None = None) -> GeneralDataPosterior:
        """The same network with given fractions of its neurons in each code, as sampled networks have them.

        Neurons of sampled networks do not hop between codes: they keep the fractions of their start, t and the readouts
        adapt to them, and the predictor's variance has no part from changes of the fractions.

        Parameters
        ----------
        fractions : (codes,) array-like, or mapping of pattern to number
            In the order of `codes`; normalised. Codes of the same pattern share as in equilibrium. Up to 5 % of the
            neurons may have patterns of no code, and are left out.
        max_seconds : float, optional
            Limit of time, as for `solve`: the error that is raised then holds what was reached.

        Raises
        ------
        ValueError
            For fractions that do not fit.
        ConvergenceError
            If no solution is found.
        """
        from meanfield.theories.general_data.exact.examine import certificate_of, examine, kept_for_measurement
        from meanfield.theories.general_data.solve import shares, solve_frozen  # loads compiled code

        if max_seconds is not None:
            max_seconds = real_number("max_seconds", max_seconds, above=0.0)
        if self._has_bulk:
            self._refuse("a solution at given fractions", "a bulk and outliers have no fractions to be frozen")
        if isinstance(fractions, Mapping):
            fractions = by_pattern(self.codes, fractions)

        def work() -> Examined:
            found: GeneralSolution
            with time_limit(max_seconds, kept_for_measurement(self.task, max_seconds)), one_blas_thread():
                if isinstance(self.solution, ParticleSolution):
                    found = frozen_particles(self.solution, shares(fractions, self.solution))
                else:
                    found = solve_frozen(self.solution, fractions, rng=0)
                return examine(found, self.task.labels, None)

        try:
            verdict = interruptible(work)
        except OutOfTime as error:
            raise ConvergenceError("no solution: the time was over before there was any state; allow more.") from error
        posterior = replace(
            self,
            solution=verdict.solution,
            certificate=certificate_of(verdict),
            status=verdict.status,
            message=verdict.message,
            notes=verdict.notes,
        )
        if verdict.status != Status.OPTIMAL:
            raise ConvergenceError(f"no certified solution ({verdict.status}): {verdict.message}", posterior)
        return posterior

    def table(self) -> str:
        """The posterior as printed text."""
        return data_table(self, [*parts_table(self), ""])

    def _training_kernel(self, layer: int) -> FloatArray:
        return self._predictor.training_kernel()

    @cached_property
    def _predictor(self) -> GeneralPredictor | ParticlePredictor:
        if isinstance(self.solution, ParticleSolution):
            return ParticlePredictor(self.network, self.task, self.tau, self.solution, self._part_names)
        return GeneralPredictor(self.network, self.task, self.tau, self.solution, self._part_names)

    @property
    def _part_names(self) -> tuple[str, ...]:
        names = ["bulk"] if self.scheme == "sparse" else [code.label for code in self.codes]
        names += [f"outlier {one.label}" for one in self.outliers]
        return tuple(names)
