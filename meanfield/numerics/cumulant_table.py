"""Single-site cumulant generating function G(kappa) = ln E exp(kappa psi(z)), psi(z) = phi(sqrt(k) z), z ~ N(0, 1).

`Table` is the fast evaluation (tens of nanoseconds) that solvers use; `Direct` is the slow, independent one from which
the table is made and against which it is checked. The derivatives of G are the cumulants of psi under the tilted law,
density proportional to exp(kappa psi(z) - z**2 / 2): sums of positive terms, no finite differences.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from meanfield.numerics.budget import new_stop
from meanfield.numerics.exponentials import exponentials
from meanfield.numerics.jit import jit, jit_apart

__all__ = [
    "NODE",
    "Direct",
    "Table",
    "cumulant2",
    "cumulant4",
    "direct2",
    "direct4",
    "direct_many",
    "fill_table",
    "in_range",
    "log_totals",
    "unresolved",
]

_ORDER = 16  # nodes of the Gauss-Legendre rule of one panel
NODE, _WEIGHT = np.polynomial.legendre.leggauss(_ORDER)
_LOG_WEIGHT = np.log(_WEIGHT)
_PIECE_PANELS = 5  # panels on the stretch of one linear piece where the tilted law lives
_REACH = 46.0  # exp(-46) = 1e-20: what is smaller than this, relative to the largest term, is left out
_LOG_ROOT_2PI = 0.5 * math.log(2.0 * math.pi)


class Table(NamedTuple):
    """Piecewise polynomials for R(kappa) = G - line * kappa - growth * kappa**2 / 2 and its first four derivatives.

    In x = scale * kappa the intervals have equal width for |x| <= x_uniform and a constant ratio beyond; 0 is an
    edge, so that R may have a kink there. Interval i has centre[i] and inverse half-width inverse[i] (in kappa);
    coefficients[i, d] are those of the d-th derivative in u = (kappa - centre) * inverse, lowest power first.
    """

    coefficients: np.ndarray  # (n_intervals, 5, degree + 1)
    centre: np.ndarray  # (n_intervals,)
    inverse: np.ndarray  # (n_intervals,)
    scale: float
    x_uniform: float
    per_unit: float  # intervals per unit of x in the uniform part
    per_log: float  # intervals per unit of ln x in the geometric part
    n_half: int  # intervals with kappa > 0 (as many have kappa < 0, stored mirrored: index n_half - 1 - i)
    growth_plus: float  # k * g_+: G ~ growth_plus * kappa**2 / 2 as kappa -> +inf
    growth_minus: float
    kappa_max: float  # |kappa| beyond which the table does not reach
    line: np.ndarray  # (n_intervals,) about R' in the interval: keeps the digits where phi varies little
    stop: np.ndarray = new_stop()  # of `compiled.budget`; whoever wants to stop a call puts an own one in its place


@jit
def interval_index(table, kappa):
    x = abs(kappa) * table.scale
    if x <= table.x_uniform:
        i = int(x * table.per_unit)
    else:
        i = int(table.x_uniform * table.per_unit + 0.5) + int(math.log(x / table.x_uniform) * table.per_log)
    i = min(i, table.n_half - 1)
    return table.n_half + i if kappa >= 0.0 else table.n_half - 1 - i


@jit
def in_range(table, kappa):
    """Whether the table reaches `kappa`."""
    return abs(kappa) <= table.kappa_max


@jit
def cumulant2(table, kappa):
    """G, G', G'' at one kappa. Beyond the table (see `in_range`) the last polynomial is continued linearly in G."""
    reach = min(max(kappa, -table.kappa_max), table.kappa_max)
    i = interval_index(table, reach)
    u = (reach - table.centre[i]) * table.inverse[i]
    # Even and odd powers apart: two short chains of operations instead of a long one. The number of powers is even.
    # Coefficients are read in place: a view of them would be counted as a reference at every call.
    w = u * u
    e0 = e1 = e2 = o0 = o1 = o2 = 0.0
    for j in range(table.coefficients.shape[2] - 2, -1, -2):
        e0 = e0 * w + table.coefficients[i, 0, j]
        o0 = o0 * w + table.coefficients[i, 0, j + 1]
        e1 = e1 * w + table.coefficients[i, 1, j]
        o1 = o1 * w + table.coefficients[i, 1, j + 1]
        e2 = e2 * w + table.coefficients[i, 2, j]
        o2 = o2 * w + table.coefficients[i, 2, j + 1]
    g0, g1, g2 = e0 + u * o0, e1 + u * o1, e2 + u * o2
    g0 += g1 * (kappa - reach)
    line = table.line[i]
    growth = table.growth_plus if kappa >= 0.0 else table.growth_minus  # 0 belongs to the intervals above it
    return g0 + kappa * (line + 0.5 * growth * kappa), g1 + line + growth * kappa, g2 + growth


