"""The finite-N trend: do deviations from the theory, which holds for N -> infinity, vanish like 1/N?"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from scipy import stats

from meanfield.drawing import drawn
from meanfield.sampling.compare import LIMIT, Comparison
from meanfield.sampling.statistics import normal_deviate
from meanfield.validation import FloatArray, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Trend", "TrendRow", "finite_size_trend", "weighted_fit"]


@dataclass(frozen=True, eq=False)
class TrendRow:
    """One statistic over the widths.

    Attributes
    ----------
    name, group : str
    deviation, standard_error : (w,) arrays
        sample - theory at every width; of covariances within a code, which are O(1/P), times P / P of the first.
    limit, limit_error : float
        Intercept of the fit deviation = limit + slope / N (+ curvature / N^2), and its error.
    slope, slope_error : float
    z : float
        limit / limit_error (as a normal deviate): 0 within errors if the theory is right.
    misfit : float
        Probability that scatter about the fit is at least as large (chi-squared; NaN if no width is left over).
    """

    name: str
    group: str
    deviation: FloatArray
    standard_error: FloatArray
    limit: float
    limit_error: float
    slope: float
    slope_error: float
    z: float
    misfit: float


@dataclass(frozen=True, eq=False)
class Trend:
    """Deviations from the theory at several widths, extrapolated to N -> infinity; see `finite_size_trend`.

    Attributes
    ----------
    comparisons : tuple of Comparison, by width
    rows : tuple of TrendRow
    order : int
        Highest power of 1/N in the fits.
    """

    comparisons: tuple[Comparison, ...]
    rows: tuple[TrendRow, ...]
    order: int = 1

    @property
    def widths(self) -> FloatArray:
        """(w,) N."""
        return np.array([comparison.width for comparison in self.comparisons])

    @property
    def max_z(self) -> float:
        """Largest |z| of the extrapolated deviations."""
        return max(abs(row.z) for row in self.rows)

    def passed(self, limit: float = LIMIT) -> bool:
        """Whether every extrapolated deviation is zero within `limit` standard errors."""
        return bool(all(abs(row.z) < limit for row in self.rows))

    def table(self, *, limit: float = LIMIT) -> str:
        """Deviations in standard errors at every width and extrapolated, with the coefficient of 1/N."""
        width = max(len(row.name) for row in self.rows)
        columns = "".join(f"{f'z(N={n})':>10}" for n in self.widths)
        lines = [f"{'':<{width}}{columns} {'N -> inf':>10} {'std. err.':>10} {'z':>7} {'c in c/N':>10}"]
        lines.append("-" * len(lines[0]))
        for row in self.rows:
            ratio = "".join(f"{d / e:>10.2f}" for d, e in zip(row.deviation, row.standard_error, strict=True))
            mark = " *" if not abs(row.z) < limit else ""
            numbers = f"{row.limit:10.1e} {row.limit_error:10.1e} {row.z:7.2f} {row.slope:10.3g}"
            lines.append(f"{row.name:<{width}}{ratio} {numbers}{mark}")
        single = ", ".join(f"{c.max_z:.2f} at N = {c.width}" for c in self.comparisons)
        verdict = "all below" if self.passed(limit) else "* beyond"
        lines += ["", f"max |z|: {single}; extrapolated {self.max_z:.2f} ({verdict} {limit:g})"]
        return "\n".join(lines)

    def plot(self) -> Figure:
        """Figure: the largest deviations over 1/N with their fits, and all z-scores by width."""
        return drawn("sampling.figure_trend", self)

    def __repr__(self) -> str:
        return f"<Trend over N = {', '.join(map(str, self.widths))}: max |z| = {self.max_z:.2f} extrapolated>"


def finite_size_trend(comparisons: Iterable[Comparison], *, order: int = 1) -> Trend:
    """Fit deviation = limit + c / N, statistic by statistic, over comparisons at several widths.

    Run them at fixed P and tau = N T, where only the width changes, or at fixed P/N, where every width is held against
    the theory at its own P. Where deviations at the narrowest network are not small (10 %), the next power of 1/N is
    seen, too: `order` = 2 takes it into the fit.

    Raises
    ------
    ValueError
        For not more different widths than `order`, or widths that share no tested statistic.
    """
    several = isinstance(comparisons, Iterable) and not isinstance(comparisons, np.ndarray)
    given = list(comparisons) if several else [cast("Comparison", comparisons)]
    for comparison in given:
        if not all(hasattr(comparison, name) for name in ("width", "tested", "draws")):
            raise ValueError(f"comparisons must be a list of what mf.compare returned, got {short(comparison)}.")
    ordered = tuple(sorted(given, key=lambda comparison: comparison.width))
    widths = np.array([comparison.width for comparison in ordered], dtype=float)
    if not isinstance(order, int) or isinstance(order, bool) or order not in (1, 2):
        raise ValueError(f"order, the highest power of 1/N, must be 1 or 2, got {short(order)}.")
    if np.unique(widths).size <= order or np.unique(widths).size < widths.size:
        least = ("two", "three")[order - 1]
        raise ValueError(
            f"a trend needs comparisons at {least} or more different widths, got N = {widths.astype(int)}."
        )
    n_samples = np.array([comparison.draws.labels.size for comparison in ordered], dtype=float)
    tables = [{row.name: row for row in comparison.tested} for comparison in ordered]
    rows = []
    for name, first in tables[0].items():
        if not all(name in table for table in tables):
            continue
        found = [table[name] for table in tables]
        # covariances within a code are O(1/P): only P times them has a limit, and deviations of order 1/N
        scale = n_samples / n_samples[0] if name.startswith("covariance") else np.ones_like(widths)
        deviation = scale * [row.sample - row.theory for row in found]
        error = scale * [row.standard_error for row in found]
        if np.all(error > 0):
            dof = min(row.dof for row in found)
            rows.append(TrendRow(name, first.group, deviation, error, *_fit(widths, deviation, error, dof, order)))
    if not rows:
        raise ValueError("the comparisons share no statistic that was tested at every width.")
    return Trend(ordered, tuple(rows), order)


def _fit(widths: FloatArray, deviation: FloatArray, error: FloatArray, dof: float, order: int) -> tuple[float, ...]:
    """Weighted least squares: limit, its error, slope, its error, z, probability of the scatter."""
    fitted, covariance, chi2 = weighted_fit(widths, deviation, error, order)
    free = widths.size - order - 1
    misfit = float(stats.chi2.sf(chi2, free)) if free else math.nan
    (limit, slope), (limit_error, slope_error) = fitted[:2], np.sqrt(np.diag(covariance))[:2]
    z = float(normal_deviate(limit / limit_error, np.float64(dof)))
    return float(limit), float(limit_error), float(slope), float(slope_error), z, misfit


def weighted_fit(
    widths: FloatArray, values: FloatArray, error: FloatArray, order: int
) -> tuple[FloatArray, FloatArray, float]:
    """Weighted least squares in powers of 1/N up to `order`: coefficients, their covariance, chi^2."""
    design = np.stack([widths**-power for power in range(order + 1)], axis=1) / error[:, None]
    covariance: FloatArray = np.asarray(np.linalg.inv(design.T @ design), dtype=float)
    fitted = covariance @ design.T @ (values / error)
    return fitted, covariance, float(np.sum((values / error - design @ fitted) ** 2))
