"""Transitions between phases, one hidden layer, P -> infinity: located by Newton's method on extended systems.

A phase is the set of codes with P_gamma > 0, together with bulk and outliers. Types
(phases/THEORY.md, "Types of transition"):
    "weight"    P_j = 0: codes enter or leave at a distance from the others (one orbit; with two parameters, two orbits)
    "merge"     codes collapse onto one by symmetry (pitchfork): d^2 h has a zero mode there
    "cusp"      two codes of the same symmetry merge, h is quartic: two parameters
    "label"     a_gamma.t_c crosses the midpoint of phi: a crossover, not a transition
    "outlier"   an outlier's weight vanishes (pairs=((c, c),): that of class c, where t is held back by its norms)
    "driven"    a class starts to drive an outlier: t_c.u_o = 0
    "cone"      t_c.t_c' = 0 with vanishing multiplier: isolated outliers become a cone of them
Every root is tested before it is returned; the false ones (a_j = a_i with P_j = 0, y_- = y_+) are refused in words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from meanfield.posterior.certificate import ConvergenceError
from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.problem.problem import Problem
from meanfield.theories.single_layer.solution import Solution
from meanfield.theories.single_layer.theory import is_limit
from meanfield.theories.single_layer.transitions.acceptance import Root, Transition, accept_codes, accept_outliers
from meanfield.theories.single_layer.transitions.control import Control
from meanfield.theories.single_layer.transitions.extended import (
    SINGULAR,
    Active,
    CodeState,
    Condition,
    Cubic,
    ExtendedSystem,
    Linearised,
    Soft,
    Vanishing,
    newton,
)
from meanfield.theories.single_layer.transitions.extended_outliers import ConeSystem, OutlierSystem
from meanfield.validation import FloatArray

__all__ = [
    "KINDS",
    "RESIDUAL",
    "Setup",
    "Transition",
    "locate",
    "make_root",
    "set_up",
    "solve_system",
    "tight_constraints",
]

KINDS = ("weight", "merge", "cusp", "label", "outlier", "driven", "cone")

RESIDUAL = 1e-11
_TIGHT = 1e-8  # constraints on t that are active


class Setup(NamedTuple):
    """An extended system, where to start, and what makes a root of it a transition."""

    system: Linearised
    start: FloatArray
    accept: Callable[[Root, FloatArray], Transition]


def locate(
    kind: str,
    network: Network,
    task: ClassTask,
    tau: float,
    parameter: str | Sequence[str],
    solution: Solution,
    *,
    codes: Sequence[int] = (),
    pairs: Sequence[tuple[int, int]] = (),
    bracket: Sequence[float] | None = None,
) -> Transition:
    """Locate a transition, starting from the solution of a nearby problem on its richer side.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    network, task, tau
        The problem that `solution` solves; its parameter values start the search.
    parameter : str or sequence of str
        Control parameter(s) to adjust: as many as the transition has conditions, see
        `meanfield.theories.single_layer.transitions.extended.Control` for names ("off", "on", "tau", "sigma_a", ...).
    solution : Solution
        Physical units, P -> infinity.
    codes : sequence of int
        Indices of the readouts concerned ("weight": all of the orbits that vanish, or one of each; "merge", "cusp":
        those that become one; "label": one), or of the outliers ("outlier", "driven").
    pairs : sequence of (int, int)
        "label", "driven": ((code or outlier, class),); "cone": the pairs of classes whose multiplier vanishes, (c, c)
        for the multiplier of |t_c|, that is the outlier of class c in a phase with cones.
    bracket : (float, float), optional
        Interval of the first parameter in which the root must lie.

    Raises
    ------
    ValueError
        For an unknown kind or parameter, or indices that do not exist.
    ConvergenceError
        If Newton's method does not converge, or converges to something that is not this transition.
    """
    names = (parameter,) if isinstance(parameter, str) else tuple(parameter)
    setup = set_up(kind, Control(network, task, tau, names), solution, tuple(codes), tuple(pairs))
    found = setup.accept(*solve_system(kind, setup.system, setup.start))
    if bracket is not None and not min(bracket) <= found.value <= max(bracket):
        raise ConvergenceError(
            f"the {kind!r} root {found.parameter} = {found.value:.10g} lies outside the bracket {tuple(bracket)}: it "
            "belongs to another transition; start nearer to the one you want.",
            found,
        )
    return found


def set_up(
    kind: str, control: Control, solution: Solution, codes: tuple[int, ...], pairs: tuple[tuple[int, int], ...]
) -> Setup:
    """The extended system of a transition, started from a solution of the problem at `control.values`."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}.")
    network, task, tau = control.physical(control.values)
    if not is_limit(Problem(network, task, tau)):
        raise ValueError("transitions are those of coding schemes at P = infinity, of a nonlinear phi.")
    if kind in ("outlier", "driven", "cone"):
        return _outlier_setup(kind, control, solution, codes, pairs)
    return _code_setup(kind, control, solution, codes, pairs)


