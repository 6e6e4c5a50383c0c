"""Classes as coordinates of the readout, where there are more classes than outputs (sigma_a = 1).

Far out h hardly depends on fields kappa_c = a.t_c that are large: what matters is which few are small. These are
oblique to any axes that are chosen once, along which a box around them would have to be tiny. Boxes therefore have
sides in all fields, and each is looked at in the frame of those d independent classes in which it is smallest: with
T_B the rows of t of these, kappa = T T_B^-1 kappa_B and |a|^2 = kappa_B^T (T_B T_B^T)^-1 kappa_B.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from meanfield.numerics.jit import jit, jit_apart
from meanfield.numerics.linalg import cholesky, cholesky_solve

__all__ = ["Frames", "class_frames", "narrowest_frame", "tie"]

_LEAST = 1e-3  # volume of the unit vectors of the classes of a frame
_SLACK = 1e-12  # relative slack of kappa that is computed from the frame


class Frames(NamedTuple):
    """F sets of d classes that span the readouts."""

    classes: np.ndarray  # (F, d)
    to_kappa: np.ndarray  # (F, C, d)
    prior: np.ndarray  # (F, d, d)
    volume: np.ndarray  # (F,) ln |det T_B|


@jit_apart
def class_frames(t, d):
    """All frames of d classes whose directions are not nearly dependent; none (F = 0) where there is no such."""
    n_classes = t.shape[0]
    total = 0
    for members in range(1 << n_classes):
        total += _size(members) == d
    frames = Frames(
        np.zeros((total, d), np.int64), np.empty((total, n_classes, d)), np.empty((total, d, d)), np.empty(total)
    )
    gram = np.empty((d, d))
    column = np.empty(d)
    count = 0
    for members in range(1 << n_classes):
        if _size(members) != d:
            continue
        classes = frames.classes[count]
        i = 0
        for c in range(n_classes):
            if (members >> c) & 1:
                classes[i] = c
                i += 1
        shape = 0.0
        for i in range(d):
            for j in range(d):
                gram[i, j] = np.sum(t[classes[i]] * t[classes[j]])
            if not gram[i, i] > 0.0:
                shape = -np.inf
                break
            shape -= 0.5 * np.log(gram[i, i])
        if shape == -np.inf or not cholesky(gram):
            continue
        volume = 0.0
        for i in range(d):
            volume += np.log(gram[i, i])
        if not volume + shape > np.log(_LEAST):
            continue
        frames.volume[count] = volume
        for i in range(d):
            for j in range(d):
                column[j] = 1.0 if i == j else 0.0
            cholesky_solve(gram, column)
            for j in range(d):
                frames.prior[count, i, j] = column[j]
        for c in range(n_classes):
            for i in range(d):
                column[i] = np.sum(t[classes[i]] * t[c])
            cholesky_solve(gram, column)
            for i in range(d):
                frames.to_kappa[count, c, i] = column[i]
        for i in range(d):
            for j in range(d):
                frames.to_kappa[count, classes[i], j] = 1.0 if i == j else 0.0
        count += 1
    return Frames(frames.classes[:count], frames.to_kappa[:count], frames.prior[:count], frames.volume[:count])


@jit
def _size(members):
    """Number of bits."""
    size = 0
    while members > 0:
        size += members & 1
        members >>= 1
    return size


@jit
def narrowest_frame(frames, low_k, high_k):
    """The frame in which a box takes the least volume of readouts, classes that are far out avoided."""
    best = 0
    least = np.inf
    for f in range(frames.volume.shape[0]):
        volume = -frames.volume[f]
        for i in range(frames.classes.shape[1]):
            c = frames.classes[f, i]
            volume += np.log(max(high_k[c] - low_k[c], 1e-12)) + np.log(1.0 + max(high_k[c], -low_k[c]))
        if volume < least:
            least = volume
            best = f
    return best


@jit
def tie(classes, to_kappa, low_k, high_k):
    """Contract a box of kappa (in place) to kappa = to_kappa kappa_B of one frame; False where nothing is left."""
    d = classes.shape[0]
    for c in range(to_kappa.shape[0]):
        low = 0.0
        high = 0.0
        size = 0.0
        for i in range(d):
            factor = to_kappa[c, i]
            a = factor * low_k[classes[i]]
            b = factor * high_k[classes[i]]
            low += min(a, b)
            high += max(a, b)
            size += (1.0 + abs(factor)) * max(abs(low_k[classes[i]]), abs(high_k[classes[i]]))
        margin = _SLACK * (1.0 + size)
        low_k[c] = max(low_k[c], low - margin)
        high_k[c] = min(high_k[c], high + margin)
        if low_k[c] > high_k[c]:
            return False
    return True
