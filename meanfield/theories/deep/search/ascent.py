"""A way to a solution that does not lose itself: Phi grows with every step (THEORY.md, "Solving").

Given conjugates k~, delta~ of the lower layers, kernels follow from below, K_l = F_l(k~_l; K_{l-1}), and t minimises
Phi. What is left of the equations is k~ = G, the conjugates that the layers above ask for. There

    dPhi = sum_l tr (G_l - K~_l) dK_l / 2,

and dK is a positive form of dK~, so that Phi grows along G - K~, and k~ stays positive on the way there.

With second derivatives the way is shorter. With conjugates and t at their values for given kernels Phi has the second
derivatives H_KK - A by these, A = H_Kw H_ww^-1 H_wK, w the conjugates and t. Along the eigenvectors of that in units of
A the step is that of Newton's method where it leads up, and that of dK~ = G - K~ (curvature 1 in these units) where Phi
is convex, shorter where it is more so than that: there the whole step leads too far.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from meanfield.theories.deep.layers.rules import Averages, NotCovered
from meanfield.theories.deep.layers.work import OutOfWork, counted
from meanfield.theories.deep.newton import raised
from meanfield.theories.deep.readout import readout_minimum
from meanfield.theories.deep.system import Evaluation, Order, System
from meanfield.validation import FloatArray

__all__ = ["ascended", "climbed_up"]

_SHORTEST, _SHORTER, _LONGER = 1e-3, 0.4, 1.7
_EXACT = 1e-3  # nats that t may be off
_CAP, _TRIALS = 0.5, 8  # largest change of a block in one step of second order, and how many lengths are tried
_FLATTEST, _SINGULAR = 0.05, 1e-13  # curvature in units of A that counts at least; eigenvalues that are rounding
_SAME = 1e-6  # nats that Phi may fall
_DEAR, _LITTLE = 8.0, 3e8  # times the work so far, or that, up to which a step is tried


@dataclass(frozen=True, eq=False)
class _State:
    order: Order  # with the kernels and t of its conjugates
    free_energy: float
    tilde: FloatArray  # conjugates asked for from above
    delta: FloatArray
    averages: Evaluation


def _state(system: System, order: Order, curvature: bool = False) -> _State:
    """Kernels of the conjugates of `order` from below, t at its minimum, and what is asked for from above."""
    p = system.problem
    kernel, d = order.kernel.copy(), order.d.copy()
    layers: list[Averages] = []
    for layer in range(p.depth - 1):
        layers.append(system.averages(replace(order, kernel=kernel, d=d), layer, curvature=curvature)[0])
        kernel[layer], d[layer] = layers[-1].kernel, layers[-1].d
    there, top = readout_minimum(system, replace(order, kernel=kernel, d=d), _EXACT, 20, None, curvature)
    found = Evaluation(layers, top)
    above = system.combined(found)[1:]
    tilde = np.array([push * one.tilde for push, one in zip(p.push, above)])
    delta = np.array([push * one.delta for push, one in zip(p.push, above)])
    return _State(there, system.free_energy(system.pack(there), found), tilde, delta, found)


def ascended(
    system: System,
    order: Order,
    tolerance: float,
    most: int = 40,
    progress: Callable[[str, int, float], None] | None = None,
) -> FloatArray:
    """Coordinates from which no conjugate is asked to change by more than `tolerance` of the largest of its layer, or
    where `most` steps lead."""
    now, length = _state(system, order), 0.5
    for count in range(1, most + 1):
        change, extra = now.tilde - now.order.tilde, now.delta - now.order.delta
        error = float((np.abs(change).max(axis=(1, 2)) / np.abs(now.tilde).max(axis=(1, 2))).max())
        if progress is not None:
            progress("ascent", count, error)
        if error < tolerance:
            break
        while True:
            moved = replace(now.order, tilde=now.order.tilde + length * change, delta=now.order.delta + length * extra)
            try:
                there = _state(system, moved)
            except (NotCovered, np.linalg.LinAlgError):
                there = None
            if there is not None and there.free_energy > now.free_energy:
                break
            length *= _SHORTER
            if length < _SHORTEST:
                return system.pack(now.order)
        now, length = there, min(1.0, _LONGER * length)
    return system.pack(now.order)


def climbed_up(
    system: System,
    order: Order,
    tolerance: float,
    most: int = 40,
    progress: Callable[[str, int, float], None] | None = None,
) -> FloatArray:
    """The same with second derivatives: coordinates whose residual is below `tolerance`, or where `most` steps lead.

    Raises
    ------
    NotCovered
        If the integrals cannot be done at the start.
    """
    with counted() as usual:
        now = _state(system, order, True)
    most_work, cap = max(usual.done, _LITTLE), _CAP
    for count in range(1, most + 1):
        x = system.pack(now.order)
        error = float(np.abs(system.residual(x, now.averages)).max())
        if progress is not None:
            progress("climb", count, error)
        if error < tolerance:
            break
        move = _upwards(system, x, now.averages)
        length, there = min(1.0, cap / max(float(np.abs(move).max()), 1e-300)), None
        for trial in range(_TRIALS):
            moved = system.unpack(x + length * move * system.scales(x))
            try:
                with counted(_DEAR * most_work) as work:
                    there = _state(system, replace(moved, tilde=raised(moved.tilde)), True)
            except (NotCovered, OutOfWork, np.linalg.LinAlgError):
                there = None
            else:
                most_work = max(most_work, work.done)
                if there.free_energy > now.free_energy - _SAME:
                    cap = min(2.0 * _CAP, _LONGER * cap) if trial == 0 else cap
                    break
                there = None
            length *= _SHORTER
            cap = max(_SHORTER * cap, 1e-3)
        if there is None:
            break
        now = there
    return system.pack(now.order)


def _upwards(system: System, x: FloatArray, averages: Evaluation) -> FloatArray:
    """The step of second order, in units of the blocks: kernels up Phi, conjugates and t as they follow."""
    scale = system.scales(x)
    hessian = system.hessian(averages) * np.outer(scale, scale)
    slope = system.gradient(x, averages) * scale
    kernels = np.zeros(len(x), dtype=bool)
    for name, _, at in system.blocks:
        kernels[at] = name in ("kernel", "d")
    inner, mixed = hessian[np.ix_(~kernels, ~kernels)], hessian[np.ix_(~kernels, kernels)]
    size = np.sqrt(np.maximum(np.abs(np.diag(inner)), 1e-300))
    values, vectors = np.linalg.eigh(inner / np.outer(size, size))
    values = np.maximum(values, _SINGULAR * values[-1])
    follows = vectors @ ((vectors.T @ (mixed / size[:, None])) / values[:, None])
    form = (mixed / size[:, None]).T @ follows  # A
    unit = np.sqrt(np.maximum(np.diag(form), 1e-300))
    values, vectors = np.linalg.eigh(form / np.outer(unit, unit))
    root = vectors / np.sqrt(np.maximum(values, _SINGULAR * values[-1])) / unit[:, None]
    curvature, turned = np.linalg.eigh(np.eye(len(unit)) - root.T @ hessian[np.ix_(kernels, kernels)] @ root)
    along = root @ turned
    bent = np.where(curvature > 0.0, np.maximum(curvature, _FLATTEST), np.maximum(1.0, -curvature))
    step = (slope[kernels] @ along) / bent
    move = np.empty(len(x))
    move[kernels] = along @ step
    move[~kernels] = -(follows @ move[kernels]) / size
    return move
