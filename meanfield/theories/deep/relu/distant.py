"""Where neurons of the bulk may be far from the origin (relu/THEORY.md, "Far modes")."""

from __future__ import annotations

import itertools
import math

import numpy as np

from meanfield.theories.deep.relu.outlier import climbed, condensed
from meanfield.theories.deep.relu.setting import ReluSetting
from meanfield.validation import BoolArray, FloatArray

__all__ = ["distant", "ended", "first_order", "ratio_at_kink"]

_NEAREST, _RATIO = 3.0, 1.12  # of the places along a ray
_SAME = 0.999  # cosine of the angle between directions that are one
_CONDENSED = 1.0 - 1e-7  # gain from which the weight along a ray has no end of its own
_STEPS = 60
_AT_KINK = 1e-9  # of the largest z
_NO_SLOPE = 1e-9  # of the pull on all samples


def distant(setting: ReluSetting, outliers: FloatArray, cut: float) -> tuple[FloatArray, FloatArray] | None:
    """Whitened conjugate fields (k, q) and class fields (k, C) along rays on which the bulk may have a mode of its own.

    Between that and the origin the weight may be below exp(-cut). For a rectifier there is none: None.
    """
    if setting.phi.slopes[0] == 0.0 and not setting.phi.tabulated:
        return None
    q = setting.root.shape[1]
    known = [beta / np.linalg.norm(beta) for beta in outliers if np.linalg.norm(beta) > 0.0]
    fields, own = [np.zeros((0, q))], [np.zeros((0, len(setting.n)))]
    patterns = np.array(list(itertools.product((1.0, -1.0), repeat=len(setting.n))))
    driven = np.linalg.lstsq(setting.root, patterns.T, rcond=1e-6)[0].T  # fields of these signs
    for start in np.vstack([(setting.n * patterns) @ setting.root, driven]):
        if not np.linalg.norm(start) > 0.0:
            continue
        beta, found, _ = climbed(setting, start, _STEPS)
        if not found.gain < _CONDENSED or any(float(beta @ other) > _SAME for other in known):
            continue
        known.append(beta)
        # Between its asymptotes phi adds at most this much times the distance to the exponent.
        own_bend = float(setting.n @ np.abs(setting.root @ beta)) * setting.phi.bend
        linear, lost = max(first_order(setting, beta)[0], 0.0), 1.0 - found.gain
        end = min(
            (own_bend + math.sqrt(own_bend**2 + 2.0 * cut * lost)) / lost,
            # Beyond first order samples add what they do within a standard deviation.
            (linear + math.sqrt(linear**2 + 2.0 * (cut + setting.n.sum()) * lost)) / lost,
        )
        at = _NEAREST * _RATIO ** np.arange(max(0, math.ceil(math.log(end / _NEAREST) / math.log(_RATIO))))
        fields.append(at[:, None] * beta)
        own.append(at[:, None] * found.h)
    return np.vstack(fields), np.vstack(own)


def ended(setting: ReluSetting, beta: FloatArray) -> bool:
    """Whether the weight along the ray of an outlier, at gain 1, has an integral: ln of it is c x + O(ln x).

    Where c = 0 samples on the kink, or beside a phi that vanishes, make it fall.
    """
    if setting.phi.rectifies and not setting.phi.tabulated:
        return True
    linear, kink = first_order(setting, beta)
    if abs(linear) > _NO_SLOPE * float(setting.n @ np.abs(setting.root @ beta)):
        return linear < 0.0
    return bool(kink.any())


def first_order(setting: ReluSetting, beta: FloatArray) -> tuple[float, BoolArray]:
    """c of the weight along a ray times |beta|, and which classes are on the kink there.

    Every sample adds to c what phi is beyond its asymptotes, at the z of finite size that its class is held at where
    that is on the kink.
    """
    found, phi = condensed(setting, beta), setting.phi
    b = setting.root @ beta
    z = found.h + setting.d * found.force
    kink = np.abs(z) <= _AT_KINK * np.abs(z).max()
    linear = 0.0
    for c, n in enumerate(setting.n):
        if kink[c]:
            linear += n * abs(b[c]) * -phi.lowest(ratio_at_kink(setting, b[c], found.h[c], c))[1]
        elif phi.tabulated:
            drive = b[c] + setting.delta[c] * found.activation[c]
            linear += n * drive * phi.numbers[2 if z[c] < 0.0 else 3]
    return linear, kink


def ratio_at_kink(setting: ReluSetting, b: float, h: float, c: int) -> float:
    """rho of a class on the kink: its samples are where phi(z) - rho z is lowest."""
    low, high = setting.phi.slopes
    return min(max(-h / (setting.d[c] * b) if b != 0.0 else 0.0, low), high)
