"""The saddle where samples are many, from which Newton starts (relu/THEORY.md, "Many samples").

There the bulk of the first layer has one value of its conjugate field b on every class, which tilts all of its neurons
alike, and what tilts do not give is given by the outliers of all words that cost least.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.optimize import minimize
from scipy.special import ndtri

from meanfield.theories.deep.relu.average import ROUGH
from meanfield.theories.deep.relu.compiled.site import N_SLOPES, site_slopes
from meanfield.theories.deep.relu.coordinates import ReluOrder
from meanfield.theories.deep.relu.newton import newton
from meanfield.theories.deep.relu.outlier import above, classes_on, condensed
from meanfield.theories.deep.relu.search.bare import BareSystem, every_word
from meanfield.theories.deep.relu.search.walk import BranchLost, Point, Report, Walk, with_outliers
from meanfield.theories.deep.relu.setting import BulkDiverges, ReluSetting
from meanfield.theories.deep.relu.system import ReluProblem, ReluSystem
from meanfield.validation import BoolArray, FloatArray

__all__ = ["MINIMA_IN_WORDS", "ManySamples", "from_many_samples", "from_matched_moments", "many_sample_starts"]

_STARTS = 3
MINIMA_IN_WORDS = (
    f"begun at the minima that the action of many samples has from {_STARTS} random sets of outliers; solutions near "
    "to none of them were not looked for"
)
_CORRECTIONS, _CHANGES = 25, 4  # of Newton, and of the set of outliers
_BORN = (2.0, 0.2)  # squared lengths from which Newton starts with a code that condenses
_CERTAIN = 2e-5  # gain beyond 1 of a code that condenses, on rough lattices
_SAME = 1e-4  # of the action: two minima that are one
_OFF = 2e-3  # of the activation on the class of the largest one: what is none
_LEAST = 1e-3  # of the largest activation of a layer: an outlier
_SHORT = 0.05  # whitened length below which an outlier is none
_ROUNDING = 1e-12
_AT_KINK = 1e-9  # of the largest z
_MATCHES, _MATCHED = 12, 0.02  # of second moments, each with one average; relative difference that is none
_MOST_GAIN, _BELOW = 0.9995, 0.98  # of what is averaged, and what a larger one is reduced to
_NEWTON, _ENDED = 30, 1e-4  # steps, and the residual on rough lattices
_FLAT = 1e-4  # of the largest eigenvalue of a conjugate: what the others have at least


@dataclass(frozen=True, eq=False)
class _Parts:
    """The action at some tilts and activations, with its derivatives.

    Attributes
    ----------
    total : float
        -Phi, without what is of order 1.
    by_tilt, by_activation : (C,) and (L, o, C) arrays
    kernel, d, by_kernel, by_d : lists of L arrays
        Of all layers, and the derivatives by them of what is above.
    t : (C, q) array
    """

    total: float
    by_tilt: FloatArray
    by_activation: FloatArray
    kernel: list[FloatArray]
    d: list[FloatArray]
    by_kernel: list[FloatArray]
    by_d: list[FloatArray]
    t: FloatArray


class ManySamples:
    """-Phi of a problem of max(z, 0) to leading order in the number of samples, and its minima.

        r_1 sum_c n_c (b_c m_c - g(b_c)) + y^T (s Kbar_L + (s d_L + tau) / n)^{-1} y / 2
        + sum_o [r_1 n.phi^2 / 2k + sum_l r_l z^T (sigma_l^2 (Kbar_{l-1} + d_{l-1} / n))^{-1} z / 2],

    r_l = N_l / N, with m = g'(b) and d_1 = g''(b) of the first layer's bulk, Kbar_1 = m m^T + sum_o phi phi^T, and
    above it Kbar_l that of Gaussian preactivations and its outliers; phi = max(z, 0), and z <= 0 on classes that a word
    leaves out is where it costs least.
    """

    def __init__(self, problem: ReluProblem, words: tuple[str, ...]) -> None:
        self.problem, self.words = problem, words
        self.on = np.array([classes_on(word) for word in words]).reshape(len(words), len(problem.n))

    @cached_property
    def _free(self) -> BoolArray:
        return np.broadcast_to(self.on, (self.problem.depth, *self.on.shape))

    def parts(self, tilt: FloatArray, activation: FloatArray) -> _Parts:
        """The action at tilts (C,) and activations (L, o, C) of the outliers, zero off their words."""
        p, depth, s = self.problem, self.problem.depth, self.problem.readout_variance
        g, mean, d, third = _tilted(tilt, p)
        kernel = np.outer(mean, mean) + activation[0].T @ activation[0]
        r = p.ratios
        total = r[0] * float(p.n @ (tilt * mean - g) + 0.5 * (activation[0] ** 2 @ p.n).sum() / p.k)
        kernels, ds, bulks, forces = [kernel], [d], [], []
        for layer in range(1, depth):
            inverse = np.linalg.inv(p.into(layer) * (kernel + np.diag(d / p.n)))
            pairs = [_preactivation(z, on, inverse) for z, on in zip(activation[layer], self.on)]
            force = np.array([pair[1] for pair in pairs]).reshape(activation[layer].shape)
            total += 0.5 * r[layer] * float(sum(z @ pull for z, pull in pairs))
            bulk = _prior(p.into(layer) * kernel, p.into(layer) * d)
            kernel, d = bulk.between + activation[layer].T @ activation[layer], bulk.beyond
            bulks.append(bulk)
            forces.append(force)
            kernels.append(kernel)
            ds.append(d)
        pull = np.linalg.solve(s * kernel + np.diag((s * d + p.tau) / p.n), p.y)  # n t
        total += 0.5 * float((p.y * pull).sum())
        by_kernel = -0.5 * s * pull @ pull.T
        by_d = np.diag(by_kernel) / p.n
        by_activation = np.zeros_like(activation)
        by_kernels, by_ds = [by_kernel], [by_d]
        for layer in range(depth - 1, 0, -1):
            bulk, force = bulks[layer - 1], forces[layer - 1]
            by_activation[layer] = 2.0 * activation[layer] @ by_kernel + r[layer] * force
            seen = by_kernel - np.diag(by_d)
            by_variance = 2.0 * (seen * bulk.by_variance).sum(axis=1) + 0.5 * by_d
            of_force = -0.5 * r[layer] * force.T @ force
            by_kernel = p.into(layer) * (seen * bulk.by_covariance + np.diag(by_variance) + of_force)
            by_d = p.into(layer) * (by_variance + np.diag(of_force) / p.n)
            by_kernels.insert(0, by_kernel)
            by_ds.insert(0, by_d)
        by_activation[0] = 2.0 * activation[0] @ by_kernel + r[0] * p.n * activation[0] / p.k
        by_tilt = 2.0 * (by_kernel @ mean) * ds[0] + by_d * third + r[0] * p.n * tilt * ds[0]
        found = np.where(self._free, by_activation, 0.0)
        return _Parts(total, by_tilt, found, kernels, ds, by_kernels, by_ds, pull / p.n[:, None])

    def minimum(self, rng: np.random.Generator) -> tuple[float, FloatArray, FloatArray]:
        """The action, tilts and activations of a minimum, from random activations on."""
        p, free = self.problem, self._free
        n_classes = len(p.n)

        def at(x: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
            root = np.zeros(free.shape)
            root[free] = x[n_classes:]
            return x[:n_classes], root, root**2

        def value(x: FloatArray) -> tuple[float, FloatArray]:
            tilt, root, activation = at(x)
            found = self.parts(tilt, activation)
            return found.total, np.append(found.by_tilt, (2.0 * root * found.by_activation)[free])

        start = np.append(np.zeros(n_classes), rng.uniform(0.3, 1.0, int(free.sum())))
        options = {"maxiter": 3000, "maxfun": 10**5, "ftol": 1e-11, "gtol": 1e-7, "maxcor": 30}
        found = minimize(value, start, jac=True, method="L-BFGS-B", options=options)
        tilt, _, activation = at(found.x)
        return float(found.fun), tilt, activation

    def order(self, tilt: FloatArray, activation: FloatArray) -> ReluOrder:
        """Order parameters at a minimum."""
        p, n = self.problem, self.problem.n
        found, n_lower = self.parts(tilt, activation), self.problem.depth - 1
        order = replace(p.nothing(len(self.words)), t=found.t)
        for layer in range(n_lower):
            order.kernel[layer], order.d[layer] = found.kernel[layer], found.d[layer]
            by_kernel, by_d = found.by_kernel[layer] / p.ratios[layer], found.by_d[layer] / p.ratios[layer]
            tilde = -2.0 * by_kernel / np.outer(n, n)
            np.fill_diagonal(tilde, 2.0 * (by_d - np.diag(by_kernel)) / (n * n - n))
            value, vector = np.linalg.eigh(tilde)
            value = np.maximum(value, _FLAT * value[-1])
            order.tilde[layer] = (vector * value) @ vector.T
            order.delta[layer] = -2.0 * by_d / n - np.diag(tilde)
            order.lower[layer] = (n * activation[layer]) @ ((vector * np.sqrt(value)) @ vector.T)
        order.top[:] = math.sqrt(p.readout_variance) * (n * activation[-1]) @ found.t
        return order


def from_many_samples(problem: ReluProblem, report: Report) -> list[tuple[BareSystem, FloatArray]]:
    """Solutions on rough lattices beside the minima that were found, the smallest action first.

    Raises
    ------
    BranchLost
        If there is none.
    """
    found = []
    for system, x in many_sample_starts(problem):
        settled = _settled(system, x, report)
        if settled is not None:
            found.append((settled.system, settled.x))
    if not found:
        raise BranchLost("Newton did not end at a solution beside it")
    return found


def _settled(system: BareSystem, x: FloatArray, report: Report) -> Point | None:
    """The solution near to x, with the outliers that it turns out to have."""
    problem = system.problem
    way = Walk(lambda mu: replace(problem, y=math.exp(mu) * problem.y), 0.0, report, lambda mu: "the targets")
    point = way.corrected(system, x, 0.0, None, None, _CORRECTIONS)
    for _ in range(_CHANGES):
        if point is None:
            return None
        left, near = way.without(point), way.nearest(point)
        if left is not None:
            system = BareSystem(problem, system.words, left.present)
            point = way.corrected(system, system.pack(left.order), 0.0, None, None, _CORRECTIONS)
        elif near is not None and near[0] > 1.0 + _CERTAIN:
            more = _with_code(point, near[1], near[2])
            born = None
            for square in _BORN:
                start = with_outliers(point.order, near[1], more[1], math.sqrt(square))
                born = way.corrected(more[0], more[0].pack(start), 0.0, None, None, _CORRECTIONS)
                if born is not None:
                    break
            if born is None:
                return point  # the certificate says that a code is missing
            point = born
        else:
            return point
    return point


def _with_code(point: Point, layer: int, o: int) -> tuple[BareSystem, dict[int, FloatArray]]:
    """Equations with one more code, and those of its orbit, as outliers; and their directions."""
    system = point.system
    orbit = {system.words.index("".join(system.words[o][i] for i in p)) for p in system.full.symmetry.permutations}
    present = system.present.copy()
    present[layer, list(orbit)] = True
    setting = system.full.setting(point.order, layer)
    units = {word: above(setting, system.words[word])[0] for word in orbit}
    return BareSystem(system.problem, system.words, present), units


def many_sample_starts(problem: ReluProblem) -> list[tuple[BareSystem, FloatArray]]:
    """Equations with the outliers of each minimum that was found, and where Newton starts; the smallest action first.

    Raises
    ------
    BulkDiverges
        If the bulk of none of them can be averaged.
    """
    starts, lost = [], None
    for words, order in _minima(problem):
        try:
            full, start, present = _given_room(problem, words, order)
        except BulkDiverges as error:
            lost = error
            continue
        system = BareSystem(problem, full.words, present)
        starts.append((system, system.pack(start)))
    if lost is not None and not starts:
        raise lost
    return starts


def from_matched_moments(problem: ReluProblem, report: Report) -> list[tuple[ReluSystem, FloatArray]]:
    """Solutions on rough lattices with kernels among the unknowns, from bulks of the second moments of the minima.

    Raises
    ------
    BranchLost
        If there is none.
    BulkDiverges
    """
    found = []
    for words, order in _minima(problem):
        full, start, present = _given_room(problem, words, order)
        bare = BareSystem(problem, full.words, present)
        system, x = bare.with_kernels(_matched(full, start, present, order))
        x, size, _ = newton(system, x, ROUGH, _ENDED, _NEWTON, report)
        if size <= _ENDED:
            found.append((system, x))
    if not found:
        raise BranchLost("Newton did not end at a solution beside it")
    return found


def _minima(problem: ReluProblem) -> list[tuple[tuple[str, ...], ReluOrder]]:
    """Words and order parameters of each minimum that was found, the smallest action first."""
    n_classes, rng = len(problem.n), np.random.default_rng(5)
    common = "1" * n_classes
    every = ManySamples(problem, (*every_word(n_classes), common))
    found: list[tuple[float, FloatArray, FloatArray]] = []
    for action, tilt, activation in sorted((every.minimum(rng) for _ in range(_STARTS)), key=lambda one: one[0]):
        if all(abs(action - other[0]) > _SAME * abs(action) for other in found):
            found.append((action, tilt, activation))
    minima = []
    for _, tilt, activation in found:
        merged = [_by_word(layer) for layer in activation]
        words = tuple(word for word in every.words if any(word in layer for layer in merged))
        shown = np.zeros((problem.depth, len(words), n_classes))
        for layer, by_word in enumerate(merged):
            for word, value in by_word.items():
                shown[layer, words.index(word)] = value
        minima.append((words, ManySamples(problem, words).order(tilt, shown)))
    return minima


def _given_room(
    problem: ReluProblem, words: tuple[str, ...], order: ReluOrder
) -> tuple[ReluSystem, ReluOrder, BoolArray]:
    """The outliers for which there is no room in the bulk; the others are given to it."""
    n_classes, depth = len(problem.n), problem.depth
    names = every_word(n_classes)
    full = BareSystem(problem, names, np.zeros((depth, len(names)), dtype=bool)).full
    present = np.zeros((depth, len(names)), dtype=bool)
    start = replace(
        order, kernel=order.kernel.copy(), d=order.d.copy(), tilde=order.tilde.copy(), delta=order.delta.copy(),
        lower=np.zeros((depth - 1, len(names), n_classes)), top=np.zeros((len(names), problem.y.shape[1])),
    )  # fmt: skip
    for layer in range(depth):
        setting, given = full.setting(start, layer), np.zeros((order.outliers(layer).shape[1],) * 2)
        for word, beta in zip(words, order.outliers(layer)):
            size = float(np.linalg.norm(beta))
            if word in names and size > max(_SHORT, math.sqrt(_room(setting, beta / max(size, 1e-300)))):
                o = names.index(word)
                present[layer, o], start.outliers(layer)[o] = True, beta
            else:
                given += np.outer(beta, beta)
        value, vector = np.linalg.eigh(given)  # the bulk has variance 1 / (1 - gain)
        value = np.maximum(value, 0.0)
        part = np.where(value > _SHORT**2, np.sqrt(value / (1.0 + value)), 1.0)
        part /= math.sqrt(max(above(setting, word)[1].gain for word in (*names, "1" * n_classes)))
        turned = (vector * part) @ vector.T
        if layer == depth - 1:
            start = replace(start, t=start.t @ turned)
            break
        start.tilde[layer] = setting.root @ turned @ turned @ setting.root.T
        found = full.layer(start, layer, ROUGH)
        start.kernel[layer], start.d[layer] = found.b_b, found.bb
    _ask_delta(full, start)
    return full, start, present


def _ask_delta(full: ReluSystem, start: ReluOrder) -> None:
    """Fills in the delta~ that the layers above ask for, from the last one down."""
    for layer in range(full.problem.depth - 1, 0, -1):
        start.delta[layer - 1] = full.problem.push[layer - 1] * full.layer(start, layer, ROUGH).hh


def _matched(full: ReluSystem, start: ReluOrder, present: BoolArray, order: ReluOrder) -> ReluOrder:
    """The start with bulks that have the second moments of a minimum, where nothing condenses above the first layer.

    With A = n Kbar n + n d of a layer, <beta beta^T> = 1 + R^T A R (by parts); in the last layer t^T n (y - tau t) is
    what the targets want of R^T A R. A Gaussian bulk has (1 - R^T H R)^-1: R -> R W with W = W^T and
    W (1 - <beta beta^T>^-1) W the same of the wanted moments would be exact.
    """
    problem, depth = full.problem, full.problem.depth
    n, words = problem.n, (*full.words, "1" * len(problem.n))

    def curvature(kernel: FloatArray, d: FloatArray) -> FloatArray:
        return kernel * np.outer(n, n) + np.diag(n * d)

    def turned(layer: int, w: FloatArray) -> ReluOrder:
        root = full.setting(start, layer).root @ w
        if layer == depth - 1:
            return replace(start, t=start.t @ w)
        tilde = start.tilde.copy()
        tilde[layer] = root @ root.T
        return replace(start, tilde=tilde)

    for layer in range(1, depth):
        top = layer == depth - 1
        trial, nearest, way, part = start, math.inf, np.eye(full.setting(start, layer).root.shape[1]), 1.0
        for _ in range(0 if present[layer].any() else _MATCHES):
            setting = full.setting(trial, layer)
            gain, root = max(above(setting, word)[1].gain for word in words), setting.root
            apart = math.inf
            if gain < _MOST_GAIN:
                found = full.layer(trial, layer, ROUGH)
                here = root.T @ curvature(found.b_b, found.bb) @ root
                wanted = (
                    trial.t.T @ (n[:, None] * (problem.y - problem.tau * trial.t))
                    if top
                    else root.T @ curvature(order.kernel[layer], order.d[layer]) @ root
                )
                apart = _apart(here, wanted)
            if apart < nearest:
                start, nearest, way, part = trial, apart, _between(here, wanted), min(1.0, 2.0 * part)
                if apart < _MATCHED:
                    break
            elif math.isinf(nearest):  # begun beyond gain 1
                start, way = trial, math.sqrt(_BELOW / gain) * np.eye(len(way))
            else:
                part *= 0.5
            trial = turned(layer, way if part == 1.0 else _power(way, part))
        if not top:
            found = full.layer(start, layer, ROUGH)
            start.kernel[layer], start.d[layer] = found.b_b, found.bb
    _ask_delta(full, start)
    return start


def _between(here: FloatArray, wanted: FloatArray) -> FloatArray:
    """Symmetric W with W m(here) W = m(wanted), m(a) = 1 - (1 + a)^-1."""
    root = _mapped(here, lambda value: np.sqrt(value / (1.0 + value)))
    inverse = _mapped(here, lambda value: np.sqrt((1.0 + value) / value))
    square = root @ _mapped(wanted, lambda value: value / (1.0 + value)) @ root
    return inverse @ _mapped(square, np.sqrt) @ inverse


def _apart(here: FloatArray, wanted: FloatArray) -> float:
    """How far two second moments are apart: the largest ln of their ratio along a direction."""
    inverse = _mapped(wanted, lambda value: 1.0 / np.sqrt(value))
    return float(np.abs(np.log(np.maximum(np.linalg.eigvalsh(inverse @ here @ inverse), _ROUNDING))).max())


def _power(a: FloatArray, exponent: float) -> FloatArray:
    """Power of a symmetric positive matrix."""
    return _mapped(a, lambda value: np.asarray(value**exponent))


def _mapped(a: FloatArray, function: Callable[[FloatArray], FloatArray]) -> FloatArray:
    """Function of a symmetric positive matrix."""
    value, vector = np.linalg.eigh(0.5 * (a + a.T))
    return np.asarray((vector * function(np.maximum(value, _ROUNDING))) @ vector.T)


def _by_word(activation: FloatArray) -> dict[str, FloatArray]:
    """Outliers (o, C) of a layer under the words that they have, those of one word as one."""
    squares: dict[str, FloatArray] = {}
    for one in activation:
        if one.max() > _LEAST * activation.max():
            kept = np.where(one > _OFF * one.max(), one, 0.0)
            word = "".join("1" if value > 0.0 else "0" for value in kept)
            squares[word] = squares.get(word, 0.0) + kept**2
    return {word: np.sqrt(square) for word, square in squares.items()}


def _room(setting: ReluSetting, beta: FloatArray) -> float:
    """Largest second moment that the bulk has along the ray of unit beta before neurons condense there.

    At gain 1 the weight is exp(-c x). A sample on the kink adds |b| sqrt(d) N(x; 0, 1) to c, where N(x) is the mass
    that pushes with h / (d |b|): the minimum of |b| (<max(z, 0)> - rho h) over h. In the first layer it is 2^-n.
    """
    if not setting.has_fields:
        return 0.0
    found, b = condensed(setting, beta), setting.root @ beta
    z = found.h + setting.d * found.force
    slope = 0.0
    for c in np.flatnonzero(np.abs(z) <= _AT_KINK * np.abs(z).max()):
        ratio = min(max(-found.h[c] / (setting.d[c] * b[c]) if b[c] != 0.0 else 0.0, 0.0), 1.0)
        at = float(ndtri(ratio))
        slope += (
            setting.n[c] * abs(b[c]) * math.sqrt(setting.d[c]) * math.exp(-0.5 * at * at) / math.sqrt(2.0 * math.pi)
        )
    if slope < _ROUNDING:
        return math.inf
    density = 1.0 / math.sqrt(2.0 * math.pi)
    return 2.0 * density / slope**3 / (0.5 + density / slope)


def _tilted(tilt: FloatArray, problem: ReluProblem) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """g(b), and its first three derivatives, of single neurons of the first layer."""
    out = np.zeros((len(tilt), N_SLOPES))
    for b, row in zip(tilt, out):
        site_slopes(float(b), 0.0, problem.k, 0.0, problem.phi.numbers, row)
    return out[:, 0], out[:, 1], out[:, 2], out[:, 6]


def _preactivation(z: FloatArray, on: BoolArray, inverse: FloatArray) -> tuple[FloatArray, FloatArray]:
    """z of an outlier, that of classes off its word being where z^T inverse z is least with z <= 0; and inverse z."""
    off = np.flatnonzero(~on)
    found = np.where(on, z, 0.0)
    if not found.any():
        return found, np.zeros_like(found)
    for held in range(2 ** len(off)):
        below = off[[not held >> i & 1 for i in range(len(off))]]
        rest = np.setdiff1d(np.arange(len(z)), below)
        found[off] = 0.0
        if len(below):
            found[below] = -np.linalg.solve(inverse[np.ix_(below, below)], inverse[np.ix_(below, rest)] @ found[rest])
        force = inverse @ found
        if (found[below] <= 0.0).all() and (force[np.setdiff1d(off, below)] <= _ROUNDING).all():
            break
    return found, force


@dataclass(frozen=True, eq=False)
class _Prior:
    """<phi phi> of two samples of Gaussian preactivations, (C, C), what <phi^2> has beyond, and derivatives of the
    former by the covariance and by the variance of the first of both samples."""

    between: FloatArray
    beyond: FloatArray
    by_covariance: FloatArray
    by_variance: FloatArray


def _prior(covariance: FloatArray, d: FloatArray) -> _Prior:
    variance = np.diag(covariance) + d
    size = np.sqrt(variance)
    cosine = np.clip(covariance / np.outer(size, size), -1.0, 1.0)
    sine, angle = np.sqrt(1.0 - cosine**2), np.pi - np.arccos(cosine)
    between = np.outer(size, size) * (sine + cosine * angle) / (2.0 * np.pi)
    by_variance = sine * np.outer(1.0 / size, size) / (4.0 * np.pi)
    return _Prior(between, 0.5 * variance - np.diag(between), angle / (2.0 * np.pi), by_variance)
