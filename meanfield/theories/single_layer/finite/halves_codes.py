"""Codes of a task with many different classes at finite P, from sums over two halves of the classes (sigma_a = 1).

Neurons are told apart by which kappa_c lie above the steepest point of G'; patterns from whose mean the ascent of h
leads to the same maximum are one code. Where codes overlap, whose a neuron is remains a convention.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from meanfield.activations.cumulant import Cumulant
from meanfield.theories.single_layer.compiled.ascent import ascend
from meanfield.theories.single_layer.compiled.quick import cumulants
from meanfield.theories.single_layer.readout.halves import Halves
from meanfield.theories.single_layer.readout.halves_grids import Grids, smoothed, transformed
from meanfield.theories.single_layer.readout.integral import NotIntegrable
from meanfield.theories.single_layer.solution import heaviest_first
from meanfield.validation import FloatArray

__all__ = ["halves_codes"]

_MIN_WEIGHT = 1e-8  # lighter codes are not reported
_ACCURACIES = 1e-8, 1e-6, 1e-4
_MAX_NUMBERS = 2.5e7  # moments at all nodes
_FLAT = 1e-7  # singular value of t, relative to the largest, below which a direction is not felt
_SAME = 1e-5  # distance up to which two maxima are one, relative to 1 + |a|


def halves_codes(halves: Halves, t: FloatArray) -> dict[str, Any]:
    """Weight, mode, mean, covariance of codes in the space of t, heaviest first, and `beside_cuts`."""
    problem = halves.problem
    for accuracy in _ACCURACIES:
        grids = halves.grids(smoothed(t, halves.most), accuracy)
        if accuracy == _ACCURACIES[-1] or _numbers(grids) < _MAX_NUMBERS:
            break
    if _numbers(grids) > 4.0 * _MAX_NUMBERS:
        raise NotIntegrable("codes would take too many nodes.")
    parts, beside = halves.patterns(grids, np.full(len(t), _steepest(problem.single_site)))
    weight, first, second = _moments(grids, parts, t, problem.n_samples)
    kept = weight > _MIN_WEIGHT
    weight, first, second = weight[kept], first[kept], second[kept]
    found: list[FloatArray] = []
    group = np.empty(len(weight), dtype=np.int64)
    for i, mean in enumerate(first / weight[:, None]):
        a = mean.copy()
        ascend(problem.table, problem.p, t, a)
        known = [j for j, mode in enumerate(found) if np.abs(mode - a).max() < _SAME * (1.0 + np.abs(a).max())]
        group[i] = known[0] if known else len(found)
        if not known:
            found.append(a)
    onto = np.arange(len(found))[:, None] == group
    total = onto @ weight
    mean = (onto @ first) / total[:, None]
    spread = np.tensordot(onto.astype(float), second, 1) / total[:, None, None] - mean[:, :, None] * mean[:, None, :]
    order = heaviest_first(total, np.array(found))
    return {
        "weight": total[order] / total.sum(), "mode": np.array(found)[order], "mean": mean[order],
        "covariance": spread[order], "beside_cuts": beside, "weight_error": 1e-3,
    }  # fmt: skip


def _numbers(grids: Grids) -> float:
    k = grids.rho.size
    return max(
        2.0 ** len(half.classes)
        * (1 + len(half.classes) * (len(half.classes) + 3) / 2)
        * float(np.prod(size[:k].astype(float)))
        for half, size in zip(grids.halves, grids.size, strict=True)
    )


def _steepest(single_site: Cumulant) -> float:
    """kappa at which G'' is largest; of several the one of the smallest size."""
    reach = 30.0 * single_site.table.scale
    kappa = np.linspace(-reach, reach, 12_001)
    bend = cumulants(single_site.table, kappa)[:, 2]
    flat = kappa[bend >= bend.max() * (1.0 - 1e-9)]
    return float(flat[np.argmin(np.abs(flat))])


def _moments(
    grids: Grids, parts: list[FloatArray], t: FloatArray, n_samples: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Weight (K,) of each pattern of all classes, and its integrals of a (K, m) and a a^T (K, m, m)."""
    k, counts = grids.rho.size, [len(half.classes) for half in grids.halves]
    left, right = (part.reshape(-1, part.shape[2]) for part in parts)
    left = transformed(left.reshape(-1, *grids.size[0][:k]), grids.kernels(n_samples)).reshape(len(left), -1)
    sums = (left @ right.T).reshape(*parts[0].shape[:2], *parts[1].shape[:2])  # left pattern, moment, right pattern, ..
    sums /= sums[:, 0, :, 0].sum()
    n, weight = sum(counts), sums[:, 0, :, 0].ravel()
    first, second = np.empty((weight.size, n)), np.empty((weight.size, n, n))
    for i in range(n):
        one, own = i < counts[0], i if i < counts[0] else i - counts[0]
        first[:, i] = (sums[:, 1 + own, :, 0] if one else sums[:, 0, :, 1 + own]).ravel()
        for j in range(i + 1):
            if one:
                pair = sums[:, _square(counts[0], i, j), :, 0]
            elif j >= counts[0]:
                pair = sums[:, 0, :, _square(counts[1], own, j - counts[0])]
            else:
                pair = sums[:, 1 + j, :, 1 + own]
            second[:, i, j] = second[:, j, i] = pair.ravel()
    order = np.concatenate([half.classes for half in grids.halves])
    inverse = np.linalg.pinv(t[order], rcond=_FLAT)
    # Along what no kappa_c feels readouts keep their prior.
    outside = (np.eye(t.shape[1]) - inverse @ t[order]) / n_samples
    return weight, first @ inverse.T, inverse @ second @ inverse.T + weight[:, None, None] * outside


def _square(d: int, i: int, j: int) -> int:
    """Where kappa_i kappa_j (i >= j) is among the moments."""
    return 1 + d + i * (i + 1) // 2 + j
