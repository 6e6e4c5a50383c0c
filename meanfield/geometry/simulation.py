"""Simulated capacity: the number of random projections at which dichotomies become linearly separable.

Every draw uses one Gaussian matrix and its leading columns, so separability is monotone in the number of columns and
each draw has its own critical dimension ``n_crit``, found by bisection. For every data set whose solution cones have an
interior the conic kinematic formula gives ``E[n_crit] = E[a] + 1/2`` with the ``a`` of `glue`: the mean definition
``P/(E[n_crit] - 1/2)`` equals the GLUE capacity exactly.
"""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from meanfield.geometry.clouds import Seed, as_clouds, describe_labels, describe_seed, draw_labels, streams
from meanfield.geometry.cones import is_separable
from meanfield.geometry.problem import span_coordinates
from meanfield.geometry.results import Result
from meanfield.validation import FloatArray, choice, flag, thread_count, whole_number

__all__ = ["SimulatedCapacity", "simulated_capacity"]

Array = NDArray[np.float64]

COLUMNS = 16  # of the projection drawn at a time


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SimulatedCapacity(Result):
    """Simulated capacity; see `simulated_capacity`.

    Attributes
    ----------
    capacity, critical_dimension : float
        ``P/(critical_dimension - 1/2)`` with the mean of n_crit, or ``P/critical_dimension`` with its median.
    fraction_inseparable : float
        Share of draws that no number of projections separates.
    rank, n_manifolds, n_draws : int
    n_crit : (n_draws,) array
        Critical dimension of each draw, infinite if inseparable. A bias counts as one dimension.
    """

    capacity: float
    critical_dimension: float
    fraction_inseparable: float
    rank: int
    n_manifolds: int
    n_draws: int
    n_crit: Array

    title: ClassVar[str] = "simulated manifold capacity"
    quantities: ClassVar[tuple[tuple[str, str], ...]] = (
        ("capacity", "manifolds per critical dimension"),
        ("critical_dimension", "random projections that make dichotomies separable"),
        ("fraction_inseparable", "draws that stay inseparable"),
        ("rank", "dimension of the span of all points"),
        ("n_manifolds", "P"),
        ("n_draws", "projections and dichotomies"),
    )

    def separability(self, n: ArrayLike) -> FloatArray | float:
        """Probability that n random projections make a dichotomy separable, shape of n."""
        ordered = np.sort(self.n_crit)
        probability = np.searchsorted(ordered, np.asarray(n, dtype=float), side="right") / len(ordered)
        return float(probability) if probability.ndim == 0 else probability


def _critical_dimension(
    coordinates: Array, signs: Array, constant: float | None, start: int, stream: np.random.SeedSequence
) -> float:
    """Smallest number of dimensions (the bias, if any, first) that separates ``signs``; infinite if none does."""
    rng = np.random.default_rng(stream)
    rank = coordinates.shape[1]
    projected = np.empty((len(coordinates), 0)) if constant is None else np.full((len(coordinates), 1), constant)
    top = rank + projected.shape[1]

    def separable(n: int) -> bool:
        nonlocal projected
        while projected.shape[1] < n:
            projected = np.column_stack((projected, coordinates @ rng.standard_normal((rank, COLUMNS))))
        return is_separable(signs[:, None] * projected[:, :n])

    low, high = 0, min(start, top)
    while not separable(high):
        if high == top:
            return float("inf")
        low, high = high, min(2 * high, top)
    while high - low > 1:
        middle = (low + high) // 2
        if separable(middle):
            high = middle
        else:
            low = middle
    return float(high)


def _median(n_crit: Array) -> tuple[float, float]:
    """Crossing of the interpolated curve P(n_crit <= n) with 1/2, and the binomial error carried through the curve."""
    grid = np.arange(0.0, np.max(n_crit[np.isfinite(n_crit)]) + 1.0)
    curve = np.searchsorted(np.sort(n_crit), grid, side="right") / len(n_crit)

    def crossing(level: float) -> float:
        above = int(np.argmax(curve >= level)) if (curve >= level).any() else len(grid) - 1
        if above == 0 or curve[above] <= curve[above - 1]:
            return float(grid[above])
        return float(grid[above - 1] + (level - curve[above - 1]) / (curve[above] - curve[above - 1]))

    spread = 0.5 / np.sqrt(len(n_crit))
    return crossing(0.5), 0.5 * (crossing(0.5 + spread) - crossing(0.5 - spread))


