"""Extended systems: the stationarity equations of a set of codes, plus one equation per condition of a transition.

Unknowns x = (t, {a_gamma}, {P_gamma}, s), N = mC + n(m + 1) + 1, in units sigma_a = 1. The N equations F(x) = 0 are
    grad h(a_gamma; t) = 0,   h(a_gamma; t) = s,   sum_gamma P_gamma = 1,
    sum_gamma P_gamma a_gamma G'(a_gamma.t_c) + tau t_c = y_c                    (phases/THEORY.md, "Extended systems").
A condition (a weight vanishes, a maximum of h becomes degenerate, ...) releases one control parameter.
The equations, their Jacobian and their change with p and G are generated
(`meanfield.theories.single_layer.compiled.generated`); how p, y, tau and G change with a control parameter is in
`meanfield.theories.single_layer.transitions.control`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from meanfield.theories.single_layer.compiled.generated import stationarity as generated
from meanfield.theories.single_layer.compiled.generated.action import action_fields4
from meanfield.theories.single_layer.compiled.passing import direct_fields
from meanfield.theories.single_layer.transitions.control import Change, Control, ScaledTask
from meanfield.validation import FloatArray

__all__ = [
    "SINGULAR",
    "Active",
    "Blocks",
    "CodeFields",
    "CodeState",
    "Condition",
    "Control",
    "Cubic",
    "ExtendedSystem",
    "ScaledTask",
    "Soft",
    "Vanishing",
    "change",
    "jacobian",
    "neuron_blocks",
    "neuron_changes",
    "neuron_fields",
    "neuron_rows",
    "newton",
    "order_rows",
    "quartic",
    "soft_mode",
    "stationarity",
]

_MAX_STEPS = 40
SINGULAR = 1e-9  # of the largest: smaller singular values are zero, for steps and for what is made of a root


class CodeFields(NamedTuple):
    """h of every neuron (n,), and f[i] = p_c G^(i)(kappa_c), its derivatives by kappa_c = a_gamma.t_c, (5, n, C)."""

    height: FloatArray
    f: FloatArray


@dataclass(frozen=True, eq=False)
class CodeState:
    """Unknowns x of a set of codes."""

    t: FloatArray  # (C, m)
    a: FloatArray  # (n, m)
    weight: FloatArray  # (n,)
    level: float

    @property
    def x(self) -> FloatArray:
        return np.concatenate([self.t.ravel(), self.a.ravel(), self.weight, [self.level]])

    def with_unknowns(self, x: FloatArray) -> CodeState:
        """State of the same shape with unknowns x."""
        i = self.t.size
        j = i + self.a.size
        return CodeState(x[:i].reshape(self.t.shape), x[i:j].reshape(self.a.shape), x[j:-1], float(x[-1]))

    def where(self, *, t: bool = False, a: int | None = None, weight: int | None = None) -> slice | int:
        """Position among the unknowns of t, of readout a, or of a weight."""
        if t:
            return slice(0, self.t.size)
        if a is not None:
            start = self.t.size + a * self.t.shape[1]
            return slice(start, start + self.t.shape[1])
        assert weight is not None
        return self.t.size + self.a.size + weight

    @property
    def kappa(self) -> FloatArray:
        """a_gamma.t_c, (n, C)."""
        return np.asarray(self.a @ self.t.T)

    def fields(self, problem: ScaledTask) -> CodeFields:
        """G and its derivatives, see `neuron_fields`."""
        return neuron_fields(problem, self.t, self.a)


def neuron_fields(problem: ScaledTask, t: FloatArray, a: FloatArray) -> CodeFields:
    """Fields of neurons with readouts a (n, m); G from the table, or without one for a task that is passed."""
    if problem.passing:
        kappa = a @ t.T
        f = problem.p * direct_fields(problem.cumulant.direct_data, kappa.ravel()).reshape(5, *kappa.shape)
        return CodeFields(f[0].sum(axis=1) - 0.5 * np.sum(a * a, axis=1), f)
    f = np.empty((5, len(a), len(t)))
    height = [action_fields4(problem.cumulant.table, problem.p, t, a[j], *f[:, j]) for j in range(len(a))]
    return CodeFields(np.array(height), f)


class Blocks(NamedTuple):
    """Rows of the equations that a set of neurons enters, and their derivatives (generated)."""

    gradient: FloatArray  # dh/da (n, m)
    output: FloatArray  # sum of weight a G' (C, m)
    gradient_by_t: FloatArray  # (n, m, C, m)
    gradient_by_a: FloatArray  # (n, m, m), own readout
    height_by_t: FloatArray  # (n, C, m)
    output_by_t: FloatArray  # (C, m, m), same class
    output_by_a: FloatArray  # (C, m, n, m)
    output_by_weight: FloatArray  # (C, m, n)


def neuron_rows(
    first: FloatArray, p: FloatArray, t: FloatArray, a: FloatArray, weight: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """dh/da (n, m), and the sum of weight a G' (C, m)."""
    gradient, output = np.empty(a.shape), np.zeros(t.shape)
    generated.neuron_residual(first, p, t, a, weight, gradient, output)
    return gradient, output


