"""Extended systems of the bulk and outliers of an unbounded phi, in units sigma_a = 1.

Isolated outliers, x = (t, a_0, {u_o}, {w_o}):
    grad h(a_0; t) = 0,   sum_c p_c g'(t_c.u_o) t_c / 2 = u_o,   |u_o| = 1,
    a_0 G'(a_0.t_c) + sum_o w_o u_o g'(t_c.u_o) / 2 + tau t_c = y_c.
Cones of outliers (ReLU, t_c.t_c' <= 0 and k p_c |t_c|^2 <= 1), x = (t, a_0, {w_c}, {mu_cc'}):
    p_c (y_c - a_0 G'(a_0.t_c) - tau t_c) = w_c t_c + sum_c' mu_cc' t_c',   k p_c |t_c|^2 = 1,   t_c.t_c' = 0,
each constraint only where it is active.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from meanfield.theories.single_layer.transitions.control import Change, Control, ScaledTask
from meanfield.theories.single_layer.transitions.extended import (
    Blocks,
    CodeFields,
    neuron_blocks,
    neuron_changes,
    neuron_fields,
    neuron_rows,
    order_rows,
)
from meanfield.validation import FloatArray

__all__ = ["ConeSystem", "OutlierSystem"]


_ONE = np.ones(1)  # weight of the bulk


def _bulk(problem: ScaledTask, t: FloatArray, a: FloatArray) -> tuple[CodeFields, Blocks]:
    """Fields of the bulk, and its rows with their derivatives."""
    fields = neuron_fields(problem, t, a[None])
    return fields, neuron_blocks(fields.f[1], fields.f[2], problem.p, t, a[None], _ONE)


def _bulk_change(by: Change, fields: CodeFields, t: FloatArray, a: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Derivatives of grad h(a_0) (m,) and a_0 G' + tau t - y (C, m) by a control parameter."""
    gradient, _, output = neuron_changes(fields, by, by.cumulants(t @ a)[:, None], t, a[None], _ONE)
    return gradient[0], output + order_rows(by.y, by.tau, t)


def _by_classes(blocks: FloatArray) -> FloatArray:
    """Derivatives (C, m, m) of class c by t_c as a matrix (C m, C m)."""
    n_classes, m, _ = blocks.shape
    matrix = np.zeros((n_classes, m, n_classes, m))
    for c in range(n_classes):
        matrix[c, :, c] = blocks[c]
    return matrix.reshape(n_classes * m, n_classes * m)


