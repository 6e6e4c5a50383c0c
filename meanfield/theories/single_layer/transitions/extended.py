"""Extended systems: the stationarity equations of a set of codes, plus one equation per condition of a transition.

Unknowns x = (t, {a_gamma}, {P_gamma}, s), N = mC + n(m + 1) + 1, in units sigma_a = 1. The N equations F(x) = 0 are
    grad h(a_gamma; t) = 0,   h(a_gamma; t) = s,   sum_gamma P_gamma = 1,
    sum_gamma P_gamma a_gamma G'(a_gamma.t_c) + tau t_c = y_c                    (phases/THEORY.md, "Extended systems").
A condition (a weight vanishes, a maximum of h becomes degenerate, ...) releases one control parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.activations.cumulant import Cumulant, cumulant
from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.theories.single_layer.compiled.derivatives import cumulant_many
from meanfield.validation import FloatArray

__all__ = [
    "Active",
    "CodeState",
    "Condition",
    "Control",
    "Cubic",
    "Problem",
    "Soft",
    "System",
    "Vanishing",
    "difference_columns",
    "newton",
    "quartic",
    "soft_mode",
]

_DIFFERENCE = 1e-5  # for the columns of control parameters: they steer Newton's method, not its result
_MAX_STEPS = 40
_FRACTION = "fraction_"
_TARGET = "target_"


class Problem(NamedTuple):
    """A task in units sigma_a = 1."""

    cumulant: Cumulant
    p: FloatArray
    y: FloatArray
    tau: float
    sigma_a: float

    @property
    def activation(self) -> Activation:
        return self.cumulant.activation


@dataclass(frozen=True)
class Control:
    """A network and task whose parameters `names` are to be varied.

    Names: tau; on, off (y_+, y_- of one-hot targets); target_<label> (y_c of a task with one output);
    fraction_<label> (p_c of one class, the others keep their proportions); sigma_a, sigma_w and parameters of the
    activation.
    """

    network: Network
    task: ClassTask
    tau: float
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        self.at(self.values)

    @property
    def values(self) -> FloatArray:
        """Present values of the parameters.

        Raises
        ------
        ValueError
            For a parameter that does not exist.
        """
        return np.array([self._value(name) for name in self.names])

    def _value(self, name: str) -> float:
        if name == "tau":
            return self.tau
        if name in ("on", "off"):
            value = getattr(self.task, name)
            if value is None:
                raise ValueError(f"{name!r} can only be varied for one-hot targets; build the task with on= and off=.")
            return float(value)
        labels = self.task.class_names
        if name.startswith(_FRACTION) and name.removeprefix(_FRACTION) in labels:
            return float(self.task.fractions[labels.index(name.removeprefix(_FRACTION))])
        if name.startswith(_TARGET) and name.removeprefix(_TARGET) in labels and self.task.n_outputs == 1:
            return float(self.task.targets[labels.index(name.removeprefix(_TARGET)), 0])
        if name in ("sigma_a", "sigma_w"):
            return float(getattr(self.network, name))
        if name in self.network.activation.parameters:
            return float(self.network.activation.parameters[name])
        known = ["tau", "on", "off", "sigma_a", "sigma_w", *self.network.activation.parameters]
        known += [prefix + label for prefix in (_FRACTION, _TARGET) for label in labels]
        raise ValueError(f"{name!r} is not a parameter of this problem; there are {', '.join(known)}.")

    def physical(self, values: Sequence[float] | FloatArray) -> tuple[Network, ClassTask, float]:
        """Network, task and tau at these values of the parameters."""
        network, task, tau = self.network, self.task, self.tau
        for name, value in zip(self.names, (float(v) for v in values), strict=True):
            if name == "tau":
                tau = value
            elif name in ("on", "off"):
                task = task.with_(**{name: value})
            elif name.startswith(_FRACTION):
                c = task.class_names.index(name.removeprefix(_FRACTION))
                fractions = task.fractions * (1 - value) / (1 - task.fractions[c])
                fractions[c] = value
                task = task.with_(fractions=fractions)
            elif name.startswith(_TARGET):
                targets = np.array(task.targets)
                targets[task.class_names.index(name.removeprefix(_TARGET)), 0] = value
                task = task.with_(targets=targets)
            else:
                network = network.with_(**{name: value})
        return network, task, tau

    def at(self, values: Sequence[float] | FloatArray) -> Problem:
        """The problem at these values, in units sigma_a = 1."""
        network, task, tau = self.physical(values)
        sigma_a = network.sigma_a
        table = cumulant(network.activation, network.k)
        return Problem(table, np.array(task.fractions), task.targets / sigma_a, tau / sigma_a**2, sigma_a)


@dataclass(frozen=True, eq=False)
class CodeState:
    """Unknowns x of a set of codes, with G and its derivatives at kappa = a_gamma.t_c."""

    t: FloatArray  # (C, m)
    a: FloatArray  # (n, m)
    weight: FloatArray  # (n,)
    level: float

    @property
    def x(self) -> FloatArray:
        return np.concatenate([self.t.ravel(), self.a.ravel(), self.weight, [self.level]])

    def moved(self, x: FloatArray) -> CodeState:
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

    def derivatives(self, problem: Problem) -> FloatArray:
        """G, ..., G'''' at kappa_gc = a_g.t_c, (5, n, C)."""
        kappa = self.a @ self.t.T
        return np.asarray(cumulant_many(problem.cumulant.table, kappa.ravel())).reshape(5, *kappa.shape)


def stationarity(problem: Problem, state: CodeState, g: FloatArray) -> FloatArray:
    """F(x), (N,)."""
    p, t, a = problem.p, state.t, state.a
    gradient = (g[1] * p) @ t - a
    height = g[0] @ p - 0.5 * np.sum(a * a, axis=1) - state.level
    output = (g[1].T * state.weight) @ a + problem.tau * t - problem.y
    return np.concatenate([gradient.ravel(), height, [state.weight.sum() - 1.0], output.ravel()])


def jacobian(problem: Problem, state: CodeState, g: FloatArray) -> FloatArray:
    """dF/dx, (N, N)."""
    p, t, a = problem.p, state.t, state.a
    n_classes, m = t.shape
    n = len(a)
    size = t.size + a.size + n + 1
    matrix = np.zeros((size, size))
    first_output = n * (m + 1) + 1
    identity = np.eye(m)
    for j in range(n):
        rows, height = slice(j * m, (j + 1) * m), n * m + j
        own = state.where(a=j)
        mixed = p[:, None, None] * (
            g[1, j][:, None, None] * identity + g[2, j][:, None, None] * t[:, :, None] * a[j]
        )  # (C, r, q): d(grad h)_r / dt_cq
        matrix[rows, : t.size] = mixed.transpose(1, 0, 2).reshape(m, -1)
        matrix[rows, own] = (t.T * (p * g[2, j])) @ t - identity
        matrix[height, : t.size] = np.outer(p * g[1, j], a[j]).ravel()
        matrix[height, own] = (p * g[1, j]) @ t - a[j]
        matrix[height, -1] = -1.0
        weight = state.weight[j]
        output = g[1, j][:, None, None] * identity + g[2, j][:, None, None] * a[j][:, None] * t[:, None, :]
        matrix[first_output:, own] = weight * output.reshape(-1, m)
        matrix[first_output:, state.where(weight=j)] = np.outer(g[1, j], a[j]).ravel()
    matrix[n * (m + 1), t.size + a.size : -1] = 1.0
    for c in range(n_classes):
        block = slice(first_output + c * m, first_output + (c + 1) * m)
        columns = slice(c * m, (c + 1) * m)
        matrix[block, columns] += (a.T * (state.weight * g[2, :, c])) @ a + problem.tau * identity
    return matrix


class Condition(Protocol):
    """One equation of a transition, or crossover."""

    def __call__(self, problem: Problem, state: CodeState, g: FloatArray) -> tuple[float, FloatArray]:
        """Value and its gradient with respect to x."""


@dataclass(frozen=True)
class Vanishing:
    """P_j = 0: the code enters or leaves at a distance from the others."""

    code: int

    def __call__(self, problem: Problem, state: CodeState, g: FloatArray) -> tuple[float, FloatArray]:
        gradient = np.zeros(state.x.size)
        gradient[state.where(weight=self.code)] = 1.0
        return float(state.weight[self.code]), gradient


@dataclass(frozen=True)
class Active:
    """G'(a_j.t_c) = `level`, the midpoint of the range of phi: the label of class c flips."""

    code: int
    cls: int
    level: float

    def __call__(self, problem: Problem, state: CodeState, g: FloatArray) -> tuple[float, FloatArray]:
        gradient = np.zeros(state.x.size)
        slope = g[2, self.code, self.cls]
        gradient[: state.t.size].reshape(state.t.shape)[self.cls] = slope * state.a[self.code]
        gradient[state.where(a=self.code)] = slope * state.t[self.cls]
        return float(g[1, self.code, self.cls]) - self.level, gradient


def soft_mode(problem: Problem, state: CodeState, g: FloatArray, code: int) -> tuple[FloatArray, FloatArray]:
    """Eigenvalues, ascending, and eigenvectors of d^2 h at a code; the last one is the soft mode."""
    hessian = (state.t.T * (problem.p * g[2, code])) @ state.t - np.eye(state.t.shape[1])
    values, vectors = np.linalg.eigh(hessian)
    return values, vectors


def _hessian_change(problem: Problem, state: CodeState, g: FloatArray, code: int, v: FloatArray) -> FloatArray:
    """d(d^2 h v)/dx at fixed v, (m, N)."""
    p, t, a = problem.p, state.t, state.a[code]
    along = t @ v
    change = np.zeros((t.shape[1], state.x.size))
    third, second = p * g[3, code] * along, p * g[2, code]
    for c in range(len(t)):
        columns = slice(c * t.shape[1], (c + 1) * t.shape[1])
        change[:, columns] = third[c] * np.outer(t[c], a)
        change[:, columns] += second[c] * (np.outer(t[c], v) + along[c] * np.eye(t.shape[1]))
    change[:, state.where(a=code)] = (t.T * third) @ t
    return change


@dataclass(frozen=True)
class Soft:
    """The largest eigenvalue of d^2 h at a code vanishes: codes merge into it."""

    code: int

    def __call__(self, problem: Problem, state: CodeState, g: FloatArray) -> tuple[float, FloatArray]:
        values, vectors = soft_mode(problem, state, g, self.code)
        v = vectors[:, -1]
        return float(values[-1]), v @ _hessian_change(problem, state, g, self.code, v)


@dataclass(frozen=True)
class Cubic:
    """sum_c p_c G'''(kappa_c) (t_c.v)^3 = 0 along the soft mode v: with `Soft`, h is quartic (critical end point)."""

    code: int

    def __call__(self, problem: Problem, state: CodeState, g: FloatArray) -> tuple[float, FloatArray]:
        p, t, a = problem.p, state.t, state.a[self.code]
        values, vectors = soft_mode(problem, state, g, self.code)
        v = vectors[:, -1] * np.sign(vectors[np.argmax(np.abs(vectors[:, -1])), -1])
        along = t @ v
        third, fourth = p * g[3, self.code], p * g[4, self.code]
        gradient = np.zeros(state.x.size)
        by_kappa, by_along = fourth * along**3, 3.0 * third * along**2
        gradient[: t.size] = (np.outer(by_kappa, a) + np.outer(by_along, v)).ravel()
        gradient[state.where(a=self.code)] = by_kappa @ t
        turning = vectors[:, :-1] / (values[-1] - values[:-1]) @ vectors[:, :-1].T  # dv = turning dH v
        gradient += (by_along @ t) @ turning @ _hessian_change(problem, state, g, self.code, v)
        return float(third @ along**3), gradient


def quartic(problem: Problem, state: CodeState, code: int) -> float:
    """q4 = sum_c p_c G'''' (t_c.v)^4 - 3 gamma^T H_perp^{-1} gamma: negative where codes merge continuously."""
    g = state.derivatives(problem)
    p, t = problem.p, state.t
    values, vectors = soft_mode(problem, state, g, code)
    along = t @ vectors[:, -1]
    pull = vectors[:, :-1].T @ ((p * g[3, code] * along**2) @ t)
    return float((p * g[4, code]) @ along**4 - 3.0 * np.sum(pull**2 / values[:-1]))


@dataclass(frozen=True, eq=False)
class System:
    """F = 0 and conditions, for the unknowns X = (x, values of the control parameters)."""

    control: Control
    shape: CodeState
    conditions: tuple[Condition, ...]

    @property
    def bounded(self) -> slice:
        """Unknowns of order one: weights and parameters."""
        return slice(self.shape.t.size + self.shape.a.size, None)

    def split(self, unknowns: FloatArray) -> tuple[Problem, CodeState]:
        k = len(self.control.names)
        return self.control.at(unknowns[unknowns.size - k :]), self.shape.moved(unknowns[: unknowns.size - k])

    def residual(self, unknowns: FloatArray) -> FloatArray:
        problem, state = self.split(unknowns)
        g = state.derivatives(problem)
        extra = [condition(problem, state, g)[0] for condition in self.conditions]
        return np.concatenate([stationarity(problem, state, g), extra])

    def linearised(self, unknowns: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Residual and Jacobian with respect to X."""
        problem, state = self.split(unknowns)
        g = state.derivatives(problem)
        extra = [condition(problem, state, g) for condition in self.conditions]
        residual = np.concatenate([stationarity(problem, state, g), [value for value, _ in extra]])
        by_x = np.vstack([jacobian(problem, state, g), *(gradient for _, gradient in extra)])
        return residual, np.column_stack([by_x, difference_columns(self, unknowns)])


def difference_columns(system: Any, unknowns: FloatArray) -> FloatArray:
    """Derivatives of the residual with respect to the control parameters, the last unknowns, by central differences."""
    columns = []
    for i in range(unknowns.size - len(system.control.names), unknowns.size):
        step = np.zeros(unknowns.size)
        step[i] = _DIFFERENCE * max(1.0, abs(unknowns[i]))
        columns.append((system.residual(unknowns + step) - system.residual(unknowns - step)) / (2.0 * step[i]))
    return np.column_stack(columns) if columns else np.empty((system.residual(unknowns).size, 0))


def newton(system: Any, unknowns: FloatArray, *, longest: float = 1.0) -> tuple[FloatArray, float]:
    """Newton's method with least-squares steps; (unknowns, residual) of the best point, for the caller to judge.

    Least squares because the weights of a degenerate phase, or the equations of an orbit of codes, are redundant.
    Steps are cut to `longest` in any weight or parameter.
    """
    best, smallest = unknowns, np.inf
    bounded = system.bounded
    for _ in range(_MAX_STEPS):
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
        if error < 1e-15:
            break
        step = np.linalg.lstsq(matrix, -residual, rcond=1e-12)[0]
        unknowns = unknowns + step * min(1.0, longest / max(np.abs(step[bounded]).max(initial=0.0), 1e-300))
    return best, smallest
