"""From network and task to the certified saddle of all layers (relu/THEORY.md, "Solving")."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np

from meanfield.numerics.limits import seconds_left
from meanfield.posterior.certificate import ConvergenceError
from meanfield.posterior.status import Status
from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.theories.deep.certificate import Branch, DeepCertificate, OrderError, SecondOrder
from meanfield.theories.deep.relu.allowance import TooMuchWork, allowance
from meanfield.theories.deep.relu.average import CHECK, CHECK_WIDE, COARSE, FARTHEST, FINE, ROUGH, ReluRule
from meanfield.theories.deep.relu.classes import arrays_of, order_of
from meanfield.theories.deep.relu.newton import newton
from meanfield.theories.deep.relu.outlier import exist, worst_direction
from meanfield.theories.deep.relu.posterior import ReluPosterior
from meanfield.theories.deep.relu.reduction import relu_problem
from meanfield.theories.deep.relu.search.alike import can_be_alike, from_alike_classes, is_long
from meanfield.theories.deep.relu.search.bare import bare_of
from meanfield.theories.deep.relu.search.branch import BranchLost, followed, grown
from meanfield.theories.deep.relu.search.few import (
    LEAST_SAMPLES,
    START_SAMPLES,
    fewer,
    least_left_out,
    not_separated,
    other_codes,
    separated,
)
from meanfield.theories.deep.relu.search.homotopy import from_linear
from meanfield.theories.deep.relu.search.many_samples import MINIMA_IN_WORDS, from_many_samples, from_matched_moments
from meanfield.theories.deep.relu.search.narrow import narrowed
from meanfield.theories.deep.relu.search.remote import remote_modes
from meanfield.theories.deep.relu.search.start import chain_start
from meanfield.theories.deep.relu.setting import BulkDiverges
from meanfield.theories.deep.relu.solution import ReluSolution
from meanfield.theories.deep.relu.stability import order_errors, second_order
from meanfield.theories.deep.relu.system import ReluProblem, ReluSystem
from meanfield.theories.deep.symmetry import exchangeable
from meanfield.validation import FloatArray, IntArray

__all__ = ["solve_relu"]

_CONDENSED = 0.75  # part of the targets that the outliers carry, in the planted start
_STEPS, _NEARER = 4, 0.75  # of Newton, and what they must reduce the residual to, or a start is given up
_HOPED = 1e-5  # residual on coarse lattices
_FEW_PLANTED = 75.0  # samples of the smallest class from which a planted solution is followed to more
_MISSING = 1e-5  # gain beyond 1 of a code that is no outlier
_TOLERANCE = 1e-9
_ROUNDING = 1e-7  # of Ehat <= 0
_WORK = 8e10  # that one way to a solution may take, where no max_seconds is given: about 80 CPU s
_Way: TypeAlias = tuple[str, Callable[[], tuple[list[tuple[ReluSystem, FloatArray]], str]]]
_WARM = "the warm start"
_CHAINS = "one outlier per class and layer"
_MOST_UNLIKE = 3  # classes up to which others are tried before those that begin with classes made alike
_BESIDE = 1.5e10  # work that one way may take where a warm start led to a solution
_ONE = 1e-5  # of Phi on coarse lattices: the same
_SAME = 1e-7  # of Phi: two solutions that are one
_MANY = 150  # samples of the smallest class from which the saddle of many samples is tried first
_NOT_COMPARED = (
    "other solutions were not looked for: past a first-order transition one with other codes and larger Phi may exist"
)


def solve_relu(
    network: Network,
    task: ClassTask,
    tau: float,
    *,
    warm_start: ReluPosterior | None = None,
    rtol: float = 1e-6,
    width: float | None = None,
    progress: Callable[[str, int, float], None] | None = None,
) -> ReluPosterior:
    """The posterior, whatever its status.

    Parameters
    ----------
    network, task, tau
        A problem that `coverage.refuses` does not refuse.
    warm_start : ReluPosterior, optional
    rtol : float
        Wanted residual with the independent lattices, and error of the order parameters that it leaves.
    width : float, optional
        N of the finite-N saddle; None: N = infinity.
    progress : callable, optional
        Called with (stage, step, residual).

    Raises
    ------
    ConvergenceError
        If no start leads to a solution, or the samples of a class are too few for N = infinity.
    """
    problem, index, span = relu_problem(network, task, tau)
    falls = problem.phi.rectifies and problem.phi.slopes[0] == 0.0
    least = float(problem.n.min())
    if width is None:
        left_out = least_left_out(problem.n)
        if falls and left_out < LEAST_SAMPLES:
            raise ConvergenceError(not_separated(left_out))
    few = falls and width is not None and least < LEAST_SAMPLES
    steps = iter(range(10**9))

    def report(size: float) -> None:
        if progress is not None:
            progress("Newton", next(steps), size)

    enough = START_SAMPLES / least * problem.n_samples
    limit = _limit(problem.at(enough) if few else problem, None if few else warm_start, index, span, report)
    system, x, rule = limit.system, limit.x, limit.rule
    if width is None and falls:
        left_out = least_left_out(problem.n, system.words, exist(system.unpack(x).outliers(0)))
        if left_out < LEAST_SAMPLES:
            raise ConvergenceError(not_separated(left_out))
    curvature = SecondOrder()
    searched: tuple[str, ...] = (limit.searched,)
    if not few:
        worst = max(worst_direction(system.setting(system.unpack(x), i)) for i in range(problem.depth))
        with suppress(BulkDiverges, np.linalg.LinAlgError):
            curvature = second_order(system, x, COARSE)
    if width is not None:
        system, x = narrowed(system, x, width, report)
    if few:
        system, x = fewer(system, x, problem.n_samples, report)
        separated(system, x)
        worst = other_codes(system, x)
        searched += (f"followed from {enough:.4g} samples, where there is a limit of infinite width, at this width",)
    check = CHECK if rule.beta == FINE.beta else CHECK_WIDE
    check = check._replace(far=check.far / FINE.far * rule.far)
    remote: list[str] = []
    unknown = ""  # why residual or errors are
    errors: tuple[OrderError, ...] = ()
    try:
        remote, left = remote_modes(system, x, rule)
        residual, phi = system.error(x, check, left), float(system.free_energy(x, check))
    except BulkDiverges as error:
        residual, phi = math.inf, math.nan
        unknown = f"the residual by independent lattices was not found, as {str(error).rstrip('.')}"
    if residual <= rtol:
        try:
            errors = order_errors(system, x, rule, check, left)
        except BulkDiverges as error:  # beside the solution
            unknown = (
                f"the residual by independent lattices is {residual:.1e}, but the error of the order parameters that "
                f"this leaves was not found, as {str(error).rstrip('.')}"
            )
    free_energy = float(system.free_energy(x, rule))
    passed = worst <= 1.0 + _ROUNDING
    proof = DeepCertificate.of(
        residual, system.error(x, rule), abs(phi - free_energy) / max(1.0, abs(free_energy)),
        curvature, branches=limit.others, order_errors=errors,
        searched=(*searched, *remote), bound_gap=worst - 1.0, bounded=passed,
    )  # fmt: skip
    status, message = Status.OPTIMAL, ""
    if not (residual <= rtol and proof.order_error <= rtol):
        status = Status.RESIDUAL
        message = f"the residual by independent lattices is {residual:.1e}"
        if errors:
            message += f", which leaves an error of {proof.order_error:.1e} of the order parameters"
        message = unknown or f"{message}, wanted {rtol:.1e}"
        message += "".join(f"; {text}" for text in remote)
    elif not passed:
        status = Status.NOT_GLOBAL
        message = f"Ehat is positive in some direction (by {worst - 1.0:.1e}): an outlier of another code is missing"
    solution = _solution(system, x, rule, index, span, proof, (status, message), task)
    return ReluPosterior(network, task, tau, solution)


def _refined(
    system: ReluSystem, x: FloatArray, jacobian: FloatArray | None, report: Callable[[float], None]
) -> tuple[FloatArray, float, ReluRule]:
    """Newton on fine lattices, further out until nothing of the bulk is left beyond."""
    rule = system.fine_rule(system.unpack(x))
    while True:
        x, size, jacobian = newton(system, x, rule, _TOLERANCE, 15, report, jacobian)
        if size > 1e-7 or rule.far >= FARTHEST:
            return x, size, rule
        further = rule._replace(far=1.25 * rule.far)
        if float(np.linalg.norm(system.residual(x, further))) < 1e-7:
            return x, size, rule
        rule = rule._replace(far=2.0 * rule.far)


@dataclass(frozen=True, eq=False)
class _Found:
    """Equations with their outliers, unknowns, the lattices that they need; a code may be missing."""

    system: ReluSystem
    x: FloatArray
    rule: ReluRule
    missing: bool = False
    others: tuple[Branch, ...] = ()
    searched: str = _NOT_COMPARED

    @cached_property
    def free_energy(self) -> float:
        return self.system.free_energy(self.x, self.rule)


def _limit(
    problem: ReluProblem, warm_start: ReluPosterior | None, index: IntArray, span: FloatArray,
    report: Callable[[float], None],
) -> _Found:  # fmt: skip
    """The solution at N = infinity.

    Raises
    ------
    ConvergenceError
    """
    lost, fallback = [], None
    ways: list[_Way] = []
    if problem.phi.rectifies:
        ways = [
            (_CHAINS, lambda: ([_planted(problem)], _NOT_COMPARED)),
            ("the branch from a network that hardly learns", lambda: _along(problem, report)),
        ]
        if problem.n.min() > _FEW_PLANTED:
            ways.append(
                (
                    "one outlier per class and layer, at fewer samples first",
                    lambda: (_planted_at_fewer(problem, report), _NOT_COMPARED),
                )
            )
        if not problem.phi.tabulated and problem.phi.slopes == (0.0, 1.0):
            first = problem.n.min() >= _MANY
            ways.insert(0 if first else 2, ("the saddle of many samples", lambda: _many(problem, report)))
        if can_be_alike(problem):
            ways = _with_alike(problem, ways, ("classes that are made alike", lambda: _from_alike(problem, report)))
    else:
        ways = [("the branch from a linear network", lambda: ([from_linear(problem, report)], _NOT_COMPARED))]
    if warm_start is not None and isinstance(warm_start, ReluPosterior):
        given = warm_start.solution
        ways.insert(0, (_WARM, lambda: ([_warm(problem, given, index, span)], _NOT_COMPARED)))
    work = _WORK if math.isinf(seconds_left()) else math.inf
    if math.isfinite(work) and warm_start is None and is_long(problem):
        raise ConvergenceError(
            f"{len(problem.n)} classes with as many outputs, of which no two may be exchanged, take lattices of six "
            "dimensions and some four minutes of one core, which was not tried: max_seconds= allows as much"
        )
    beside: list[_Found] = []
    for name, way in ways:
        found, why = [], ""
        try:
            with allowance(work):
                starts, searched = way()
                for system, x in starts:
                    one, why = _solved(system, x, report, beside)
                    if one is not None:
                        found.append(replace(one, searched=searched))
        except BranchLost as error:
            why = str(error)
        except TooMuchWork:
            why = TooMuchWork.WORDS
        except (BulkDiverges, np.linalg.LinAlgError, ValueError, OverflowError) as error:
            why = str(error).rstrip(".")
        whole = [one for one in found if not one.missing]
        if whole and name == _WARM:
            # It keeps to its branch past a transition: what the first way finds without it is compared.
            beside, work = whole, min(work, _BESIDE)
            continue
        if beside and whole:
            best = _best([*beside, *whole])
            led = "another" if best.others else "the same"
            return replace(best, searched=f"from a warm start; {name} leads to {led} solution; {searched}")
        if whole:
            return _best(whole)
        if found and fallback is None:
            fallback = found[0]
        lost.append(f"{name} ({why})")
    if beside:
        return replace(_best(beside), searched=f"from a warm start; others led to no solution: {'; '.join(lost)}")
    if fallback is not None:  # its certificate says that a code is missing
        return fallback
    raise ConvergenceError(
        f"no solution was found, by none of these ways: {'; '.join(lost)}. Another n_samples or tau, or warm_start= "
        "with the solution of a similar task, may help."
    )


def _solved(
    system: ReluSystem, x: FloatArray, report: Callable[[float], None], known: list[_Found]
) -> tuple[_Found | None, str]:
    """The solution that Newton reaches from a start, which may be a known one, or why there is none."""
    x, size, jacobian = _hopeful(system, x, report)
    if size > _HOPED:
        return None, f"Newton ended at a residual of {size:.1e}"
    phi = system.free_energy(x, COARSE) if known else math.nan
    for one in known:
        if abs(one.system.free_energy(one.x, COARSE) - phi) <= _ONE * max(1.0, abs(phi)):
            return one, ""
    missing = _missing(system, x)
    x, size, rule = _refined(system, x, jacobian, report)
    if size > 1e-7:
        return None, f"Newton ended at a residual of {size:.1e} on fine lattices"
    return _Found(system, x, rule, missing), "a code condenses that is no outlier" if missing else ""


def _best(found: list[_Found]) -> _Found:
    """The one of the largest Phi, and the others."""
    best = max(found, key=lambda one: one.free_energy)
    others: list[Branch] = []
    for one in found:
        same = _SAME * max(1.0, abs(best.free_energy))
        known = (best.free_energy, *(other.free_energy for other in others))
        if all(abs(one.free_energy - phi) > same for phi in known):
            others.append(Branch(_outliers_in_words(one), one.free_energy, one.system.error(one.x, one.rule)))
    return replace(best, others=tuple(others))


def _outliers_in_words(found: _Found) -> str:
    """Which codes condense, layer by layer."""
    order, parts = found.system.unpack(found.x), []
    for layer in range(found.system.problem.depth):
        words = zip(found.system.words, exist(order.outliers(layer)))
        parts.append(", ".join("-".join(word) for word, kept in words if kept) or "none")
    return "outliers " + " / ".join(parts)


def _hopeful(
    system: ReluSystem, x: FloatArray, report: Callable[[float], None]
) -> tuple[FloatArray, float, FloatArray | None]:
    """Newton on coarse lattices for as long as it comes nearer."""
    size, jacobian = float(np.linalg.norm(system.residual(x, COARSE))), None
    for _ in range(10):
        before = size
        x, size, jacobian = newton(system, x, COARSE, 1e-5, _STEPS, report, jacobian)
        if size <= 1e-5 or size > _NEARER * before:
            break
    return x, size, jacobian


def _planted(problem: ReluProblem) -> tuple[ReluSystem, FloatArray]:
    """One outlier per layer and class with a target, where they carry much of the targets; those of t = 0 are none."""
    n_classes = len(problem.n)
    words = tuple(
        "".join("1" if c == o else "0" for c in range(n_classes)) for o in np.flatnonzero(problem.y.any(axis=1))
    )
    system = ReluSystem(problem, words)
    return system, system.pack(chain_start(problem, words, _CONDENSED))


def _with_alike(problem: ReluProblem, ways: list[_Way], way: _Way) -> list[_Way]:
    """With the way from classes that are made alike: in the place of chains of more than three unlike classes, whose
    averages are slow; behind them where only sizes differ; else the last."""
    names = [name for name, _ in ways]
    at = names.index(_CHAINS)
    if len(problem.n) > _MOST_UNLIKE:
        return [way, *ways[:at], *ways[at + 1 :]]
    at = at + 1 if exchangeable(np.ones(len(problem.n)), problem.y) else len(ways)
    return [*ways[:at], way, *ways[at:]]


def _from_alike(
    problem: ReluProblem, report: Callable[[float], None]
) -> tuple[list[tuple[ReluSystem, FloatArray]], str]:
    """A solution on the way from exchangeable classes."""
    return [from_alike_classes(problem, _planted, report)], _NOT_COMPARED


def _planted_at_fewer(problem: ReluProblem, report: Callable[[float], None]) -> list[tuple[ReluSystem, FloatArray]]:
    """The planted solution at fewer samples, where the start is nearer to it, followed to their number."""
    system, x = _planted(problem.at(_FEW_PLANTED * problem.n_samples / float(problem.n.min())))
    x, size, _ = _hopeful(system, x, report)
    if size > _HOPED:
        raise BranchLost(f"Newton ended at a residual of {size:.1e}")
    bare, x = grown(problem, *bare_of(system, system.unpack(x)), report)
    return [bare.with_kernels(bare.order(x, ROUGH))]


def _along(problem: ReluProblem, report: Callable[[float], None]) -> tuple[list[tuple[ReluSystem, FloatArray]], str]:
    """Ends of the branch from a network that hardly learns, with the codes that are outliers somewhere."""
    course = followed(problem, report)
    return [bare.with_kernels(bare.order(x, ROUGH)) for bare, x in course.ends], course.searched


def _many(problem: ReluProblem, report: Callable[[float], None]) -> tuple[list[tuple[ReluSystem, FloatArray]], str]:
    """Solutions beside those of many samples."""
    try:
        ends = from_many_samples(problem, report)
        return [bare.with_kernels(bare.order(x, ROUGH)) for bare, x in ends], MINIMA_IN_WORDS
    except BranchLost:
        return from_matched_moments(problem, report), MINIMA_IN_WORDS


def _warm(
    problem: ReluProblem, given: ReluSolution, index: IntArray, span: FloatArray
) -> tuple[ReluSystem, FloatArray]:
    """From a solution of a similar task, with its outliers."""
    if given.t.shape != (len(index), len(span)) or len(given.kernel) != problem.depth:
        raise ValueError("the warm start has other classes or outputs, or another depth.")
    first = np.unique(index, return_index=True)[1]
    system = ReluSystem(problem, tuple("".join(word[c] for c in first) for word in given.patterns))
    return system, system.pack(order_of(given, system, first, span))


def _missing(system: ReluSystem, x: FloatArray) -> bool:
    """Whether some code condenses that is no outlier."""
    order = system.unpack(x)
    return max(worst_direction(system.setting(order, i)) for i in range(system.problem.depth)) > 1.0 + _MISSING


def _solution(
    system: ReluSystem, x: FloatArray, rule: ReluRule, index: IntArray, span: FloatArray, proof: DeepCertificate,
    ending: tuple[Status, str], task: ClassTask,
) -> ReluSolution:  # fmt: skip
    problem, order = system.problem, system.unpack(x)
    arrays = arrays_of(system, order, rule, index, span)
    notes = [
        *(f"another solution has Phi = {one.free_energy:.7g}: {one.name}" for one in proof.branches),
        *(
            f"no neuron condenses in layer {i + 1}: its codes are the tail of the bulk"
            for i in range(problem.depth)
            if not exist(order.outliers(i)).any()
        ),
    ]
    curvature = proof.second_order
    if not curvature.known and math.isfinite(curvature.error):
        notes.append("second derivatives are too rough here to say whether the second-order check passes")
    elif curvature.known:
        notes += curvature.said()
    width, barrier = min(
        ((problem.width_of(i), float(one)) for i, one in enumerate(arrays["barrier"])),
        key=lambda one: one[1] - math.log(one[0]) if math.isfinite(one[0]) else math.inf,
    )
    if math.isfinite(width) and barrier < math.log(width):
        notes.append(
            f"at N = {width:g} bulk and outliers are not separated (barrier {barrier:.1f} below ln N): "
            "one outlier per code and layer is a qualitative picture"
        )
    return ReluSolution(
        **arrays, free_energy=float(system.free_energy(x, rule)), certificate=proof, status=ending[0],
        patterns=tuple("".join(word[c] for c in index) for word in system.words), message=ending[1],
        notes=tuple(notes), n_samples=task.n_samples, tau=problem.tau, width=problem.width,
    )  # fmt: skip
