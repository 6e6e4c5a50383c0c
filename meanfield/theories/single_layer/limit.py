"""The limit P -> infinity for nonlinear activations: from network and task to the compiled solver and back."""

from __future__ import annotations

import math
import time
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.activations.cumulant import cumulant
from meanfield.numerics import budget
from meanfield.numerics.limits import call_in_thread, seconds_left
from meanfield.posterior.certificate import Certificate, ConvergenceError
from meanfield.posterior.status import Status
from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.theories.single_layer.compiled import sweep
from meanfield.theories.single_layer.compiled.bounds import interval_bounds
from meanfield.theories.single_layer.compiled.dual import MOST_SPARE
from meanfield.theories.single_layer.kinds.classes import class_kinds
from meanfield.theories.single_layer.kinds.solution import solution_of_kinds
from meanfield.theories.single_layer.kinds.solver import solve_kinds
from meanfield.theories.single_layer.precompile import beside
from meanfield.theories.single_layer.solution import Solution, heaviest_first
from meanfield.validation import FloatArray, IntArray

__all__ = [
    "MAX_BOXES",
    "STATUS",
    "Point",
    "code_room",
    "compiled_tables",
    "limit_point",
    "message_of",
    "phi_range",
    "point_to_solution",
    "solve_limit",
    "solve_points",
    "solve_reduced",
]

PhiRange = tuple[float, float, float, float]
_MANY, _FEW = 6, 4  # from so many classes on, and up to so many kinds, exchangeable ones are divided out
_MOST = 10  # classes of the same kind, for which the full solver is a second chance
_LARGEST = 12_000  # order parameters of the full solver, whose matrices hold the square of this: 1.2 GB
MAX_BOXES = 1_000_000  # of branch and bound, before a solution counts as unproven

# By the numbers of `compiled.sweep`.
STATUS = (
    Status.OPTIMAL, Status.NOT_CONVERGED, Status.RESIDUAL, Status.DUALITY_GAP, Status.NOT_GLOBAL, Status.FAILED,
    Status.STOPPED,
)  # fmt: skip


def message_of(status: Status, excess: float = math.inf, boxes: int = 0) -> str:
    """The message of a solution at P -> infinity; `excess`: what the undecided box allows above the level."""
    if status == Status.OPTIMAL:
        return "stationarity, duality gap and global optimality are certified"
    if status == Status.NOT_GLOBAL and boxes and math.isfinite(excess):
        return (
            f"the upper bound of h(a; t) over readouts is still {excess:.1e} above the level of the codes after "
            f"{boxes} boxes of branch and bound, so that a better readout was not excluded; increase max_boxes, or "
            "raise tau, which makes t smaller"
        )
    return status.advice


# In units of work of `compiled.budget`: what is done between two looks at signals, and for one point, before it goes
# to a thread of its own and starts again there. Both are small against the patience of a user, the second is large
# against an ordinary point. Points of many order parameters, whose matrices alone take longer, start in a thread.
_SLICE = 500_000
_LONG = 1_000_000
_LARGE = 1_000


@lru_cache(maxsize=64)
def compiled_tables(activation: Activation, k: float) -> tuple[Any, Any, Any]:
    """(Table, Bounds, Direct) for the compiled solvers."""
    single_site = cumulant(activation, k)
    table = single_site.table
    return table, interval_bounds(table, activation.infimum, activation.supremum), single_site.direct_data


@lru_cache(maxsize=64)
def phi_range(activation: Activation, k: float) -> PhiRange:
    """Activations that stand for 0 and 1 in code-word starts, then infimum and supremum of phi."""
    low, high = activation.infimum, activation.supremum
    _, mean, variance = cumulant(activation, k).direct(0.0)
    spread = 2.0 * math.sqrt(float(variance))
    return (
        low if math.isfinite(low) else float(mean) - spread,
        high if math.isfinite(high) else float(mean) + spread,
        low,
        high,
    )


def code_room(n_classes: int, m: int) -> int:
    """Codes and outliers that a solution may have: what is needed (Carathéodory), and orbits of a symmetry or cones.

    Beyond, the codes that are needed are reported without those that could share their weights.
    """
    return n_classes * m + 1 + MOST_SPARE


class Point(NamedTuple):
    """A solution of the compiled solver at P -> infinity, units sigma_a = 1: n codes, o outlier directions."""

    t: FloatArray  # (C, m)
    readouts: FloatArray  # (n, m), heaviest first
    weights: FloatArray  # (n,)
    directions: FloatArray  # (o, m), heaviest first
    direction_weights: FloatArray  # (o,)
    numbers: dict[str, float]  # by the names in compiled.sweep.NUMBERS

    @property
    def status(self) -> int:
        return int(self.numbers["status"])