def solve_system(kind: str, system: Linearised, start: FloatArray) -> tuple[Root, FloatArray]:
    """Root of an extended system and the unknowns there."""
    unknowns, residual = newton(system, start)
    if not residual <= RESIDUAL:
        raise ConvergenceError(
            f"Newton's method for the {kind!r} transition along {', '.join(system.control.names)} stopped at residual "
            f"{residual:.1e}; start nearer to the transition, from the side with more codes."
        )
    return make_root(system, unknowns, residual), unknowns


def make_root(system: Linearised, unknowns: FloatArray, residual: float, free: int = 0) -> Root:
    """What is known about the unknowns before they are tested; `free` parameters are left over (1 along a boundary)."""
    control = system.control
    k = len(control.names)
    values = unknowns[unknowns.size - k :]
    _, found, vectors = np.linalg.svd(system.linearised(unknowns)[1])
    spectrum = np.zeros(unknowns.size)
    spectrum[: found.size] = found
    # Weights may be free (complements of odd phi, cones of outliers), as long as this does not free the parameters.
    null = vectors[spectrum <= SINGULAR * spectrum[0]][:, -k:]
    moving = int(np.sum(np.linalg.svd(null, compute_uv=False) > 1e-6)) if len(null) else 0
    smallest = spectrum[spectrum > SINGULAR * spectrum[0]][-1] / spectrum[0]
    return Root(control, values, control.at(values), residual, float(smallest) if moving <= free else 0.0)


# ---- codes -----------------------------------------------------------------------------------------------------------


def _code_setup(
    kind: str, control: Control, solution: Solution, codes: tuple[int, ...], pairs: tuple[tuple[int, int], ...]
) -> Setup:
    state = code_state(solution, control.network.sigma_a)
    if not codes and pairs:
        codes = tuple(code for code, _ in pairs)
    if not codes or not all(0 <= j < len(state.weight) for j in codes):
        raise ValueError(f"codes must be indices of the {len(state.weight)} readouts of the solution, got {codes}.")
    conditions: tuple[Condition, ...]
    if kind == "weight":
        conditions = tuple(Vanishing(j) for j in codes)
    elif kind == "label":
        if control.network.activation.midpoint is None or not pairs:
            raise ValueError("a label crossover needs pairs=((code, class),) and an activation with a bounded range.")
        conditions = tuple(Active(j, c) for j, c in pairs)
    else:
        state, j = _merged(state, codes)
        codes = (j,)
        conditions = (Soft(j),) if kind == "merge" else (Soft(j), Cubic(j))

    def accept(root: Root, unknowns: FloatArray) -> Transition:
        return accept_codes(kind, root, state.with_unknowns(unknowns[: state.x.size]), codes, pairs)

    return Setup(ExtendedSystem(control, state, conditions), np.append(state.x, control.values), accept)


def code_state(solution: Solution, sigma_a: float) -> CodeState:
    """Unknowns of the extended systems, in units sigma_a = 1."""
    if solution.outlier_weight.size or solution.gaussian_covariance is not None:
        raise ValueError("this kind of transition concerns codes; the solution has outliers or is Gaussian.")
    return CodeState(solution.t * sigma_a, solution.readout / sigma_a, solution.weight, solution.level)


def _merged(state: CodeState, codes: tuple[int, ...]) -> tuple[CodeState, int]:
    """The codes replaced by one, at their weighted mean; it is the last one. One code is taken as it is."""
    if len(codes) == 1:
        return state, codes[0]
    chosen = np.isin(np.arange(len(state.weight)), codes)
    weight = state.weight[chosen]
    readout = weight @ state.a[chosen] / weight.sum()
    a = np.vstack([state.a[~chosen], readout])
    return CodeState(state.t, a, np.append(state.weight[~chosen], weight.sum()), state.level), len(a) - 1


# ---- outliers --------------------------------------------------------------------------------------------------------


