"""Gaussian kernels of a layer, pair by pair: Mehler's series, and the integral over one preactivation.

`meanfield.theories.lazy.kernel` and `meanfield.theories.lazy.kernel_tables` say what the arrays are.
"""

from __future__ import annotations

import math

import numpy as np

from meanfield.numerics.jit import jit

__all__ = ["hermite_coefficients", "mehler_sums", "pair_integrals"]

_STRIDE = 8  # terms between two looks at the bound
_GAUSS_STEP = 0.75  # widest panel, in standard deviations
_GAUSS_PANELS = 12  # on each side: 9 standard deviations


@jit
def hermite_coefficients(x, weighted, found):
    """found[n] = sum_k weighted[k] h_n(x[k]), h_n orthonormal under the standard normal law."""
    before, now = np.zeros(x.size), np.ones(x.size)
    for n in range(found.size):
        total = 0.0
        up, down = 1.0 / math.sqrt(n + 1.0), math.sqrt(n / (n + 1.0))
        for k in range(x.size):
            total += weighted[k] * now[k]
            after = up * x[k] * now[k] - down * before[k]
            before[k] = now[k]
            now[k] = after
        found[n] = total


@jit
def mehler_sums(left, right, left_missing, right_missing, rho, tolerance, values, errors):
    """values = sum_n left_n right_n rho^n for pairs whose error is still above the tolerance, with bounds `errors`.

    left, right : (n, terms), (n', terms); `missing` are the roots of the part of E[phi^2] beyond each term.
    """
    terms = left.shape[1]
    for i in range(rho.shape[0]):
        for j in range(rho.shape[1]):
            if errors[i, j] <= tolerance:
                continue
            power, total, n = 1.0, 0.0, 0
            while n < terms:
                stop = min(n + _STRIDE, terms)
                while n < stop:
                    total += power * left[i, n] * right[j, n]
                    power *= rho[i, j]
                    n += 1
                error = abs(power) * left_missing[i, n - 1] * right_missing[j, n - 1]
                if error <= 0.01 * tolerance:
                    break
            values[i, j] = total
            errors[i, j] = error


@jit
def _clenshaw(coefficients, t, found, one, two):
    """Chebyshev series at the points t."""
    for p in range(t.size):
        one[p] = 0.0
        two[p] = 0.0
    for k in range(coefficients.size - 1, 0, -1):
        c = coefficients[k]
        for p in range(t.size):
            new = 2.0 * t[p] * one[p] - two[p] + c
            two[p] = one[p]
            one[p] = new
    for p in range(t.size):
        found[p] = t[p] * one[p] - two[p] + coefficients[0]


@jit
def pair_integrals(z_edges, z_table, x_edges, x_table, lagrange, wide, slope, nodes, weights, found):
    """E[phi(u) phi_b(slope u)] for u ~ N(0, wide^2), where phi_b is phi smoothed by a Gaussian of width b.

    z_table (panels, q) are Chebyshev coefficients of phi, x_table (panels', widths, q) those of phi_b at several b,
    and lagrange (pairs, widths) the weights that interpolate them to the b of the pair. Panels of the integral end
    where a panel of either table ends.
    """
    q = z_table.shape[1]
    edges = np.empty(z_edges.size + x_edges.size + 2 * _GAUSS_PANELS + 1)
    smooth = np.empty((x_edges.size - 1, q))
    done = np.zeros(x_edges.size - 1, dtype=np.int64)
    size = nodes.size
    t, first, second = np.empty(size), np.empty(size), np.empty(size)
    one, two = np.empty(size), np.empty(size)
    for pair in range(wide.size):
        sd, m = wide[pair], slope[pair]
        reach = _GAUSS_STEP * _GAUSS_PANELS * sd
        count = 0
        for k in range(-_GAUSS_PANELS, _GAUSS_PANELS + 1):
            edges[count] = k * _GAUSS_STEP * sd
            count += 1
        for e in z_edges:
            if abs(e) < reach:
                edges[count] = e
                count += 1
        for e in x_edges:
            if abs(e) < reach * abs(m):
                edges[count] = e / m
                count += 1
        done[:] = 0
        ordered = np.sort(edges[:count])
        total = 0.0
        for e in range(count - 1):
            half = 0.5 * (ordered[e + 1] - ordered[e])
            if half <= 0.0:
                continue
            middle = ordered[e] + half
            a = min(max(np.searchsorted(z_edges, middle) - 1, 0), z_edges.size - 2)
            b = min(max(np.searchsorted(x_edges, m * middle) - 1, 0), x_edges.size - 2)
            if done[b] == 0:
                done[b] = 1
                for k in range(q):
                    collapsed = 0.0
                    for w in range(x_table.shape[1]):
                        collapsed += lagrange[pair, w] * x_table[b, w, k]
                    smooth[b, k] = collapsed
            width, start = z_edges[a + 1] - z_edges[a], z_edges[a]
            for p in range(size):
                t[p] = 2.0 * (middle + half * nodes[p] - start) / width - 1.0
            _clenshaw(z_table[a], t, first, one, two)
            width, start = x_edges[b + 1] - x_edges[b], x_edges[b]
            for p in range(size):
                t[p] = 2.0 * (m * (middle + half * nodes[p]) - start) / width - 1.0
            _clenshaw(smooth[b], t, second, one, two)
            for p in range(size):
                x = (middle + half * nodes[p]) / sd
                total += half * weights[p] * math.exp(-0.5 * x * x) * first[p] * second[p]
        found[pair] = total / (sd * math.sqrt(2.0 * math.pi))
