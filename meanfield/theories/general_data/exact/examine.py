"""The verdict on an approximate solution: measured, corrected where it has to be, and what is left unproven, in words."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from meanfield.posterior.certificate import Certificate
from meanfield.posterior.status import Status
from meanfield.theories.general_data.exact.check import LARGEST, MAX_UNKNOWNS, RMS, Measured, Sampler, scale_of
from meanfield.theories.general_data.exact.correct import corrected
from meanfield.theories.general_data.exact.particles import ParticleSolution
from meanfield.theories.general_data.solution import GeneralSolution
from meanfield.validation import FloatArray

__all__ = ["Examined", "OutOfTime", "certificate_of", "clock", "examined", "unmeasured"]

_CORRECTED = "expectation propagation is corrected on samples of the exact single-neuron posterior"


class OutOfTime(Exception):
    """The time that was allowed is over."""


class Examined(NamedTuple):
    """A solution with its verdict.

    Attributes
    ----------
    solution : GeneralSolution or ParticleSolution
    measured : Measured or None
    status : Status
    message : str
    notes : tuple of str
    """

    solution: GeneralSolution
    measured: Measured | None
    status: Status
    message: str
    notes: tuple[str, ...]


def clock(seconds: float | None) -> Callable[[], None]:
    """What raises `OutOfTime` when called more than that many seconds from now."""
    end = None if seconds is None else time.monotonic() + seconds

    def tick() -> None:
        if end is not None and time.monotonic() > end:
            raise OutOfTime

    return tick


def unmeasured(solution: GeneralSolution, reason: str) -> Examined:
    """The solver's own verdict on a solution whose error is not measured."""
    status = Status.of(solution.status)
    return Examined(solution, None, status, solution.message or "expectation propagation", (_words(reason),))


def _words(reason: str) -> str:
    return f"the error of expectation propagation was not measured: {reason}"


def examined(
    solution: GeneralSolution, labels: Any, refine: bool | None, tick: Callable[[], None] = lambda: None
) -> Examined:
    """Measure the error of a solution, and correct it.

    Parameters
    ----------
    solution : GeneralSolution
        Of a bounded phi.
    labels : (P,) integers or None
        Classes.
    refine : bool or None
        Whether to correct; None: where the measured error is too large, or the solver found no solution.
    tick : callable
        Called between pieces of work.
    """
    if solution.t.size > MAX_UNKNOWNS:
        return unmeasured(solution, f"P m = {solution.t.size} unknowns are more than {MAX_UNKNOWNS}")
    scale = scale_of(solution.targets)
    sampler = Sampler(solution, labels, np.random.default_rng(0), tick=tick)
    measured = None
    solved = solution.status == Status.OPTIMAL
    if solved:
        measured = sampler.measured(np.array(solution.t))
        if measured.within(scale) and not refine:
            return Examined(solution, measured, Status.OPTIMAL, solution.message or "expectation propagation", ())
    if refine is not False and np.isfinite(solution.t).all():
        better = corrected(sampler, np.array(solution.t))
        if better is not None and better[1].within(scale):
            return Examined(*better, Status.OPTIMAL, _CORRECTED, ())
        if better is not None and (measured is None or not measured.reliable):
            measured = better[1] if solved else measured
    if not solved:
        return Examined(solution, measured, Status.of(solution.status), solution.message, ())
    assert measured is not None
    return Examined(solution, measured, Status.APPROXIMATE, _shortcoming(measured, scale), ())


def _shortcoming(measured: Measured, scale: float) -> str:
    numbers = (
        f"outputs differ from those of the exact theory by {measured.rms:.2g} (root mean square, +- {measured.noise:.1g}) "
        f"and up to {measured.largest:.2g}; {RMS * scale:.2g} and {LARGEST * scale:.2g} are accepted"
    )
    if measured.reliable:
        return numbers
    return (
        f"the error of expectation propagation could not be measured well enough ({measured.effective:.0f} effective "
        f"points): {numbers}"
    )


def certificate_of(found: Examined, log_z: float | None = None) -> Certificate:
    """Stationarity and measured error; that no code was missed is up to the search for codes."""
    proof = Certificate(found.solution.residual, float("nan"), float("nan"), False, True)
    m = found.measured
    if m is None:
        return proof
    return replace(
        proof,
        output_error=m.rms,
        output_error_max=m.largest,
        output_error_se=m.noise,
        effective_samples=m.effective,
        log_z_error=_log_z_error(found.solution, m),
        missed_weight=m.missed,
    )


def _log_z_error(solution: GeneralSolution, measured: Measured) -> float:
    if isinstance(solution, ParticleSolution):
        return 0.0
    t: FloatArray = solution.t
    own = solution.objective + float(np.vdot(t, solution.targets)) - 0.5 * solution.tau * float(np.vdot(t, t))
    return measured.log_z - own