def simulated_capacity(
    manifolds: object,
    *,
    labels: str | ArrayLike = "balanced",
    n_draws: int = 200,
    definition: str = "mean",
    bias: bool = False,
    center: bool = False,
    allow_overlap: bool = False,
    threads: int = 1,
    seed: Seed = None,
) -> SimulatedCapacity:
    """Capacity measured by random projections and tests of linear separability.

    Parameters
    ----------
    manifolds, labels, center, allow_overlap, threads, seed
        As in `glue`.
    n_draws : int
        Draws of a Gaussian projection and a dichotomy.
    definition : {"mean", "median"}
        ``P/(E[n_crit] - 1/2)``, equal to the GLUE capacity, or P over the dimension at which half of the draws are
        separable.
    bias : bool
        Add a constant coordinate after the projection, which counts as one dimension.

    Returns
    -------
    SimulatedCapacity

    Raises
    ------
    ValueError
        If more than half of the draws are inseparable with all dimensions; for bad input as in `glue`.

    Warns
    -----
    UserWarning
        If some draws are inseparable. The mean counts them as rank + 1/2, the value that keeps it equal to `glue`.

    Examples
    --------
    >>> import numpy as np
    >>> points = np.random.default_rng(1).standard_normal((12, 1, 40))  # Cover: n_crit is (P + 1)/2 on average
    >>> result = simulated_capacity(points, labels="random", n_draws=400, seed=0)
    >>> bool(abs(result.critical_dimension - 6.5) < 5 * result.standard_errors["critical_dimension"])
    True
    """
    choice("definition", definition, ("mean", "median"))
    bias, center = flag("bias", bias), flag("center", center)
    flag("allow_overlap", allow_overlap)
    number = whole_number("n_draws", n_draws, at_least=2, at_most=10**7)
    thread_count(threads)
    clouds = as_clouds(manifolds)
    clouds.warn_if_unequal()
    clouds = clouds.without_duplicates()
    if center:
        clouds = clouds.centered()
    clouds.check_separable_in_principle(allow_zero=bias, allow_overlap=allow_overlap or bias)
    coordinates, basis = span_coordinates(clouds.points)
    P = clouds.number
    draw_stream, label_stream = streams(seed, 2)
    dichotomies = draw_labels(labels, P, number, label_stream)
    constant = float(np.sqrt(np.mean(np.sum(coordinates**2, axis=1)))) if bias else None

    def draw(job: tuple[Array, np.random.SeedSequence]) -> float:
        dichotomy, stream = job
        return _critical_dimension(coordinates, np.repeat(dichotomy, clouds.sizes), constant, max(1, P // 4), stream)

    jobs = list(zip(dichotomies, draw_stream.spawn(number)))
    if threads == 1:
        n_crit = np.array([draw(job) for job in jobs])
    else:
        with ThreadPoolExecutor(threads) as pool:
            n_crit = np.array(list(pool.map(draw, jobs)))

    infinite = ~np.isfinite(n_crit)
    fraction = float(infinite.mean())
    top = len(basis) + bool(bias)
    if fraction > 0.5:
        raise ValueError(
            f"{fraction:.0%} of the draws are inseparable even with all {top} dimensions: the capacity is below "
            f"P/{top} = {P / top:.3g} and cannot be measured. Use more neurons or fewer points per manifold"
        )
    if fraction > 0:
        warnings.warn(
            f"{fraction:.1%} of the draws are inseparable even with all {top} dimensions; the capacity saturates there",
            UserWarning,
            stacklevel=2,
        )
    if definition == "mean":
        counted = np.where(infinite, top + 0.5, n_crit)
        critical, error = float(counted.mean()), float(counted.std(ddof=1) / np.sqrt(number))
        capacity = P / (critical - 0.5)
        capacity_error = capacity * error / (critical - 0.5)
    else:
        critical, error = _median(n_crit)
        capacity, capacity_error = P / critical, P * error / critical**2
    return SimulatedCapacity(
        capacity=capacity,
        critical_dimension=critical,
        fraction_inseparable=fraction,
        rank=len(basis),
        n_manifolds=P,
        n_draws=number,
        n_crit=n_crit,
        standard_errors={"capacity": capacity_error, "critical_dimension": error},
        options={
            "labels": describe_labels(labels),
            "definition": definition,
            "bias": bool(bias),
            "center": bool(center),
            "seed": describe_seed(seed),
        },
        names=clouds.names,
    )
