"""Codes that condense but for a mode beyond all lattices (relu/THEORY.md, "Remote modes").

At gain 1 the weight along a ray is A + c x - a ln x. Where c > 0 is small the code is a mode of the bulk at some 1e4 or
more standard deviations, and an outlier but for terms of order 1 / x, which are known.
"""

from __future__ import annotations

import math

import numpy as np

from meanfield.theories.deep.relu.average import FINE, ReluRule, slab
from meanfield.theories.deep.relu.distant import ended, first_order, ratio_at_kink
from meanfield.theories.deep.relu.outlier import NO_LENGTH, condensed
from meanfield.theories.deep.relu.setting import BulkDiverges, ReluSetting
from meanfield.theories.deep.relu.system import Lacking, ReluSystem
from meanfield.validation import FloatArray

__all__ = ["condenses", "correction", "remote_mode", "remote_modes"]

_NEAREST = 400.0  # least distance at which the weight along the ray begins to grow
_PLACES = 500.0, 1000.0  # at which it is looked at: A and a are what they are far away to a few per cent
_FARTHEST = 1e30


def condenses(setting: ReluSetting, beta: FloatArray) -> bool:
    """Whether a code of gain 1 is an outlier, or nearly: the weight along its ray falls for a long way."""
    if ended(setting, beta):
        return True
    linear, kink = first_order(setting, beta)
    held = float(setting.n[kink].sum())  # each of these samples makes it fall at least like x^-1/2
    return linear / float(np.linalg.norm(beta)) * _NEAREST < 0.5 * held


def remote_mode(setting: ReluSetting, beta: FloatArray, log_z: float) -> float:
    """Distance of the mode that an outlier is at N = infinity, in standard deviations; infinity where it is one.

    `log_z` is that of the bulk.

    Raises
    ------
    BulkDiverges
        If it is too near for that.
    """
    if ended(setting, beta):
        return math.inf
    length = float(np.linalg.norm(beta))
    unit = beta / length
    linear, kink = first_order(setting, unit)
    if linear == 0.0 and not kink.any():
        raise BulkDiverges("the code of all classes is no outlier, but a mode of the bulk far away.")
    parts = [slab(setting, x * unit, FINE) for x in _PLACES]
    rest = [part.log_z - log_z - linear * x for part, x in zip(parts, _PLACES)]
    power = (rest[0] - rest[1]) / math.log(_PLACES[1] / _PLACES[0])
    start = rest[0] + power * math.log(_PLACES[0])

    def beyond(x: float) -> float:
        """ln of the ratio of what a mode at x has, its width (x / c)^1/2, and what it has to have."""
        return start + 0.5 * linear * x - power * math.log(x) + 0.5 * math.log(x / linear) - 2.0 * math.log(length / x)

    low = max(_PLACES[1], 2.0 * power / linear)
    if beyond(low) > 0.0:
        raise BulkDiverges(f"a code taken as an outlier is a mode at less than {low:.1g} standard deviations.")
    high = 2.0 * low
    while beyond(high) < 0.0 and high < _FARTHEST:
        low, high = high, 2.0 * high
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if beyond(middle) < 0.0 else (low, middle)
    return high


def correction(setting: ReluSetting, beta: FloatArray, distance: float) -> tuple[FloatArray, FloatArray]:
    """(C,) what is to be added to activation and force of an outlier that is a mode at this distance, to first order.

    Of the exponent x^2 Ehat + x c the second term pushes by dc / db and dc / dh; what h follows by is a linear system
    as in `slopes.condensed_change`.
    """
    length = float(np.linalg.norm(beta))
    found, phi = condensed(setting, beta / length), setting.phi
    b, kink = setting.root @ beta / length, first_order(setting, beta / length)[1]
    z = found.h + setting.d * found.force
    r = np.where(z > 0.0, phi.slopes[1], phi.slopes[0])
    narrow = setting.d / (1.0 - setting.delta * r**2 * setting.d)
    pushed, forced = np.zeros(len(z)), np.zeros(len(z))
    for c in range(len(z)):
        if kink[c]:
            ratio = ratio_at_kink(setting, b[c], found.h[c], c)
            place, least = phi.lowest(ratio)
            pushed[c], forced[c] = least + ratio * place, place / setting.d[c]
        elif phi.tabulated:  # (b + delta phi) times what phi is beyond its asymptote
            intercept = phi.numbers[2 if z[c] < 0.0 else 3]
            pushed[c] = intercept * (1.0 + setting.delta[c] * r[c] ** 2 * narrow[c])
            forced[c] = intercept * setting.delta[c] * r[c] * narrow[c] / setting.d[c]
    slope = np.where(kink, -1.0 / setting.d, (narrow / setting.d - 1.0) / setting.d)
    weighted = setting.covariance * setting.n
    h = np.linalg.solve(np.eye(len(z)) - weighted * slope, weighted @ forced)
    activation = pushed + np.where(kink, 0.0, r * narrow / setting.d * h)
    return length / distance * activation, length / distance * (forced + slope * h)


def remote_modes(system: ReluSystem, x: FloatArray, rule: ReluRule) -> tuple[list[str], Lacking]:
    """Outliers that are modes of the bulk beyond all lattices, in words, and what that adds to the images of the order
    parameters, to first order in 1 / distance. d and delta~ lack nothing of that order.

    Raises
    ------
    BulkDiverges
        If one of them is too near for that.
    """
    problem, order, texts = system.problem, system.unpack(x), list[str]()
    lacks = Lacking(problem.nothing(len(system.words)), np.zeros((len(problem.n), len(problem.n))))
    added = lacks.order
    if problem.phi.rectifies:
        return texts, lacks
    for layer in range(problem.depth):
        setting, log_z = system.setting(order, layer), system.layer(order, layer, rule).log_z
        for o, beta in enumerate(order.outliers(layer)):
            length = float(np.linalg.norm(beta))
            distance = remote_mode(setting, beta, log_z) if length > NO_LENGTH else math.inf
            if math.isinf(distance):
                continue
            texts.append(
                f"the outlier {'-'.join(system.words[o])} of layer {layer + 1} is, in networks of more than "
                f"{(distance / length) ** 2:.1g} neurons, several at about {distance:.1g} standard deviations"
            )
            found = condensed(setting, beta)
            activation, force = correction(setting, beta, distance)
            if layer:
                both = np.outer(force, found.force)
                added.tilde[layer - 1] += problem.push[layer - 1] * (both + both.T)
            added.outliers(layer)[o] += (setting.n * activation) @ setting.root
            last = layer == problem.depth - 1
            if last:
                added.t[:] += math.sqrt(problem.readout_variance) * np.outer(activation, beta)
            both, kernel = np.outer(activation, found.activation), lacks.last if last else added.kernel[layer]
            kernel += both + both.T
    return texts, lacks
