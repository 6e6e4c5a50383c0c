"""One step towards the maxima of a neuron's weight: single sites at pairs of fields, and where the fields go next."""

from __future__ import annotations

import math

import numpy as np

from meanfield.numerics.jit import jit
from meanfield.numerics.linalg import cholesky, cholesky_solve

__all__ = ["next_fields", "pair_sites"]

_NORM = 0.5 * math.log(2.0 * math.pi)


@jit
def pair_sites(phi, x, weight, b, delta, found):
    """g, <phi>, <xi> and var xi under exp(b phi + delta phi^2 / 2 - xi^2 / 2) in found (4, k, C).

    phi (k, C, nodes) at the nodes x of xi, with weights; x and weight (1, 1, nodes) where all pairs share them, else of
    the shape of phi; b (k, C), delta (C,).
    """
    n_pair, n_class, n_node = phi.shape
    shared = x.shape[0] != n_pair or x.shape[1] != n_class
    exponent = np.empty(n_node)
    for k in range(n_pair):
        for c in range(n_class):
            row, column = (0, 0) if shared else (k, c)
            top = -np.inf
            for i in range(n_node):
                value, place = phi[k, c, i], x[row, column, i]
                exponent[i] = (b[k, c] + 0.5 * delta[c] * value) * value - 0.5 * place * place
                top = max(top, exponent[i])
            total, mean, first, second = 0.0, 0.0, 0.0, 0.0
            for i in range(n_node):
                one, place = weight[row, column, i] * math.exp(exponent[i] - top), x[row, column, i]
                total += one
                mean += one * phi[k, c, i]
                first += one * place
                second += one * place * place
            first /= total
            found[0, k, c] = top + math.log(total) - _NORM
            found[1, k, c] = mean / total
            found[2, k, c] = first
            found[3, k, c] = second / total - first * first


@jit
def _factored(covariance, tight, matrix):
    """Cholesky factor of 1 + T^{1/2} S T^{1/2}, T = diag(tight), in matrix."""
    size = len(tight)
    for i in range(size):
        for j in range(i + 1):
            matrix[i, j] = math.sqrt(tight[i] * tight[j]) * covariance[i, j]
        matrix[i, i] += 1.0
    cholesky(matrix)


@jit
def next_fields(covariance, n, d, found, u, careful, stride):
    """u (k, C), in place, becomes the next S^{-1} h from the sites found at h: Newton's step, the slow one if careful.

    With v = n g_h - u and K = -n g_hh >= 0, Newton's step is du = (1 + K S)^{-1} v =
    v - K^{1/2} (1 + K^{1/2} S K^{1/2})^{-1} K^{1/2} S v, shortened to `stride` in h; the slow one leads to
    u = (1 + T S)^{-1} (T h + n g_h), T = n / d.
    """
    n_pair, n_class = u.shape
    matrix = np.empty((n_class, n_class))
    h, right, root, stiff = np.empty(n_class), np.empty(n_class), np.empty(n_class), np.empty(n_class)
    for k in range(n_pair):
        for c in range(n_class):
            stiff[c] = n[c] / d[c] * (1.0 if careful[k] else max(1.0 - found[3, k, c], 0.0))
            root[c] = math.sqrt(stiff[c])
        _factored(covariance, stiff, matrix)
        if careful[k]:
            for c in range(n_class):
                h[c] = 0.0
                for e in range(n_class):
                    h[c] += covariance[c, e] * u[k, e]
                right[c] = root[c] * h[c] + n[c] * found[2, k, c] / math.sqrt(d[c]) / root[c]
            cholesky_solve(matrix, right)
            for c in range(n_class):
                u[k, c] = root[c] * right[c]
            continue
        for c in range(n_class):
            h[c] = n[c] * found[2, k, c] / math.sqrt(d[c]) - u[k, c]
        for c in range(n_class):
            right[c] = 0.0
            for e in range(n_class):
                right[c] += covariance[c, e] * h[e]
            right[c] *= root[c]
        cholesky_solve(matrix, right)
        farthest = 1e-12
        for c in range(n_class):
            h[c] -= root[c] * right[c]
        for c in range(n_class):
            moved = 0.0
            for e in range(n_class):
                moved += covariance[c, e] * h[e]
            farthest = max(farthest, abs(moved))
        share = min(1.0, stride / farthest)
        for c in range(n_class):
            u[k, c] += share * h[c]