def _outlier_setup(
    kind: str, control: Control, solution: Solution, outliers: tuple[int, ...], pairs: tuple[tuple[int, int], ...]
) -> Setup:
    sigma_a = control.network.sigma_a
    if control.network.activation.parts != "outliers" or len(solution.weight) != 1:
        raise ValueError(f"{kind!r} transitions need an unbounded activation with one bulk.")
    t, a = solution.t * sigma_a, solution.readout[0] / sigma_a
    if kind == "cone" or (kind == "outlier" and pairs and not outliers):
        return _cone_setup(control, t, a, pairs)
    u, w = solution.outlier_direction, solution.outlier_weight / sigma_a**2
    concerned = outliers or tuple(o for o, _ in pairs)
    if not concerned or not all(0 <= o < len(w) for o in concerned):
        raise ValueError(f"codes must be indices of the {len(w)} outliers of the solution, got {concerned}.")
    driven = np.where(u @ t.T > 0, 1.0, -1.0)
    for o, c in pairs:
        driven[o, c] = 0.0
    system = OutlierSystem(control, driven, outliers if kind == "outlier" else (), pairs if kind == "driven" else ())

    def accept(root: Root, unknowns: FloatArray) -> Transition:
        return accept_outliers(kind, root, system.unpack(unknowns)[:4], concerned, pairs)

    return Setup(system, system.pack(t, a, u, w), accept)


def tight_constraints(
    t: FloatArray, p: FloatArray, growth: float, tolerance: float = _TIGHT
) -> set[tuple[int, int]] | None:
    """Active ones among k p_c |t_c|^2 <= 1, as (c, c), and t_c.t_d <= 0, as (c, d), c > d; None where one is violated.

    An angle is active only between two active norms. sigma_a = 1; `growth` is that of G for kappa -> +inf.
    """
    scaled = t * np.sqrt(growth * p)[:, None]
    slack = np.tril(scaled @ scaled.T - np.eye(len(t)))
    if slack.max() > tolerance:
        return None
    tight = np.abs(np.diag(slack)) < tolerance
    active = np.tril(np.outer(tight, tight)) & (slack > -tolerance)
    return {(int(c), int(d)) for c, d in np.argwhere(active)}


def _cone_setup(control: Control, t: FloatArray, a: FloatArray, pairs: tuple[tuple[int, int], ...]) -> Setup:
    problem = control.at(control.values)
    table = problem.cumulant.table
    touching = tuple((max(pair), min(pair)) for pair in pairs)
    tight = tight_constraints(t, problem.p, table.growth_plus)
    if not touching or tight is None:
        raise ValueError("cones need pairs=((class, class), ...) and order parameters with t_c.t_c' <= 0.")
    active = tuple(sorted(tight - set(touching)))
    every = len(t) * (len(t) + 1) // 2
    if table.growth_minus > 0 and len(set(active) | set(touching)) < every:
        raise ValueError("with growth on both sides only a full cone (all t_c orthogonal) is described by its angles.")
    system = ConeSystem(control, active, touching)

    def accept(root: Root, unknowns: FloatArray) -> Transition:
        t, a, multipliers, _ = system.unpack(unknowns)
        if multipliers.min(initial=0.0) < -1e-10:
            raise ConvergenceError(f"the 'cone' root at {root.values} has a negative multiplier: not a transition.")
        u, w = _cone_outliers(system, t, multipliers, root.problem.p)
        kind = "outlier" if all(c == d for c, d in pairs) else "cone"
        return accept_outliers(kind, root, (t, a, u, w), (), pairs)

    return Setup(system, system.pack(t, a), accept)


def _cone_outliers(
    cone: ConeSystem, t: FloatArray, multipliers: FloatArray, p: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Outliers with the determined M_cc' = sum_o zbar_oc zbar_oc': one per class, and one between each pair of a cone.

    The decomposition is one of many; along t_c + t_c' it adds mu_cc' to M, and takes the rest from the norms.
    """
    unit = t / np.linalg.norm(t, axis=1)[:, None]
    directions = {(c, c): unit[c] for c, d in cone.active if c == d}
    weights = {pair: mu / p[pair[0]] for pair, mu in zip(cone.active, multipliers) if pair[0] == pair[1]}
    for (c, d), mu in zip(cone.active, multipliers):
        if c != d:
            # u = (e_c + e_d)/sqrt(2), e = t/|t|, weight w: the output of class c gains w [t_c.u] u.
            w = 2.0 * mu / np.sqrt(p[c] * p[d])
            directions[c, d] = (unit[c] + unit[d]) / np.sqrt(2.0)
            weights[c, d] = w
            for own in ((c, c), (d, d)):
                weights[own] = weights.get(own, 0.0) - 0.5 * w
    order = list(directions)
    return np.array([directions[pair] for pair in order]).reshape(-1, t.shape[1]), np.array([weights[q] for q in order])
