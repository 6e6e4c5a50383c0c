"""The cone of order parameters on which the readout integral of an unbounded activation exists.

See general_data/THEORY.md, "Bulk and outliers".

    q(u; t) = max_w (t u).phi(F w) - |w|^2 / 2  <=  P / 2 sigma_a^2   for every unit vector u

phi is s_- z for z < 0 and s_+ z for z > 0, or any function with these asymptotic slopes. q is convex in t; its local
maxima over u are the possible outliers: a = sqrt(N lam) u, z = sqrt(N lam) F w. The maximum over w is not a concave
problem, so it is searched from many starts: values found are lower bounds of it, and how often the best one was found
is reported.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from meanfield.numerics.limits import check_time
from meanfield.theories.general_data.compiled.cone import climb, maximise_pattern, search
from meanfield.validation import FloatArray

__all__ = ["ConeMaxima", "cone_starts", "cone_terms", "crossed_starts", "follow", "local_maxima"]

_MAX_SWEEPS = 200
_TOGETHER = 4  # climbs between two looks at the clock
_SAME = 1e-6  # relative distance of weight vectors that count as one maximum
_CLOSE_GAP = 1e-6  # eigenvalues closer than this to the largest one, relatively, would make the curvature infinite


class ConeMaxima(NamedTuple):
    """Local maxima of q, highest first.

    Attributes
    ----------
    value : (n,) array
        q = |w|^2 / 2.
    direction : (n, m) array
        Unit vectors u.
    weights : (n, r) array
        w, the maximiser.
    pattern : (n, P) array of int8
        Sign of z_mu = (F w)_mu; 0 where the sample rests on the kink.
    hits : (n,) array of int
        Starts that led there.
    starts, failed : int
        Starts in all, and those that ended at no local maximum.
    """

    value: FloatArray
    direction: FloatArray
    weights: FloatArray
    pattern: np.ndarray
    hits: np.ndarray
    starts: int
    failed: int

    def keep(self, index: np.ndarray) -> ConeMaxima:
        """A selection of the maxima."""
        arrays = (self.value, self.direction, self.weights, self.pattern, self.hits)
        value, direction, weights, pattern, hits = (a[index] for a in arrays)
        return ConeMaxima(value, direction, weights, pattern, hits, self.starts, self.failed)


def cone_starts(
    features: FloatArray, t: FloatArray, rng: np.random.Generator, n_random: int, labels: np.ndarray | None = None
) -> tuple[FloatArray, FloatArray]:
    """Starts (u (n, m), w (n, r)): one-hot +-u, axes of t, the classes' inputs, random u and random w.

    A row w = 0 means the best w for its u with every convex sample on the steeper side of the kink.
    """
    m, rank = t.shape[1], features.shape[1]
    axes = np.linalg.eigh(t.T @ t)[1].T
    fixed = np.concatenate([np.eye(m), -np.eye(m), axes, -axes])
    classes = [] if labels is None else [features[labels == c].mean(axis=0) for c in np.unique(labels)]
    means = np.array([s * x for x in classes for s in (1.0, -1.0)]).reshape(-1, rank)
    n_u = n_random // 2
    drawn = rng.standard_normal((n_u + len(means) + n_random - n_u, m))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    zero = np.zeros((len(fixed) + n_u, rank))
    return np.vstack([fixed, drawn]), np.vstack([zero, means, rng.standard_normal((n_random - n_u, rank))])


def crossed_starts(maxima: ConeMaxima, rng: np.random.Generator, n: int) -> tuple[FloatArray, FloatArray]:
    """Starts (u (n, m), w (n, r)) between two known maxima each, with some noise.

    Maxima that random starts reach once in thousands of times are reached once in fifty from there (MNIST, P = 100).
    """
    size, rank = maxima.weights.shape
    # Half of the pairs from the highest: those are the ones that matter.
    one, other = (np.minimum((size * rng.random(n) ** 2).astype(int), size - 1) for _ in range(2))
    share = rng.random((n, 1))
    unit = maxima.weights / np.linalg.norm(maxima.weights, axis=1, keepdims=True)
    w = share * unit[one] + (1.0 - share) * unit[other]
    noise = rng.standard_normal((n, rank)) * (rng.random((n, 1)) / np.sqrt(rank))
    return maxima.direction[one], w + noise


def local_maxima(
    features: FloatArray, t: FloatArray, slopes: tuple[float, float], starts: tuple[FloatArray, FloatArray]
) -> ConeMaxima:
    """Climb from every start (u (n, m), w (n, r)) and merge what coincides."""
    u, w = (np.array(x, dtype=float, order="C") for x in starts)
    n = len(u)
    pattern, ok, value = np.zeros((n, len(features)), dtype=np.int8), np.zeros(n, dtype=bool), np.zeros(n)
    # A given w fixes the best u.
    given = np.flatnonzero((w != 0.0).any(axis=1))
    z = w[given] @ features.T
    response = (z * np.where(z > 0, slopes[1], slopes[0])) @ t
    size = np.linalg.norm(response, axis=1)
    u[given[size > 0]] = response[size > 0] / size[size > 0, None]
    numbers = np.array(slopes)
    for i in range(0, n, _TOGETHER):
        check_time()
        some = slice(i, i + _TOGETHER)
        search(features, t, numbers, u[some], w[some], pattern[some], _MAX_SWEEPS, ok[some], value[some])
    return _merge(value, u, w, pattern, ok)


def _merge(value: FloatArray, u: FloatArray, w: FloatArray, pattern: np.ndarray, ok: np.ndarray) -> ConeMaxima:
    order = [i for i in np.argsort(-value, kind="stable") if ok[i]]
    kept: list[int] = []
    hits: list[int] = []
    for i in order:
        near = [
            k for k, j in enumerate(kept)
            if value[j] - value[i] <= _SAME * value[j] and np.linalg.norm(w[i] - w[j]) <= _SAME * np.linalg.norm(w[j])
        ]  # fmt: skip
        if near:
            hits[near[0]] += 1
        else:
            kept.append(i)
            hits.append(1)
    failed = int(np.sum(~ok))
    return ConeMaxima(value[kept], u[kept], w[kept], pattern[kept], np.array(hits, dtype=int), len(value), failed)


def follow(features: FloatArray, t: FloatArray, slopes: tuple[float, float], maxima: ConeMaxima) -> ConeMaxima:
    """The same maxima at another t: on their patterns where these still hold, by a climb from w otherwise."""
    u, w, pattern = maxima.direction.copy(), maxima.weights.copy(), maxima.pattern.copy()
    ok, value = np.zeros(len(u), dtype=bool), np.zeros(len(u))
    numbers = np.array(slopes)
    for i in range(len(u)):
        check_time()
        ok[i], u_new, w_new = maximise_pattern(features, t, numbers, pattern[i])
        if ok[i]:
            u[i], w[i], value[i] = u_new, w_new, 0.5 * w_new @ w_new
        else:
            ok[i], value[i], _ = climb(features, t, numbers, u[i], w[i], pattern[i], _MAX_SWEEPS)
    return _merge(value, u, w, pattern, ok)


def cone_terms(
    features: FloatArray, t: FloatArray, slopes: tuple[float, float], maxima: ConeMaxima, i: int
) -> tuple[FloatArray, FloatArray]:
    """First and second derivative of q at a local maximum with respect to t.

    Returns dq/dt = phi(F w) u^T (P, m) and R (k, P, m) with d^2 q / dt^2 = sum_k R_k R_k^T. On a pattern q is half the
    largest eigenvalue of B B^T, B = t^T A (m, r), where A = diag(phi') F restricted to F w = 0 at the kinks.
    """
    u, pattern = maxima.direction[i], maxima.pattern[i]
    linear = np.where(pattern > 0, slopes[1], slopes[0])[:, None] * features
    kinked = pattern == 0
    linear[kinked] = 0.0
    if kinked.any():
        _, size, axes = np.linalg.svd(features[kinked], full_matrices=False)
        axes = axes[size > 1e-9 * size[0]]
        linear -= (linear @ axes.T) @ axes
    left, size, right = np.linalg.svd(t.T @ linear, full_matrices=True)
    k = len(size)
    values = np.zeros(len(right))
    values[:k] = size**2
    top = left[:, 0] if left[:, 0] @ u > 0 else -left[:, 0]
    v = right[0] if left[:, 0] @ u > 0 else -right[0]
    along = linear @ right[1:].T  # (P, r - 1)
    # d(v_j.B^T B v) = size_1 u.dB v_j + size_j u_j.dB v, dB = dt^T A
    roots = size[0] * along.T[:, :, None] * top
    if k > 1:
        roots[: k - 1] += (linear @ v)[:, None] * (size[1:, None] * left[:, 1:k].T)[:, None, :]
    gap = np.maximum(values[0] - values[1:], _CLOSE_GAP * values[0])
    roots /= np.sqrt(gap)[:, None, None]
    own = (linear @ v)[None, :, None] * np.eye(t.shape[1])[:, None, :]  # |dt^T A v|^2
    return size[0] * np.outer(linear @ v, top), np.concatenate([own, roots])
