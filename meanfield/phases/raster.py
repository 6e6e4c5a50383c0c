"""Many points of a parameter grid: the compiled, warm-started loop at P -> infinity, `solve` elsewhere.

Points are solved in segments (`grid.chunks`). Inside one a point starts from a neighbour; segments know nothing of each
other, and a segment that was stopped goes on from the very numbers it had, so that results do not depend on how often
a sweep was interrupted or on who solved what.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meanfield.activations.activation import Activation
from meanfield.archive import Arrays
from meanfield.phases.kept import Packable, has_kept, packed, restored
from meanfield.posterior.certificate import ConvergenceError
from meanfield.posterior.posterior import Posterior, SolvedPosterior
from meanfield.posterior.registry import covering_theory, sweep_accuracy
from meanfield.problem.class_task import ClassTask
from meanfield.problem.problem import Problem
from meanfield.solve import solve
from meanfield.theories.single_layer.compiled import sweep as loop
from meanfield.theories.single_layer.limit import (
    MAX_BOXES,
    STATUS,
    certificate_of,
    code_room,
    compiled_tables,
    message_of,
    phi_range,
    solve_points,
)
from meanfield.theories.single_layer.posterior import SingleNeuronPosterior
from meanfield.theories.single_layer.solution import Solution
from meanfield.theories.single_layer.theory import is_limit
from meanfield.validation import FloatArray

__all__ = ["TEXTS", "PointArrays", "Problem", "physical", "posterior_at", "solution_at", "solve_segment"]

TEXTS = ("message", "packed", "note")  # of `PointArrays`
_PENDING = -1.0  # status of a point that has not been solved yet


@dataclass(frozen=True, eq=False)
class PointArrays:
    """Solutions of N points in physical units; unused code and outlier slots hold weight 0 and NaN."""

    t: FloatArray  # (N, C, m)
    readout: FloatArray  # (N, K, m)
    weight: FloatArray  # (N, K)
    outlier_direction: FloatArray  # (N, O, m)
    outlier_weight: FloatArray  # (N, O)
    covariance: FloatArray  # (N, K, m, m), finite P; K = 0 otherwise
    gaussian_covariance: FloatArray  # (N, m, m), NaN except for linear phi
    numbers: FloatArray  # (N, len(NUMBERS)), compiled.sweep.NUMBERS
    message: NDArray[np.str_] | None = None  # (N,), empty where the status says all
    packed: NDArray[np.str_] | None = None  # (N,), of theories that keep more than this: see `phases.kept`
    kept: FloatArray | None = None  # (N, width), NaN beyond what `packed` tells
    note: NDArray[np.str_] | None = None  # (N,), remarks on solutions at finite P, a line each

    def __len__(self) -> int:
        return len(self.t)

    def column(self, name: str) -> FloatArray:
        return np.asarray(self.numbers[:, loop.NUMBERS.index(name)])

    def arrays(self) -> Arrays:
        return {name: array for name, array in vars(self).items() if array is not None}

    @classmethod
    def concatenate(cls, parts: Sequence[PointArrays]) -> PointArrays:
        """Points of all parts, in order; slots are padded to the largest number used."""
        joined: dict[str, np.ndarray] = {}
        for name in vars(parts[0]):
            if name in TEXTS:
                continue
            arrays = [getattr(part, name) for part in parts]
            if name == "kept":
                if all(array is None for array in arrays):
                    continue
                arrays = [np.empty((len(part), 0)) if a is None else a for part, a in zip(parts, arrays)]
            width = max(a.shape[1] for a in arrays)
            fill = 0.0 if "weight" in name else np.nan
            padded = []
            for a in arrays:
                wide = np.full((a.shape[0], width, *a.shape[2:]), fill)
                wide[:, : a.shape[1]] = a
                padded.append(wide)
            joined[name] = np.concatenate(padded)
        for name in TEXTS:
            texts = [getattr(part, name) for part in parts]
            if any(text is not None for text in texts):
                none = [np.zeros(len(part), dtype="U1") if text is None else text for part, text in zip(parts, texts)]
                joined[name] = np.concatenate(none)
        return cls(**joined)


def solution_at(points: PointArrays, i: int, task: ClassTask, tau: float) -> Solution:
    """Point i with its certificate."""
    number = dict(zip(loop.NUMBERS, points.numbers[i].tolist(), strict=True))
    n, o, status = int(number["n_codes"]), int(number["n_outliers"]), int(number["status"])
    gauss = points.gaussian_covariance[i]
    covariance = points.covariance[i, :n] if points.covariance.shape[1] else None
    told = "" if points.message is None else str(points.message[i])
    return Solution(
        t=points.t[i],
        objective=number["objective"],
        level=number["level"],
        readout=points.readout[i, :n],
        weight=points.weight[i, :n],
        outlier_direction=points.outlier_direction[i, :o],
        outlier_weight=points.outlier_weight[i, :o],
        covariance=None if covariance is None or np.isnan(covariance).any() else covariance,
        gaussian_covariance=None if np.isnan(gauss).any() else gauss,
        certificate=certificate_of(number),
        status=STATUS[status],
        message=told or message_of(STATUS[status]),
        notes=() if points.note is None else tuple(str(points.note[i]).splitlines()),
        n_samples=task.n_samples,
        tau=tau,
    )


def solve_segment(
    problems: Sequence[Problem], parent: Sequence[int], before: PointArrays | None, seconds: float = math.inf,
    limit: bool | None = None,
) -> PointArrays:  # fmt: skip
    """Solve the points of a segment that come after those in `before`, until the time is up (one at least).

    Point i is warm-started from parent[i] < i, or from scratch if that is negative. Never raises for points that fail:
    their status and message say so. The result is raw: see `physical`. `limit`: whether all are at P = infinity, with
    one hidden layer, so that one compiled loop solves them; if it is known.
    """
    limit = all(is_limit(problem) for problem in problems) if limit is None else limit
    return (_compiled if limit else _one_by_one)(problems, parent, before, seconds)


def physical(raw: PointArrays, sigma_a: FloatArray) -> PointArrays:
    """Points of the compiled loop, which works, and goes on, in units sigma_a = 1, in physical units."""
    scale = sigma_a[:, None]
    numbers = raw.numbers.copy()
    numbers[:, loop.NUMBERS.index("residual")] *= np.maximum(1.0, sigma_a)
    return PointArrays(
        t=raw.t / scale[:, :, None],
        readout=raw.readout * scale[:, :, None],
        weight=raw.weight,
        outlier_direction=raw.outlier_direction,
        outlier_weight=raw.outlier_weight * scale**2,
        covariance=raw.covariance,
        gaussian_covariance=raw.gaussian_covariance,
        numbers=numbers,
        message=raw.message,
    )


# ---- P -> infinity -------------------------------------------------------------------------------------------------


def _compiled(
    problems: Sequence[Problem], parent: Sequence[int], before: PointArrays | None, seconds: float
) -> PointArrays:
    n_points, done = len(problems), 0 if before is None else len(before)
    n_classes, m = problems[0].task.targets.shape
    room = code_room(n_classes, m)
    sigma_a = np.array([q.network.sigma_a for q in problems])
    p = np.array([q.class_task.fractions for q in problems])
    y = np.array([q.task.targets for q in problems]) / sigma_a[:, None, None]
    tau = np.array([q.tau for q in problems]) / sigma_a**2
    t = np.zeros((n_points, n_classes, m))
    # Of the room that points have they fill a hundredth: what is not written to costs nothing.
    readout, weight = np.empty((n_points, room, m)), np.zeros((n_points, room))
    direction, outlier = np.empty((n_points, room, m)), np.zeros((n_points, room))
    numbers = np.zeros((n_points, len(loop.NUMBERS)))
    numbers[:, 0] = _PENDING
    messages = [""] * n_points
    if before is not None:
        k, o = before.weight.shape[1], before.outlier_weight.shape[1]
        t[:done], numbers[:done] = before.t, before.numbers
        readout[:done, :k], weight[:done, :k] = before.readout, before.weight
        direction[:done, :o], outlier[:done, :o] = before.outlier_direction, before.outlier_weight
    sites: list[tuple[Activation, float]] = [(q.network.activation, q.network.k) for q in problems]
    start, reached, limit = 0, done, time.monotonic() + seconds
    while start < n_points and (reached == done or time.monotonic() < limit):  # one call per run of points that share G
        stop = start + 1
        while stop < n_points and sites[stop] == sites[start]:
            stop += 1
        parents = np.array(parent, dtype=np.int64)
        parents[parents < start] = -1
        while reached < stop and (reached == done or time.monotonic() < limit):
            try:
                site = compiled_tables(*sites[start]), phi_range(*sites[start])
                reached = solve_points(
                    site, (p, y, tau), parents, MAX_BOXES, reached, stop, (readout, weight), (direction, outlier), t,
                    numbers, limit - time.monotonic(),
                )  # fmt: skip
            except Exception as error:  # a point that fails does not take the others with it
                reached += int(np.argmax(np.isin(numbers[reached:stop, 0], (_PENDING, loop.STOPPED))))
                messages[reached] = _text(error)
                t[reached] = np.nan
                numbers[reached] = _failed(loop.FAILED)
                reached += 1
        start = stop
    new = slice(done, reached)
    readout, weight = _filled(readout[new], weight[new], numbers[new, 1])
    direction, outlier = _filled(direction[new], outlier[new], numbers[new, 2])
    return PointArrays(
        t=t[new],
        readout=readout,
        weight=weight,
        outlier_direction=direction,
        outlier_weight=outlier,
        covariance=np.empty((reached - done, 0, m, m)),
        gaussian_covariance=np.full((reached - done, m, m), np.nan),
        numbers=numbers[new],
        message=np.array(messages[new]) if any(messages[new]) else None,
    )


def _filled(rows: FloatArray, weights: FloatArray, counts: FloatArray) -> tuple[FloatArray, FloatArray]:
    """As many slots of rows (N, K, m) and weights (N, K) as the largest of counts (N,); NaN and 0 in unused ones."""
    most = int(counts.max())
    rows, weights = rows[:, :most].copy(), weights[:, :most].copy()
    unused = np.arange(most) >= counts[:, None]
    rows[unused], weights[unused] = np.nan, 0.0
    return rows, weights


def _failed(status: int) -> FloatArray:
    """Numbers of a point without a solution."""
    known = {"status": status, "objective": np.nan, "residual": np.inf, "gap": np.inf, "excess": np.inf}
    return np.array([float(known.get(name, 0.0)) for name in loop.NUMBERS])


def _text(error: BaseException) -> str:
    """What went wrong first; solvers raise their own errors from those of NumPy and of compiled code."""
    first = error.__cause__ or error
    return f"{type(first).__name__}: {first}"


# ---- other theories ------------------------------------------------------------------------------------------------


def _one_by_one(
    problems: Sequence[Problem], parent: Sequence[int], before: PointArrays | None, seconds: float
) -> PointArrays:
    limit = time.monotonic() + seconds
    parts = [] if before is None else [_taken(before, i) for i in range(len(before))]
    done = len(parts)
    for problem, j in zip(problems[done:], parent[done:], strict=True):
        parts.append(_solved(problem, None if j < 0 else _start(problem, problems[j], parts[j])))
        if time.monotonic() >= limit:
            break
    return PointArrays.concatenate(parts[done:])


def _taken(points: PointArrays, i: int) -> PointArrays:
    """Point i alone, without the slots it does not use: as it was before it was joined to others."""
    n, o = int(points.column("n_codes")[i]), int(points.column("n_outliers")[i])
    width = {"readout": n, "weight": n, "covariance": n, "outlier_direction": o, "outlier_weight": o}
    parts = {name: array[i : i + 1] for name, array in points.arrays().items()}
    return PointArrays(**{name: array[:, : width[name]] if name in width else array for name, array in parts.items()})


def posterior_at(points: PointArrays, i: int, problem: Problem) -> SolvedPosterior:
    """Point i as the posterior that it was."""
    if has_kept(points.packed, i):
        assert points.packed is not None
        assert points.kept is not None
        return restored(problem, str(points.packed[i]), points.kept[i])
    return SingleNeuronPosterior(
        problem.network, problem.class_task, problem.tau, solution_at(points, i, problem.class_task, problem.tau)
    )


def _start(problem: Problem, before: Problem, point: PointArrays) -> Posterior | None:
    """Where a neighbour of a certified point starts; through arrays always, as resumed sweeps do."""
    if point.numbers[0, 0] != loop.CONVERGED or covering_theory(*problem) is not covering_theory(*before):
        return None
    return posterior_at(point, 0, before)


def _solved(problem: Problem, start: Posterior | None) -> PointArrays:
    try:
        rtol = sweep_accuracy(covering_theory(*problem))
        post = solve(*problem, warm_start=start, on_failure="return", rtol=rtol)
    except ConvergenceError as error:
        return _nothing(problem, loop.NOT_CONVERGED, str(error))
    except Exception as error:  # numerical ones; others can be read in the message
        return _nothing(problem, loop.FAILED, _text(error))
    m = problem.task.n_outputs
    if not isinstance(post, SingleNeuronPosterior):
        return _kept(post)
    s, c = post.solution, post.certificate
    found = {
        "status": STATUS.index(s.status) if s.status in STATUS else loop.RESIDUAL,
        "n_codes": s.weight.size,
        "n_outliers": s.outlier_weight.size,
        "level": s.level,
        "objective": s.objective,
        "residual": c.kkt_residual,
        "gap": c.duality_gap,
        "excess": c.bound_gap,
        "nullity": c.nullity,
    }
    width = np.empty((0, m, m)) if s.covariance is None else s.covariance
    gauss = np.full((m, m), np.nan) if s.gaussian_covariance is None else s.gaussian_covariance
    return PointArrays(
        s.t[None],
        s.readout[None],
        s.weight[None],
        s.outlier_direction[None],
        s.outlier_weight[None],
        width[None],
        gauss[None],
        np.array([[float(found.get(name, 0.0)) for name in loop.NUMBERS]]),
        np.array([s.message]),
        note=np.array(["\n".join(s.notes)]) if s.notes else None,
    )


def _kept(post: Posterior) -> PointArrays:
    """A point of a theory that keeps its whole solution; NaN where it has no such number."""
    s, c, m = post.solution, post.certificate, post.task.n_outputs
    codes = post.codes
    numbers = {
        "status": STATUS.index(post.status) if post.status in STATUS else loop.RESIDUAL,
        "n_codes": len(codes),
        "level": np.nan,
        "objective": post.objective,
        "residual": c.kkt_residual,
        "gap": c.duality_gap,
        "excess": c.bound_gap,
        "nullity": c.nullity,
    }
    assert isinstance(s, Packable)
    header, kept = packed(s)
    none = np.empty((1, 0, m))
    return PointArrays(
        np.array(s.t)[None],
        np.array([code.readout for code in codes]).reshape(1, -1, m),
        np.array([code.weight for code in codes]).reshape(1, -1),
        none,
        none[..., 0],
        np.empty((1, 0, m, m)),
        np.full((1, m, m), np.nan),
        np.array([[float(numbers.get(name, 0.0)) for name in loop.NUMBERS]]),
        np.array([post.message]),
        np.array([header]),
        kept[None],
    )


def _nothing(problem: Problem, status: int, message: str) -> PointArrays:
    """A point without a solution."""
    shape = problem.task.targets.shape
    m = shape[1]
    none, blank = np.empty((1, 0, m)), np.full((1, m, m), np.nan)
    return PointArrays(
        np.full((1, *shape), np.nan), none, none[..., 0], none, none[..., 0], np.empty((1, 0, m, m)), blank,
        _failed(status)[None], np.array([message]),
    )  # fmt: skip