def neuron_blocks(
    first: FloatArray, second: FloatArray, p: FloatArray, t: FloatArray, a: FloatArray, weight: FloatArray
) -> Blocks:
    """`Blocks` of neurons with these fields."""
    (n_classes, m), n = t.shape, len(a)
    by_t, by_a, height_by_t = np.empty((n, m, n_classes, m)), np.empty((n, m, m)), np.empty((n, n_classes, m))
    same_class, output_by_a = np.zeros((n_classes, m, m)), np.empty((n_classes, m, n, m))
    output_by_weight = np.empty((n_classes, m, n))
    generated.neuron_jacobian(first, second, p, t, a, weight, by_t, by_a, height_by_t, same_class)
    generated.output_by_readouts(first, second, t, a, weight, p, output_by_a)
    generated.output_by_weights(first, p, a, output_by_weight)
    rows = neuron_rows(first, p, t, a, weight)
    return Blocks(*rows, by_t, by_a, height_by_t, same_class, output_by_a, output_by_weight)


def neuron_changes(
    fields: CodeFields, change: Change, cumulants: FloatArray, t: FloatArray, a: FloatArray, weight: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Derivatives of dh/da (n, m), h (n,) and the sum of weight a G' (C, m) by a control parameter.

    `cumulants` (at least 2, n, C): those of G, G' at fixed kappa.
    """
    gradient, height, output = np.empty(a.shape), np.empty(len(a)), np.zeros(t.shape)
    f, p = fields.f, change.problem.p
    generated.neuron_change(
        f[0], f[1], p, t, a, weight, change.p, cumulants[0], cumulants[1], gradient, height, output
    )  # fmt: skip
    return gradient, height, output


def order_rows(y: FloatArray, tau: float, t: FloatArray) -> FloatArray:
    """tau t - y (C, m)."""
    output = np.empty(t.shape)
    generated.order_residual(y, float(tau), t, output)
    return output


def stationarity(problem: ScaledTask, state: CodeState, fields: CodeFields) -> FloatArray:
    """F(x), (N,)."""
    gradient, output = neuron_rows(fields.f[1], problem.p, state.t, state.a, state.weight)
    output += order_rows(problem.y, problem.tau, state.t)
    height = fields.height - state.level
    return np.concatenate([gradient.ravel(), height, [state.weight.sum() - 1.0], output.ravel()])


def jacobian(problem: ScaledTask, state: CodeState, fields: CodeFields) -> FloatArray:
    """dF/dx, (N, N)."""
    t, a = state.t, state.a
    (n_classes, m), n = t.shape, len(a)
    blocks = neuron_blocks(fields.f[1], fields.f[2], problem.p, t, a, state.weight)
    matrix = np.zeros((t.size + a.size + n + 1, t.size + a.size + n + 1))
    by_t, by_a, by_weight = np.split(matrix, [t.size, t.size + a.size], axis=1)
    gradients, heights, total, outputs = np.split(np.arange(len(matrix)), np.cumsum([a.size, n, 1]))
    by_t[gradients] = blocks.gradient_by_t.reshape(a.size, t.size)
    by_t[heights] = blocks.height_by_t.reshape(n, t.size)
    for j in range(n):
        own = slice(j * m, (j + 1) * m)
        by_a[own, own] = blocks.gradient_by_a[j]
        by_a[heights[j], own] = blocks.gradient[j]
    by_weight[heights, -1] = -1.0
    by_weight[total, :-1] = 1.0
    for c in range(n_classes):
        own = slice(c * m, (c + 1) * m)
        by_t[outputs[own], own] = blocks.output_by_t[c] + problem.tau * np.eye(m)
    by_a[outputs] = blocks.output_by_a.reshape(t.size, a.size)
    by_weight[outputs, :-1] = blocks.output_by_weight.reshape(t.size, n)
    return matrix


def change(state: CodeState, fields: CodeFields, by: Change, cumulants: FloatArray) -> FloatArray:
    """dF/d(control parameter), (N,); `cumulants` = by.cumulants(kappa)."""
    gradient, height, output = neuron_changes(fields, by, cumulants, state.t, state.a, state.weight)
    return np.concatenate([gradient.ravel(), height, [0.0], (output + order_rows(by.y, by.tau, state.t)).ravel()])


class Condition(Protocol):
    """One equation of a transition, or crossover."""

    @property
    def code(self) -> int:
        """Index of the code that it concerns."""

    def __call__(self, problem: ScaledTask, state: CodeState, fields: CodeFields) -> tuple[float, FloatArray]:
        """Value and its gradient with respect to x."""

    def change(self, state: CodeState, fields: CodeFields, by: Change, cumulants: FloatArray) -> float:
        """Derivative of the value by a control parameter at fixed x."""


@dataclass(frozen=True)
class Vanishing:
    """P_j = 0: the code enters or leaves at a distance from the others."""

    code: int

    def __call__(self, problem: ScaledTask, state: CodeState, fields: CodeFields) -> tuple[float, FloatArray]:
        gradient = np.zeros(state.x.size)
        gradient[state.where(weight=self.code)] = 1.0
        return float(state.weight[self.code]), gradient

    def change(self, state: CodeState, fields: CodeFields, by: Change, cumulants: FloatArray) -> float:
        return 0.0


@dataclass(frozen=True)
class Active:
    """G'(a_j.t_c) = the midpoint of the range of phi: the label of class c flips."""

    code: int
    cls: int

    def __call__(self, problem: ScaledTask, state: CodeState, fields: CodeFields) -> tuple[float, FloatArray]:
        level = problem.activation.midpoint
        assert level is not None
        gradient, by_t, by_a = np.zeros(state.x.size), np.empty(state.t.shape), np.empty(state.t.shape)
        generated.mean_activations(fields.f[2, self.code], problem.p, state.t, state.a[self.code], by_t, by_a)
        gradient[: state.t.size].reshape(state.t.shape)[self.cls] = by_t[self.cls]
        gradient[state.where(a=self.code)] = by_a[self.cls]
        return float(fields.f[1, self.code, self.cls] / problem.p[self.cls]) - level, gradient

    def change(self, state: CodeState, fields: CodeFields, by: Change, cumulants: FloatArray) -> float:
        return float(cumulants[1, self.code, self.cls]) - by.midpoint


def soft_mode(state: CodeState, fields: CodeFields, code: int) -> tuple[FloatArray, FloatArray]:
    """Eigenvalues, ascending, and eigenvectors of d^2 h at a code; the last one is the soft mode."""
    m = state.t.shape[1]
    stiffness = np.empty((m, m))
    generated.minus_hessian(fields.f[2, code], state.t, stiffness)
    values, vectors = np.linalg.eigh(-stiffness)
    return values, vectors


def _curvature(state: CodeState, fields: CodeFields, code: int, v: FloatArray) -> FloatArray:
    """d(d^2 h v)/dx at fixed v, (m, N)."""
    t, m = state.t, state.t.shape[1]
    by_t, by_a = np.empty((m, *t.shape)), np.empty((m, m))
    generated.curvature_along(fields.f[2, code], fields.f[3, code], t, state.a[code], v, t @ v, by_t, by_a)
    found = np.zeros((m, state.x.size))
    found[:, : t.size] = by_t.reshape(m, t.size)
    found[:, state.where(a=code)] = by_a
    return found


def _field_change(fields: CodeFields, by: Change, cumulants: FloatArray, order: int, code: int) -> FloatArray:
    """Derivative of a field p_c G^(order) by a control parameter at fixed kappa, (C,)."""
    p = by.problem.p
    return np.asarray(by.p / p * fields.f[order, code] + p * cumulants[order, code])


def _curvature_change(t: FloatArray, second: FloatArray, v: FloatArray) -> FloatArray:
    """Change of d^2 h v (m,) where the second fields change by `second`."""
    stiffness = np.empty((t.shape[1], t.shape[1]))
    generated.minus_hessian(second, t, stiffness)
    return np.asarray(v - stiffness @ v)


@dataclass(frozen=True)
class Soft:
    """The largest eigenvalue of d^2 h at a code vanishes: codes merge into it."""

    code: int

    def __call__(self, problem: ScaledTask, state: CodeState, fields: CodeFields) -> tuple[float, FloatArray]:
        values, vectors = soft_mode(state, fields, self.code)
        v = vectors[:, -1].copy()
        return float(values[-1]), v @ _curvature(state, fields, self.code, v)

    def change(self, state: CodeState, fields: CodeFields, by: Change, cumulants: FloatArray) -> float:
        v = soft_mode(state, fields, self.code)[1][:, -1].copy()
        second = _field_change(fields, by, cumulants, 2, self.code)
        return float(v @ _curvature_change(state.t, second, v))


class _Along(NamedTuple):
    """Third and fourth derivative of h along the soft mode v, what they change with, and how v turns."""

    v: FloatArray
    cubic: float
    quartic: float
    by_t: FloatArray
    by_a: FloatArray
    by_v: FloatArray
    turning: FloatArray  # dv = turning d(d^2 h) v
    values: FloatArray
    vectors: FloatArray


def _along_soft_mode(state: CodeState, fields: CodeFields, code: int) -> _Along:
    t, m = state.t, state.t.shape[1]
    values, vectors = soft_mode(state, fields, code)
    v = vectors[:, -1] * np.sign(vectors[np.argmax(np.abs(vectors[:, -1])), -1])
    by_t, by_a, by_v = np.empty(t.shape), np.empty(m), np.empty(m)
    third, fourth = fields.f[3, code], fields.f[4, code]
    cubic, quartic = generated.cubic_along(third, fourth, t, state.a[code], v, t @ v, by_t, by_a, by_v)
    turning = vectors[:, :-1] / (values[-1] - values[:-1]) @ vectors[:, :-1].T
    return _Along(v, cubic, quartic, by_t, by_a, by_v, turning, values, vectors)


@dataclass(frozen=True)
class Cubic:
    """sum_c p_c G'''(kappa_c) (t_c.v)^3 = 0 along the soft mode v: with `Soft`, h is quartic (critical end point)."""

    code: int

    def __call__(self, problem: ScaledTask, state: CodeState, fields: CodeFields) -> tuple[float, FloatArray]:
        along = _along_soft_mode(state, fields, self.code)
        gradient = np.zeros(state.x.size)
        gradient[: state.t.size] = along.by_t.ravel()
        gradient[state.where(a=self.code)] = along.by_a
        gradient += along.by_v @ along.turning @ _curvature(state, fields, self.code, along.v)
        return along.cubic, gradient

    def change(self, state: CodeState, fields: CodeFields, by: Change, cumulants: FloatArray) -> float:
        along = _along_soft_mode(state, fields, self.code)
        t, v = state.t, along.v
        second, third = (_field_change(fields, by, cumulants, order, self.code) for order in (2, 3))
        unused = np.empty(t.shape), np.empty(v.size), np.empty(v.size)
        direct, _ = generated.cubic_along(third, third, t, state.a[self.code], v, t @ v, *unused)
        return float(direct + along.by_v @ along.turning @ _curvature_change(t, second, v))


def quartic(problem: ScaledTask, state: CodeState, code: int) -> float:
    """q4 = d^4 h along v - 3 gamma^T H_perp^{-1} gamma: negative where codes merge continuously."""
    along = _along_soft_mode(state, state.fields(problem), code)
    pull = along.vectors[:, :-1].T @ along.by_v / 3.0
    return float(along.quartic - 3.0 * np.sum(pull**2 / along.values[:-1]))


@dataclass(frozen=True, eq=False)
class ExtendedSystem:
    """F = 0 and conditions, for the unknowns X = (x, values of the control parameters)."""

    control: Control
    shape: CodeState
    conditions: tuple[Condition, ...]
    # The last unknowns with residual and Jacobian: what follows Newton's method asks for them again.
    _last: dict[bytes, tuple[FloatArray, FloatArray]] = field(default_factory=dict, init=False, repr=False)

    @property
    def bounded(self) -> slice:
        """Unknowns of order one: weights and parameters."""
        return slice(self.shape.t.size + self.shape.a.size, None)

    def split(self, unknowns: FloatArray) -> tuple[ScaledTask, CodeState, FloatArray]:
        """Scaled task and state, and the values of the control parameters."""
        k = len(self.control.names)
        values = unknowns[unknowns.size - k :]
        return self.control.at(values), self.shape.with_unknowns(unknowns[: unknowns.size - k]), values

    def residual(self, unknowns: FloatArray) -> FloatArray:
        problem, state, _ = self.split(unknowns)
        fields = state.fields(problem)
        extra = [condition(problem, state, fields)[0] for condition in self.conditions]
        return np.concatenate([stationarity(problem, state, fields), extra])

    def linearised(self, unknowns: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Residual and Jacobian with respect to X."""
        key = unknowns.tobytes()
        if key not in self._last:
            found = self._linearised(unknowns)
            for array in found:
                array.flags.writeable = False
            self._last.clear()
            self._last[key] = found
        return self._last[key]

    def _linearised(self, unknowns: FloatArray) -> tuple[FloatArray, FloatArray]:
        problem, state, values = self.split(unknowns)
        fields = state.fields(problem)
        extra = [condition(problem, state, fields) for condition in self.conditions]
        residual = np.concatenate([stationarity(problem, state, fields), [value for value, _ in extra]])
        by_x = np.vstack([jacobian(problem, state, fields), *(gradient for _, gradient in extra)])
        columns = []
        for by in self.control.changes(values):
            cumulants = by.cumulants(state.kappa)
            own = [condition.change(state, fields, by, cumulants) for condition in self.conditions]
            columns.append(np.append(change(state, fields, by, cumulants), own))
        return residual, np.column_stack([by_x, *columns])


class Linearised(Protocol):
    """What Newton's method and the tracer of boundaries ask of a system of equations."""

    @property
    def control(self) -> Control: ...
    @property
    def bounded(self) -> slice: ...
    def linearised(self, unknowns: FloatArray) -> tuple[FloatArray, FloatArray]: ...


def newton(
    system: Linearised, unknowns: FloatArray, *, longest: float = 1.0, max_steps: int = _MAX_STEPS
) -> tuple[FloatArray, float]:
    """Newton's method with least-squares steps; (unknowns, residual) of the best point, for the caller to judge.

    Least squares because the weights of a degenerate phase, or the equations of an orbit of codes, are redundant, and
    where phi is odd nothing fixes a readout of zero that others merge into: it must not move.
    Steps are cut to `longest` in any weight or parameter.
    """
    best, smallest = unknowns, np.inf
    bounded = system.bounded
    for _ in range(max_steps):
        try:
            residual, matrix = system.linearised(unknowns)
        except ValueError:  # a parameter left its domain
            break
        error = float(np.abs(residual).max())
        if not np.isfinite(error):
            break
        if error < smallest:
            best, smallest = unknowns, error
        elif smallest < 1e-11 or error > 1e6 * (1.0 + smallest):
            break
        if error < 3e-15:
            break
        step = np.linalg.lstsq(matrix, -residual, rcond=SINGULAR)[0]
        unknowns = unknowns + step * min(1.0, longest / max(np.abs(step[bounded]).max(initial=0.0), 1e-300))
    return best, smallest
