"""Many points of a parameter grid: the compiled, warm-started loop at P -> infinity, `solve` elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.posterior.certificate import ConvergenceError
from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.solve import solve
from meanfield.theories.single_layer.compiled import sweep as loop
from meanfield.theories.single_layer.limit import MAX_BOXES, compiled_tables, phi_range
from meanfield.validation import FloatArray

__all__ = ["PointArrays", "Problem", "solve_chunk"]


class Problem(NamedTuple):
    """One point of a grid."""

    network: Network
    task: ClassTask
    tau: float


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

    def column(self, name: str) -> FloatArray:
        return np.asarray(self.numbers[:, loop.NUMBERS.index(name)])

    def arrays(self) -> dict[str, FloatArray]:
        return dict(vars(self))

    @classmethod
    def concatenate(cls, parts: Sequence[PointArrays]) -> PointArrays:
        """Points of all parts, in order; slots are padded to the largest number used."""
        joined = {}
        for name in vars(parts[0]):
            arrays = [getattr(part, name) for part in parts]
            width = max(a.shape[1] for a in arrays)
            fill = 0.0 if "weight" in name else np.nan
            padded = []
            for a in arrays:
                wide = np.full((a.shape[0], width, *a.shape[2:]), fill)
                wide[:, : a.shape[1]] = a
                padded.append(wide)
            joined[name] = np.concatenate(padded)
        return cls(**joined)


def solve_chunk(problems: Sequence[Problem], parent: Sequence[int]) -> PointArrays:
    """Solve consecutive points; point i is warm-started from parent[i] < i, or from scratch if that is negative.

    Never raises for points that fail: their status says so.
    """
    first = problems[0]
    if first.network.activation.parts == "gaussian" or any(math.isfinite(q.task.n_samples) for q in problems):
        return _one_by_one(problems, parent)
    return _compiled(problems, parent)


def _compiled(problems: Sequence[Problem], parent: Sequence[int]) -> PointArrays:
    n_points = len(problems)
    n_classes, m = problems[0].task.targets.shape
    room = n_classes * m + 1 + 2 ** min(n_classes, 6)
    sigma_a = np.array([q.network.sigma_a for q in problems])
    p = np.array([q.task.fractions for q in problems])
    y = np.array([q.task.targets for q in problems]) / sigma_a[:, None, None]
    tau = np.array([q.tau for q in problems]) / sigma_a**2
    t = np.zeros((n_points, n_classes, m))
    readout, weight = np.full((n_points, room, m), np.nan), np.zeros((n_points, room))
    direction, outlier = np.full((n_points, room, m), np.nan), np.zeros((n_points, room))
    numbers = np.zeros((n_points, len(loop.NUMBERS)))
    parents = np.asarray(parent, dtype=np.int64)
    sites: list[tuple[Activation, float]] = [(q.network.activation, q.network.k) for q in problems]
    start = 0
    while start < n_points:  # one call per run of points that share G
        stop = start + 1
        while stop < n_points and sites[stop] == sites[start]:
            stop += 1
        loop.sweep_points(
            compiled_tables(*sites[start]), (p, y, tau), phi_range(*sites[start]), parents, MAX_BOXES, start, stop,
            (readout, weight), (direction, outlier), t, numbers,
        )  # fmt: skip
        start = stop
    k, o = int(numbers[:, 1].max()), int(numbers[:, 2].max())
    scale = sigma_a[:, None]
    numbers[:, loop.NUMBERS.index("residual")] *= np.maximum(1.0, sigma_a)
    return PointArrays(
        t=t / scale[:, :, None],
        readout=readout[:, :k] * scale[:, :, None],
        weight=weight[:, :k],
        outlier_direction=direction[:, :o],
        outlier_weight=outlier[:, :o] * scale**2,
        covariance=np.empty((n_points, 0, m, m)),
        gaussian_covariance=np.full((n_points, m, m), np.nan),
        numbers=numbers,
    )


def _one_by_one(problems: Sequence[Problem], parent: Sequence[int]) -> PointArrays:
    posteriors: list[Any] = []
    parts = []
    for problem, j in zip(problems, parent, strict=True):
        start = posteriors[j] if j >= 0 else None
        try:
            post = solve(*problem, warm_start=start, on_failure="return")
        except ConvergenceError:
            post = None
        posteriors.append(post)
        m = problem.task.n_outputs
        numbers = np.zeros((1, len(loop.NUMBERS)))
        numbers[0, 0] = loop.NOT_CONVERGED
        if post is None:
            nothing = np.full((1, *problem.task.targets.shape), np.nan)
            empty = np.full((1, 1, m), np.nan)
            no = np.zeros((1, 1))
            blank = np.full((1, m, m), np.nan)
            parts.append(PointArrays(nothing, empty, no, empty, no, np.empty((1, 0, m, m)), blank, numbers))
            continue
        s, c = post.solution, post.certificate
        found = {
            "status": loop.CONVERGED if s.status == "optimal" else loop.RESIDUAL,
            "n_codes": s.weight.size,
            "n_outliers": s.outlier_weight.size,
            "level": s.level,
            "objective": s.objective,
            "residual": c.kkt_residual,
            "gap": c.duality_gap,
            "excess": c.bound_gap,
            "nullity": c.nullity,
        }
        for name, value in found.items():
            numbers[0, loop.NUMBERS.index(name)] = value
        width = np.empty((0, m, m)) if s.covariance is None else s.covariance
        gauss = np.full((m, m), np.nan) if s.gaussian_covariance is None else s.gaussian_covariance
        parts.append(
            PointArrays(
                s.t[None],
                s.readout[None],
                s.weight[None],
                s.outlier_direction[None],
                s.outlier_weight[None],
                width[None],
                gauss[None],
                numbers,
            )
        )
    return PointArrays.concatenate(parts)
