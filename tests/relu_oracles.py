"""The saddle equations of two layers of rectifiers, integrated with NumPy alone: no line is shared with the solver."""

import itertools
import math

import numpy as np
from scipy.special import log_ndtr

__all__ = ["plain_site", "two_layer_violations"]

_CUT = 26.0  # ln of the weight below which nodes of beta are left out
_H_STEP, _H_REACH = 0.7, 12.6  # of the fields h, in standard deviations at their maximum


def plain_site(b, h, d, delta):
    """g and its first derivatives by b and h, and the second ones, from two truncated Gaussians."""
    narrow = d / (1.0 - delta * d)
    mu = narrow * (b + h / d)
    on = 0.5 * np.log(narrow / d) + 0.5 * mu**2 / narrow - 0.5 * h**2 / d + log_ndtr(mu / math.sqrt(narrow))
    off = log_ndtr(-h / math.sqrt(d))
    g = np.logaddexp(on, off)
    share = np.exp(on - g)

    def half(x):  # mean and mean square of N(x, 1) above zero
        ratio = np.exp(-0.5 * x**2 - 0.5 * math.log(2 * math.pi) - log_ndtr(x))
        return x + ratio, x**2 + 1.0 + x * ratio

    first, second = half(mu / math.sqrt(narrow))
    z_on, zz_on = math.sqrt(narrow) * first, narrow * second
    first, second = half(-h / math.sqrt(d))
    z, zz = share * z_on - (1 - share) * math.sqrt(d) * first, share * zz_on + (1 - share) * d * second
    mean = share * z_on
    return g, mean, share * zz_on - mean**2, (z - h) / d, (zz - z**2 - d) / d**2


def _at_fields(b, n, d, delta, inverse, guesses):
    """ln of the integral over h at one b, and averages: (5, C) of g_b, g_bb, g_h, g_hh and (2, C, C) of squares."""
    classes = range(len(n))
    if inverse is None:
        f = [plain_site(np.array([b[c]]), np.zeros(1), d[c], delta[c]) for c in classes]
        one = np.array([[part[k][0] for part in f] for k in range(5)])
        return n @ one[0], one[1:], np.array([np.outer(one[1], one[1]), np.outer(one[3], one[3])]), np.zeros(len(n))

    def height(h):
        f = np.array([plain_site(b[c], h[c], d[c], delta[c]) for c in classes])
        return n @ f[:, 0] - 0.5 * h @ inverse @ h, n * f[:, 3] - inverse @ h, inverse - np.diag(n * f[:, 4])

    best = None
    for h in guesses:
        value, slope, precision = height(h)
        for _ in range(60):
            if np.linalg.eigvalsh(precision)[0] <= 0.0:
                precision = inverse + np.diag(n / d)
            step = np.linalg.solve(precision, slope)
            part = 1.0
            while part > 1e-6:
                new = height(h + part * step)
                if new[0] >= value:
                    break
                part *= 0.5
            h, (value, slope, precision) = h + part * step, new
            if np.abs(step).max() < 1e-9:
                break
        if best is None or value > best[0]:
            best = value, h, precision
    _, mode, precision = best
    unit = np.linalg.cholesky(np.linalg.inv(precision))
    axis = np.arange(-_H_REACH, _H_REACH + 1e-9, _H_STEP)
    h = mode + np.stack(np.meshgrid(*[axis] * len(n), indexing="ij"), -1).reshape(-1, len(n)) @ unit.T
    f = np.array([plain_site(b[c], h[:, c], d[c], delta[c]) for c in classes])  # (C, 5, k)
    log = n @ f[:, 0] - 0.5 * np.einsum("kc,ce,ke->k", h, inverse, h)
    top = log.max()
    w = np.exp(log - top)
    total = w.sum()
    w /= total
    ln_z = top + math.log(total * _H_STEP ** len(n) * np.abs(np.diag(unit)).prod())
    squares = np.array([np.einsum("ck,k,ek->ce", f[:, k], w, f[:, k]) for k in (1, 3)])
    return ln_z, (f[:, 1:] @ w).T, squares, mode


