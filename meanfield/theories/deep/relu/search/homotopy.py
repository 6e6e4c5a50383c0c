"""The solution followed from a linear network to phi (relu/THEORY.md, "From a linear network").

phi_lambda(z) = (1 - lambda) r z + lambda phi(z), r the steeper slope of phi at infinity: at lambda = 0 all is in closed
form, and nothing condenses.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from meanfield.numerics.limits import check_time
from meanfield.theories.deep.layers.linear import linear_order
from meanfield.theories.deep.relu.average import COARSE, ROUGH
from meanfield.theories.deep.relu.coordinates import ReluOrder
from meanfield.theories.deep.relu.distant import ended
from meanfield.theories.deep.relu.newton import newton
from meanfield.theories.deep.relu.outlier import above
from meanfield.theories.deep.relu.search.remote import condenses
from meanfield.theories.deep.relu.search.retraction import retracted
from meanfield.theories.deep.relu.search.start import prior_kernels
from meanfield.theories.deep.relu.search.walk import BranchLost, Report
from meanfield.theories.deep.relu.setting import BulkDiverges
from meanfield.theories.deep.relu.system import ReluProblem, ReluSystem
from meanfield.validation import BoolArray, FloatArray

__all__ = ["from_linear"]

_FIRST, _STEP, _SHORTEST, _LONGEST = 0.1, 0.1, 2e-3, 0.2  # of lambda
_CLOSE = 1e-5  # residual on the way
_NEWTON = 12
_NEAR = 0.9  # gain from which a code may become an outlier
_FAR = 0.995  # gain from which a mode of the bulk that does not condense may be further away than lattices reach
_BORN = (0.5, 0.2)  # whitened lengths that are tried
_DIFFERENCE = 2e-5  # of lambda: what modes have is exponential in it, and not linear over longer ones
_FARTHEST = 0.05  # a step of Newton in lambda where a code condenses
_ROUNDING = 1e-5  # of the gain of an outlier on the way
_LEAST = 0.01  # of the largest eigenvalue of a conjugate, where it starts
_KEPT = 0.3  # of the smallest eigenvalue of a conjugate, over a step
_SHORT = 0.02  # length below which an outlier has vanished


@dataclass(frozen=True, eq=False)
class _Place:
    system: ReluSystem
    order: ReluOrder
    at: float

    @property
    def x(self) -> FloatArray:
        return self.system.pack(self.order)


def from_linear(problem: ReluProblem, report: Report) -> tuple[ReluSystem, FloatArray]:
    """Equations with the codes that are outliers, and their solution on coarse lattices.

    Raises
    ------
    BranchLost
    """
    n_classes = len(problem.n)
    words = tuple(
        "".join(word) for word in itertools.product("01", repeat=n_classes) if 0 < "".join(word).count("1") < n_classes
    )
    none = np.zeros((problem.depth, len(words)), dtype=bool)
    place = None
    for first in (_FIRST, 0.3 * _FIRST):
        system = ReluSystem(_at(problem, first), words, none)
        place = _solved(system, _linear(system.problem), first, report)
        if place is not None:
            break
    if place is None:
        raise BranchLost("no solution was found beside that of the linear network")
    step = _STEP
    while place.at < 1.0:
        check_time()
        at = min(1.0, place.at + step)
        following = _next(problem, place, at, report)
        if following is None:
            step *= 0.5
            if step < _SHORTEST:
                where = f"the branch from the linear network was lost at {place.at:.3g} of the way to phi"
                raise BranchLost(where + _far_mode(place))
            continue
        place, step = following, min(1.5 * step, _LONGEST)
    return _without(place)


def _far_mode(place: _Place) -> str:
    """In words: a code of the bulk that moves away, if there is one."""
    for layer in range(place.system.problem.depth):
        setting = place.system.setting(place.order, layer)
        for word in place.system.words:
            beta, found = above(setting, word)
            if 1.0 > found.gain > _FAR and not ended(setting, beta):
                return (
                    f": in layer {layer + 1} the code {'-'.join(found.word)} is a mode of the bulk at a distance in "
                    f"proportion to 1 / (1 - gain), and at a gain of {found.gain:.4f} it leaves the lattices"
                )
    return ""


def _at(problem: ReluProblem, part: float) -> ReluProblem:
    return replace(problem, phi=problem.phi.mixed(part))


def _without(place: _Place) -> tuple[ReluSystem, FloatArray]:
    """With the words that are outliers somewhere, or those of single classes where none is."""
    present = place.system.present
    used = np.asarray(present.any(axis=0))
    if not used.any():
        used = np.array([word.count("1") == 1 for word in place.system.words])
    words = tuple(word for word, kept in zip(place.system.words, used) if kept)
    system = ReluSystem(place.system.problem, words, present[:, used])
    order = replace(place.order, lower=place.order.lower[:, used], top=place.order.top[used])
    return system, system.pack(order)


def _linear(problem: ReluProblem) -> ReluOrder:
    """The solution of the linear network, on the prior kernels of phi."""
    slope = problem.phi.slope
    kernel, d, t = linear_order(
        problem.n, problem.y, problem.readout_variance, problem.k, problem.scales, slope, problem.ratios
    )
    prior = prior_kernels(problem)
    order = problem.nothing(2 ** len(problem.n) - 2)
    root = np.sqrt(problem.n)
    both = np.outer(root, root)
    learned = problem.ratios[0] * both * kernel[0] / d[0, 0]  # N_l K~_l K_l is the same in all layers
    for layer in range(problem.depth - 1):
        whole = both * kernel[layer] + np.diag(d[layer])
        tilde = np.linalg.solve(whole, learned) / both / problem.ratios[layer]
        order.tilde[layer] = 0.49 * (tilde + tilde.T)
        # Beside the linear network it is positive in all directions: of a singular one Newton's steps are not.
        order.tilde[layer] += _LEAST * np.linalg.eigvalsh(order.tilde[layer])[-1] * np.eye(len(problem.n))
        order.kernel[layer] = kernel[layer] + prior[layer][0]
        order.d[layer] = prior[layer][1]
    return replace(order, t=t)


def _solved(system: ReluSystem, order: ReluOrder, at: float, report: Report) -> _Place | None:
    """Newton from some order parameters; None where it does not end at a solution with these outliers."""
    try:
        x, size, _ = newton(system, system.pack(order), COARSE, _CLOSE, _NEWTON, report)
    except (BulkDiverges, np.linalg.LinAlgError):
        return None
    if not size <= _CLOSE:
        return None
    order = system.unpack(x)
    return None if _missing(system, order) else _Place(system, order, at)


def _missing(system: ReluSystem, order: ReluOrder) -> bool:
    """Whether a code condenses that is no outlier, or cannot: lattices end before the weight grows along its ray."""
    for layer in range(system.problem.depth):
        setting = system.setting(order, layer)
        if not all(condenses(setting, beta) for beta in order.outliers(layer) if beta.any()):
            return True
        if any(above(setting, word)[1].gain > 1.0 + _ROUNDING for word in (*system.words, "1" * len(setting.n))):
            return True
    return False


def _next(problem: ReluProblem, place: _Place, at: float, report: Report) -> _Place | None:
    """The solution at another lambda."""
    system, x = ReluSystem(_at(problem, at), place.system.words, place.system.present), place.x
    try:
        slope = _slope(problem, place, x)
    except (BulkDiverges, np.linalg.LinAlgError):
        return None

    def path(along: float) -> tuple[ReluSystem, FloatArray]:
        step = along * (at - place.at)
        return ReluSystem(_at(problem, place.at + step), system.words, system.present), x + step * slope

    found = None
    with suppress(BulkDiverges):
        order = system.unpack(retracted(path))
        for tilde, old in zip(order.tilde, place.order.tilde):  # positive, however near to zero in some direction
            value, vector = np.linalg.eigh(tilde)
            tilde[:] = (vector * np.maximum(value, _KEPT * np.linalg.eigvalsh(old)[0])) @ vector.T
        found = _solved(system, order, at, report)
    if found is not None:
        gone = _vanished(found)
        return found if gone is None else _solved(gone, found.order, at, report)
    tried = set()
    for layer, word, beta in _candidates(place):
        if (layer, word) in tried:
            continue
        group = place.system.symmetry.permutations
        orbit = {"".join(word[i] for i in p) for p in group}
        tried |= {(layer, name) for name in orbit}
        present = place.system.present.copy()
        outliers = place.order.outliers(layer)
        units = {}
        for o, name in enumerate(place.system.words):
            if name in orbit:
                present[layer, o] = True
                units[o] = beta if name == word else above(place.system.setting(place.order, layer), name)[0]
        for length in _BORN:
            for o, unit in units.items():
                outliers[o] = length * unit
            found = _born(problem, place, present, next(iter(units)), layer, report)
            if found is not None:
                break
        for o in units:
            outliers[o] = 0.0
        if found is not None:
            return found
    return None


def _slope(problem: ReluProblem, place: _Place, x: FloatArray) -> FloatArray:
    """dx / dlambda along the branch."""

    def system_at(at: float) -> ReluSystem:
        return ReluSystem(_at(problem, at), place.system.words, place.system.present)

    by_x = place.system.jacobian(x, ROUGH, x)
    return np.asarray(np.linalg.solve(by_x, -_by_at(system_at, place.at, x)))


def _by_at(system_at: Callable[[float], ReluSystem], at: float, x: FloatArray) -> FloatArray:
    """Derivative of the residual by lambda."""
    ends = [system_at(at + sign * _DIFFERENCE).residual(x, COARSE) for sign in (1.0, -1.0)]
    return np.asarray((ends[0] - ends[1]) / (2.0 * _DIFFERENCE))


def _born(problem: ReluProblem, place: _Place, present: BoolArray, o: int, layer: int, report: Report) -> _Place | None:
    """The solution with one more code whose outlier o has the length that it has in `place`, whatever lambda it is at.

    At fixed lambda Newton would fall back to no length beside the place where the code condenses.
    """
    words = place.system.words

    def system_at(at: float) -> ReluSystem:
        return ReluSystem(_at(problem, at), words, present)

    system, at = system_at(place.at), place.at
    x = system.pack(place.order)
    only = problem.nothing(len(words))
    only.outliers(layer)[o] = place.order.outliers(layer)[o]
    held = system.pack(only)
    try:
        r = system.residual(x, COARSE)
        size = float(np.linalg.norm(r))
        for _ in range(_NEWTON):
            report(size)
            if size <= _CLOSE:
                order = system.unpack(x)
                fine = not _missing(system, order) and _vanished(_Place(system, order, at)) is None
                return _Place(system, order, at) if fine else None
            by_x = system.jacobian(x, ROUGH, r)
            whole = np.block([[by_x, _by_at(system_at, at, x)[:, None]], [held, np.zeros(1)]])
            step = np.linalg.solve(whole, np.append(-r, 0.0))
            part = min(1.0, _FARTHEST / max(abs(float(step[-1])), 1e-300))
            for _ in range(6):
                following = at + part * float(step[-1])
                if 0.0 < following <= 1.0:
                    try:
                        new = system_at(following)
                        new_r = new.residual(x + part * step[:-1], COARSE)
                        if float(np.linalg.norm(new_r)) < (1.0 - 0.05 * part) * size:
                            break
                    except BulkDiverges:
                        pass
                part *= 0.5
            else:
                return None
            x, at, system, r = x + part * step[:-1], following, new, new_r
            size = float(np.linalg.norm(r))
    except (BulkDiverges, np.linalg.LinAlgError):
        pass
    return None


def _vanished(place: _Place) -> ReluSystem | None:
    """The equations without outliers of no length, where there are any."""
    size = np.array([np.linalg.norm(place.order.outliers(i), axis=1) for i in range(place.system.problem.depth)])
    left = place.system.present & (size >= _SHORT)
    if (left == place.system.present).all():
        return None
    return ReluSystem(place.system.problem, place.system.words, left)


def _candidates(place: _Place) -> list[tuple[int, str, FloatArray]]:
    """Layers and words near to condensing whose neurons are on the kink of some class, the nearest first."""
    found = []
    for layer in range(place.system.problem.depth):
        setting = place.system.setting(place.order, layer)
        known: list[FloatArray] = []
        for o, word in enumerate(place.system.words):
            beta, one = above(setting, word)
            z = one.h + setting.d * one.force
            kink = np.abs(z) <= 1e-9 * np.abs(z).max()
            if place.system.present[layer, o] or one.word != word or not one.gain > _NEAR:
                continue
            if not (kink.any() and condenses(setting, beta)):
                continue
            if any(float(beta @ other) > 1.0 - 1e-6 for other in known):
                continue
            known.append(beta)
            found.append((one.gain, layer, word, beta))
    found.sort(key=lambda one: -one[0])
    return [one[1:] for one in found]
