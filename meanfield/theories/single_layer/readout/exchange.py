"""J(t) at finite P where classes can be exchanged: an integral over the mean fields of kinds alone (sigma_a = 1).

With t_c = tau_k + r_k u_c and a = a_0 + sum_k b_k (`class_kinds`) the integral over the readout is

    int da_0 (P / 2 pi)^{d/2} e^{-P |a_0|^2 / 2} prod_k R_k(a_0.tau_k),

where R_k is all that tells classes of kind k apart (`compiled.exchange`). a_0 has as many dimensions as the mean
targets of the kinds span, whatever the number of classes. Where these are as many as kinds, one of them is integrated
on a grid of one mean field, as in `readout_marginal`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from meanfield.activations.cumulant import Cumulant
from meanfield.numerics.cumulant_table import cumulant2
from meanfield.numerics.lattice_basis import aliasing, aliasing_length, unit_basis, unlike_shift
from meanfield.numerics.limits import check_time
from meanfield.theories.single_layer.compiled import exchange as compiled
from meanfield.theories.single_layer.compiled import exchange_line as compiled_line
from meanfield.theories.single_layer.compiled.quick import cumulants
from meanfield.theories.single_layer.kinds.classes import ClassKinds
from meanfield.theories.single_layer.readout.integral import NotIntegrable, OutOfBudget
from meanfield.theories.single_layer.readout.nodes import direct_samples
from meanfield.validation import FloatArray, IntArray

__all__ = ["MAX_KINDS", "ExchangeIntegral", "Grid", "Outer", "Value", "range_of"]

MAX_KINDS = 3  # and dimensions of a_0
_MAX_GRID = 40_000  # nodes of the sum of all kappa of a kind
_MAX_NODES = 400_000  # of a_0
_MOST_DIRECT = 2  # dimensions of a_0 without such a grid
_MAX_LINE = 100_000  # of one mean field
_MAX_PAIRS = 1_500_000  # of a_0 where one direction of it is on a grid of a mean field
_BUDGET = 1.2e10  # half nanoseconds, about, of all sums of one solve
_AT_A_NODE = 10.0  # of one class at one node, where G is evaluated, in these units
_STRIDE = 4  # nodes of a block of a_0, along each axis
_SLACK = 4.0  # of ln of the integrand from a node to the nearest corner of a block, in units of dimensions


class Samples(NamedTuple):
    """G, G', G'' at origin, origin + 1, ... times the spacing."""

    values: FloatArray
    spacing: float
    origin: int


class Grid(NamedTuple):
    """Of one kappa or one mean field of a kind: low, low + step, ..."""

    low: float
    step: float
    size: int


class _Line(NamedTuple):
    """The mean field of a kind along a unit vector that is orthogonal to the tau of all others."""

    kind: int
    axis: FloatArray  # (d,)
    gain: float
    grid: Grid


@dataclass(frozen=True, eq=False)
class Outer:
    """Nodes of a_0 (M, d), ln of the integrand there (M,), and what each kind gives (K, M, COLUMNS)."""

    a: FloatArray
    exponent: FloatArray
    values: FloatArray
    log_cell: float


@dataclass(frozen=True, eq=False)
class Value:
    """J with its gradient (K, d) and Hessian (K d, K d), zero and one where a kind has no simplex."""

    objective: float
    gradient: FloatArray
    hessian: FloatArray
    level: float  # ln of the largest integrand over P
    outer: Outer