@dataclass(frozen=True, eq=False)
class OutlierSystem:
    """Isolated outliers with fixed sets of driven classes.

    Parameters
    ----------
    control : Control
    driven : (o, C) array
        Sign of kappa_oc = t_c.u_o, 0 where the class does not drive the outlier: on which side G grows.
    vanishing : tuple of int
        Outliers with w_o = 0.
    crossing : tuple of (int, int)
        (o, c) with t_c.u_o = 0.
    """

    control: Control
    driven: FloatArray
    vanishing: tuple[int, ...] = ()
    crossing: tuple[tuple[int, int], ...] = ()

    def pack(self, t: FloatArray, a: FloatArray, u: FloatArray, w: FloatArray) -> FloatArray:
        return np.concatenate([t.ravel(), a, u.ravel(), w, self.control.values])

    def unpack(self, unknowns: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
        """t, a_0, u, w, control values."""
        o, n_classes = self.driven.shape
        m = self.control.task.n_outputs
        cuts = np.cumsum([n_classes * m, m, o * m, o])
        t, a, u, w, values = np.split(unknowns, cuts)
        return t.reshape(n_classes, m), a, u.reshape(o, m), w, values

    @property
    def bounded(self) -> slice:
        return slice(self.control.task.n_outputs * (self.driven.shape[1] + 1), None)

    def residual(self, unknowns: FloatArray) -> FloatArray:
        t, a, u, w, values = self.unpack(unknowns)
        problem = self.control.at(values)
        bulk = neuron_fields(problem, t, a[None])
        gradient, output = neuron_rows(bulk.f[1], problem.p, t, a[None], _ONE)
        pull, more = neuron_rows(self._fields(problem, t, u).f[1], problem.p, t, u, w)
        return self._rows(t, u, w, output + more + order_rows(problem.y, problem.tau, t), gradient, pull)

    def _fields(self, problem: ScaledTask, t: FloatArray, u: FloatArray) -> CodeFields:
        """CodeFields k/2 p_c g(t_c.u_o) of the outliers, each class on its side."""
        table = problem.cumulant.table
        second = problem.p * self._on_side(table.growth_plus, table.growth_minus)
        kappa = u @ t.T
        f = np.stack([0.5 * second * kappa * kappa, second * kappa, second])
        return CodeFields(f[0].sum(axis=1) - 0.5 * np.sum(u * u, axis=1), f)

    def _on_side(self, plus: float, minus: float) -> FloatArray:
        """(o, C): the value of the side on which a class drives an outlier, else 0."""
        return np.where(self.driven > 0, plus, np.where(self.driven < 0, minus, 0.0))

    def _rows(
        self, t: FloatArray, u: FloatArray, w: FloatArray, output: FloatArray, gradient: FloatArray, pull: FloatArray
    ) -> FloatArray:
        rows = [np.append(pull[i], u[i] @ u[i] - 1.0) for i in range(len(u))]
        rows += [w[[i]] for i in self.vanishing]
        rows += [np.array([u[i] @ t[c]]) for i, c in self.crossing]
        return np.concatenate([output.ravel(), gradient.ravel(), *rows])

    def linearised(self, unknowns: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Residual and Jacobian with respect to (t, a_0, u, w, values of the control parameters)."""
        t, a, u, w, values = self.unpack(unknowns)
        problem = self.control.at(values)
        m = t.shape[1]
        o, n = len(u), t.size
        bulk_fields, bulk = _bulk(problem, t, a)
        fields = self._fields(problem, t, u)
        out = neuron_blocks(fields.f[1], fields.f[2], problem.p, t, u, w)
        output = bulk.output + out.output + order_rows(problem.y, problem.tau, t)
        residual = self._rows(t, u, w, output, bulk.gradient, out.gradient)
        at_u, at_w = n + m, n + m + o * m
        by_x = np.zeros((residual.size, at_w + o))
        by_x[:n, :n] = _by_classes(bulk.output_by_t + out.output_by_t) + problem.tau * np.eye(n)
        by_x[:n, n:at_u] = bulk.output_by_a.reshape(n, m)
        by_x[:n, at_u:at_w] = out.output_by_a.reshape(n, o * m)
        by_x[:n, at_w:] = out.output_by_weight.reshape(n, o)
        by_x[n:at_u, :n] = bulk.gradient_by_t.reshape(m, n)
        by_x[n:at_u, n:at_u] = bulk.gradient_by_a[0]
        row = at_u
        for i in range(o):
            own = slice(at_u + i * m, at_u + (i + 1) * m)
            by_x[row : row + m, :n] = out.gradient_by_t[i].reshape(m, n)
            by_x[row : row + m, own] = out.gradient_by_a[i]
            by_x[row + m, own] = 2.0 * u[i]
            row += m + 1
        for i in self.vanishing:
            by_x[row, at_w + i] = 1.0
            row += 1
        for i, c in self.crossing:
            by_x[row, c * m : (c + 1) * m] = u[i]
            by_x[row, at_u + i * m : at_u + (i + 1) * m] = t[c]
            row += 1
        columns = [self._change(by, bulk_fields, fields, t, a, u, w) for by in self.control.changes(values)]
        return residual, np.column_stack([by_x, *columns])

    def _change(
        self,
        by: Change,
        bulk: CodeFields,
        fields: CodeFields,
        t: FloatArray,
        a: FloatArray,
        u: FloatArray,
        w: FloatArray,
    ) -> FloatArray:
        """Derivative of the residual by a control parameter."""
        gradient, output = _bulk_change(by, bulk, t, a)
        growth, kappa = self._on_side(*by.growth), u @ t.T
        pull, _, more = neuron_changes(fields, by, np.stack([0.5 * growth * kappa**2, growth * kappa]), t, u, w)
        found = np.concatenate([(output + more).ravel(), gradient, np.insert(pull, t.shape[1], 0.0, axis=1).ravel()])
        return np.append(found, np.zeros(len(self.vanishing) + len(self.crossing)))


@dataclass(frozen=True, eq=False)
class ConeSystem:
    """Norms and pairs of t as constraints: isolated outliers and cones of them.

    Parameters
    ----------
    control : Control
    active : tuple of (int, int)
        Constraints with a multiplier: (c, c) for k p_c |t_c|^2 = 1, (c, d) for t_c.t_d = 0.
    touching : tuple of (int, int)
        Further constraints that hold with multiplier zero: the transition.
    """

    control: Control
    active: tuple[tuple[int, int], ...]
    touching: tuple[tuple[int, int], ...] = ()

    def pack(self, t: FloatArray, a: FloatArray) -> FloatArray:
        """Unknowns with the multipliers that fit t and a_0 best."""
        problem = self.control.at(self.control.values)
        columns = self._multiplier_columns(t)
        _, bulk = _bulk(problem, t, a)
        target = -problem.p[:, None] * (bulk.output + order_rows(problem.y, problem.tau, t))
        multipliers = np.linalg.lstsq(columns, target.ravel(), rcond=None)[0]
        return np.concatenate([t.ravel(), a, multipliers, self.control.values])

    def unpack(self, unknowns: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """t, a_0, multipliers in the order of `active`, control values."""
        n_classes, m = self.control.task.targets.shape
        t, a, multipliers, values = np.split(unknowns, np.cumsum([n_classes * m, m, len(self.active)]))
        return t.reshape(n_classes, m), a, multipliers, values

    @property
    def bounded(self) -> slice:
        return slice(self.control.task.targets.size + self.control.task.n_outputs, None)

    def _multiplier_columns(self, t: FloatArray) -> FloatArray:
        """What a unit of each multiplier adds to the output equations, (C m, active)."""
        columns = np.zeros((*t.shape, len(self.active)))
        for i, (c, d) in enumerate(self.active):
            columns[c, :, i] = t[d]
            columns[d, :, i] = t[c]
        return columns.reshape(t.size, -1)

    def residual(self, unknowns: FloatArray) -> FloatArray:
        return self.linearised(unknowns)[0]

    def linearised(self, unknowns: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Residual and Jacobian with respect to (t, a_0, multipliers, values of the control parameters)."""
        t, a, multipliers, values = self.unpack(unknowns)
        problem = self.control.at(values)
        p, k, m = problem.p, problem.cumulant.table.growth_plus, t.shape[1]
        n = t.size
        fields, bulk = _bulk(problem, t, a)
        unscaled = bulk.output + order_rows(problem.y, problem.tau, t)
        columns = self._multiplier_columns(t)
        scale = np.repeat(p, m)[:, None]
        by_x = np.zeros((n + m, n + m + len(multipliers)))
        by_x[:n, :n] = scale * (_by_classes(bulk.output_by_t) + problem.tau * np.eye(n))
        by_x[:n, n : n + m] = scale * bulk.output_by_a.reshape(n, m)
        by_x[:n, n + m :] = columns
        for multiplier, (c, d) in zip(multipliers, self.active):
            for one, other in {(c, d), (d, c)}:
                by_x[one * m : (one + 1) * m, other * m : (other + 1) * m] += multiplier * np.eye(m)
        by_x[n:, :n] = bulk.gradient_by_t.reshape(m, n)
        by_x[n:, n : n + m] = bulk.gradient_by_a[0]
        rows, rows_by_x = [], []
        held = (*self.active, *self.touching)
        for c, d in held:
            factor = k * p[c] if c == d else 1.0
            row = np.zeros(by_x.shape[1])
            row[c * m : (c + 1) * m] += factor * t[d]
            row[d * m : (d + 1) * m] += factor * t[c]
            rows.append(factor * (t[c] @ t[d]) - (1.0 if c == d else 0.0))
            rows_by_x.append(row)
        output = p[:, None] * unscaled
        residual = np.concatenate([output.ravel() + columns @ multipliers, bulk.gradient[0], rows])
        changes = []
        for by in self.control.changes(values):
            gradient, moved = _bulk_change(by, fields, t, a)
            factors = by.growth[0] * p + k * by.p
            norms = [factors[c] * (t[c] @ t[c]) if c == d else 0.0 for c, d in held]
            moved = by.p[:, None] * unscaled + p[:, None] * moved
            changes.append(np.concatenate([moved.ravel(), gradient, norms]))
        return residual, np.column_stack([np.vstack([by_x, *rows_by_x]), *changes])
