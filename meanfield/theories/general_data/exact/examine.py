"""The verdict on an approximate solution: measured, and corrected where it has to be."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from meanfield.numerics.limits import OutOfTime, last_seconds, seconds_left
from meanfield.posterior.certificate import Certificate
from meanfield.posterior.status import Status
from meanfield.problem.data_task import DataTask
from meanfield.theories.general_data.coverage import MAX_SAMPLED
from meanfield.theories.general_data.exact.check import LARGEST, RMS, Measured, Sampler, first_sample, scale_of
from meanfield.theories.general_data.exact.correct import correct
from meanfield.theories.general_data.exact.outliers import BulkSampler
from meanfield.theories.general_data.exact.particles import ParticleSolution
from meanfield.theories.general_data.exact.unaided import approach
from meanfield.theories.general_data.outliers.solution import OutlierSolution
from meanfield.theories.general_data.solution import GeneralSolution
from meanfield.validation import FloatArray, IntArray

__all__ = [
    "Examined",
    "certificate_of",
    "corrected",
    "examine",
    "kept_for_measurement",
    "seconds_of_measurement",
    "unmeasured",
]

_PIECES, _RATE = 40, 3e9  # of a solution that is hard; operations per second of a busy processor
_KEPT = 0.25  # of the time, at most, for the measurement of what was reached
_FAR = 0.05  # residual, in units of the largest target, of a solution that is no start
_CORRECTED = "expectation propagation is corrected on samples of the exact single-neuron posterior"


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


def unmeasured(solution: GeneralSolution, reason: str) -> Examined:
    """The solver's own verdict on a solution whose error is not measured."""
    status = Status.of(solution.status)
    return Examined(solution, None, status, solution.message or "expectation propagation", (_words(reason),))


def _words(reason: str) -> str:
    return f"the error of expectation propagation was not measured: {reason}"


def examine(solution: GeneralSolution, labels: IntArray | None, refine: bool | None) -> Examined:
    """Measure the error of a solution, and correct it.

    Parameters
    ----------
    solution : GeneralSolution
    labels : (P,) integers or None
        Classes.
    refine : bool or None
        Whether to correct; None: where the measured error is too large, or the solver found no solution.
    """
    if solution.t.size > MAX_SAMPLED:
        return unmeasured(solution, f"P m = {solution.t.size} unknowns are more than {MAX_SAMPLED}")
    if solution.status == Status.OUT_OF_TIME and not seconds_left() > 0.0:
        return _out_of_time(solution, labels)
    scale = scale_of(solution.targets)
    measured: Measured | None = None
    try:
        sampler = sampler_for(solution, labels)
        if solution.status == Status.OPTIMAL:
            measured = sampler.measure(np.array(solution.t))
            if measured.within(scale) and not refine:
                return Examined(solution, measured, Status.OPTIMAL, solution.message or "expectation propagation", ())
        if refine is not False:
            better = _better(sampler, solution, labels, scale)
            if better is not None:
                return Examined(*better, Status.OPTIMAL, _CORRECTED, _noise(better[1]))
    except OutOfTime:
        return _out_of_time(solution, labels) if measured is None else _late(solution, measured)
    if measured is None:
        if solution.status == Status.OUT_OF_TIME:
            return _out_of_time(solution, labels)
        return Examined(solution, None, Status.of(solution.status), solution.message, ())
    if measured.within(scale):  # but the correction, which was asked for, is less accurate
        return Examined(solution, measured, Status.OPTIMAL, "expectation propagation; no correction was found", ())
    return Examined(
        solution, measured, Status.APPROXIMATE, _shortcoming(measured, scale) + _advice(measured, refine), ()
    )


def _noise(measured: Measured) -> tuple[str, ...]:
    """What is to be said about outputs on new inputs."""
    if not measured.new_noise:
        return ()
    return (
        f"outputs on new inputs have a standard error of about {measured.new_noise:.1g} ({measured.effective:.0f} "
        "effective points; root mean square over inputs between those of training); prediction_error(X) gives that of "
        "each",
    )


def sampler_for(solution: GeneralSolution, labels: IntArray | None) -> Sampler:
    """Samples of the exact measure near a solution."""
    rng = np.random.default_rng(0)
    return (
        BulkSampler(solution, labels, rng) if isinstance(solution, OutlierSolution) else Sampler(solution, labels, rng)
    )


def corrected(solution: GeneralSolution, labels: IntArray | None) -> ParticleSolution | None:
    """The exact theory next to a solution of expectation propagation; None where it could not be sampled."""
    found = correct(sampler_for(solution, labels), np.array(solution.t)) if solution.t.size <= MAX_SAMPLED else None
    return found[0] if found is not None and found[1].within(scale_of(solution.targets)) else None