class ExchangeIntegral:
    """One task in reduced coordinates at finite P; phi is bounded."""

    def __init__(
        self, single_site: Cumulant, kinds: ClassKinds, tau: float, n_samples: float, phi_range: tuple[float, float]
    ) -> None:
        self.single_site, self.kinds, self.tau, self.n_samples = single_site, kinds, tau, n_samples
        self.low, self.high = phi_range
        self.asked = n_samples
        self.share = kinds.n * kinds.p
        # Classes of a kind with equal targets are one class.
        self.n = np.where(kinds.split, kinds.n, 1.0).astype(np.int64)
        self.p = np.where(kinds.split, kinds.p, self.share)
        self.dimension = len(kinds.basis)
        self.refinement = 1.0
        self.work = 0.0

    def linear(self, theta: FloatArray) -> float:
        """-sum_c p_c t_c.y_c + tau/2 sum_c p_c |t_c|^2."""
        return float(self.share @ (theta * (0.5 * self.tau * theta - self.kinds.y)).sum(axis=1))

    def residual(self, gradient: FloatArray) -> float:
        """max_c |y_c - <a G'(a.t_c)> - tau t_c| over all classes and outputs."""
        return float(np.abs(self.kinds.order_parameters(gradient / self.share[:, None])).max())

    def aliasing(self, accuracy: float) -> float:
        """Relative error of all sums: rigorous where every p_c P is an integer (Poisson summation)."""
        error = 0.0
        if self.dimension:
            length = self.refinement * aliasing_length(self.dimension, accuracy, self.n_samples)
            error += aliasing(self.dimension, length, self.n_samples)
        for n in self.n[self.n > 1]:
            error += 2.0 * n * (accuracy / (2.0 * n)) ** (1.0 / self.refinement**2)
        return error

    def grid(self, theta: FloatArray, k: int, accuracy: float, shift: float) -> Grid:
        """Grid of kappa of a class of kind k that holds all but `accuracy` of it.

        P(a) is a mixture of Gaussians of variance 1 / P around sum_c p_c phi_c t_c, phi_c in the range of phi.
        """
        overlap, rho = self.kinds.overlaps(theta)
        n = float(self.n[k])
        step = (
            self.refinement
            * math.pi
            * math.sqrt(2.0 * rho[k] * (n - 1.0) / (n * self.n_samples * math.log(2.0 * n / accuracy)))
        )
        if not step > 0.0:
            raise NotIntegrable("classes are not told apart at a trial step.")
        ends = np.array([self.low, self.high])
        gains = np.append(self.share * overlap[k], self.p[k] * rho[k])
        reach = np.sort(np.outer(gains, ends), axis=1).sum(axis=0)
        margin = _width(accuracy) * math.sqrt(max(overlap[k, k] + rho[k], 0.0) / self.n_samples)
        low, high = float(reach[0]) - margin, float(reach[1]) + margin
        size = (high - low) / step + 2.0
        if not size * n < _MAX_GRID:
            raise NotIntegrable(
                f"the posterior at P = {self.asked:g} would need {size * n:.0e} nodes for {n:.0f} classes of a kind."
            )
        first = math.floor(low / step)
        return Grid((first + shift) * step, step, int(size) + 1)

    def samples(self, low: float, high: float, direct: bool) -> Samples:
        if direct:
            source = direct_samples(self.single_site)
            grid = source.cover(low, high)
            if grid is None:
                raise NotIntegrable("|kappa| is beyond direct samples.")
            return Samples(grid[1], source.step, grid[0])
        return _table_samples(self.single_site, _power_of_two(max(abs(low), abs(high))))

    def value(
        self, theta: FloatArray, accuracy: float, n_moments: int = 2, *, direct: bool = False, shifted: bool = False
    ) -> Value:
        """J at theta; with two moments its Hessian, too. `direct`: with G from direct evaluation, not from the table.

        Raises
        ------
        NotIntegrable
            If grids would be too large.
        """
        check_time()
        kinds, n_kinds, d = self.kinds, self.kinds.n_kinds, self.dimension
        rho = kinds.overlaps(theta)[1]
        tables = [self._table(theta, k, accuracy, n_moments, direct, shifted, rho[k]) for k in range(n_kinds)]
        line = self._line(theta, accuracy, shifted) if d == n_kinds > 1 else None
        if line is not None:
            outer = self._along_lines(line, theta, tables, rho, accuracy, n_moments, shifted)
        else:
            if d > _MOST_DIRECT:
                raise NotIntegrable("the mean fields of the kinds cover too many nodes.")
            every = list(range(n_kinds))
            lattice = self._lattice(np.eye(d), theta, accuracy, shifted)
            outer = lattice(lambda a: self._integrand(theta, a, every, tables, rho, n_moments))
        top = float(outer.exponent.max())
        w = np.exp(outer.exponent - top)
        mass = float(w.sum())
        total = top + math.log(mass) + outer.log_cell
        w /= mass
        if not math.isfinite(total):
            raise NotIntegrable(f"at P = {self.asked:g} the readout integral overflows.")
        r, size = theta[:, -1], d + 1
        with np.errstate(divide="ignore", invalid="ignore"):
            rate = np.where(kinds.split, -2.0 / (rho * r), 0.0)  # d lambda / d r
            bend = np.where(kinds.split, 6.0 / (rho * r * r), 0.0)
        columns = np.empty((len(w), n_kinds, size))
        columns[:, :, :d] = outer.values[:, :, 1].T[:, :, None] * outer.a[:, None, :]
        columns[:, :, d] = (outer.values[:, :, 3] * rate[:, None]).T
        flat = columns.reshape(len(w), -1)
        mean = w @ flat
        gradient = self.share[:, None] * (self.tau * theta - kinds.y) + mean.reshape(n_kinds, size) / self.n_samples
        gradient[~kinds.free] = 0.0
        matrix = np.empty((0, 0))
        if n_moments > 1:
            away = flat - mean
            matrix = (away.T * w) @ away
            for k in range(n_kinds):
                values, at = outer.values[k], slice(k * size, k * size + d)
                last = k * size + d
                matrix[at, at] += (outer.a.T * (w * values[:, 2])) @ outer.a
                cross = (w * values[:, 5] * rate[k]) @ outer.a
                matrix[at, last] += cross
                matrix[last, at] += cross
                matrix[last, last] += w @ (values[:, 4] * rate[k] ** 2 + values[:, 3] * bend[k])
            matrix /= self.n_samples
            matrix[np.diag_indices(len(matrix))] += self.tau * np.repeat(self.share, size)
            dead = np.flatnonzero(~kinds.free.ravel())
            matrix[dead], matrix[:, dead] = 0.0, 0.0
            matrix[dead, dead] = 1.0
        if not (np.isfinite(gradient).all() and np.isfinite(matrix).all()):
            raise NotIntegrable(f"at P = {self.asked:g} the readout integral overflows.")
        return Value(self.linear(theta) + total / self.n_samples, gradient, matrix, top / self.n_samples, outer)

    def _table(
        self, theta: FloatArray, k: int, accuracy: float, n_moments: int, direct: bool, shifted: bool, rho: float
    ) -> tuple[Samples, Grid | None, Any]:
        samples, grid = self.site(theta, k, accuracy, direct=direct, shifted=shifted)
        if grid is None:
            return samples, None, None
        self._spend(0.5 * (float(self.n[k]) * grid.size) ** 2)
        others = compiled.others_of(
            *samples, self.n_samples, self.p[k], int(self.n[k]), 1.0 / rho, grid.low, grid.step, grid.size, n_moments
        )
        return samples, grid, others

    def _spend(self, work: float) -> None:
        self.work += work
        if self.work > _BUDGET:
            raise OutOfBudget(f"at P = {self.asked:g} sums over exchangeable classes take too long.")

    def site(
        self, theta: FloatArray, k: int, accuracy: float, *, direct: bool, shifted: bool
    ) -> tuple[Samples, Grid | None]:
        """Samples of G for a class of kind k, and the grid of kappa; none where the class is alone."""
        if self.n[k] == 1:
            reach = self._field_reach(theta, k, accuracy)
            return self.samples(-reach, reach, direct), None
        grid = self.grid(theta, k, accuracy, 0.37 if shifted else 0.0)
        return self.samples(grid.low - grid.step, grid.low + (grid.size + 1) * grid.step, direct), grid

    def _field_reach(self, theta: FloatArray, k: int, accuracy: float) -> float:
        """Bound of |a_0.tau_k|, margin included."""
        most = max(abs(self.low), abs(self.high))
        tau = theta[:, :-1]
        reach = most * float(self.share @ np.abs(tau @ tau[k]))
        return reach + 3.0 * _width(accuracy) * float(np.linalg.norm(tau[k])) / math.sqrt(self.n_samples)

    def _integrand(
        self, theta: FloatArray, a: FloatArray, some: list[int], tables: list[Any], rho: FloatArray, n_moments: int
    ) -> tuple[FloatArray, FloatArray]:
        """ln of the integrand (M,) of some kinds at a_0 (M, d), without (P / 2 pi)^{d/2}, and what each gives to it."""
        exponent = -0.5 * self.n_samples * np.sum(a * a, axis=1)
        values = np.zeros((len(some), len(a), compiled.COLUMNS))
        for row, k in enumerate(some):
            self._kind(np.ascontiguousarray(a @ theta[k, :-1]), k, tables[k], rho[k], n_moments, values[row])
            exponent += values[row, :, 0]
        beyond = ~np.isfinite(exponent)  # where the grids end
        exponent[beyond] = -np.inf
        values[:, beyond] = 0.0
        return exponent, values

    def _kind(self, field: FloatArray, k: int, table: Any, rho: float, n_moments: int, values: FloatArray) -> None:
        samples, grid, others = table
        self._spend(_AT_A_NODE * field.size * (1.0 if grid is None else grid.size))
        check_time()
        if grid is None:
            compiled.alone_values(*samples, self.n_samples, self.p[k], field, values)
        else:
            compiled.kind_values(
                *samples, self.n_samples, self.p[k], int(self.n[k]), 1.0 / rho, grid.low, grid.step, grid.size,
                n_moments, others, field, values,
            )  # fmt: skip

    def _line(self, theta: FloatArray, accuracy: float, shifted: bool) -> _Line | None:
        """The kind whose mean field has the shortest grid, or the second one if `shifted`; None where all are long."""
        try:
            dual = np.linalg.inv(theta[:, :-1]).T  # rows: orthogonal to all other tau
        except np.linalg.LinAlgError:
            return None
        found = []
        for k, row in enumerate(dual):
            gain = 1.0 / float(np.linalg.norm(row))
            step = gain * self.refinement * aliasing_length(1, 0.5 * accuracy, self.n_samples)
            low, high = self._fields(theta, k, accuracy)
            size = (high - low) / step + 2.0
            if size < _MAX_LINE:
                found.append(_Line(k, row * gain, gain, Grid(low + (0.37 if shifted else 0.0) * step, step, int(size))))
        found.sort(key=lambda line: line.grid.size)
        return found[min(int(shifted), len(found) - 1)] if found else None

    def _along_lines(
        self, along: _Line, theta: FloatArray, tables: list[Any], rho: FloatArray, accuracy: float, n_moments: int,
        shifted: bool,
    ) -> Outer:  # fmt: skip
        """As many dimensions as kinds: one of them on a grid of the mean field of one kind, the others on a lattice."""
        tau, n_samples = theta[:, :-1], self.n_samples
        line, u, gain, (low, step, count) = along.kind, along.axis, along.gain, along.grid
        some = [k for k in range(len(tau)) if k != line]
        plane = np.linalg.svd(u[None])[2][1:]  # (d - 1, d)
        fields: FloatArray = low + step * np.arange(count, dtype=float)
        centres, margin = self.share[line] * gain * np.array([self.low, self.high]), _width(accuracy)
        reach = (
            float(centres.min()) - margin / math.sqrt(n_samples),
            float(centres.max()) + margin / math.sqrt(n_samples),
        )
        line_values = np.zeros((count, compiled.COLUMNS))
        self._kind(fields, line, tables[line], rho[line], n_moments, line_values)
        action = np.where(np.isfinite(line_values[:, 0]), line_values[:, 0], -1e300)
        line_values[~np.isfinite(line_values[:, 0])] = 0.0

        def integrand(beta: FloatArray) -> tuple[FloatArray, FloatArray]:
            b = beta @ plane
            exponent, values = self._integrand(theta, b, some, tables, rho, n_moments)
            total = np.empty(len(b))
            self._spend(4.0 * len(b) * min(count, gain * (reach[1] - reach[0]) / step + 1.0))
            compiled_line.line_totals(b @ tau[line], action, low, step, gain, n_samples, *reach, total)
            return exponent + total, np.concatenate(
                [values, np.repeat(exponent[None, :, None], compiled.COLUMNS, axis=2)]
            )

        coarse = self._lattice(plane, theta, 0.5 * accuracy, shifted)(integrand)
        b, exponent = coarse.a @ plane, coarse.values[-1, :, 0]
        least = float(coarse.exponent.max()) - 0.5 * _width(accuracy) ** 2 - 12.0
        high_enough = coarse.exponent > least
        b, exponent = b[high_enough], np.ascontiguousarray(exponent[high_enough])
        arguments = b @ tau[line], exponent, action, low, step, gain, n_samples, *reach, least
        none = np.empty(0, np.int64)
        size = compiled_line.line_pairs(*arguments, none, none, np.empty(0))
        if size > _MAX_PAIRS:
            raise NotIntegrable("the mean fields of the kinds cover too many nodes.")
        rows, columns, value = np.empty(size, np.int64), np.empty(size, np.int64), np.empty(size)
        compiled_line.line_pairs(*arguments, rows, columns, value)
        x = (fields[columns] - (b @ tau[line])[rows]) / gain
        values = np.empty((len(tau), size, compiled.COLUMNS))
        values[line] = line_values[columns]
        for row, k in enumerate(some):
            values[k] = coarse.values[row][high_enough][rows]
        log_cell = coarse.log_cell + math.log(step / gain * math.sqrt(n_samples / (2.0 * math.pi)))
        return Outer(b[rows] + x[:, None] * u, value, values, log_cell)

    def _fields(self, theta: FloatArray, k: int, accuracy: float) -> tuple[float, float]:
        """Range of the mean field of a kind that holds all but `accuracy` of it."""
        gains = self.share * (theta[:, :-1] @ theta[k, :-1])
        reach = np.sort(np.outer(gains, [self.low, self.high]), axis=1).sum(axis=0)
        margin = _width(accuracy) * float(np.linalg.norm(theta[k, :-1])) / math.sqrt(self.n_samples)
        return float(reach[0]) - margin, float(reach[1]) + margin

    def _lattice(self, plane: FloatArray, theta: FloatArray, accuracy: float, shifted: bool) -> Any:
        """A function that sums an integrand up over a lattice of a_0, in coordinates along the rows of `plane`."""
        d, n_samples = len(plane), self.n_samples
        if d == 0:
            zero = np.zeros((1, 0))
            return lambda integrand: _outer(zero, integrand(zero), 0.0)
        basis = self.refinement * aliasing_length(d, accuracy, n_samples) * unit_basis(d)
        shift = (unlike_shift(d) if shifted else np.zeros(d)) @ basis
        margin = _width(accuracy) / math.sqrt(n_samples)
        gains = self.share[:, None, None] * (theta[:, :-1] @ plane.T)[:, :, None] * np.array([self.low, self.high])
        reach = np.sort(gains, axis=2).sum(axis=0)
        low, high = reach[:, 0] - margin, reach[:, 1] + margin
        log_cell = float(np.linalg.slogdet(basis)[1]) + 0.5 * d * math.log(n_samples / (2.0 * math.pi))
        window = 0.5 * _width(accuracy) ** 2
        return lambda integrand: _summed(integrand, basis, shift, low, high, window, log_cell)


