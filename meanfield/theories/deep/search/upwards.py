"""The branch with codes of many samples from that of few, where everything is soft and planted starts lead to it.

Order parameters are extrapolated from the last solutions and corrected by Newton's method; how far a step goes depends
on how many corrections the last one took. They follow powers of P, so that logarithms are polynomials in ln P: of what
tells classes apart in a kernel, of d, delta~ and t, and of the matrices k~. The first layer comes close to an
instability, as 1 - n k~ d falls like a power, too: there it is the covariance of its fields b, (k~^-1 - n d)^-1, which
times d^2 is the kernel of a linear layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from meanfield.theories.deep.layers.rules import COARSE, NotCovered
from meanfield.theories.deep.layers.work import OutOfWork, counted
from meanfield.theories.deep.newton import Found, admissible, newton
from meanfield.theories.deep.prior import prior_kernels
from meanfield.theories.deep.readout import readout_minimum
from meanfield.theories.deep.search.start import planted, relax
from meanfield.theories.deep.system import DeepProblem, Order, System
from meanfield.validation import FloatArray

__all__ = ["from_few", "with_samples"]

Report = Callable[[str, int, float], None]

_FEW = (15.0, 50.0, 150.0, 500.0)  # samples per class that are tried, from the fewest
_LEARNED = 0.7  # of the prior's d of the last layer: what neurons that have no codes keep
_ALL_CODED = 1e4  # samples, from which on no class is without codes
_FIRST, _LONGEST, _SHORTEST = math.log(2.0), math.log(3.0), 0.05  # steps in ln P
_LONGER, _SHORTER, _EASY = 1.6, 0.5, 4  # after so many corrections at most
_CORRECTIONS, _PATIENCE = 8, 2
_POINTS = 3  # solutions that are extrapolated from
_ONE_STEP, _TWO_LAYERS = 1e10, 2e10  # multiplications in a step, and on all ways of two layers
_LEAST = 1e-9  # eigenvalues, in units of the largest, that count


def with_samples(problem: DeepProblem, factor: float) -> DeepProblem:
    """The same task with so many times the samples."""
    variance = problem.readout_variance / factor**problem.exponent
    return replace(problem, n=problem.n * factor, readout_variance=variance)


def from_few(problem: DeepProblem, rough: float, report: Report | None = None) -> tuple[System, Found]:
    """The branch with codes at the coarse quadrature, to a residual of `rough`, followed upwards in P.

    Raises
    ------
    NotCovered
        If it is found at none of a few small P, or lost on the way; the text says where.
    """
    error = NotCovered("the branch with codes was not found at few samples")
    with counted(_TWO_LAYERS if problem.depth == 2 else math.inf):
        for samples in _FEW:
            if samples * len(problem.n) > 0.7 * problem.n_samples:
                break
            try:
                return _followed(problem, samples * len(problem.n), rough, report)
            except NotCovered as reason:
                error = reason
            except (OutOfWork, np.linalg.LinAlgError):
                continue
    raise error


def _followed(problem: DeepProblem, samples: float, rough: float, report: Report | None) -> tuple[System, Found]:
    """The same from so many samples."""
    goal, size = math.log(problem.n_samples), math.log(samples)
    few = with_samples(problem, samples / problem.n_samples)
    with counted(_ONE_STEP):
        system = System(few, COARSE)
        order = readout_minimum(system, planted(few))[0]
        found = newton(system, relax(system, order, critical=True), rough, progress=report)
    if not (found.residual <= rough and _kept(system, found).mean() < _LEARNED):
        raise NotCovered(f"the branch with codes was not found at {samples:.3g} samples")
    known, step = [(size, system.unpack(found.x))], _FIRST
    while size < goal:
        end = min(size + step, goal)
        factor = math.exp(end - goal) if end < goal else 1.0
        system = System(with_samples(problem, factor), COARSE)
        reached = False
        try:
            order = _extrapolated(known[-_POINTS:], end, problem.n / problem.n_samples)
            if not admissible(system, system.pack(order)):
                raise NotCovered("extrapolated too far")
            with counted(_ONE_STEP):
                start = system.pack(readout_minimum(system, order)[0])
                found = newton(system, start, rough, most=_CORRECTIONS, patience=_PATIENCE, progress=report)
            reached = found.residual <= rough
        except (NotCovered, OutOfWork, np.linalg.LinAlgError):
            reached = False
        if reached:
            size = end
            known.append((size, system.unpack(found.x)))
            step = min(_LONGEST, step * (_LONGER if found.steps <= _EASY else 1.0))
        else:
            step = _SHORTER * (end - size)
            if step < _SHORTEST:
                there = system.problem.n_samples
                raise NotCovered(f"the branch with codes was lost at {there:.4g} samples, followed upwards")
    kept = _kept(system, found)
    if problem.n_samples > _ALL_CODED and kept.max() > _LEARNED:
        without = int(np.argmax(kept)) + 1
        raise NotCovered(f"class {without} has no codes on the branch that was followed from {samples:.3g} samples")
    return system, found


def _kept(system: System, found: Found) -> FloatArray:
    """d of the last layer, in units of the prior's, of the classes (C,) that can have codes: 0 of odd phi and y = 0."""
    problem = system.problem
    d = system.combined(found.averages)[-1].d / prior_kernels(problem)[1][-1]
    free = problem.phi.parity == "odd" and (problem.y == 0.0).all(axis=1)
    return np.where(free, 0.0, d)


