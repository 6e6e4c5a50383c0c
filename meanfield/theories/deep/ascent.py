"""A way to a solution that does not lose itself: Phi grows with every step (THEORY.md, "Solving").

Given conjugates k~, delta~ of the lower layers, kernels follow from below, K_l = F_l(k~_l; K_{l-1}), and t minimises
Phi. What is left of the equations is k~ = G, the conjugates that the layers above ask for. There

    dPhi = sum_l tr (G_l - K~_l) dK_l / 2,

and dK is a positive form of dK~, so that Phi grows along G - K~, and k~ stays positive on the way there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from meanfield.theories.deep.readout import readout_minimum
from meanfield.theories.deep.rules import Averages, NotCovered
from meanfield.theories.deep.system import Evaluation, Order, System
from meanfield.validation import FloatArray

__all__ = ["ascended"]

_SHORTEST, _SHORTER, _LONGER = 1e-3, 0.4, 1.7
_EXACT = 1e-3  # nats that t may be off


@dataclass(frozen=True, eq=False)
class _State:
    order: Order  # with the kernels and t of its conjugates
    free_energy: float
    tilde: FloatArray  # conjugates asked for from above
    delta: FloatArray


def _state(system: System, order: Order) -> _State:
    """Kernels of the conjugates of `order` from below, t at its minimum, and what is asked for from above."""
    p = system.problem
    kernel, d = order.kernel.copy(), order.d.copy()
    layers: list[Averages] = []
    for layer in range(p.depth - 1):
        layers.append(system.averages(replace(order, kernel=kernel, d=d), layer)[0])
        kernel[layer], d[layer] = layers[-1].kernel, layers[-1].d
    there, top = readout_minimum(system, replace(order, kernel=kernel, d=d), _EXACT, 20)
    found = Evaluation(layers, top)
    above = system.combined(found)[1:]
    tilde = np.array([push * one.tilde for push, one in zip(p.push, above)])
    delta = np.array([push * one.delta for push, one in zip(p.push, above)])
    return _State(there, system.free_energy(system.pack(there), found), tilde, delta)


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
