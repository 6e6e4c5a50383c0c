"""Classes as coordinates of the readout, where there are more classes than outputs (sigma_a = 1).

Far out h hardly depends on fields kappa_c = a.t_c that are large: what matters is which few are small. These are
oblique to any axes that are chosen once, along which a box around them would have to be tiny. Boxes therefore have
sides in all fields, and each is looked at in the frame of those d independent classes in which it is smallest: with
T_B the rows of t of these, kappa = T T_B^-1 kappa_B and |a|^2 = kappa_B^T (T_B T_B^T)^-1 kappa_B.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from meanfield.numerics.copies import copy_vector
from meanfield.numerics.jit import jit, jit_apart
from meanfield.numerics.linalg import thin_svd

__all__ = [
    "ROUNDING", "STRAIGHT", "Frames", "class_frames", "coordinates", "narrowest_frame", "rank", "tie", "tied",
]  # fmt: skip

ROUNDING = 4e-16  # of numbers that are computed from t, relative
STRAIGHT = 1e-3  # of singular values of t from which on kappa are coordinates
_LEAST = 1e-3  # volume of the unit vectors of the classes of a frame
_SLACK = 1e-12  # relative slack of kappa that is computed from the frame


class Frames(NamedTuple):
    """F sets of d classes that span the readouts."""

    classes: np.ndarray  # (F, d)
    to_kappa: np.ndarray  # (F, C, d)
    prior: np.ndarray  # (F, d, d)
    volume: np.ndarray  # (F,) ln |det T_B|
    rounding: np.ndarray  # (F,) relative error of `prior` and `to_kappa`


@jit_apart
def class_frames(t, d):
    """All frames of d classes whose directions are not nearly dependent; none (F = 0) where there is no such."""
    n_classes = t.shape[0]
    total = 0
    for members in range(1 << n_classes):
        total += _size(members) == d
    frames = Frames(
        np.zeros((total, d), np.int64), np.empty((total, n_classes, d)), np.empty((total, d, d)), np.empty(total),
        np.empty(total),
    )  # fmt: skip
    rows = np.empty((d, t.shape[1]))
    count = 0
    for members in range(1 << n_classes):
        if _size(members) != d:
            continue
        classes = frames.classes[count]
        i = 0
        for c in range(n_classes):
            if (members >> c) & 1:
                classes[i] = c
                copy_vector(rows[i], t[c])
                i += 1
        # Not from T_B T_B^T, whose inverse loses twice as many digits.
        left, singular, right = thin_svd(rows)
        if not singular[d - 1] > 0.0:
            continue
        volume = 0.0
        shape = 0.0
        for i in range(d):
            volume += np.log(singular[i])
            shape -= 0.5 * np.log(np.sum(rows[i] * rows[i]))
        if not volume + shape > np.log(_LEAST):
            continue
        frames.volume[count] = volume
        frames.rounding[count] = ROUNDING * singular[0] / singular[d - 1]
        frames.prior[count] = 0.0
        for i in range(d):
            for j in range(d):
                for k in range(d):
                    frames.prior[count, i, j] += left[i, k] / singular[k] * left[j, k] / singular[k]
        for c in range(n_classes):
            for i in range(d):
                frames.to_kappa[count, c, i] = 0.0
                for k in range(d):
                    frames.to_kappa[count, c, i] += np.sum(right[k] * t[c]) / singular[k] * left[i, k]
        for i in range(d):
            for j in range(d):
                frames.to_kappa[count, classes[i], j] = 1.0 if i == j else 0.0
        count += 1
    return Frames(
        frames.classes[:count], frames.to_kappa[:count], frames.prior[:count], frames.volume[:count],
        frames.rounding[:count],
    )  # fmt: skip


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


@jit_apart(returns="boolean")
def tied(frames, low_k, high_k):
    """`tie` by all frames in turn."""
    done = 0
    while done < frames.volume.shape[0] and tie(frames.classes[done], frames.to_kappa[done], low_k, high_k):
        done += 1
    return done == frames.volume.shape[0]


@jit
def rank(singular):
    rank = 0
    for value in singular:
        if value > 1e-13 * singular[0]:
            rank += 1
    return rank


@jit_apart
def coordinates(p, t, gram, framed):
    """Sides of the boxes of `branch_and_bound`: (d, the least singular value of t, frames, kappa of a side, form of
    |a|^2, its relative error, readout of a side, from q_c to a side). There are no frames where sides are along axes.
    """
    n_classes = t.shape[0]
    left, singular, right = thin_svd(t)
    d = rank(singular)
    axes = np.ascontiguousarray(right[:d].T)
    over_kappa = framed or (d == n_classes and singular[d - 1] > STRAIGHT * singular[0])
    frames = class_frames(t, d if over_kappa else n_classes + 1)
    if frames.volume.shape[0] > 0:
        from_activation = gram.copy()
        to_readout = np.ascontiguousarray(axes * (1.0 / singular[:d])) @ np.ascontiguousarray(left[:, :d].T)
        to_kappa = frames.to_kappa[0]
        prior = frames.prior[0]
        rounding = frames.rounding[0]
    else:
        rounding = ROUNDING
        to_kappa = t @ axes
        from_activation = np.ascontiguousarray(to_kappa.T)
        prior = np.eye(d)
        to_readout = axes
    for i in range(from_activation.shape[0]):
        for c in range(n_classes):
            from_activation[i, c] *= p[c]
    return d, singular[-1], frames, to_kappa, prior, rounding, to_readout, from_activation