def _extrapolated(known: list[tuple[float, Order]], end: float, shares: FloatArray) -> Order:
    """The order parameters at ln P = `end` from those at others; shares (C,) of the classes."""
    sizes, orders = [size for size, _ in known], [order for _, order in known]
    weights = [math.prod((end - b) / (a - b) for b in sizes if b != a) for a in sizes]
    if len(known) == 1:  # P k~ stays
        orders = [replace(one, tilde=one.tilde * math.exp(size - end)) for size, one in known]
        sizes = [end]
    common = np.array([one.kernel.mean(axis=(1, 2), keepdims=True) for one in orders])
    apart = np.array([one.kernel for one in orders]) - common
    d = _powers(np.array([one.d for one in orders]), weights)
    tilde = [np.array([one.tilde[layer] for one in orders]) for layer in range(len(d))]
    stiffness = [math.exp(size) * shares * one.d[0] for size, one in zip(sizes, orders)]
    fields = np.array([_freed(one, stiff) for one, stiff in zip(tilde[0], stiffness)])
    if np.isfinite(fields).all():
        first = _freed(_positive_powers(fields, weights), -math.exp(end) * shares * d[0])
    else:
        first = _positive_powers(tilde[0], weights)
    return Order(
        np.tensordot(weights, common, 1) + _powers(apart, weights),
        d,
        np.array([first, *(_positive_powers(one, weights) for one in tilde[1:])]),
        _powers(np.array([one.delta for one in orders]), weights),
        _powers(np.array([one.t for one in orders]), weights),
    )


def _freed(matrix: FloatArray, stiffness: FloatArray) -> FloatArray:
    """(M^-1 - diag(stiffness))^-1 of a positive M (C, C); not finite where that is not positive."""
    root = np.sqrt(np.abs(stiffness))
    values, vectors = np.linalg.eigh(matrix * np.outer(root, root))
    left = 1.0 - math.copysign(1.0, stiffness[0]) * values
    if left.min() <= 0.0:
        return np.full_like(matrix, math.inf)
    return np.asarray((vectors * (values / left)) @ vectors.T / np.outer(root, root))


def _powers(values: FloatArray, weights: list[float]) -> FloatArray:
    """What is extrapolated from values (k, ...): by the logarithms of those that keep their sign."""
    sign = np.sign(values[-1])
    with np.errstate(divide="ignore", invalid="ignore"):
        found = sign * np.exp(np.tensordot(weights, np.log(values * sign), 1))
    return np.where(np.isfinite(found), found, np.tensordot(weights, values, 1))


def _positive_powers(matrices: FloatArray, weights: list[float]) -> FloatArray:
    """The same by the logarithms of positive matrices (k, C, C); what is negative by rounding counts as small."""
    total = np.zeros_like(matrices[0])
    for weight, matrix in zip(weights, matrices):
        values, vectors = np.linalg.eigh(matrix)
        total += weight * (vectors * np.log(np.maximum(values, _LEAST * values[-1]))) @ vectors.T
    values, vectors = np.linalg.eigh(total)
    return np.asarray((vectors * np.exp(values)) @ vectors.T)
