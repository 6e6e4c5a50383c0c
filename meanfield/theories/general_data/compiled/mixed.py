"""Expectation propagation of `ep` with Anderson's acceleration, for neurons where plain iterations crawl or oscillate.

Where P(w | a) is wide the map from sites to sites is close to losing its stability, or has lost it, although the fixed
point is there. Once an attempt of plain iterations has come near, a step goes to where the gap between sites and
proposal vanishes in the span of the latest iterates (D. G. Anderson, J. ACM 12, 547, 1965).
"""

from __future__ import annotations

import math

import numpy as np

from meanfield.numerics.copies import copy_matrix, copy_vector
from meanfield.numerics.jit import jit
from meanfield.theories.general_data.compiled.ep import (
    EP,
    FAILED,
    FactorMatrix,
    _lowest_eigenvector,
    _propose,
    step_to,
    workspace,
)

__all__ = ["evaluate_mixed"]

_KEPT = 10  # iterates
_RIDGE = 1e-10  # of the normal equations, relative
_NEAR = 0.3  # mismatch below which iterates are combined
_SHORTEST = 0.02  # share of a step
_SMALLEST_DAMPING = 0.1


@jit
def _combined(sites, gaps, n, scale, step, matrix, right):
    """Step from the last of n iterates (rows of sites, gaps (n, 2, P)) to where the gap vanishes, into `step`."""
    last, p = n - 1, scale.shape[1]
    for i in range(last):
        for j in range(i + 1):
            total = 0.0
            for c in range(2):
                for mu in range(p):
                    total += (
                        (gaps[i, c, mu] - gaps[last, c, mu]) * (gaps[j, c, mu] - gaps[last, c, mu]) * scale[c, mu] ** 2
                    )
            matrix[i, j] = matrix[j, i] = total
        total = 0.0
        for c in range(2):
            for mu in range(p):
                total += (gaps[i, c, mu] - gaps[last, c, mu]) * gaps[last, c, mu] * scale[c, mu] ** 2
        right[i] = -total
    copy_matrix(step, gaps[last])
    if last == 0:
        return
    # Iterates differ in size by many orders of magnitude: every one in units of its own gap.
    unit = np.empty(last)
    for i in range(last):
        unit[i] = 1.0 / math.sqrt(matrix[i, i] + 1e-300)
    small = np.empty((last, last))
    for i in range(last):
        for j in range(last):
            small[i, j] = matrix[i, j] * unit[i] * unit[j]
        small[i, i] += _RIDGE
    share = np.linalg.solve(small, right[:last] * unit) * unit
    for i in range(last):
        for c in range(2):
            for mu in range(p):
                step[c, mu] += share[i] * (sites[i, c, mu] - sites[last, c, mu] + gaps[i, c, mu] - gaps[last, c, mu])


@jit
def _iterate(features, tilt, k, s, nu, damping, tolerance, cap, work, phi, spread, gain, sites, gaps):
    """EP from the sites s, nu, which are overwritten; (log Z, iterations, converged)."""
    p = s.shape[0]
    step, scale = np.empty((2, p)), np.empty((2, p))
    matrix, right = np.empty((_KEPT, _KEPT)), np.empty(_KEPT)
    previous, best = np.inf, np.inf
    rises, n = 0, 0
    copy_vector(work.curvature, s)
    copy_vector(work.linear, nu)
    for iteration in range(1, cap + 1):
        if features.stop[0] != 0:
            return 0.0, iteration, False
        length = 1.0 if n > 1 else damping
        while True:
            log_det, constant, ok = step_to(features, s, nu, length, work, True)
            if ok:
                break
            length *= 0.5
            if iteration == 1 or length < _SHORTEST:
                return 0.0, iteration, False
        copy_vector(s, work.trial[0])
        copy_vector(nu, work.trial[1])
        log_z, error = _propose(features, tilt, k, s, nu, work, phi, spread, gain)
        if not error < 1e10:
            return 0.0, iteration, False
        if error < tolerance:
            return log_z + constant - log_det, iteration, True
        best = min(best, error)
        rises = rises + 1 if error > 0.9 * previous else 0
        previous = error
        if error > 30.0 * best and n > 0:  # the combination has gone astray
            n, rises = 0, 0
            damping = max(0.5 * damping, _SMALLEST_DAMPING)
            best = error
            continue
        if rises >= 4 and n == 0:
            damping = max(0.5 * damping, _SMALLEST_DAMPING)
            rises = 0
        if error < _NEAR or n > 0 or iteration > 12:
            if n == _KEPT:
                for i in range(_KEPT - 1):
                    copy_matrix(sites[i], sites[i + 1])
                    copy_matrix(gaps[i], gaps[i + 1])
                n -= 1
            copy_vector(sites[n, 0], s)
            copy_vector(sites[n, 1], nu)
            copy_vector(gaps[n, 0], work.curvature - s)
            copy_vector(gaps[n, 1], work.linear - nu)
            n += 1
            for mu in range(p):
                scale[0, mu] = work.variance[mu]
                scale[1, mu] = math.sqrt(work.variance[mu])
            _combined(sites, gaps, n, scale, step, matrix, right)
            for mu in range(p):
                work.curvature[mu] = s[mu] + step[0, mu]
                work.linear[mu] = nu[mu] + step[1, mu]
    return 0.0, cap, False


@jit
def evaluate_mixed(features, shift, x, tilt, rows, k, s, nu, origin, dampings, tolerance, cap, moments, soft):
    """`ep.evaluate`, accelerated."""
    p = features.matrix.shape[0]
    work = workspace(*features.matrix.shape)
    offset = np.empty_like(features.offset)
    local = FactorMatrix(features.matrix, features.transposed, features.variance, offset, features.stop)
    sites, gaps = np.empty((_KEPT, 2, p)), np.empty((_KEPT, 2, p))
    for i in rows:
        copy_vector(local.offset, features.offset + x[i] * shift)
        warm = origin[i] >= 0
        if warm and origin[i] != i:
            warm = moments.status[origin[i]] == EP
            copy_vector(s[i], s[origin[i]])
            copy_vector(nu[i], nu[origin[i]])
        moments.status[i], moments.iterations[i], moments.lowest[i] = FAILED, 0, np.nan
        for attempt in range(dampings.shape[0]):
            if attempt == 0 and not warm:
                continue
            if attempt > 0:
                s[i] = 0.0
                nu[i] = 0.0
            moments.log_z[i], count, ok = _iterate(
                local, tilt, k[i], s[i], nu[i], dampings[attempt], tolerance[i], cap, work,
                moments.phi[i], moments.spread[i], moments.gain[i], sites, gaps,
            )  # fmt: skip
            moments.iterations[i] += count
            if ok:
                moments.status[i] = EP
                moments.lowest[i], _ = _lowest_eigenvector(work.precision, 4)
                break
        if moments.status[i] == FAILED:
            moments.log_z[i] = np.nan
            moments.phi[i], moments.spread[i], moments.gain[i] = np.nan, np.nan, np.nan