def limit_point(
    activation: Activation,
    k: float,
    p: FloatArray,
    y: FloatArray,
    tau: float,
    warm: Point | None = None,
    max_boxes: int = MAX_BOXES,
) -> Point:
    """Solve one task at P -> infinity with the compiled solver, in units sigma_a = 1.

    Parameters
    ----------
    activation, k
        phi and the variance of the preactivations.
    p : (C,) array
    y : (C, m) array
    tau : float
    warm : Point, optional
        Solution to start from.
    max_boxes : int
        Budget of the global check; 0 leaves the point unproven.
    """
    n_classes, m = y.shape
    if n_classes * m > _LARGEST:
        raise ConvergenceError(
            f"{n_classes} classes of different sizes or targets, with {m} outputs, have {n_classes * m} order "
            f"parameters, whose matrices do not fit into memory; up to {_LARGEST} are solved, and any number where "
            f"classes are of at most {_FEW} kinds (equal fractions and equal on and off)."
        )
    room = code_room(n_classes, m)
    i = 0 if warm is None else 1  # the warm start is a point before
    t = np.zeros((i + 1, n_classes, m))
    codes = np.zeros((i + 1, room, m)), np.zeros((i + 1, room))
    outliers = np.zeros((i + 1, room, m)), np.zeros((i + 1, room))
    numbers = np.zeros((i + 1, len(sweep.NUMBERS)))
    numbers[:, 0] = sweep.FAILED  # until the solver has said otherwise
    parent = np.array([-1, 0])
    if warm is not None:
        n, o = len(warm.weights), len(warm.direction_weights)
        t[0], numbers[0, :3] = warm.t, (sweep.CONVERGED, n, o)
        codes[0][0, :n], codes[1][0, :n] = warm.readouts, warm.weights
        outliers[0][0, :o], outliers[1][0, :o] = warm.directions, warm.direction_weights
    tasks = np.array([p] * (i + 1)), np.array([y] * (i + 1)), np.full(i + 1, float(tau))
    site = compiled_tables(activation, k), phi_range(activation, k)
    try:
        solve_points(site, tasks, parent, max_boxes, i, i + 1, codes, outliers, t, numbers)
    except TimeoutError:  # the call was left behind, and may still write to its arrays
        unknown = dict.fromkeys(sweep.NUMBERS, math.inf) | {"status": sweep.STOPPED}
        unknown |= dict.fromkeys(("level", "n_codes", "n_outliers", "boxes", "nullity", "t_nullity", "rounds"), 0.0)
        none = np.zeros((0, m)), np.zeros(0)
        return Point(np.zeros((n_classes, m)), *none, *none, unknown)
    n, o = int(numbers[i, 1]), int(numbers[i, 2])
    named = dict(zip(sweep.NUMBERS, numbers[i].tolist(), strict=True))
    return Point(t[i], codes[0][i, :n], codes[1][i, :n], outliers[0][i, :o], outliers[1][i, :o], named)


def solve_points(
    site: tuple[Any, PhiRange], tasks: Any, parent: Any, max_boxes: int, first: int, last: int, codes: Any,
    outliers: Any, t: Any, numbers: Any, seconds: float = math.inf,
) -> int:  # fmt: skip
    """`compiled.sweep.sweep_points` in slices, so that signals and the time limit are seen; `site`: tables, phi_range.

    A long point is done in a thread of its own; one that reaches the limit of `long_work` has the status STOPPED. After
    `seconds` no further slice is begun. Returns the first point that is not done.
    """
    end_time = time.monotonic() + seconds
    (table, *rest), limits = site

    def run(stop: IntArray, end: int) -> int:
        tables = (table._replace(stop=stop), *rest)
        arguments = (tables, tasks, limits, parent, max_boxes, first, end, codes, outliers, t, numbers)
        try:
            return int(sweep.sweep_points(*arguments))
        except ValueError as error:  # of a reduction or a factorisation, where numbers ran out
            raise FloatingPointError(str(error)) from error

    large = math.prod(tasks[1].shape[1:]) > _LARGE
    with beside():
        while first < last:
            reached = first if large else run(budget.new_stop(_SLICE, _LONG), last)
            if reached == first:
                reached, stop = first + 1, budget.new_stop()
                call_in_thread(partial(run, stop, reached), stop, partial(stop.item, budget.ROUNDS))
            first = reached
            if time.monotonic() > end_time:
                break
    return first