def _averages(root, n, d, delta, covariance, step):
    """Averages over beta: (4, C) of g_b, g_bb, g_h, g_hh, (2, C, C) of squares, (q, C) of beta g_b."""
    n_classes, q = root.shape
    inverse = None if covariance is None else np.linalg.inv(covariance)
    prior = np.zeros(n_classes)
    found, done, best = {}, {(0,) * q}, -math.inf
    waiting = [((0,) * q, prior)]
    while waiting:
        place, near = waiting.pop()
        beta = step * (np.array(place) + 0.31)
        guesses = [near] if len(found) > 50 else [near, prior, prior + 0.5]
        value, one, squares, mode = _at_fields(root @ beta, n, d, delta, inverse, guesses)
        value -= 0.5 * beta @ beta
        best = max(best, value)
        if value < best - _CUT:
            continue
        found[place] = value, beta, one, squares
        for k, sign in itertools.product(range(q), (-1, 1)):
            following = (*place[:k], place[k] + sign, *place[k + 1 :])
            if following not in done:
                done.add(following)
                waiting.append((following, mode))
    values, betas, ones, squares = zip(*found.values())
    w = np.exp(np.array(values) - best)
    w /= w.sum()
    ones = np.array(ones)
    return (
        np.einsum("k,kfc->fc", w, ones), np.einsum("k,kfce->fce", w, np.array(squares)),
        np.einsum("k,kq,kc->qc", w, np.array(betas), ones[:, 0]),
    )  # fmt: skip


def two_layer_violations(problem, span, s, step=0.9):
    """Largest violation of every equation of a solution of two layers, relative to the size of its order parameter."""
    value, vector = np.linalg.eigh(s.tilde[0])
    root = (vector * np.sqrt(value)) @ vector.T
    below = _averages(root, problem.n, np.full(len(problem.n), problem.k), s.delta[0], None, step)
    top = math.sqrt(problem.readout_variance) * s.t @ span
    kept = np.linalg.svd(top)[1] > 0
    above = _averages(
        top[:, kept], problem.n, problem.scale * s.d[0], 0.0 * problem.n, problem.scale * s.kernel[0], step
    )
    first, second = s.outlier_activation
    # The forces of outliers: ghat_h, from h = K (n ghat_h).
    h = s.outlier_preactivation[1]
    force = np.zeros_like(h)
    for o in range(len(h)):
        if np.abs(s.outlier_field[1][o]).max() > 1e-6:
            force[o] = _force(problem, s, s.outlier_field[1][o])
    tilde = problem.scale * (above[1][1] + force.T @ force)
    output = math.sqrt(problem.readout_variance) * (span @ above[2]).T + second.T @ s.outlier_readout
    pairs = {
        "kernel 1": (below[1][0] + first.T @ first, s.kernel[0]),
        "d 1": (below[0][1], s.d[0]),
        "kernel 2": (above[1][0] + second.T @ second, s.kernel[1]),
        "d 2": (above[0][1], s.d[1]),
        "tilde": (tilde, s.tilde[0]),
        "delta": (problem.scale * above[0][3], s.delta[0]),
        "outputs": (output + problem.tau * s.t, problem.y @ span.T),
    }
    return {name: float(np.abs(a - b).max() / np.abs(b).max()) for name, (a, b) in pairs.items()}


def _force(problem, s, b):
    """ghat_h of an outlier: the maximum over h of ghat summed, by trying which classes are on, at the kink or off."""
    n, d, covariance = problem.n, problem.scale * s.d[0], problem.scale * s.kernel[0]
    inverse, best = np.linalg.inv(covariance), None
    for pieces in itertools.product((0, 1, 2), repeat=len(n)):  # on (delta = 0: ghat = d b^2 / 2 + b h), kink, off
        piece = np.array(pieces)
        h = np.linalg.solve(inverse + np.diag(np.where(piece == 1, n / d, 0.0)), np.where(piece == 0, n * b, 0.0))
        on = 0.5 * d * b**2 + b * h
        kink = -(np.maximum(h, 0.0) ** 2) / (2.0 * d)
        use = (d * b + h > 0.0) & (on > kink)
        value = n @ np.where(use, on, kink) - 0.5 * h @ inverse @ h
        if best is None or value > best[0]:
            best = value, np.where(use, b, -np.maximum(h, 0.0) / d)
    return best[1]