def _outer(a: FloatArray, found: tuple[FloatArray, FloatArray], log_cell: float) -> Outer:
    return Outer(a, found[0], found[1], log_cell)


def _summed(
    integrand: Any, basis: FloatArray, shift: FloatArray, low: FloatArray, high: FloatArray, window: float,
    log_cell: float,
) -> Outer:  # fmt: skip
    """Nodes of a box around the posterior: on a line all, else blocks, from those whose corners are high to their
    neighbours. The integrand times e^{P |a|^2 / 2} is log-convex: a maximum is never far above the nearest corner.
    """
    d = len(low)
    inverse = np.linalg.inv(basis)
    corners = np.array(list(product(*zip(low, high, strict=True)))) - shift
    index = corners @ inverse
    first, last = np.floor(index.min(axis=0)).astype(np.int64), np.ceil(index.max(axis=0)).astype(np.int64)
    if d == 1:
        a = np.arange(first[0], last[0] + 1)[:, None] * basis[0] + shift
        return _outer(a, integrand(a), log_cell)
    shape = (last - first) // _STRIDE + 1
    if not float(np.prod(shape.astype(float))) < _MAX_NODES:
        raise NotIntegrable("the mean fields of the kinds cover too many nodes.")
    blocks = np.stack(np.unravel_index(np.arange(int(np.prod(shape))), shape), axis=1)
    outside = 2.0 * _STRIDE * np.abs(basis).sum(axis=0)  # skewed boxes have far corners

    def start(blocks: IntArray) -> FloatArray:
        return np.asarray((first + _STRIDE * blocks) @ basis + shift)

    at = start(blocks)
    inside = ((at > low - outside) & (at < high + outside)).all(axis=1)
    blocks, at = blocks[inside], at[inside]
    corner = integrand(at)[0]
    top = float(corner.max())
    new = np.ravel_multi_index(tuple(blocks[corner > top - window - _SLACK * d].T), shape)
    offsets = np.array(list(product(range(_STRIDE), repeat=d)))
    steps = np.array([s for s in product((-1, 0, 1), repeat=d) if any(s)])
    known = np.zeros(int(np.prod(shape)), dtype=bool)
    parts: list[tuple[FloatArray, FloatArray, FloatArray]] = []
    count = 0
    while new.size:
        known[new] = True
        blocks = np.stack(np.unravel_index(new, shape), axis=1)
        a = ((first + _STRIDE * blocks[:, None, :] + offsets).reshape(-1, d)) @ basis + shift
        count += len(a)
        if count > _MAX_NODES:
            raise NotIntegrable("the mean fields of the kinds cover too many nodes.")
        exponent, values = integrand(a)
        parts.append((a, exponent, values))
        top = max(top, float(exponent.max()))
        high_blocks = blocks[exponent.reshape(len(blocks), -1).max(axis=1) > top - window]
        near = (high_blocks[:, None, :] + steps).reshape(-1, d)
        near = near[((near >= 0) & (near < shape)).all(axis=1)]
        new = np.unique(np.ravel_multi_index(tuple(near.T), shape)) if len(near) else np.empty(0, np.int64)
        new = new[~known[new]]
    return Outer(
        np.concatenate([part[0] for part in parts]),
        np.concatenate([part[1] for part in parts]),
        np.concatenate([part[2] for part in parts], axis=1),
        log_cell,
    )


@lru_cache(maxsize=64)
def _width(accuracy: float) -> float:
    """Standard deviations beyond which a Gaussian is left out."""
    return math.sqrt(2.0 * (math.log(1.0 / accuracy) + 4.0))


def _power_of_two(reach: float) -> float:
    return 2.0 ** math.ceil(math.log2(max(reach, 1.0)))


@lru_cache(maxsize=64)
def _table_samples(single_site: Cumulant, reach: float) -> Samples:
    """Samples of the table between -reach and reach."""
    table = single_site.table
    spacing = 0.01 / table.scale
    most = math.ceil(reach / spacing) + 2
    return Samples(cumulants(table, spacing * np.arange(-most, most + 1)), spacing, -most)


def range_of(single_site: Cumulant) -> tuple[float, float]:
    """Of the mean activation, for bounded phi."""
    reach = single_site.table.kappa_max
    return float(cumulant2(single_site.table, -reach)[1]), float(cumulant2(single_site.table, reach)[1])
