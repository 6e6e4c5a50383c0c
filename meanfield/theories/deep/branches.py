"""One branch of solutions from its start: the coding branch, or the one that continues the prior.

Codes of the top layer exchange their neurons when t moves by 1/P. Where several kinds of codes are separated, their
shares are therefore held first, then made unknowns of their own, and only the last steps let them follow from ln Z.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from meanfield.theories.deep.layer import COARSE, FINE, Detail, NotCovered, UnstableCode, code_words
from meanfield.theories.deep.newton import Found, newton
from meanfield.theories.deep.start import planted, readout_minimum, relax, uncoded
from meanfield.theories.deep.system import Order, Problem, System
from meanfield.validation import FloatArray

__all__ = ["coding_branch", "frozen_branch", "polish", "prior_branch", "shares_of"]

Report = Callable[[str, int, float], None]

_ROUGH = 1e-4  # residual at the coarse quadrature, below its own error
_LOST = 0.03
_LIGHT = 1e-4  # lighter codes are left to the final, plain steps
_FEWEST = 60.0  # samples per class, below which there is no other start
_SEPARATED = 0.9999


def shares_of(problem: Problem, detail: Detail) -> dict[str, float]:
    """Share of the neurons of every code pattern."""
    words = code_words(problem.phi, detail.activation)
    return {str(w): float(detail.share[words == w].sum()) for w in sorted(set(words), reverse=True)}


def polish(
    problem: Problem, x: FloatArray, tolerance: float, report: Report | None, **options: object
) -> tuple[System, Found]:
    """Newton at the fine quadrature with natural weights of the codes."""
    system = System(problem, FINE)
    return system, newton(system, x, tolerance, progress=report, **options)  # type: ignore[arg-type]


def coding_branch(problem: Problem, tolerance: float, report: Report | None = None) -> tuple[System, Found]:
    """The branch with codes: from the planted start, else from a third of the samples, where the start is better.

    Raises
    ------
    NotCovered
        If the integrals cannot be done on the way.
    """
    try:
        system, found = _from_plant(problem, tolerance, report)
        if found.residual <= tolerance:
            return system, found
    except NotCovered:
        if problem.n_samples < _FEWEST * len(problem.n):
            raise
        found = None
    if problem.n_samples >= _FEWEST * len(problem.n):
        fewer = replace(problem, n=problem.n / 3.0, readout_variance=problem.readout_variance * 3.0**problem.exponent)
        with contextlib.suppress(NotCovered):
            lower, start = coding_branch(fewer, tolerance, report)
            if start.residual <= tolerance:
                again = _continued(problem, lower.unpack(start.x), tolerance, report)
                if found is None or again[1].residual < found.residual:
                    return again
    if found is None:
        raise NotCovered("no start was found from which the quadrature of all layers can be done")
    return system, found


def _continued(problem: Problem, order: Order, tolerance: float, report: Report | None) -> tuple[System, Found]:
    """The same branch at three times the samples of `order`."""
    moved = Order(order.kernel, order.d, order.tilde / 3.0, order.delta, order.t / 3.0 ** (1.0 - problem.exponent))
    system = System(problem, COARSE)
    moved = readout_minimum(system, moved)
    rough = newton(system, system.pack(moved), _ROUGH, step=1e-4, renew=2, progress=report)
    jacobian = rough.jacobian if rough.residual < _LOST else None
    return polish(problem, rough.x, tolerance, report, renew=3, step=1e-6, jacobian=jacobian)


def _from_plant(problem: Problem, tolerance: float, report: Report | None) -> tuple[System, Found]:
    system = System(problem, COARSE)
    order = planted(problem)
    order = readout_minimum(system, order)
    if problem.depth == 1:
        return polish(problem, system.pack(order), tolerance, report, renew=3, step=1e-6)
    shares = shares_of(problem, system.detail(order, problem.depth - 1))
    kinds = _kinds(problem, shares)
    if len(kinds) > 1 and _separated(system, order, kinds):
        found = _by_shares(problem, order, kinds, report)
        if found is not None:
            return polish(problem, found, tolerance, report, renew=3, step=1e-7, most=25)
    rough = newton(system, relax(system, order, critical=True), _ROUGH, step=1e-4, renew=2, progress=report)
    jacobian = rough.jacobian if rough.residual < _LOST else None
    return polish(problem, rough.x, tolerance, report, renew=4, step=1e-6, jacobian=jacobian)


def prior_branch(problem: Problem, report: Report | None = None) -> tuple[System, Found]:
    """The branch without codes, from Gaussian process kernels, at the coarse quadrature."""
    system = System(problem, COARSE)
    order = readout_minimum(system, replace(uncoded(problem), t=planted(problem).t))
    return system, newton(system, relax(system, order), _ROUGH, step=1e-4, renew=2, most=25, progress=report)


def frozen_branch(
    problem: Problem,
    fractions: dict[str, float],
    tolerance: float,
    report: Report | None = None,
    order: Order | None = None,
) -> tuple[System, Found]:
    """The solution with given shares of the codes.

    Raises
    ------
    UnstableCode
        If one of the codes is not locally stable.
    """
    system = System(problem, COARSE, fractions)
    x = relax(system, planted(problem, fractions) if order is None else order, critical=order is None)
    rough = newton(system, x, _ROUGH, step=1e-3, progress=report)
    fine = System(problem, FINE, fractions)
    return fine, newton(fine, rough.x, tolerance, renew=4, step=1e-6, jacobian=rough.jacobian, progress=report)


def _kinds(problem: Problem, shares: dict[str, float]) -> dict[str, float]:
    """Codes that carry weight."""
    kept = {word: share for word, share in shares.items() if share > _LIGHT}
    total = sum(kept.values())
    group = System(problem, COARSE).group
    orbits = group.patterns(list(kept))
    mean = {word: float(np.mean([kept.get(w, 0.0) for w in orbit])) for orbit in orbits for word in orbit}
    if len(orbits) == 1:
        return {orbits[0][0]: 1.0}
    return {word: share / total for word, share in mean.items()}


def _separated(system: System, order: Order, kinds: dict[str, float]) -> bool:
    """Whether the neurons lie below local maxima with these patterns, valleys between them aside."""
    frozen = System(system.problem, system.rule, kinds)
    top = system.problem.depth - 1
    try:
        parts = frozen.averages(order, top)
    except NotCovered:
        return False
    log_z = np.array([part.log_z for part in parts])
    whole = system.averages(order, top)[0].log_z
    return float(frozen.multiplicity @ np.exp(log_z - whole)) > _SEPARATED


def _by_shares(problem: Problem, order: Order, kinds: dict[str, float], report: Report | None) -> FloatArray | None:
    """Coordinates of the branch with shares held, then free; None if that fails."""
    try:
        held = System(problem, COARSE, kinds)
        rough = newton(held, relax(held, order, critical=True), 1e-2, step=1e-3, progress=report)
        free = System(problem, COARSE, kinds, free=True)
        x = free.pack(held.unpack(rough.x))
        found = newton(free, x, _ROUGH, step=1e-4, progress=report)
    except (NotCovered, UnstableCode):
        return None
    return found.x[: free.blocks[-1][2].start] if found.residual < _LOST else None