def _better(
    sampler: Sampler, solution: GeneralSolution, labels: IntArray | None, scale: float
) -> tuple[ParticleSolution, Measured] | None:
    """The exact solution, from the approximate one; or without it, where it is too far away or does not help."""
    t = np.array(solution.t)
    ways = [True, False]
    if not solution.residual <= _FAR * scale and sampler.quadrature(t) is None:
        ways = [False, True]
    if solution.frozen or isinstance(solution, OutlierSolution) or solution.status == Status.OPTIMAL:
        ways = [True]
    for from_there in ways:
        if from_there:
            found = correct(sampler, t)
        else:
            found = _twice(solution, labels)
        if found is not None and found[1].within(scale):
            return found
    return None


def _twice(solution: GeneralSolution, labels: IntArray | None) -> tuple[ParticleSolution, Measured] | None:
    """The solution that particles find, with the difference to that of other random numbers as part of its error."""
    found = []
    for seed in (0, 1):
        start = approach(solution, labels, np.random.default_rng(seed))
        better = None if start is None else correct(*start, thorough=seed == 0)
        if better is None:
            return None
        found.append(better)
    (answer, measured), (other, others) = found
    off = np.abs(solution.tau * (answer.t - other.t))
    noise = np.hypot(measured.noise, others.noise)
    difference = float(np.sqrt(np.mean(off**2)))
    beyond = float(np.sqrt(max(0.0, difference**2 - noise**2)))
    largest = max(0.0, float(off.max()) - 3.0 * float(np.hypot(measured.largest_noise, others.largest_noise)))
    return answer, measured._replace(
        rms=max(measured.rms, beyond), largest=max(measured.largest, largest), seeds=difference
    )


def seconds_of_measurement(samples: int, outputs: int, rank: int) -> float:
    """Processor time of one measurement, roughly, if the solution has as many pieces as most."""
    n, unknowns = first_sample(samples), float(samples * outputs)
    if unknowns > MAX_SAMPLED:
        return 0.0
    proposal = _PIECES * (2.0 * n * rank**2 + 2.0 * samples * rank**2 + rank**3)
    newton = n * unknowns**2 + unknowns**3 / 3.0
    return (proposal + 2.0 * n * samples * rank + newton) / _RATE


def kept_for_measurement(task: DataTask, seconds: float | None) -> float:
    """What is kept of a limit of time for the measurement of what was reached."""
    if seconds is None:
        return 0.0
    needed = seconds_of_measurement(task.n_samples, task.n_outputs, min(task.inputs.shape))
    return min(_KEPT * seconds, needed)


def _out_of_time(solution: GeneralSolution, labels: IntArray | None) -> Examined:
    """One measurement all the same, in the time kept for it, without a search for codes."""
    try:
        with last_seconds():
            sampler = sampler_for(solution, labels)
            sampler.most, sampler.scouting, sampler.missed = sampler.first, False, math.nan
            return _late(solution, sampler.measure(np.array(solution.t)))
    except OutOfTime:
        return _late(solution, None)


def _late(solution: GeneralSolution, measured: Measured | None) -> Examined:
    before = f"{solution.message} " if solution.message else "The time was over before the check was complete: "
    if measured is None:
        words = "its distance from the exact theory was not measured in time."
    else:
        words = _shortcoming(measured, scale_of(solution.targets))
    return Examined(solution, measured, Status.OUT_OF_TIME, before + words, ())


def _shortcoming(measured: Measured, scale: float) -> str:
    numbers = (
        f"outputs differ from those of the exact theory by {measured.rms:.2g} (root mean square, "
        f"+- {measured.noise:.1g}) and up to {measured.largest:.2g}; "
        f"{RMS * scale:.2g} and {LARGEST * scale:.2g} are accepted"
    )
    if measured.reliable:
        return numbers
    return (
        f"the error of expectation propagation could not be measured well enough ({measured.effective:.0f} effective "
        f"points): {numbers}"
    )


def _advice(measured: Measured, refine: bool | None) -> str:
    """What to do about an approximate answer."""
    if refine is False:
        return "; leave refine=False out to have it corrected"
    if not measured.reliable:
        return "; the exact posterior is too rugged to be sampled: use a larger tau or fewer samples"
    return "; sampling found no correction within these limits: use a larger tau, or accept it with on_failure='return'"


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
        missed_weight=None if math.isnan(m.missed) else m.missed,
        seed_difference=m.seeds,
    )


def _log_z_error(solution: GeneralSolution, measured: Measured) -> float:
    if isinstance(solution, ParticleSolution):
        return 0.0
    t: FloatArray = solution.t
    own = solution.objective + float(np.vdot(t, solution.targets)) - 0.5 * solution.tau * float(np.vdot(t, t))
    return measured.log_z - own
