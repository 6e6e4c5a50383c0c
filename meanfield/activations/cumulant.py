"""Single-site cumulant generating function G(kappa) = ln int Dz exp(kappa phi(sqrt(k) z)).

See single_layer/THEORY.md, "The dual problem".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from meanfield.activations.activation import Activation
from meanfield.numerics import cumulant_table as compiled

if TYPE_CHECKING:
    import sympy as sp

__all__ = ["Cumulant", "chebyshev_transforms", "cumulant"]

Array = NDArray[np.float64]

_DEGREE = 13
_TOLERANCE = 1e-13  # of G, G', G'' in the table, relative to max(1, |value|)
_KAPPA_MAX = 1e6
_Z_MAX = 500.0  # how far out the quadrature of an unbounded phi follows the tilted law
_MARGIN = 12.0  # half-width of a tilted law of unit variance, in standard deviations
_MAX_PANELS = 6000
# Where in each interval the table is compared with the direct evaluation.
_CHECK = np.array([-1.0, -0.85, -0.4, 0.1, 0.6, 0.97])


class Cumulant:
    """G(kappa) and its derivatives for one nonlinearity and one preactivation variance.

    Use `cumulant` (which remembers the last ones) to make one.

    Attributes
    ----------
    activation : Activation
    k : float
        Variance of the preactivations under the prior (sigma_w**2).
    table : meanfield.numerics.cumulant_table.Table
        What compiled solvers evaluate.
    direct_data : meanfield.numerics.cumulant_table.Direct
        For the compiled `direct2`: independent of the table.
    error : float
        Largest deviation found between the table and the direct evaluation of G, G', G'', relative to max(1, |value|);
        at most 1e-13.
    error_high : float
        The same for the third and fourth derivatives (relative to the scale of phi), not limited.
    """

    def __init__(self, activation: Activation, k: float) -> None:
        self.activation = activation
        self.k = k
        self.direct_data = _pieces(activation, k) if activation.piecewise_linear else _rule(activation, k)

    @cached_property
    def _tabulated(self) -> tuple[compiled.Table, float, float]:
        return _tabulate(self.direct_data, self.activation)

    @property
    def table(self) -> compiled.Table:
        return self._tabulated[0]

    @property
    def error(self) -> float:
        return self._tabulated[1]

    @property
    def error_high(self) -> float:
        return self._tabulated[2]

    def __repr__(self) -> str:
        reach = self.table.kappa_max
        return f"Cumulant({self.activation!r}, k={self.k:g}, |kappa| <= {reach:.3g}, error {self.error:.1e})"

    def direct(self, kappa: ArrayLike) -> tuple[Array, Array, Array]:
        """G, G', G'' without the table.

        Parameters
        ----------
        kappa : array of any shape; beyond the reach of the quadrature the result is NaN.
        """
        at = np.asarray(kappa, dtype=float)
        result = compiled.direct_many(self.direct_data, np.ascontiguousarray(at).ravel())
        g0, g1, g2 = (result[:, d].reshape(at.shape) for d in range(3))
        return g0, g1, g2

    @property
    def closed_form(self) -> sp.Expr | None:
        """G as a SymPy expression of the symbol kappa, or None where no closed form is known."""
        import sympy as sp

        from meanfield.symbolic.cumulant import closed_form
        from meanfield.symbolic.shape import shape_of

        z = self.activation.symbol
        shape = shape_of(self.activation.expression, z)
        pieces = shape.linear_pieces(z)
        kappa = sp.Symbol("kappa", real=True)
        return None if pieces is None else closed_form(shape.kinks, pieces, kappa, sp.Rational(repr(self.k)))

    def tilted_density(self, kappa: float, z: ArrayLike) -> Array:
        """Density of the preactivation z given kappa = a . t_c: N(z; 0, k) exp(kappa phi(z) - G(kappa)).

        Parameters
        ----------
        kappa : float
        z : array of preactivations, any shape.
        """
        at = np.asarray(z, dtype=float)
        g0 = self.direct(kappa)[0]
        exponent = float(kappa) * self.activation(at) - 0.5 * at * at / self.k - g0
        return np.asarray(np.exp(exponent) / math.sqrt(2.0 * math.pi * self.k))


@lru_cache(maxsize=64)
def _cumulant(activation: Activation, k: float) -> Cumulant:
    return Cumulant(activation, k)


def cumulant(activation: Activation, k: float = 1.0, *, tabulate: bool = True) -> Cumulant:
    """`Cumulant` of a nonlinearity at preactivation variance k; the last 64 are remembered.

    `tabulate`: make the table at once, not when it is first asked for (which it may never be at a place that is only
    passed on the way to another one).

    Raises
    ------
    ValueError
        If k is not positive and finite, or G cannot be computed to the required accuracy.
    """
    k = float(k)
    if not (k > 0.0 and math.isfinite(k)):
        raise ValueError(f"the preactivation variance k = sigma_w**2 must be positive and finite, got {k}")
    found = _cumulant(activation, k)
    if tabulate:
        _ = found.table
    return found


def _growths(sigma_minus: float, sigma_plus: float) -> tuple[float, float]:
    """Growth of G for kappa -> +inf and -inf: products, which are rounded correctly (powers need not be)."""
    plus, minus = max(0.0, sigma_plus, -sigma_minus), max(0.0, -sigma_plus, sigma_minus)
    return plus * plus, minus * minus


def _pieces(activation: Activation, k: float) -> compiled.Direct:
    """`Direct` of a piecewise linear phi."""
    assert activation.pieces is not None
    root = math.sqrt(k)
    edges = np.array([-math.inf, *activation.pieces.breaks, math.inf]) / root
    slope = np.array(activation.pieces.slopes) * root
    none = np.empty((0, 16))
    plus, minus = _growths(float(slope[0]), float(slope[-1]))
    return compiled.Direct(
        lower=edges[:-1].copy(),
        upper=edges[1:].copy(),
        intercept=np.array(activation.pieces.intercepts),
        slope=slope,
        centre=np.empty(0),
        half=np.empty(0),
        value=none,
        remainder=none,
        log_half=np.empty(0),
        value_range=np.empty((0, 2)),
        remainder_range=np.empty((0, 2)),
        n_left=0,
        sigma_minus=float(slope[0]),
        sigma_plus=float(slope[-1]),
        growth_plus=plus,
        growth_minus=minus,
        kappa_max=math.inf,
    )


def _rule(activation: Activation, k: float) -> compiled.Direct:
    """`Direct` of any other phi: panels halved until every tilted integral up to kappa_max is resolved."""
    root = math.sqrt(k)

    def psi(z: Array) -> Array:
        return activation(root * z)

    kinks = np.array(activation.kinks) / root
    # Beyond the last of endless kinks nothing is integrated: the tilted laws have to stay on this side.
    low, high = max(-_Z_MAX, activation.reach[0] / root), min(_Z_MAX, activation.reach[1] / root)
    kinks = kinks[np.abs(kinks) < _Z_MAX]
    sigma_minus, sigma_plus = (root * s for s in activation.slopes)
    steepest = max(abs(sigma_minus), abs(sigma_plus))
    rough = _Z_MAX if any(map(math.isnan, activation.intercepts)) else float(np.abs(kinks).max(initial=0.0))
    kappa_max = (_Z_MAX - _MARGIN) / steepest if steepest > 0.0 else _KAPPA_MAX
    fine = np.linspace(-50.0, 50.0, 1001)
    coarse = np.linspace(50.0, _Z_MAX, 901)
    near = np.sinh(np.linspace(-12.0, 1.0, 120))
    grid = np.unique(
        np.concatenate([fine, coarse, -coarse, *(c + s * near for c in (0.0, *kinks[:20]) for s in (1, -1))])
    )
    grid = grid[(grid >= low) & (grid <= high)]
    value = psi(grid)
    prior = np.exp(-0.5 * grid * grid) * np.gradient(grid)
    mean = np.sum(prior * value) / np.sum(prior)
    spread = math.sqrt(max(float(np.sum(prior * (value - mean) ** 2) / np.sum(prior)), 1e-30))
    while True:
        half_kappas = np.geomspace(0.25 / spread, kappa_max, max(2, int(2.0 * math.log(4.0 * kappa_max * spread))))
        if steepest > 0.0 and rough > 0.0:
            # Tilted laws move outwards by steepest * kappa, through all of what is not smooth there: none is left out.
            half_kappas = np.union1d(half_kappas, np.arange(0.0, min(rough, steepest * kappa_max), 2.0)[1:] / steepest)
        kappas = np.concatenate([[0.0], half_kappas, -half_kappas])
        exponent = np.multiply.outer(kappas, value) - 0.5 * grid * grid
        inside = np.flatnonzero((exponent > exponent.max(axis=1)[:, None] - 50.0).any(axis=0))
        left, right = grid[inside[0]], grid[inside[-1]]
        panels = None
        if left > low + 1e-9 and right < high - 1e-9:
            edges = _first_edges(max(left - 1.0, low), min(right + 1.0, high), kinks)
            panels = _refine(psi, edges, kappas)
        if panels is not None:
            break
        kappa_max /= 2.0
        if kappa_max * spread < 10.0:
            raise ValueError(f"G(kappa) of {activation!r} at k = {k:g} cannot be integrated: phi oscillates too fast")
    centre, half, value = panels
    remainder = activation.remainder(root * (centre[:, None] + half[:, None] * compiled.NODE))
    # Where the asymptote is reached to rounding, take it exactly: kappa times the rounding would be noise.
    intercept = np.where(centre < 0.0, *activation.intercepts)[:, None]
    reached = np.abs(remainder - intercept) <= 4e-16 * np.abs(value)
    remainder = np.where(reached, intercept, remainder)
    plus, minus = _growths(sigma_minus, sigma_plus)
    return compiled.Direct(
        lower=np.empty(0),
        upper=np.empty(0),
        intercept=np.empty(0),
        slope=np.empty(0),
        centre=centre,
        half=half,
        value=value,
        remainder=remainder,
        log_half=np.log(half),
        value_range=np.stack([value.min(axis=1), value.max(axis=1)], axis=1),
        remainder_range=np.stack([remainder.min(axis=1), remainder.max(axis=1)], axis=1),
        n_left=int(np.sum(centre < 0.0)),
        sigma_minus=sigma_minus,
        sigma_plus=sigma_plus,
        growth_plus=plus,
        growth_minus=minus,
        kappa_max=kappa_max,
    )


def _first_edges(left: float, right: float, kinks: Array) -> Array:
    """Panel edges: the kinks, and multiples of 3/2, which like their halves are exact in binary (no gaps far out)."""
    regular = 1.5 * np.arange(math.floor(left / 1.5), math.ceil(right / 1.5) + 1)
    return np.unique(np.concatenate([regular, kinks[(kinks > regular[0]) & (kinks < regular[-1])]]))


def _refine(psi: Callable[[Array], Array], edges: Array, kappas: Array) -> tuple[Array, Array, Array] | None:
    """Centres, half-widths and values of panels that resolve exp(kappa psi - z**2 / 2); None if too many."""
    centre, half = 0.5 * (edges[1:] + edges[:-1]), 0.5 * np.diff(edges)
    value = psi(centre[:, None] + half[:, None] * compiled.NODE)
    done: list[tuple[Array, Array, Array]] = []
    log_done = np.full(kappas.size, -np.inf)
    n_done = 0
    while centre.size:
        child_centre = np.stack([centre - 0.5 * half, centre + 0.5 * half], axis=1)
        child_half = np.stack([0.5 * half, 0.5 * half], axis=1)
        child_value = psi(child_centre[:, :, None] + child_half[:, :, None] * compiled.NODE)
        log_open = compiled.log_totals(child_centre.ravel(), child_half.ravel(), child_value.reshape(-1, 16), kappas)
        split = compiled.unresolved(centre, half, value, child_value, kappas, np.logaddexp(log_done, log_open))
        # A panel at the resolution of floating point cannot be halved any further.
        split &= half > 1e-15 * np.maximum(1e-300, np.abs(centre)) * 8.0
        done.append((centre[~split], half[~split], value[~split]))
        log_done = np.logaddexp(log_done, compiled.log_totals(*done[-1], kappas))
        n_done += int(np.sum(~split))
        centre, half = child_centre[split].ravel(), child_half[split].ravel()
        value = child_value[split].reshape(-1, 16)
        if n_done + centre.size > _MAX_PANELS:
            return None
    order = np.argsort(np.concatenate([c for c, _, _ in done]))
    c, h, v = (np.concatenate([part[i] for part in done])[order] for i in range(3))
    return c, h, v


def chebyshev_transforms(n: int) -> tuple[Array, Array]:
    """Values at the n Chebyshev nodes -> Chebyshev coefficients (n, n), and those -> powers (n, n)."""
    angle = math.pi * (np.arange(n) + 0.5) / n
    chebyshev = 2.0 / n * np.cos(np.outer(np.arange(n), angle))
    chebyshev[0] *= 0.5
    monomial = np.zeros((n, n))
    for a in range(n):
        monomial[: a + 1, a] = np.polynomial.chebyshev.cheb2poly([0.0] * a + [1.0])
    return chebyshev, monomial


_CHEBYSHEV, _MONOMIAL = chebyshev_transforms(_DEGREE + 1)


def _edges(x_max: float, per_unit: float, per_log: float) -> tuple[Array, int, int]:
    """Edges in x = scale * kappa > 0: uniform up to 8, then geometric; and the number of intervals of either kind."""
    x_uniform = min(8.0, x_max)
    n_uniform = math.ceil(x_uniform * per_unit)
    n_geometric = math.ceil(math.log(x_max / x_uniform) * per_log)
    ratio = x_max / x_uniform
    beyond = x_uniform * ratio ** (np.arange(1, n_geometric + 1) / max(1, n_geometric))
    return np.concatenate([np.linspace(0.0, x_uniform, n_uniform + 1), beyond]), n_uniform, n_geometric


def _tabulate(direct: compiled.Direct, activation: Activation) -> tuple[compiled.Table, float, float]:
    """Table with intervals halved until it agrees with the direct evaluation."""
    scale = math.sqrt(compiled.direct4(direct, 0.0)[2])
    if scale < 1e-140:
        raise FloatingPointError("phi is constant to rounding over the prior of its preactivations: gain or sigma_w")
    c = activation.complement
    kappa_max = min(direct.kappa_max, max(_KAPPA_MAX, 1e5 / scale))
    # With phi(-z) = 2 c - phi(z) one half is enough: the one on which |G| is smaller, which keeps all its digits.
    sides = (-1, 1) if c is None else (-1,) if c >= 0.0 else (1,)
    per_unit, per_log = 2.0, 4.5
    for _ in range(6):
        x, n_uniform, n_geometric = _edges(kappa_max * scale, per_unit, per_log)
        edges = x / scale
        edges[-1] = kappa_max
        halves: dict[int, Array] = {}
        lines: dict[int, Array] = {}
        errors = np.zeros((edges.size - 1, 5))
        for side in sides:  # the half of negative kappa is stored from 0 outwards until the end
            halves[side], lines[side] = np.empty((edges.size - 1, 5, _DEGREE + 1)), np.empty(edges.size - 1)
            ends = side * edges
            found = compiled.fill_table(direct, ends, _CHEBYSHEV, _MONOMIAL, halves[side], lines[side], _CHECK)
            errors = np.maximum(errors, found)
        # The check points need not be the worst ones: ask for a little more than is promised.
        bad = ~(errors[:, :3].max(axis=1) <= 0.4 * _TOLERANCE)
        if not bad.any():
            break
        per_unit *= 1 + int(bad[:n_uniform].any())
        per_log *= 1 + int(bad[n_uniform:].any())
    else:
        first = int(np.argmax(bad))
        if first <= n_uniform:
            worst = errors[:, :3].max()
            raise ValueError(f"G(kappa) of {activation!r} cannot be tabulated to {_TOLERANCE}: error {worst:.1e}")
        # Too rough for the table beyond here; cut it off.
        n_geometric = first - n_uniform
        edges, errors = edges[: first + 1], errors[:first]
        halves = {side: half[:first] for side, half in halves.items()}
        lines = {side: line[:first] for side, line in lines.items()}
    if c is not None:
        side = sides[0]
        # G(-kappa) = G(kappa) - 2 c kappa: the same polynomials, only the line differs (odd derivatives change sign).
        halves[-side] = halves[side] * np.array([1.0, -1.0, 1.0, -1.0, 1.0])[:, None]
        lines[-side] = 2.0 * c - lines[side]
    # Intervals of negative kappa were filled with u growing outwards; the reader has u grow with kappa.
    halves[-1] = halves[-1] * (-1.0) ** np.arange(_DEGREE + 1)
    centre = 0.5 * (edges[1:] + edges[:-1])
    inverse = 2.0 / np.diff(edges)
    x_uniform = float(x[n_uniform])
    table = compiled.Table(
        coefficients=np.concatenate([halves[-1][::-1], halves[1]]),
        centre=np.concatenate([-centre[::-1], centre]),
        inverse=np.concatenate([inverse[::-1], inverse]),
        scale=scale,
        x_uniform=x_uniform,
        per_unit=n_uniform / x_uniform,
        per_log=n_geometric / math.log(edges[-1] * scale / x_uniform) if n_geometric else 1.0,
        n_half=edges.size - 1,
        growth_plus=direct.growth_plus,
        growth_minus=direct.growth_minus,
        kappa_max=float(edges[-1]),
        line=np.concatenate([lines[-1][::-1], lines[1]]),
    )
    return table, float(errors[:, :3].max()), float(errors[:, 3:].max())
