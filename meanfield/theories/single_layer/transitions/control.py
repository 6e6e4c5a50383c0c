"""Control parameters of a class task, and how the problem changes with them: exactly, not by differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.activations.cumulant import Cumulant, cumulant
from meanfield.activations.cumulant_change import cumulant_change, growth_change, midpoint_change
from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.validation import FloatArray

__all__ = ["Change", "Control", "ScaledTask"]

_FRACTION = "fraction_"
_TARGET = "target_"


class ScaledTask(NamedTuple):
    """A task in units sigma_a = 1.

    `passing`: G changes with a control parameter, so that it is wanted at a few kappa only and no table pays.
    """

    cumulant: Cumulant
    p: FloatArray
    y: FloatArray
    tau: float
    sigma_a: float
    passing: bool = False

    @property
    def activation(self) -> Activation:
        return self.cumulant.activation


@dataclass(frozen=True)
class Change:
    """Derivative of a `ScaledTask` by one control parameter.

    G changes with k = sigma_w^2 or a parameter of phi, `name` ("" where it does not), at the rate `rate`.
    """

    problem: ScaledTask
    p: FloatArray
    y: FloatArray
    tau: float
    name: str = ""
    rate: float = 0.0

    def cumulants(self, kappa: FloatArray) -> FloatArray:
        """Derivatives of G, ..., G''' at fixed kappa, (4, ...)."""
        if not self.name:
            return np.zeros((4, *kappa.shape))
        return self.rate * cumulant_change(self.problem.cumulant, self.name, kappa)

    @property
    def growth(self) -> tuple[float, float]:
        """Derivatives of growth_plus and growth_minus."""
        if not self.name:
            return 0.0, 0.0
        plus, minus = growth_change(self.problem.activation, self.name, self.problem.cumulant.k)
        return self.rate * plus, self.rate * minus

    @property
    def midpoint(self) -> float:
        """Derivative of the centre of phi's range."""
        return self.rate * midpoint_change(self.problem.activation, self.name) if self.name else 0.0


@dataclass(frozen=True)
class Control:
    """A network and task whose parameters `names` are to be varied.

    Names: tau; on, off (y_+, y_- of one-hot targets); target_<label> (y_c of a task with one output);
    fraction_<label> (p_c of a class; those that are not named keep their proportions); sigma_a, sigma_w and parameters
    of the activation.
    """

    network: Network
    task: ClassTask
    tau: float
    names: tuple[str, ...]
    # The last values and the problem there: residual, Jacobian and tests of a point ask for it one after another.
    _last: dict[tuple[float, ...], tuple[tuple[Network, ClassTask, float], ScaledTask]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

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
        return self._problem(values)[0]

    def at(self, values: Sequence[float] | FloatArray) -> ScaledTask:
        """The problem at these values, in units sigma_a = 1."""
        return self._problem(values)[1]

    def _problem(self, values: Sequence[float] | FloatArray) -> tuple[tuple[Network, ClassTask, float], ScaledTask]:
        key = tuple(map(float, values))
        if key not in self._last:
            network, task, tau = self._set(key)
            sigma_a = network.sigma_a
            moves = any(n == "sigma_w" or n in network.activation.parameters for n in self.names)
            g, p = cumulant(network.activation, network.k, tabulate=not moves), np.array(task.fractions)
            scaled = ScaledTask(g, p, task.targets / sigma_a, tau / sigma_a**2, sigma_a, moves)
            self._last.clear()
            self._last[key] = (network, task, tau), scaled
        return self._last[key]

    def _set(self, values: tuple[float, ...]) -> tuple[Network, ClassTask, float]:
        network, task, tau = self.network, self._with_fractions(values), self.tau
        for name, value in zip(self.names, values, strict=True):
            if name == "tau":
                tau = value
            elif name in ("on", "off"):
                task = task.with_(**{name: value})
            elif name.startswith(_TARGET):
                targets = np.array(task.targets)
                targets[task.class_names.index(name.removeprefix(_TARGET)), 0] = value
                task = task.with_(targets=targets)
            elif not name.startswith(_FRACTION):
                network = network.with_(**{name: value})
        return network, task, tau

    @property
    def _set_fractions(self) -> dict[int, int]:
        """Class of every fraction among the names, by its place there."""
        return {
            i: self.task.class_names.index(name.removeprefix(_FRACTION))
            for i, name in enumerate(self.names)
            if name.startswith(_FRACTION)
        }

    def _with_fractions(self, values: tuple[float, ...]) -> ClassTask:
        given = {c: values[i] for i, c in self._set_fractions.items()}
        if not given:
            return self.task
        p = np.array(self.task.fractions)
        others = [c for c in range(p.size) if c not in given]
        p[others] *= (1.0 - sum(given.values())) / (p[others].sum() or 1.0)
        p[list(given)] = list(given.values())
        return self.task.with_(fractions=p)

    def changes(self, values: Sequence[float] | FloatArray) -> tuple[Change, ...]:
        """Derivative of `at(values)` by each of the parameters."""
        problem, fractions = self.at(values), self._set_fractions
        sigma_a, still = problem.sigma_a, np.zeros_like(problem.y)
        found = []
        for i, name in enumerate(self.names):
            p = self._fraction_change(fractions, fractions.get(i))
            y, tau, moves, rate = still, 0.0, "", 0.0
            if name == "tau":
                tau = 1.0 / sigma_a**2
            elif name in ("on", "off"):
                own = np.eye(len(still))
                y = (own if name == "on" else 1.0 - own) / sigma_a
            elif name.startswith(_TARGET):
                y = still.copy()
                y[self.task.class_names.index(name.removeprefix(_TARGET)), 0] = 1.0 / sigma_a
            elif name == "sigma_a":
                y, tau = -problem.y / sigma_a, -2.0 * problem.tau / sigma_a
            elif name == "sigma_w":
                moves, rate = "k", 2.0 * float(np.sqrt(problem.cumulant.k))
            elif not name.startswith(_FRACTION):
                moves, rate = name, 1.0
            found.append(Change(problem, p, y, tau, moves, rate))
        return tuple(found)

    def _fraction_change(self, fractions: dict[int, int], own: int | None) -> FloatArray:
        """Derivative of p, (C,), by the fraction of class `own`: those that no parameter sets make room for it."""
        change = np.zeros(len(self.task.fractions))
        if own is not None:
            others = [c for c in range(change.size) if c not in fractions.values()]
            change[others] = -self.task.fractions[others] / (self.task.fractions[others].sum() or 1.0)
            change[own] = 1.0
        return change