@jit
def cumulant4(table, kappa):
    """G and its first four derivatives at one kappa."""
    g0, g1, g2 = cumulant2(table, kappa)
    reach = min(max(kappa, -table.kappa_max), table.kappa_max)
    i = interval_index(table, reach)
    u = (reach - table.centre[i]) * table.inverse[i]
    c = table.coefficients[i]
    n = c.shape[1]
    g3 = c[3, n - 1]
    g4 = c[4, n - 1]
    for j in range(n - 2, -1, -1):
        g3 = g3 * u + c[3, j]
        g4 = g4 * u + c[4, j]
    return g0, g1, g2, g3, g4


class Direct(NamedTuple):
    """What `direct2` needs: the linear pieces of psi where it has only such, else a fixed graded quadrature rule.

    With sigma the slope of psi at -inf (panels below `n_left`) or +inf (the others), remainder = value - sigma * z:
    it lets the growth kappa**2 sigma**2 / 2 be taken out of the exponent before anything is rounded.
    """

    lower: np.ndarray  # (n_pieces,) left end of a piece, in units of z; n_pieces = 0 where the rule below is used
    upper: np.ndarray  # (n_pieces,)
    intercept: np.ndarray  # (n_pieces,) psi(z) = intercept + slope * z
    slope: np.ndarray  # (n_pieces,)
    centre: np.ndarray  # (n_panels,) of the panels in z
    half: np.ndarray  # (n_panels,) half of their widths
    value: np.ndarray  # (n_panels, 16) psi(z)
    remainder: np.ndarray  # (n_panels, 16)
    log_half: np.ndarray  # (n_panels,)
    value_range: np.ndarray  # (n_panels, 2) smallest and largest value in the panel
    remainder_range: np.ndarray  # (n_panels, 2)
    n_left: int  # panels with z < 0
    sigma_minus: float  # sqrt(k) times the slope of phi at -inf
    sigma_plus: float
    growth_plus: float  # as in Table
    growth_minus: float
    kappa_max: float  # |kappa| beyond which the rule does not reach (inf for linear pieces)


@jit
def _beyond_growth(slope, growth):
    """slope**2 - growth, which is zero where growth is the rounded square of this slope.

    Left to the compiler it may be the rounding error of the square (a product and a difference become one operation),
    which kappa**2 / 2 of 1e12 multiplies: R would tend to infinity. In binary the root of a rounded square is exact.
    """
    return 0.0 if abs(slope) == math.sqrt(growth) else slope * slope - growth


@jit_apart(returns="int64")
def _piece_terms(direct, kappa, growth, line, log_term, value):
    """Log terms and values (minus line + growth * kappa) of E exp(kappa (psi - line) - growth kappa**2 / 2)."""
    n = 0
    for i in range(direct.slope.size):
        alpha, beta, lower, upper = direct.intercept[i] - line, direct.slope[i], direct.lower[i], direct.upper[i]
        # On the piece the tilted law is N(kappa beta, 1) cut to [lower, upper]; z0 is its mode, x = z - z0.
        z0 = min(max(kappa * beta, lower), upper)
        pull = z0 - kappa * beta
        if pull == 0.0:
            beyond = _beyond_growth(beta, growth)
            base = kappa * alpha + 0.5 * kappa * kappa * beyond
            value0 = alpha + kappa * beyond
        else:
            base = kappa * (alpha + beta * z0) - 0.5 * z0 * z0 - 0.5 * growth * kappa * kappa
            value0 = alpha + beta * z0 - growth * kappa
        reach = 2.0 * _REACH / (abs(pull) + math.sqrt(pull * pull + 2.0 * _REACH))  # |pull| x + x**2 / 2 = _REACH
        left = max(lower - z0, -reach)
        half = 0.5 * (min(upper - z0, reach) - left) / _PIECE_PANELS
        base += math.log(half) - _LOG_ROOT_2PI
        for panel in range(_PIECE_PANELS):
            centre = left + (2 * panel + 1) * half
            for j in range(_ORDER):
                x = centre + half * NODE[j]
                log_term[n] = base - x * (pull + 0.5 * x) + _LOG_WEIGHT[j]
                value[n] = value0 + beta * x
                n += 1
    return n


