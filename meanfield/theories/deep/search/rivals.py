"""Other solutions of the saddle equations, looked for from many starts: other code sets, other kernels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from meanfield.theories.deep.certificate import Branch
from meanfield.theories.deep.layers.rules import CHECK, COARSE, NotCovered
from meanfield.theories.deep.newton import Found, newton
from meanfield.theories.deep.prior import prior_kernels
from meanfield.theories.deep.readout import readout_minimum
from meanfield.theories.deep.search.branches import NoBranch, polish
from meanfield.theories.deep.search.fold import Fold, uncoded_at
from meanfield.theories.deep.search.start import planted, relax, uncoded
from meanfield.theories.deep.system import DeepProblem, Order, System
from meanfield.validation import FloatArray

__all__ = ["Start", "other_solutions", "rival_starts", "solution_from"]

_SAME = 1e-6  # relative difference of Phi, and of the order parameters in units of their blocks, of one solution
_ROUGH, _FINE = 1e-4, 1e-8
Start = Order | Callable[[], tuple[System, Found] | None]

_MOST, _PATIENCE = 25, 6
_MOST_WORDS = 4  # classes, up to which all code sets of one or two orbits are planted


def other_solutions(problem: DeepProblem, starts: int, rng: np.random.Generator) -> list[tuple[Branch, FloatArray]]:
    """Solutions found from the branch without codes, from planted code sets, and from `starts` random kernels.

    With their order parameters, sorted by Phi, largest first. The residual of each is that of an independent
    quadrature.
    """
    found: list[tuple[Branch, FloatArray]] = []
    for name, start in rival_starts(problem, starts, rng):
        reached = solution_from(problem, start)
        if reached is None:
            continue
        system, end, residual = reached
        phi = system.free_energy(end.x, end.averages)
        if not any(_same(phi, end.x, branch, x, system) for branch, x in found):
            found.append((Branch(name, phi, residual), end.x))
    return sorted(found, key=lambda one: -one[0].free_energy)


def solution_from(problem: DeepProblem, start: Start) -> tuple[System, Found, float] | None:
    """The solution that a start leads to, with its residual by an independent quadrature; None if to none."""
    try:
        reached = _from(problem, start) if isinstance(start, Order) else start()
        if reached is None or reached[1].residual > _ROUGH:
            return None
        fine, end = polish(*reached, _FINE, None, 8)
        if end.residual > _FINE:
            return None
        check = fine.at_rule(CHECK)
        residual = float(np.abs(check.residual(end.x, check.evaluate(end.x))).max())
    except (NoBranch, NotCovered, np.linalg.LinAlgError):
        return None
    return (fine, end, residual) if residual <= _ROUGH else None


def _same(phi: float, x: FloatArray, branch: Branch, other: FloatArray, system: System) -> bool:
    if abs(phi - branch.free_energy) > _SAME * max(1.0, abs(phi)):
        return False
    return bool(np.abs((x - other) / system.scales(x)).max() < 1e3 * _SAME)


def _from(problem: DeepProblem, order: Order) -> tuple[System, Found]:
    """Newton from these kernels, t being at its minimum there."""
    system = System(problem, COARSE)
    order = readout_minimum(system, order)[0]
    return system, newton(system, relax(system, order), _ROUGH, most=_MOST, patience=_PATIENCE)


def rival_starts(problem: DeepProblem, starts: int, rng: np.random.Generator) -> Iterator[tuple[str, Start]]:
    """The branch without codes, planted codes and code sets, and so many random kernels, by name."""

    def without() -> tuple[System, Found] | None:
        reached = uncoded_at(problem)
        return None if isinstance(reached, Fold) else reached

    yield "uncoded", without
    yield "coding", planted(problem)
    n_classes = len(problem.n)
    if n_classes <= _MOST_WORDS:
        words = ["".join(word) for word in itertools.product("01", repeat=n_classes)]
        orbits = System(problem, COARSE).group.patterns(words)
        for k in (1, 2):
            for chosen in itertools.combinations(orbits, k):
                members = [word for orbit in chosen for word in orbit]
                if len({word for word in members if len(set(word)) > 1}) == 0:
                    continue  # no class differs from another
                yield (
                    "codes " + ", ".join(orbit[0] for orbit in chosen),
                    planted(problem, {word: 1.0 / len(members) for word in members}),
                )
    for _ in range(starts):
        yield "random kernels", _random(problem, rng)


def _random(problem: DeepProblem, rng: np.random.Generator) -> Order:
    """Kernels whose common part and part that tells classes apart have random sizes."""
    common, own, _ = prior_kernels(problem)
    n_classes = len(problem.n)
    order = uncoded(problem)
    kernel, d = order.kernel.copy(), order.d.copy()
    for layer in range(problem.depth - 1):
        factor = rng.standard_normal((n_classes, n_classes))
        apart = factor @ factor.T
        apart *= own[layer] * 10.0 ** rng.uniform(-3.0, -0.1) / np.diag(apart).max()
        level = common[layer] * rng.uniform(0.9, 2.2)
        kernel[layer] = level + apart
        d[layer] = np.maximum(own[layer] - 0.7 * np.diag(apart), 0.2 * own[layer])
    scale = math.exp(rng.uniform(-1.0, 1.0))
    return replace(order, kernel=kernel, d=d, t=scale * order.t)
