"""Damped Newton on the saddle equations, with the exact Hessian of Phi."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from meanfield.theories.deep.layers.layer import Layer
from meanfield.theories.deep.layers.rules import COARSE, NotCovered
from meanfield.theories.deep.layers.work import OutOfWork, counted
from meanfield.theories.deep.readout import readout_minimum
from meanfield.theories.deep.system import Evaluation, System
from meanfield.validation import FloatArray

__all__ = ["Found", "admissible", "chord", "direction", "newton", "raised", "without_symmetry"]

_APART, _MORE = 1e-4, 3.0  # residual of the coarse rule that is left, and times that with the symmetry
_CAP = 0.3  # largest change of a block in one step, of its size
_PATIENCE = 12
_RISE = 1.2  # of the norm of the residual that a step may cause
_NEAR = 0.05  # residual from which t needs no minimisation of its own
_SETTLED = 1e-2  # nats of Phi that t may be off
# Shares of a step that are tried; then, as kernels of nearly rank one may be negative at all of them, with these raised
_RAISED = 5  # how many of the first kind there are
_LENGTHS = (*((0.4**k, False) for k in range(_RAISED)), *((0.4**k, True) for k in range(3)))
_DEAR, _LITTLE = 8.0, 3e8  # times the work so far, or that, up to which a step is tried
_LEAST = 1e-5  # eigenvalues that had become negative, in units of the largest
_CHORDS, _CLOSE, _HELPS = 4, 1e-3, 0.05  # steps with a given matrix, from where on, and what each has to gain
_SLOW, _LINEAR = 0.15, 1e-2  # part of a residual that whole steps leave, from which on they are linear, and where


@dataclass(frozen=True, eq=False)
class Found:
    """Where Newton ended: x, largest residual in units of the blocks, averages there, steps.

    The averages have no curvature where the start was good enough for the matrix of another quadrature.
    """

    x: FloatArray
    residual: float
    averages: Evaluation
    steps: int


def newton(
    system: System,
    x: FloatArray,
    tolerance: float,
    *,
    most: int = 40,
    patience: int = _PATIENCE,
    hopeless: float = math.inf,
    progress: Callable[[str, int, float], None] | None = None,
    known: Evaluation | None = None,
) -> Found:
    """Solve the equations from x, in at most `most` steps of which `patience` in a row bring no progress.

    A step is shortened so that no block changes by more than 30 % of its size, and d stays positive; after a much
    shorter one whole steps are not tried at once, and none whose integrals take much more work than those before.
    Starts of a residual of `hopeless` and more are left as they are.
    Lattices around peaks leave errors in second derivatives that slow it down along soft directions: where whole steps
    gain little the matrix is made to agree with the last of them.
    Weights of codes follow t exponentially; far from the solution t is therefore minimised over after every step, a
    convex problem. `known`: the averages at x, which are used if they come with curvature.
    """
    with counted() as usual:
        curved = known is not None and known.top[0].curvature is not None
        averages = known if known is not None and curved else system.evaluate(x, curvature=True)
    most_work = 0.0 if curved else max(usual.done, _LITTLE)  # of one evaluation, once it is known
    residual = system.residual(x, averages)
    error = float(np.abs(residual).max())
    best = Found(x, error, averages, 0)
    worse = count = first = short = 0
    most = most if error < hopeless else 0
    last: tuple[FloatArray, FloatArray] | None = None  # a whole step that gained little, and the gradient before it
    while error > tolerance and count < most and worse <= patience and np.isfinite(error):
        count += 1
        matrix, slope = system.hessian(averages), system.gradient(x, averages)
        if last is not None:
            matrix = _agreeing(system, matrix, x, last[0], slope - last[1])
        move = direction(system, x, averages, matrix)
        length = min(1.0, _CAP / max(float(np.abs(move).max()), 1e-300))
        scale = system.scales(x)
        reached = None
        for share, raised in _LENGTHS[first:]:
            if raised and reached is not None:
                break
            candidate = x + share * length * move * scale
            if raised:
                candidate = _positive(system, candidate)
            if admissible(system, candidate):
                try:
                    with counted(_DEAR * most_work or math.inf) as work:
                        trial = system.evaluate(candidate, curvature=True)
                        there = system.residual(candidate, trial)
                        if float(np.abs(there).max()) > _NEAR and system.problem.depth > 1:
                            candidate, trial = _settled(system, candidate, trial)
                            there = system.residual(candidate, trial)
                except (NotCovered, OutOfWork, np.linalg.LinAlgError):
                    pass
                else:
                    most_work = max(most_work, work.done, _LITTLE)
                    size = float(np.linalg.norm(there))
                    if reached is None or size < reached[3]:
                        reached, short = (candidate, trial, there, size), _LENGTHS.index((share, raised))
                    if size < _RISE * float(np.linalg.norm(residual)):
                        break
        if reached is None:
            break
        step = reached[0] - x
        x, averages, residual, _ = reached
        first = short - 1 if 1 < short < _RAISED else 0
        slow = short == 0 and length == 1.0 and float(np.abs(residual).max()) > _SLOW * error
        last = (step, slope) if slow and error < _LINEAR else None
        error = float(np.abs(residual).max())
        worse = worse + 1 if error >= best.residual else 0
        if progress is not None:
            progress("newton", count, error)
        if error < best.residual:
            best = Found(x, error, averages, count)
    return Found(best.x, best.residual, best.averages, count)


def _agreeing(system: System, matrix: FloatArray, x: FloatArray, step: FloatArray, change: FloatArray) -> FloatArray:
    """The symmetric matrix nearest to a given one, in units of the blocks, that takes a step to the change of the
    gradient along it (Powell's symmetric update)."""
    scale = system.scales(x)
    scaled, move = matrix * np.outer(scale, scale), step / scale
    square = float(move @ move)
    missing = change * scale - scaled @ move
    cross = np.outer(missing, move) / square
    scaled = scaled + cross + cross.T - float(missing @ move) / square**2 * np.outer(move, move)
    return np.asarray(scaled / np.outer(scale, scale))


def chord(
    system: System,
    x: FloatArray,
    matrix: FloatArray,
    tolerance: float,
    progress: Callable[[str, int, float], None] | None = None,
) -> Found:
    """Steps with one and the same matrix of second derivatives, that of a close solution, as long as they help.

    For starts that are nearly solutions. Their own averages come without curvature (but around peaks, where it costs
    little and these may be no more than starts of Newton's method); where a step leads to, which is the
    solution most times, they are with it, which the second-order check needs.
    """
    averages = system.evaluate(x, curvature=system.around_peaks)
    best = Found(x, float(np.abs(system.residual(x, averages)).max()), averages, 0)
    for count in range(1, _CHORDS + 1):
        if not tolerance < best.residual < _CLOSE:
            break
        x = best.x + direction(system, best.x, best.averages, matrix) * system.scales(best.x)
        if not admissible(system, x):
            break
        averages = system.evaluate(x, curvature=True)
        error = float(np.abs(system.residual(x, averages)).max())
        if progress is not None:
            progress("chord", count, error)
        helps = error < _HELPS * best.residual
        if error < best.residual:
            best = Found(x, error, averages, count)
        if not helps:
            break
    return best


def direction(system: System, x: FloatArray, averages: Evaluation, matrix: FloatArray) -> FloatArray:
    """Newton's step in units of the blocks; directions that Phi does not depend on are left alone."""
    scale = system.scales(x)
    hessian = matrix * np.outer(scale, scale)
    gradient = system.gradient(x, averages) * scale
    size = np.sqrt(np.maximum(np.abs(np.diag(hessian)), 1e-300))
    return -np.linalg.lstsq(hessian / np.outer(size, size), gradient / size, rcond=1e-14)[0] / size


def _settled(system: System, x: FloatArray, averages: Evaluation) -> tuple[FloatArray, Evaluation]:
    """x with t at the minimum of Phi for the other unknowns."""
    order, top = readout_minimum(system, system.unpack(x), _SETTLED, 12, averages.top, True)
    return system.pack(order), Evaluation(averages.lower, top)


def _positive(system: System, x: FloatArray) -> FloatArray:
    """x with the negative eigenvalues of kernels and conjugates small and positive."""
    order = system.unpack(x)
    return system.pack(replace(order, kernel=raised(order.kernel), tilde=raised(order.tilde)))


def raised(matrices: FloatArray) -> FloatArray:
    """Matrices (k, C, C) with their negative eigenvalues small and positive."""
    values, vectors = np.linalg.eigh(matrices)
    least = _LEAST * np.maximum(values[:, -1:], 0.0)
    return np.asarray((vectors * np.maximum(values, least)[:, None, :]) @ vectors.transpose(0, 2, 1))


def admissible(system: System, x: FloatArray) -> bool:
    """Whether d is positive, and kernels and conjugates nearly so."""
    order = system.unpack(x)
    if not (order.d > 0.0).all():
        return False
    for matrix in (*order.kernel, *order.tilde):
        values = np.linalg.eigvalsh(matrix)
        if values[0] < -1e-3 * values[-1] or values[-1] <= 0.0:
            return False
    return True


def without_symmetry(system: System, x: FloatArray) -> float:
    """Residual of the equations with every class apart and all nodes of the lattices, by the coarse rule; 0 if that is
    what this rule leaves with the symmetry of the task, too.

    Lattices, coordinates and outputs of a solve are those of its symmetry, and of the certificate's rule as well: were
    it wrong, the equations would hold as far as they are looked at.
    """
    if system.codes or not isinstance(system.layers[-1], Layer) or len(system.group.permuted()) < 2:
        return 0.0
    order, left = system.unpack(x), list[float]()
    try:
        for distinct in (True, False):
            coarse = System(system.problem, COARSE, distinct=distinct)
            at = coarse.pack(order)
            left.append(float(np.abs(coarse.residual(at, coarse.evaluate(at))).max()))
            if left[0] < _APART:
                return 0.0
    except NotCovered:
        return 0.0
    return left[0] if left[0] > _MORE * left[1] else 0.0