@jit_apart(returns="int64")
def _panel_terms(direct, kappa, growth, line, log_term, value):
    """As `_piece_terms`, from the fixed rule; only the panels that matter at this kappa are visited."""
    n_panels = direct.log_half.size
    drop = 0.5 * growth * kappa * kappa
    bound = np.empty(n_panels)
    largest = -np.inf
    for i in range(n_panels):
        sigma = direct.sigma_minus if i < direct.n_left else direct.sigma_plus
        middle, half = direct.centre[i], direct.half[i]
        if kappa * sigma * middle > 0.0:  # psi grows on this side: the terms are a Gaussian around kappa * sigma
            low, high = direct.remainder_range[i, 0], direct.remainder_range[i, 1]
            off = middle - kappa * sigma
            gap = max(abs(off) - half, 0.0)
            shift = 0.5 * kappa * kappa * _beyond_growth(sigma, growth)
            here = kappa * (direct.remainder[i, _ORDER // 2] - line) - 0.5 * off * off + shift
        else:
            low, high = direct.value_range[i, 0], direct.value_range[i, 1]
            gap = max(abs(middle) - half, 0.0)
            shift = -drop
            here = kappa * (direct.value[i, _ORDER // 2] - line) - 0.5 * middle * middle + shift
        bound[i] = max(kappa * (low - line), kappa * (high - line)) - 0.5 * gap * gap + shift + direct.log_half[i]
        largest = max(largest, here + direct.log_half[i])
    n = 0
    for i in range(n_panels):
        if bound[i] < largest - _REACH:
            continue
        sigma = direct.sigma_minus if i < direct.n_left else direct.sigma_plus
        base = direct.log_half[i] - _LOG_ROOT_2PI
        middle, half = direct.centre[i], direct.half[i]
        if kappa * sigma * middle > 0.0:
            beyond = _beyond_growth(sigma, growth)
            shift = 0.5 * kappa * kappa * beyond
            offset = kappa * beyond
            for j in range(_ORDER):
                x = (middle - kappa * sigma) + half * NODE[j]
                rest = direct.remainder[i, j] - line
                log_term[n] = base + _LOG_WEIGHT[j] + kappa * rest - 0.5 * x * x + shift
                value[n] = rest + sigma * x + offset
                n += 1
        else:
            for j in range(_ORDER):
                z = middle + half * NODE[j]
                rest = direct.value[i, j] - line
                log_term[n] = base + _LOG_WEIGHT[j] + kappa * rest - 0.5 * z * z - drop
                value[n] = rest - growth * kappa
                n += 1
    return n


@jit
def _scratch(direct):
    size = max(direct.slope.size * _PIECE_PANELS, direct.log_half.size) * _ORDER
    return np.empty(size), np.empty(size)


@jit
def _remainder4(direct, kappa, growth, line, log_term, value):
    """R = G - line * kappa - growth kappa**2 / 2 and its first four derivatives, as cumulants of the tilted law."""
    if direct.slope.size > 0:
        n = _piece_terms(direct, kappa, growth, line, log_term, value)
    else:
        n = _panel_terms(direct, kappa, growth, line, log_term, value)
    largest = -np.inf
    for i in range(n):
        largest = max(largest, log_term[i])
    for i in range(n):
        log_term[i] -= largest
    weight = np.empty(n)  # a multiple of `_ORDER`; apart from log_term, or the loop of exponentials would not vectorise
    exponentials(log_term, n, weight)
    total = 0.0
    first = 0.0
    for i in range(n):
        total += weight[i]
        first += weight[i] * value[i]
    mean = first / total
    second = 0.0
    third = 0.0
    fourth = 0.0
    for i in range(n):
        x = value[i] - mean
        w = weight[i] * x * x
        second += w
        third += w * x
        fourth += w * x * x
    second /= total
    return largest + math.log(total), mean, second - growth, third / total, fourth / total - 3.0 * second * second


@jit_apart(returns="float64")
def _asymptotic_line(direct, kappa):
    """Slope of R at large |kappa| of this sign, where psi is its asymptote wherever the tilted law lives; else NaN.

    That is so where the last panel on the steeper side holds the asymptote, and R at the end of the rule is on the line
    already: the rest of the integral falls further behind as |kappa| grows, since psi is smaller there.
    """
    growth = direct.growth_plus if kappa > 0.0 else direct.growth_minus
    right = direct.sigma_plus * kappa > 0.0 and _beyond_growth(direct.sigma_plus, growth) == 0.0
    left = direct.sigma_minus * kappa < 0.0 and _beyond_growth(direct.sigma_minus, growth) == 0.0
    if not growth > 0.0 or left == right or direct.log_half.size == 0:
        return np.nan
    last = 0
    for i in range(direct.log_half.size):
        if (direct.centre[i] > direct.centre[last]) == right:
            last = i
    line = direct.remainder_range[last, 0]
    if line != direct.remainder_range[last, 1]:
        return np.nan
    log_term, value = _scratch(direct)
    edge = direct.kappa_max if kappa > 0.0 else -direct.kappa_max
    r0, r1, r2, _, _ = _remainder4(direct, edge, growth, 0.0, log_term, value)
    off = max(abs(r0 - line * edge), abs(r1 - line), abs(r2))
    return line if off <= 1e-12 * (1.0 + abs(line * edge)) else np.nan


@jit_apart(returns="UniTuple(float64, 5)")
def direct4(direct, kappa):
    """G and its first four derivatives at one kappa, without the table; NaN beyond the reach of the rule.

    It reaches to `kappa_max`, and where psi is its asymptote to all digits from there on, everywhere.
    """
    if not abs(kappa) <= direct.kappa_max:
        line = _asymptotic_line(direct, kappa)
        growth = direct.growth_plus if kappa > 0.0 else direct.growth_minus
        return kappa * (line + 0.5 * growth * kappa), line + growth * kappa, line * 0.0 + growth, line * 0.0, line * 0.0
    log_term, value = _scratch(direct)
    growth = direct.growth_plus if kappa > 0.0 else direct.growth_minus
    r0, r1, r2, r3, r4 = _remainder4(direct, kappa, growth, 0.0, log_term, value)
    return r0 + 0.5 * growth * kappa * kappa, r1 + growth * kappa, r2 + growth, r3, r4


@jit
def direct2(direct, kappa):
    """G, G', G'' at one kappa, without the table; NaN beyond its reach, see `direct4`."""
    g0, g1, g2, _, _ = direct4(direct, kappa)
    return g0, g1, g2


@jit
def direct_many(direct, kappa):
    """`direct2` at each kappa (n,), as an array (n, 3)."""
    result = np.empty((kappa.size, 3))
    for i in range(kappa.size):
        result[i, 0], result[i, 1], result[i, 2] = direct2(direct, kappa[i])
    return result


@jit
def fill_table(direct, edges, chebyshev, monomial, coefficients, line, check):
    """Fit the intervals between `edges` (n + 1,) and return the errors at the points `check` (in [-1, 1]).

    Edges may descend from 0 (negative kappa); the polynomials are in u = (kappa - centre) / half, half of that sign.

    chebyshev (degree + 1, degree + 1) turns values at the Chebyshev nodes into Chebyshev coefficients and monomial
    (degree + 1, degree + 1) those into powers: two steps, because a single matrix would amplify rounding. The errors
    (n, 5) of G and its four derivatives are relative to max(1, |value|), for the third and fourth also to that power of
    the standard deviation of phi. Fills coefficients (n, 5, degree + 1) and line (n,), see Table.
    """
    n_node = chebyshev.shape[0]
    log_term, value = _scratch(direct)
    samples = np.empty((n_node, 5))
    error = np.zeros((edges.size - 1, 5))
    plain = np.zeros(5)
    spread = math.sqrt(direct4(direct, 0.0)[2])
    floor = (1.0, 1.0, 1.0, max(1.0, spread**3), max(1.0, spread**4))
    for i in range(edges.size - 1):
        centre = 0.5 * (edges[i] + edges[i + 1])
        half = 0.5 * (edges[i + 1] - edges[i])
        growth = direct.growth_plus if centre > 0.0 else direct.growth_minus
        line[i] = _remainder4(direct, centre, growth, 0.0, log_term, value)[1]
        for j in range(n_node):
            u = math.cos(math.pi * (j + 0.5) / n_node)
            r = _remainder4(direct, centre + half * u, growth, line[i], log_term, value)
            for d in range(5):
                samples[j, d] = r[d]
        for d in range(5):
            for b in range(n_node):
                coefficients[i, d, b] = 0.0
            for a in range(n_node):
                c = 0.0
                for j in range(n_node):
                    c += chebyshev[a, j] * samples[j, d]
                for b in range(a + 1):
                    coefficients[i, d, b] += monomial[b, a] * c
        for u in check:
            kappa = centre + half * u
            r = _remainder4(direct, kappa, growth, line[i], log_term, value)
            plain[0] = (line[i] + 0.5 * growth * kappa) * kappa
            plain[1] = line[i] + growth * kappa
            plain[2] = growth
            for d in range(5):
                fit = 0.0
                for b in range(n_node - 1, -1, -1):
                    fit = fit * u + coefficients[i, d, b]
                error[i, d] = max(error[i, d], abs(fit - r[d]) / max(floor[d], abs(r[d] + plain[d])))
    return error


@jit
def log_totals(centre, half, value, kappa):
    """ln of the integral of exp(kappa psi - z**2 / 2) over the given panels, for each kappa (K,)."""
    result = np.full(kappa.size, -np.inf)
    for m in range(kappa.size):
        largest = -np.inf
        total = 0.0
        for i in range(centre.size):
            base = math.log(half[i])
            for j in range(_ORDER):
                z = centre[i] + half[i] * NODE[j]
                term = kappa[m] * value[i, j] - 0.5 * z * z + _LOG_WEIGHT[j] + base
                if term > largest:
                    total = total * math.exp(largest - term) + 1.0
                    largest = term
                elif term > largest - _REACH:
                    total += math.exp(term - largest)
        if total > 0.0:
            result[m] = largest + math.log(total)
    return result


@jit
def unresolved(centre, half, value, child_value, kappa, log_total):
    """Which panels must be halved: the rule of the panel and that of its halves disagree at some kappa (K,).

    value (n, 16): psi at the nodes of the panel, child_value (n, 2, 16): at those of its halves. Disagreement is
    relative to the whole integral exp(log_total), with room for the rounding of kappa * psi.
    """
    flags = np.zeros(centre.size, np.bool_)
    for i in range(centre.size):
        for m in range(kappa.size):
            coarse = 0.0
            fine = 0.0
            scale = 0.0
            base = math.log(half[i]) - log_total[m]
            for j in range(_ORDER):
                z = centre[i] + half[i] * NODE[j]
                term = kappa[m] * value[i, j] - 0.5 * z * z + base
                if term > -_REACH:
                    coarse += _WEIGHT[j] * math.exp(min(term, 300.0))
                    scale = max(scale, abs(kappa[m] * value[i, j]) + 0.5 * z * z)
            for side in range(2):
                for j in range(_ORDER):
                    z = centre[i] + half[i] * (0.5 * NODE[j] + side - 0.5)
                    term = kappa[m] * child_value[i, side, j] - 0.5 * z * z + base
                    if term > -_REACH:
                        fine += 0.5 * _WEIGHT[j] * math.exp(min(term, 300.0))
                        scale = max(scale, abs(kappa[m] * child_value[i, side, j]) + 0.5 * z * z)
            if abs(coarse - fine) > 4e-16 * (4.0 + scale * max(coarse, fine)):
                flags[i] = True
                break
    return flags
