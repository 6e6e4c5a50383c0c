"""Where neurons of the bulk may be far from the origin (relu/THEORY.md, "Far modes")."""

from __future__ import annotations

import itertools
import math

import numpy as np

from meanfield.theories.deep.relu.outlier import climbed
from meanfield.theories.deep.relu.setting import ReluSetting
from meanfield.validation import FloatArray

__all__ = ["distant"]

_NEAREST, _RATIO = 3.0, 1.12  # of the places along a ray
_SAME = 0.999  # cosine of the angle between directions that are one
_CONDENSED = 1.0 - 1e-7  # gain from which the weight along a ray has no end of its own
_STEPS = 60


def distant(setting: ReluSetting, outliers: FloatArray, cut: float) -> tuple[FloatArray, FloatArray] | None:
    """Whitened conjugate fields (k, q) and class fields (k, C) along rays on which the bulk may have a mode of its own.

    Between that and the origin the weight may be below exp(-cut). For a rectifier there is none: None.
    """
    low, high = setting.phi.slopes
    if low == 0.0 and len(setting.phi.numbers) == 2:
        return None
    q = setting.root.shape[1]
    known = [beta / np.linalg.norm(beta) for beta in outliers if np.linalg.norm(beta) > 0.0]
    fields, own = [np.zeros((0, q))], [np.zeros((0, len(setting.n)))]
    for signs in itertools.product((1.0, -1.0), repeat=len(setting.n)):
        start = setting.root.T @ (setting.n * np.array(signs))
        if not np.linalg.norm(start) > 0.0:
            continue
        beta, found, _ = climbed(setting, start, _STEPS)
        if not found.gain < _CONDENSED or any(float(beta @ other) > _SAME for other in known):
            continue
        known.append(beta)
        end = math.sqrt(2.0 * cut / (1.0 - found.gain))
        at = _NEAREST * _RATIO ** np.arange(max(0, math.ceil(math.log(end / _NEAREST) / math.log(_RATIO))))
        fields.append(at[:, None] * beta)
        own.append(at[:, None] * found.h)
    return np.vstack(fields), np.vstack(own)