def certificate_of(number: dict[str, float]) -> Certificate:
    """Certificate from the numbers of a point, by the names in compiled.sweep.NUMBERS."""
    nullity = int(number["nullity"] + number["t_nullity"])
    return Certificate(
        kkt_residual=number["residual"],
        duality_gap=number["gap"],
        bound_gap=number["excess"],
        global_check=number["status"] == sweep.CONVERGED,
        unique=nullity == 0,
        nullity=nullity,
        boxes=int(number["boxes"]),
    )


def point_to_solution(point: Point, sigma_a: float, tau: float) -> Solution:
    """Physical units restored, certificate and remarks attached; `tau` is the physical N T."""
    number = point.numbers
    nullity, t_nullity = int(number["nullity"]), int(number["t_nullity"])
    notes = []
    if nullity and point.direction_weights.size:
        notes.append(
            f"the weights of codes and outliers are not unique ({nullity} free directions): the kernel is determined, "
            "its decomposition into outliers is one of many"
        )
    elif nullity >= point.weights.size:
        notes.append(
            f"the code weights are not unique ({nullity} free directions): so many codes are at the same height that "
            "some which suffice are reported, one choice of many"
        )
    elif nullity:
        notes.append(
            f"the code weights are not unique ({nullity} free directions): those of the P -> infinity limit of the "
            "finite-P theory are reported"
        )
    if t_nullity:
        notes.append(
            f"the order parameters t are not unique ({t_nullity} free directions): those of least norm, the limit "
            "tau -> 0, are reported"
        )
    certificate = certificate_of(number | {"residual": number["residual"] * max(1.0, sigma_a)})
    codes = heaviest_first(point.weights, point.readouts)
    outliers = heaviest_first(point.direction_weights, point.directions)
    return Solution(
        t=point.t / sigma_a,
        objective=number["objective"],
        level=number["level"],
        readout=point.readouts[codes] * sigma_a,
        weight=point.weights[codes],
        outlier_direction=point.directions[outliers],
        outlier_weight=point.direction_weights[outliers] * sigma_a**2,
        certificate=certificate,
        status=STATUS[point.status],
        message=message_of(STATUS[point.status], number["excess"], int(number["boxes"])),
        notes=tuple(notes),
        tau=tau,
    )


def solve_reduced(network: Network, task: ClassTask, tau: float, max_boxes: int) -> Solution | None:
    """Solution of a task with many classes of few kinds and bounded phi; None where the full solver is to be asked."""
    if task.n_classes < _MANY or network.activation.parts != "codes":
        return None
    kinds = class_kinds(task.fractions, task.targets / network.sigma_a)
    if kinds.n_kinds > min(_FEW, task.n_classes - 1):
        return None
    site = compiled_tables(network.activation, network.k), phi_range(network.activation, network.k)
    point = solve_kinds(network.activation, network.k, kinds, tau / network.sigma_a**2, site, max_boxes)
    status = Status.NOT_CONVERGED
    if point is not None:
        status = Status.OPTIMAL if point.proved else Status.NOT_GLOBAL
        small = sweep.RELATIVE_RESIDUAL * float(np.abs(task.targets).max()) / network.sigma_a
        if not (point.residual * max(1.0, network.sigma_a) <= sweep.RESIDUAL_LIMIT and point.residual <= small):
            status = Status.RESIDUAL
        elif not point.gap <= sweep.GAP_LIMIT * max(1.0, abs(point.objective)):
            status = Status.DUALITY_GAP
    left = seconds_left()
    if status != Status.OPTIMAL and task.n_classes <= _MOST and left > 0.0:
        return None  # the full solver may do better
    if point is None and left <= 0.0:
        status = Status.STOPPED
    message = message_of(status) if point is None else message_of(status, point.excess, point.boxes)
    return solution_of_kinds(kinds, point, network, tau, status, message)


def solve_limit(
    network: Network, task: ClassTask, tau: float, warm: Solution | None = None, max_boxes: int = MAX_BOXES
) -> Solution:
    """Solve a class task at P -> infinity; the result may be uncertified (see `Solution.status`).

    The solver works with sigma_a = 1: a -> a / sigma_a, t -> t sigma_a, y -> y / sigma_a, tau -> tau / sigma_a^2
    leaves J unchanged (scaling symmetry).
    """
    sigma_a = network.sigma_a
    reduced = solve_reduced(network, task, tau, max_boxes)
    if reduced is not None:
        return reduced
    start = None
    if warm is not None:
        start = Point(
            warm.t * sigma_a,
            warm.readout / sigma_a,
            warm.weight,
            warm.outlier_direction,
            warm.outlier_weight / sigma_a**2,
            {},
        )
    point = limit_point(
        network.activation, network.k, task.fractions, task.targets / sigma_a, tau / sigma_a**2, start, max_boxes
    )
    return point_to_solution(point, sigma_a, tau)
