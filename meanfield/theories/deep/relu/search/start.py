"""Where Newton starts: one chain of outliers per class, on the bulk of the prior (relu/THEORY.md, "Solving")."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
from scipy.optimize import minimize

from meanfield.theories.deep.relu.coordinates import ReluOrder
from meanfield.theories.deep.relu.outlier import above, classes_on
from meanfield.theories.deep.relu.setting import ReluSetting
from meanfield.theories.deep.relu.system import ReluProblem, ReluSystem
from meanfield.validation import FloatArray

__all__ = ["chain_start", "prior_kernels", "prior_variances", "rescaled"]

_ROUNDS = 6
_CLIMB = 40
_COMMON = (0.0, 0.2, 0.4, 0.6, 0.75, 0.85, 0.92, 0.97, 1.0, 1.05)
_QUIET = 1.5  # by which conjugates of a class without a target grow, in squares, until outliers leave it out
_ROOM = 0.93  # largest gain of a code that is not condensed


def prior_kernels(problem: ReluProblem) -> list[tuple[float, float]]:
    """Kernel between samples, and what the diagonal has beyond, of every layer under the prior."""
    variance, covariance, found = problem.k, 0.0, []
    for scale in (*problem.scales, math.nan):
        off, whole = problem.phi.second_moments(variance, covariance)
        found.append((off, whole - off))
        variance, covariance = scale * whole, scale * off
    return found


def prior_variances(problem: ReluProblem) -> list[float]:
    """Of a preactivation of every layer under the prior."""
    below = prior_kernels(problem)[:-1]
    return [problem.k, *(scale * (off + own) for scale, (off, own) in zip(problem.scales, below))]


def chain_start(problem: ReluProblem, words: tuple[str, ...], condensed_part: float) -> ReluOrder:
    """Order parameters of outliers that carry `condensed_part` of each target, class by class.

    A class of target zero has none: its t makes its outputs vanish, and its conjugates are those of K^{-1} h.
    """
    depth, (n_classes, q) = problem.depth, problem.y.shape
    prior = prior_kernels(problem)
    size = np.linalg.norm(problem.y, axis=1)
    shown = [int(c) for c in np.flatnonzero(size > 0.0)]
    lengths = np.zeros((n_classes, depth))
    for c in shown:
        lengths[c] = _chain(problem, prior, c, condensed_part * size[c])
    kernel = np.array([prior[i][0] + np.diag(lengths[:, i]) for i in range(depth)])
    d = np.array([np.full(n_classes, prior[i][1]) for i in range(depth)])
    s = problem.readout_variance
    t = np.zeros((n_classes, q))
    t[shown] = condensed_part * problem.y[shown] / (s * problem.n[shown] * lengths[shown, -1])[:, None]
    response = s * (kernel[-1] * problem.n + np.diag(d[-1])) + problem.tau * np.eye(n_classes)
    for c in set(range(n_classes)) - set(shown):
        t[c] = -(response[c] @ t) / response[c, c]
    tilde = np.zeros((depth - 1, n_classes, n_classes))
    delta = np.zeros((depth - 1, n_classes))
    lower = np.zeros((depth - 1, len(words), n_classes))
    for layer in range(depth - 1):
        inverse = np.linalg.inv(problem.scales[layer] * kernel[layer])
        for c in shown:
            pull = inverse[:, c] * math.sqrt(lengths[c, layer + 1]) / problem.n
            tilde[layer] += problem.push[layer] * np.outer(pull, pull)
        tilde[layer] *= 1.2  # the bulk pulls, too
        delta[layer] = -1.0 / problem.n_samples
        value, vector = np.linalg.eigh(tilde[layer])
        root = (vector * np.sqrt(np.maximum(value, 0.0))) @ vector.T
        for o, word in enumerate(words):
            lower[layer, o] = root @ _shown(problem, word, lengths[:, layer])
    top = np.array([math.sqrt(s) * t.T @ _shown(problem, word, lengths[:, -1]) for word in words]).reshape(-1, q)
    return _critical(problem, words, ReluOrder(kernel[:-1], d[:-1], tilde, delta, t, lower, top), lengths)


def rescaled(system: ReluSystem, order: ReluOrder, lengths: FloatArray, n: FloatArray) -> ReluOrder:
    """Order parameters of a solution for other sizes n (C,) of the classes, on the way to those of the system: n k~ and
    n t^2 as they were, then scaled until Ehat = 0 on outliers of squared activations `lengths` (C, L)."""
    size = np.sqrt(system.problem.n / n)
    order = replace(order, tilde=order.tilde / np.outer(size, size), t=order.t / size[:, None])
    for layer in range(system.problem.depth):
        order = _scaled(system, order, layer, lengths)
    return order


def _critical(problem: ReluProblem, words: tuple[str, ...], order: ReluOrder, lengths: FloatArray) -> ReluOrder:
    """Conjugates and t scaled class by class until Ehat = 0 on the outliers, which keep their activations."""
    system = ReluSystem(problem, words)
    for layer in range(problem.depth):
        for common in _COMMON:
            found = _scaled(system, _without_common(order, layer, common), layer, lengths)
            setting = system.setting(found, layer)
            if _other_codes(setting, words) <= _ROOM:
                break
        order = found
    return order


def _without_common(order: ReluOrder, layer: int, part: float) -> ReluOrder:
    """Less of what drives all classes alike: the code of all classes must not condense before those of one."""
    n_classes = order.t.shape[0]
    project = np.eye(n_classes) - part / n_classes
    if layer == len(order.kernel):
        return replace(order, t=project @ order.t)
    tilde = order.tilde.copy()
    tilde[layer] = project @ tilde[layer] @ project
    return replace(order, tilde=tilde)


def _other_codes(setting: ReluSetting, words: tuple[str, ...]) -> float:
    """Largest gain of a code that is none of `words`, and 2 where one of them is not stable."""
    worst = 0.0
    for word in itertools.product("01", repeat=len(setting.n)):
        if "1" not in word:
            continue
        _, found = above(setting, word, _CLIMB)
        if not np.isfinite(found.gain):
            return 2.0
        if found.word in words:
            worst = max(worst, 2.0 if found.gain > 1.0 + 1e-6 else 0.0)
        else:
            worst = max(worst, found.gain)
    return worst


def _scaled(system: ReluSystem, order: ReluOrder, layer: int, lengths: FloatArray) -> ReluOrder:
    """Conjugates scaled class by class until the gain of every outlier is 1 and none is active on other classes."""
    outliers = np.array(order.outliers(layer))
    for _ in range(_ROUNDS):
        setting = system.setting(order, layer)
        gains = np.ones(len(setting.n))
        silent = ~np.any([classes_on(word) for word in system.words], axis=0)
        for c in np.flatnonzero(silent):
            own = above(setting, np.where(np.arange(len(silent)) == c, "1", "0"), _CLIMB)[1]
            gains[c] = max(own.gain / _ROOM, 1.0)
        for o, word in enumerate(system.words):
            on = classes_on(word)
            beta, found = above(setting, word, _CLIMB)
            gains[on] *= found.gain
            gains[silent & classes_on(found.word)] /= _QUIET
            size = math.sqrt(float(lengths[on, layer].sum()) / max(float((found.activation**2).sum()), 1e-300))
            outliers[o] = size * beta
        if layer == len(order.kernel):
            order = replace(order, t=order.t / np.sqrt(gains)[:, None], top=outliers)
        else:
            tilde, lower = order.tilde.copy(), order.lower.copy()
            tilde[layer] /= np.sqrt(np.outer(gains, gains))
            lower[layer] = outliers
            order = replace(order, tilde=tilde, lower=lower)
    return order


def _shown(problem: ReluProblem, word: str, lengths: FloatArray) -> FloatArray:
    """n_c times the activation of the outlier of a word."""
    on = classes_on(word)
    return np.asarray(np.where(on, problem.n * np.sqrt(lengths), 0.0))


def _chain(problem: ReluProblem, prior: list[tuple[float, float]], c: int, target: float) -> FloatArray:
    """(L,) squared activations of the cheapest chain of outliers that gives class c its target."""
    n_classes, n, depth = len(problem.n), problem.n[c], problem.depth

    def cost(log_length: FloatArray) -> float:
        length = np.exp(np.clip(log_length, -40.0, 40.0))
        total = problem.ratios[0] * n * length[0] / problem.k + target**2 / (problem.readout_variance * length[-1])
        for layer in range(1, depth):
            base = prior[layer - 1][0]
            own = base + length[layer - 1]
            alone = own if n_classes == 1 else own - (n_classes - 1) * base**2 / (own + (n_classes - 2) * base)
            total += problem.ratios[layer] * length[layer] / (problem.scales[layer - 1] * alone)
        return float(total)

    return np.asarray(np.exp(minimize(cost, np.log(np.full(depth, 0.3)), method="Nelder-Mead").x))
