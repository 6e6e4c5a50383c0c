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

from meanfield.theories.single_layer.compiled.derivatives import cumulant_many
from meanfield.theories.single_layer.transitions.extended import Control, Problem, difference_columns
from meanfield.validation import FloatArray

__all__ = ["ConeSystem", "OutlierSystem"]


def _bulk_rows(problem: Problem, t: FloatArray, a: FloatArray, size: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """grad h(a_0) (m,) with its derivatives (m, size), and a_0 G'(a_0.t_c) (C, m) with its derivatives."""
    n_classes, m = t.shape
    _, g1, g2, _, _ = cumulant_many(problem.cumulant.table, t @ a)
    p, identity = problem.p, np.eye(m)
    gradient = (p * g1) @ t - a
    by_x = np.zeros((m, size))
    output = np.outer(g1, a)
    output_by_x = np.zeros((n_classes, m, size))
    bulk = slice(n_classes * m, (n_classes + 1) * m)
    by_x[:, bulk] = (t.T * (p * g2)) @ t - identity
    for c in range(n_classes):
        own = slice(c * m, (c + 1) * m)
        by_x[:, own] = p[c] * (g1[c] * identity + g2[c] * np.outer(t[c], a))
        output_by_x[c][:, own] = g2[c] * np.outer(a, a)
        output_by_x[c][:, bulk] = g1[c] * identity + g2[c] * np.outer(a, t[c])
    return gradient, by_x, np.concatenate([output[:, :, None], output_by_x], axis=2)


@dataclass(frozen=True, eq=False)
class OutlierSystem:
    """Isolated outliers with fixed sets of driven classes.

    Parameters
    ----------
    control : Control
    driven : (o, C) array
        Growth k g of G on the side of kappa_oc = t_c.u_o (0 where the class does not drive the outlier).
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
        return self._evaluate(unknowns)[0]

    def linearised(self, unknowns: FloatArray) -> tuple[FloatArray, FloatArray]:
        residual, by_x = self._evaluate(unknowns)
        return residual, np.column_stack([by_x, difference_columns(self, unknowns)])

    def _evaluate(self, unknowns: FloatArray) -> tuple[FloatArray, FloatArray]:
        t, a, u, w, values = self.unpack(unknowns)
        problem = self.control.at(values)
        n_classes, m = t.shape
        o = len(u)
        size = unknowns.size - values.size
        gradient, gradient_by_x, bulk = _bulk_rows(problem, t, a, size)
        output, output_by_x = bulk[:, :, 0] + problem.tau * t - problem.y, bulk[:, :, 1:]
        identity = np.eye(m)
        kappa = u @ t.T  # (o, C)
        rows, rows_by_x = [], []
        at_u, at_w = (n_classes + 1) * m, (n_classes + 1 + o) * m
        for i in range(o):
            own = slice(at_u + i * m, at_u + (i + 1) * m)
            growth = self.driven[i]
            weighted = problem.p * growth
            pull_by_x = np.zeros((m, size))
            pull_by_x[:, own] = (t.T * weighted) @ t - identity
            for c in range(n_classes):
                block = slice(c * m, (c + 1) * m)
                pull_by_x[:, block] = weighted[c] * (kappa[i, c] * identity + np.outer(t[c], u[i]))
                output[c] += w[i] * growth[c] * kappa[i, c] * u[i]
                output_by_x[c][:, block] += w[i] * growth[c] * np.outer(u[i], u[i])
                output_by_x[c][:, own] += w[i] * growth[c] * (kappa[i, c] * identity + np.outer(u[i], t[c]))
                output_by_x[c][:, at_w + i] += growth[c] * kappa[i, c] * u[i]
            norm_by_x = np.zeros((1, size))
            norm_by_x[0, own] = 2.0 * u[i]
            rows += [(weighted * kappa[i]) @ t - u[i], [u[i] @ u[i] - 1.0]]
            rows_by_x += [pull_by_x, norm_by_x]
        for c in range(n_classes):
            output_by_x[c][:, c * m : (c + 1) * m] += problem.tau * identity
        for i in self.vanishing:
            row = np.zeros((1, size))
            row[0, at_w + i] = 1.0
            rows.append([w[i]])
            rows_by_x.append(row)
        for i, c in self.crossing:
            row = np.zeros((1, size))
            row[0, c * m : (c + 1) * m] = u[i]
            row[0, at_u + i * m : at_u + (i + 1) * m] = t[c]
            rows.append([kappa[i, c]])
            rows_by_x.append(row)
        residual = np.concatenate([output.ravel(), gradient, *rows])
        return residual, np.vstack([output_by_x.reshape(-1, size), gradient_by_x, *rows_by_x])


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
        _, g1, *_ = cumulant_many(problem.cumulant.table, t @ a)
        target = problem.p[:, None] * (problem.y - np.outer(g1, a) - problem.tau * t)
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
        return self._evaluate(unknowns)[0]

    def linearised(self, unknowns: FloatArray) -> tuple[FloatArray, FloatArray]:
        residual, by_x = self._evaluate(unknowns)
        return residual, np.column_stack([by_x, difference_columns(self, unknowns)])

    def _evaluate(self, unknowns: FloatArray) -> tuple[FloatArray, FloatArray]:
        t, a, multipliers, values = self.unpack(unknowns)
        problem = self.control.at(values)
        p, k = problem.p, problem.cumulant.table.growth_plus
        n_classes, m = t.shape
        size = unknowns.size - values.size
        gradient, gradient_by_x, bulk = _bulk_rows(problem, t, a, size)
        columns = self._multiplier_columns(t)
        output = p[:, None] * (bulk[:, :, 0] + problem.tau * t - problem.y)
        output_by_x = p[:, None, None] * bulk[:, :, 1:]
        flat = output_by_x.reshape(t.size, size)
        flat[:, t.size + m :] += columns
        for c in range(n_classes):
            output_by_x[c][:, c * m : (c + 1) * m] += p[c] * problem.tau * np.eye(m)
        for multiplier, (c, d) in zip(multipliers, self.active):
            for one, other in {(c, d), (d, c)}:
                output_by_x[one][:, other * m : (other + 1) * m] += multiplier * np.eye(m)
        rows, rows_by_x = [], []
        for c, d in (*self.active, *self.touching):
            scale = k * p[c] if c == d else 1.0
            row = np.zeros(size)
            row[c * m : (c + 1) * m] += scale * t[d]
            row[d * m : (d + 1) * m] += scale * t[c]
            rows.append(scale * (t[c] @ t[d]) - (1.0 if c == d else 0.0))
            rows_by_x.append(row)
        residual = np.concatenate([output.ravel() + columns @ multipliers, gradient, rows])
        return residual, np.vstack([flat, gradient_by_x, *rows_by_x])
