"""What makes a root of an extended system a transition: weights, distances, curvature and the global check of h."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from meanfield.posterior.certificate import Certificate, ConvergenceError
from meanfield.posterior.parts import code_pattern
from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.theories.single_layer.compiled.ascent import find_maxima
from meanfield.theories.single_layer.compiled.certificate import certify, weight_nullity
from meanfield.theories.single_layer.compiled.generated.stationarity import linear_part
from meanfield.theories.single_layer.compiled.globalcheck import global_bound
from meanfield.theories.single_layer.compiled.outlier import worst_directions
from meanfield.theories.single_layer.limit import compiled_tables, phi_range
from meanfield.theories.single_layer.solution import Solution
from meanfield.theories.single_layer.transitions.control import Control, ScaledTask
from meanfield.theories.single_layer.transitions.extended import (
    SINGULAR,
    CodeState,
    change,
    jacobian,
    quartic,
    soft_mode,
)
from meanfield.validation import FloatArray

__all__ = ["Root", "Transition", "accept_codes", "accept_outliers"]

_HEIGHT = 1e-9  # by which no readout may exceed the level
_CLOSE = 1e-3  # codes nearer than this are the same
_MAX_BOXES = 200_000


@dataclass(frozen=True, eq=False)
class Transition:
    """A located transition or crossover.

    Attributes
    ----------
    kind : str
        One of `KINDS`.
    parameters : dict of str to float
        Where: one control parameter, or two.
    codes : tuple of str
        Patterns of the codes (or outliers) that enter, leave, merge or change their label.
    label : str
        What happens as the (first) parameter increases.
    crossover : bool
        True if only a label changes.
    solution : Solution
        The solution at the transition, with its certificate; codes that vanish are in it with weight 0.
    residual : float
        Largest violation of the extended system.
    singular_value : float
        Smallest singular value of its Jacobian over the largest, those of free weights left out; 0 where the root is
        not isolated.
    quartic : float or None
        For "merge": negative where the codes merge continuously.
    network, task, tau
        The problem at the transition.
    marginal : tuple of int
        Indices of `codes` among the readouts or outliers of `solution`.
    pairs : tuple of (int, int)
        (code or outlier, class) of "label" and "driven", classes of "cone".
    """

    kind: str
    parameters: dict[str, float]
    codes: tuple[str, ...]
    label: str
    crossover: bool
    solution: Solution
    residual: float
    singular_value: float
    quartic: float | None
    network: Network
    task: ClassTask
    tau: float
    marginal: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...] = ()

    @property
    def parameter(self) -> str:
        """Name of the first parameter."""
        return next(iter(self.parameters))

    @property
    def value(self) -> float:
        """Value of the first parameter."""
        return self.parameters[self.parameter]

    @property
    def continuous(self) -> bool:
        """Whether codes, weights and order parameters are proven to be the same on both sides.

        The optimal solutions at neighbouring parameters tend to optimal solutions of this point (phases/THEORY.md,
        "Planes"); where that is unique there is no jump. Where it is not, a jump is not excluded, but the weights
        that are selected may go on without one, as they do where codes come with their complements (odd phi).
        """
        return self.solution.certificate.nullity == 0 and self.singular_value > 0.0

    def __repr__(self) -> str:
        where = ", ".join(f"{name} = {value:.12g}" for name, value in self.parameters.items())
        return f"<Transition: {self.label} at {where} ({self.kind})>"


class Root(NamedTuple):
    """A root of an extended system, before it is tested."""

    control: Control
    values: FloatArray
    problem: ScaledTask
    residual: float
    singular_value: float


def accept_codes(
    kind: str, root: Root, state: CodeState, codes: tuple[int, ...], pairs: tuple[tuple[int, int], ...] = ()
) -> Transition:
    """The transition at a root, if it is one.

    Raises
    ------
    ConvergenceError
        If a weight is negative, two codes coincide, a code is no maximum, a readout exceeds the level, all targets are
        equal, or the root is not isolated.
    """
    problem, sigma_a = root.problem, root.problem.sigma_a
    found = _unchecked(kind, root, state, codes, pairs)
    where = f"the {kind!r} root at " + ", ".join(f"{n} = {v:.10g}" for n, v in found.parameters.items())

    def refuse(reason: str) -> None:
        raise ConvergenceError(f"{where} is not a transition: {reason}.", found)

    spread = np.abs(problem.y - problem.y[0]).max()
    if spread < 1e-6 * (1.0 + np.abs(problem.y).max()):
        refuse("all targets are equal there, so that every weight but one vanishes")
    if state.weight.min() < -1e-10:
        refuse(f"the weight of another code is negative, {state.weight.min():.1e}")
    distance = np.linalg.norm(state.a[:, None] - state.a, axis=2) + 1e9 * np.eye(len(state.a))
    if distance.min() < _CLOSE:
        refuse("two codes coincide, which solves the equations anywhere")
    fields = state.fields(problem)
    for j in range(len(state.a)):
        stiffness = np.delete(soft_mode(state, fields, j)[0], -1 if kind in ("merge", "cusp") and j in codes else [])
        if stiffness.max(initial=-1.0) > 1e-9:
            refuse(f"code {j} is a saddle of h, not a maximum")
    if found.solution.certificate.kkt_residual > 1e-10 * max(1.0, sigma_a):
        refuse(f"recomputed without tables, the residual is {found.solution.certificate.kkt_residual:.1e}")
    if found.solution.certificate.bound_gap > 2.0 * _HEIGHT * (1.0 + abs(state.level)):
        refuse(f"another readout lies above the level by {found.solution.certificate.bound_gap:.1e}")
    if root.singular_value < SINGULAR:
        refuse("it is not isolated (singular Jacobian)")
    if found.quartic is not None and found.quartic > 0 and kind == "merge":
        refuse("the quartic coefficient is positive, so that the codes have jumped before")
    return found


def _unchecked(
    kind: str, root: Root, state: CodeState, codes: tuple[int, ...], pairs: tuple[tuple[int, int], ...]
) -> Transition:
    problem, sigma_a = root.problem, root.problem.sigma_a
    network, task, tau = root.control.physical(root.values)
    order = np.argsort(-state.weight, kind="stable")
    state = CodeState(state.t, state.a[order], state.weight[order], state.level)
    marginal = tuple(int(np.flatnonzero(order == j)[0]) for j in codes)
    certificate = _certificate(problem, state)
    solution = Solution(
        t=state.t / sigma_a,
        objective=state.level + linear_part(problem.p, problem.y, problem.tau, state.t),
        level=state.level,
        readout=state.a * sigma_a,
        weight=np.maximum(state.weight, 0.0),
        outlier_direction=np.empty((0, state.a.shape[1])),
        outlier_weight=np.empty(0),
        certificate=certificate,
        tau=tau,
    )
    activation = state.fields(problem).f[1] / problem.p
    patterns = tuple(dict.fromkeys(code_pattern(network, activation[j]) for j in marginal))
    shown = _listed(["-".join(pattern) for pattern in patterns])
    label = ""
    if kind in ("merge", "cusp"):
        vanishes = np.abs(state.a[marginal[0]]).max() < 1e-7
        label = "codes merge into " + ("a readout of zero" if vanishes else shown) + " (cusp)" * (kind == "cusp")
    if kind == "label":
        flipped = [_flip(root, state, j, c) for j, c in zip(marginal, (c for _, c in pairs))]
        label = ", ".join(f"{before} becomes {after}" for before, after in flipped)
        patterns = tuple(name.replace("-", "") for pair in flipped for name in pair)
    elif kind == "weight":
        verb = "enters" if _slope(root, state)[state.where(weight=marginal[0])] > 0 else "leaves"
        label = f"{shown} {verb if len(patterns) == 1 else verb[:-1]}"
    return Transition(
        kind=kind,
        parameters=dict(zip(root.control.names, map(float, root.values))),
        codes=patterns,
        label=label,
        crossover=kind == "label",
        solution=solution,
        residual=root.residual,
        singular_value=root.singular_value,
        quartic=quartic(problem, state, marginal[0]) if kind in ("merge", "cusp") else None,
        network=network,
        task=task,
        tau=tau,
        marginal=marginal,
        pairs=tuple((j, c) for j, (_, c) in zip(marginal, pairs)),
    )


def _listed(names: list[str]) -> str:
    if len(names) > 6:  # `Transition.codes` has them all
        names = [*names[:3], f"{len(names) - 3} more"]
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _slope(root: Root, state: CodeState) -> FloatArray:
    """dx/d(first parameter) along the branch that has all these codes."""
    fields = state.fields(root.problem)
    by = root.control.changes(root.values)[0]
    column = change(state, fields, by, by.cumulants(state.kappa))
    return np.asarray(np.linalg.lstsq(jacobian(root.problem, state, fields), -column, rcond=1e-12)[0], dtype=float)


def _flip(root: Root, state: CodeState, code: int, cls: int) -> tuple[str, str]:
    """Labels of a code below and above a crossover."""
    activation = state.fields(root.problem).f[1] / root.problem.p
    slope = _slope(root, state)
    t_slope = slope[: state.t.size].reshape(state.t.shape)[cls]
    rising = state.a[code] @ t_slope + state.t[cls] @ slope[state.where(a=code)] > 0
    pattern = list(code_pattern(root.control.network, activation[code]))
    low, high = pattern.copy(), pattern.copy()
    low[cls], high[cls] = "0", "1"
    pair = "-".join(low), "-".join(high)
    return pair if rising else pair[::-1]


def _certificate(
    problem: ScaledTask, state: CodeState, directions: FloatArray | None = None, outliers: FloatArray | None = None
) -> Certificate:
    """Residual without tables, duality gap, and the global check of h."""
    table, bounds, direct = compiled_tables(problem.activation, problem.cumulant.k)
    low, high, infimum, supremum = phi_range(problem.activation, problem.cumulant.k)
    if directions is None or outliers is None:
        directions, outliers = np.empty((0, state.a.shape[1])), np.empty(0)
    residual, gap, _, _ = certify(
        direct, table.growth_plus, table.growth_minus, problem.p, problem.y, problem.tau, state.t, state.a,
        state.weight, directions, outliers,
    )  # fmt: skip
    carrying = state.weight > 0
    nullity = int(weight_nullity(table, problem.p, state.t, state.a[carrying], directions[outliers > 0]))
    maxima, height = np.empty((256, state.a.shape[1])), np.empty(256)
    count = find_maxima(table, problem.p, state.t, low, high, state.a, True, maxima, height)
    excess = max(0.0, float(height[:count].max()) - state.level)
    proved, bound, boxes = global_bound(
        table, bounds, problem.p, state.t, state.level + excess, maxima[:count], infimum, supremum, _HEIGHT, _MAX_BOXES,
        0.0 if table.growth_plus or table.growth_minus else 1.0, np.empty(state.a.shape[1]),
    )  # fmt: skip
    return Certificate(
        kkt_residual=float(residual) * max(1.0, problem.sigma_a),
        duality_gap=float(gap),
        bound_gap=excess + (max(0.0, float(bound)) if proved else 0.0),
        global_check=bool(proved),
        unique=nullity == 0,
        nullity=nullity,
        boxes=int(boxes),
    )


def accept_outliers(
    kind: str,
    root: Root,
    state: tuple[FloatArray, FloatArray, FloatArray, FloatArray],
    marginal: tuple[int, ...],
    pairs: tuple[tuple[int, int], ...],
) -> Transition:
    """The transition at a root, if weights are >= 0 and no direction or readout violates its bound."""
    t, a, u, w = state
    problem, sigma_a = root.problem, root.problem.sigma_a
    network, task, tau = root.control.physical(root.values)
    level = float(problem.p @ problem.cumulant.direct(t @ a)[0] - 0.5 * a @ a)
    certificate = _certificate(problem, CodeState(t, a[None], np.ones(1), level), u, w)
    solution = Solution(
        t=t / sigma_a,
        objective=level + linear_part(problem.p, problem.y, problem.tau, t),
        level=level,
        readout=a[None] * sigma_a,
        weight=np.ones(1),
        outlier_direction=u,
        outlier_weight=np.maximum(w, 0.0) * sigma_a**2,
        certificate=certificate,
        tau=tau,
    )
    kappa = u @ t.T
    patterns = tuple("".join("1" if x > 1e-9 * np.abs(kappa).max() else "0" for x in kappa[o]) for o in marginal)
    names = task.class_names
    if kind == "outlier" and pairs:
        patterns = tuple("".join("1" if d == c else "0" for d in range(len(t))) for c, _ in pairs)
    if kind == "cone":
        cones = [f"{names[min(pair)]}+{names[max(pair)]}" for pair in pairs if pair[0] != pair[1]]
        single = [f"outlier of class {names[c]} vanishes" for c, d in pairs if c == d]
        label = ", ".join([*single, "cone of outliers: classes " + ", ".join(cones)])
    elif kind == "driven":
        label = ", ".join(f"class {names[c]} drives outlier {'-'.join(p)}" for (_, c), p in zip(pairs, patterns))
    else:
        named = ["-".join(pattern) for pattern in dict.fromkeys(patterns)]
        label = f"outliers {_listed(named)} vanish" if len(named) > 1 else f"outlier {named[0]} vanishes"
    found = Transition(
        kind=kind,
        parameters=dict(zip(root.control.names, map(float, root.values))),
        codes=patterns,
        label=label,
        crossover=False,
        solution=solution,
        residual=root.residual,
        singular_value=root.singular_value,
        quartic=None,
        network=network,
        task=task,
        tau=tau,
        marginal=marginal,
        pairs=pairs,
    )
    where = f"the {kind!r} root at {found.parameter} = {found.value:.10g} is not a transition"
    if w.min(initial=0.0) < -1e-10:
        raise ConvergenceError(f"{where}: an outlier has negative weight, {w.min():.1e}.", found)
    table = problem.cumulant.table
    _, worst, _ = worst_directions(table, problem.p, t, 2.0, np.empty((1, a.size)), np.empty(1))
    if worst > 1.0 + _HEIGHT:
        raise ConvergenceError(f"{where}: the action is unbounded in another direction, by {worst - 1:.1e}.", found)
    if certificate.kkt_residual > 1e-10 * max(1.0, sigma_a):
        raise ConvergenceError(f"{where}: recomputed, the residual is {certificate.kkt_residual:.1e}.", found)
    if certificate.bound_gap > 2.0 * _HEIGHT * (1.0 + abs(level)):
        raise ConvergenceError(f"{where}: another readout lies above the bulk by {certificate.bound_gap:.1e}.", found)
    if root.singular_value < SINGULAR:
        raise ConvergenceError(f"{where}: it is not isolated (singular Jacobian).", found)
    return found
