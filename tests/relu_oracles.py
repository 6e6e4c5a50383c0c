"""The saddle equations of layers of rectifiers, integrated with NumPy alone: no line is shared with the solver."""

import itertools
import math

import numpy as np
from scipy.special import log_ndtr, ndtri
from scipy.stats import chi2, qmc

__all__ = ["plain_site", "plain_violations", "sampled_averages", "violations_with_errors"]

_CUT = 26.0  # ln of the weight below which nodes of beta are left out
_FREEDOM = 6.0  # of the Student laws that points are drawn from
_ALONG = 8.0  # mean distance to which points are moved along the ray of an outlier
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


def plain_violations(problem, span, s, step=0.9):
    """Largest violation of every equation of a solution, relative to the size of its order parameter: all layers on
    plain lattices, and outliers from their fields."""
    n, depth, found = problem.n, len(s.kernel), {}
    for layer in range(depth):
        last = layer == depth - 1
        scale = problem.into(layer)
        push = problem.push[layer - 1] if layer else 1.0
        d, covariance = (scale * s.d[layer - 1], scale * s.kernel[layer - 1]) if layer else (
            np.full(len(n), problem.k), None
        )  # fmt: skip
        if last:
            root, delta = math.sqrt(problem.readout_variance) * s.t @ span, 0.0 * n
            root = root[:, np.linalg.svd(root)[1] > 0]
        else:
            value, vector = np.linalg.eigh(s.tilde[layer])
            root, delta = (vector * np.sqrt(np.maximum(value, 0.0))) @ vector.T, s.delta[layer]
        one, squares, beta_b = _averages(root, n, d, delta, covariance, step)
        fields = [b if np.abs(b).max() > 1e-6 else 0.0 * b for b in s.outlier_field[layer]]
        pushes = np.array([_outlier(b, n, d, delta, covariance) for b in fields])  # (o, 2, C)
        activation, force = pushes[:, 0], pushes[:, 1]
        pairs = {
            "activation": (activation, s.outlier_activation[layer]),
            "kernel": (squares[0] + activation.T @ activation, s.kernel[layer]),
            "d": (one[1], s.d[layer]),
        }
        if last:
            output = math.sqrt(problem.readout_variance) * (span @ beta_b).T + activation.T @ s.outlier_readout
            pairs["outputs"] = output + problem.tau * s.t, problem.y @ span.T
        else:  # an outlier's own field is what all of its activations ask for
            pairs["field"] = (n * activation) @ s.tilde[layer], np.array(fields)
        if layer:
            pairs["tilde below"] = push * (squares[1] + force.T @ force), s.tilde[layer - 1]
            pairs["delta below"] = push * one[3], s.delta[layer - 1]
        for name, (a, b) in pairs.items():
            size = max(float(np.abs(b).max()), 1e-3) if name in ("activation", "field") else float(np.abs(b).max())
            found[f"{name}, layer {layer + 1}"] = float(np.abs(a - b).max()) / size
    return found


def _outlier(b, n, d, delta, covariance):
    """ghat_b and ghat_h of an outlier: the maximum over h of ghat summed, by trying which classes are on, at the kink
    or off."""
    grown = d / (1.0 - delta * d)
    if covariance is None:
        return np.maximum(grown * b, 0.0), 0.0 * b
    inverse, best = np.linalg.inv(covariance), None
    for pieces in itertools.product((0, 1, 2), repeat=len(n)):
        on, kink = (np.array(pieces) == k for k in (0, 1))
        matrix = inverse + np.diag(np.where(kink, n / d, 0.0) + np.where(on, n * (1.0 - grown / d) / d, 0.0))
        h = np.linalg.solve(matrix, np.where(on, n * grown / d * b, 0.0))
        z = grown * (b + h / d)
        high, low = 0.5 * z**2 / grown - 0.5 * h**2 / d, -(np.maximum(h, 0.0) ** 2) / (2.0 * d)
        above = (z > 0.0) & (high > low)
        value = n @ np.where(above, high, low) - 0.5 * h @ inverse @ h
        if best is None or value > best[0]:
            best = value, np.where(above, z, 0.0), np.where(above, z - h, -np.maximum(h, 0.0)) / d
    return best[1:]


def sampled_averages(root, n, d, delta, covariance, spread, rng, log2_points=13, rays=()):
    """What `_averages` gives, by importance sampling, and the effective share of the points: Sobol points of beta from
    a Student law of scale `spread`, half of them moved out along `rays` (o, q) of outliers, and of h from Student laws
    at all maxima over h, which Newton finds from every pattern of classes that are on or at the kink."""
    n_classes, q = root.shape
    inverse = np.linalg.inv(covariance)
    unit = qmc.Sobol(q + n_classes + (5 if len(rays) else 3), rng=rng).random_base2(log2_points)
    chol = np.linalg.cholesky(spread)
    moved = 0.0
    if len(rays):
        moved, unit = _moved(unit[:, :2], rays), unit[:, 2:]
    beta = moved + ndtri(unit[:, :q]) @ chol.T * _tail(unit[:, q])[:, None]
    b = beta @ root.T
    log_q = _log_moved(beta, chol, rays)

    def height(h):
        f = np.array([plain_site(b[:, c], h[:, c], d[c], delta[c]) for c in range(n_classes)])
        slope = n * f[:, 3].T - h @ inverse
        precision = inverse - np.einsum("c,ck,ce->kce", n, f[:, 4], np.eye(n_classes))
        return n @ f[:, 0] - 0.5 * np.einsum("kc,ce,ke->k", h, inverse, h), slope, precision

    modes, bounded = [], inverse + np.diag(n / d)
    for pieces in itertools.product((0, 1), repeat=n_classes):
        on, kink = (np.array(pieces) == k for k in (0, 1))
        grown = 1.0 / (1.0 - delta * d)
        matrix = inverse + np.diag(np.where(kink, n / d, 0.0) - np.where(on, n * (grown - 1.0) / d, 0.0))
        h = np.linalg.solve(matrix, np.where(on, n * grown * b, 0.0).T).T
        value, slope, precision = height(h)
        for _ in range(40):
            convex = np.linalg.eigvalsh(precision)[:, 0] > 1e-9 * np.trace(bounded)
            step = np.linalg.solve(np.where(convex[:, None, None], precision, bounded), slope[:, :, None])[:, :, 0]
            part = np.ones(len(h))
            for _ in range(12):
                new = height(h + part[:, None] * step)
                worse = new[0] < value - 1e-9
                if not worse.any():
                    break
                part = np.where(worse, 0.5 * part, part)
            h = h + np.where(worse, 0.0, part)[:, None] * step
            value, slope, precision = height(h)
            if np.abs(step).max() < 1e-7:
                break
        convex = np.linalg.eigvalsh(precision)[:, 0] > 1e-9 * np.trace(bounded)
        modes.append((h, np.linalg.cholesky(np.where(convex[:, None, None], precision, bounded)), value))
    log_det = np.array([np.log(np.einsum("kcc->kc", low)).sum(axis=1) for _, low, _ in modes])  # of 1 / spread
    share = np.array([value for _, _, value in modes]) - log_det
    share = np.exp(share - share.max(axis=0))
    share /= share.sum(axis=0)
    chosen = (unit[:, -1] > np.cumsum(share, axis=0)).sum(axis=0).clip(max=len(modes) - 1)
    rows = np.arange(len(b))
    low = np.array([one[1] for one in modes])[chosen, rows]
    white = ndtri(unit[:, q + 1 : -2]) * _tail(unit[:, -2])[:, None]
    h = np.array([one[0] for one in modes])[chosen, rows]
    h = h + np.linalg.solve(np.swapaxes(low, 1, 2), white[:, :, None])[:, :, 0]
    parts = [
        np.log(weight + 1e-300) + _log_student(np.einsum("kcd,kc->kd", one[1], h - one[0]), 0.0) + size
        for weight, one, size in zip(share, modes, log_det)
    ]
    log_q = log_q + np.logaddexp.reduce(parts, axis=0)
    log = height(h)[0] - 0.5 * (beta**2).sum(axis=1) - log_q
    w = np.exp(log - log.max())
    w /= w.sum()
    f = np.array([plain_site(b[:, c], h[:, c], d[c], delta[c]) for c in range(n_classes)])
    squares = np.array([np.einsum("ck,k,ek->ce", f[:, k], w, f[:, k]) for k in (1, 3)])
    return ((f[:, 1:] @ w).T, squares, (beta.T * w) @ f[:, 1].T), 1.0 / (len(w) * (w**2).sum())


def _tail(unit):
    """Factors of a Student law of `_FREEDOM` degrees."""
    return np.sqrt(_FREEDOM / chi2.ppf(unit, _FREEDOM))


def _moved(unit, rays):
    """(k, q): half of the points stay, the others are moved along one of the rays, by an exponential law."""
    rays = np.vstack([0.0 * rays, rays / np.linalg.norm(rays, axis=1)[:, None]])
    return -_ALONG * np.log1p(-unit[:, [1]]) * rays[(unit[:, 0] * len(rays)).astype(int)]


def _log_moved(beta, chol, rays):
    """ln of the density of Student points of which half are moved; integrated along each ray."""
    size = np.log(np.diag(chol)).sum()
    stayed = _log_student(np.linalg.solve(chol, beta.T).T, size)
    if not len(rays):
        return stayed
    parts, steps = [stayed + math.log(0.5)], np.linspace(0.0, 15.0 * _ALONG, 1201)
    for ray in rays:
        at = beta[:, None] - steps[:, None] * ray / np.linalg.norm(ray)
        log = _log_student(np.linalg.solve(chol, at.reshape(-1, len(chol)).T).T, size).reshape(len(beta), -1)
        log = log - steps / _ALONG + math.log(steps[1] / _ALONG * 0.5 / len(rays))
        log[:, 0] -= math.log(2.0)
        parts.append(np.logaddexp.reduce(log, axis=1))
    return np.logaddexp.reduce(parts, axis=0)


def _log_student(white, log_scale):
    size = white.shape[1]
    return -0.5 * (_FREEDOM + size) * np.log1p((white**2).sum(axis=1) / _FREEDOM) - log_scale


def violations_with_errors(problem, span, s, scramblings=8, log2_points=13, seed=1):
    """Violation of every equation of a solution of any depth, relative to the size of its order parameter, and the
    error of that by independent scramblings; the least effective share."""
    n, depth = problem.n, len(s.kernel)
    value, vector = np.linalg.eigh(s.tilde[0])
    first = (vector * np.sqrt(value)) @ vector.T
    below = _averages(first, n, np.full(len(n), problem.k), s.delta[0], None, 0.9)
    outliers = s.outlier_activation[0]
    found = {
        "kernel 1": _against([below[1][0] + outliers.T @ outliers], s.kernel[0]),
        "d 1": _against([below[0][1]], s.d[0]),
    }
    least = 1.0
    for layer in range(1, depth):
        last, scale, push = layer == depth - 1, problem.scales[layer - 1], problem.push[layer - 1]
        if last:
            root, delta = math.sqrt(problem.readout_variance) * s.t @ span, np.zeros(len(n))
        else:
            value, vector = np.linalg.eigh(s.tilde[layer])
            root, delta = (vector * np.sqrt(value)) @ vector.T, s.delta[layer]
        fields = np.array([b for b in s.outlier_field[layer] if np.abs(b).max() > 1e-6]).reshape(-1, len(n))
        pushes = np.array([_outlier(b, n, scale * s.d[layer - 1], delta, scale * s.kernel[layer - 1]) for b in fields])
        pushes = pushes.reshape(-1, 2, len(n)).swapaxes(0, 1)
        condensed = [one.T @ one for one in pushes]  # what outliers add to K and to k~ below
        rays = np.linalg.lstsq(root, fields.T, rcond=None)[0].T
        spread = 3.0 * np.eye(root.shape[1])
        if not len(rays):
            spread = np.eye(len(spread)) + root.T @ (np.outer(n, n) * s.kernel[layer] + np.diag(n * s.d[layer])) @ root
        runs = [
            sampled_averages(
                root, n, scale * s.d[layer - 1], delta, scale * s.kernel[layer - 1], spread,
                np.random.default_rng([seed, layer, k]), log2_points, rays,
            )
            for k in range(scramblings)
        ]  # fmt: skip
        least = min(least, *(share for _, share in runs))
        runs = [one for one, _ in runs]
        name = f" {layer + 1}"
        found["kernel" + name] = _against([one[1][0] + condensed[0] for one in runs], s.kernel[layer])
        found["d" + name] = _against([one[0][1] for one in runs], s.d[layer])
        found[f"tilde {layer}"] = _against([push * (one[1][1] + condensed[1]) for one in runs], s.tilde[layer - 1])
        found[f"delta {layer}"] = _against([push * one[0][3] for one in runs], s.delta[layer - 1])
        if last:
            size = math.sqrt(problem.readout_variance)
            kept = np.abs(s.outlier_field[layer]).max(axis=1) > 1e-6
            carried = problem.tau * s.t + pushes[0].T @ s.outlier_readout[kept]
            outputs = [size * (span @ one[2]).T + carried for one in runs]
            found["outputs"] = _against(outputs, problem.y @ span.T)
    return found, least


def _against(runs, wanted):
    """(largest deviation relative to the size of what is wanted, its error, largest deviation in units of its error)"""
    runs, size = np.array(runs), np.abs(wanted).max()
    off = np.abs(runs.mean(axis=0) - wanted)
    error = runs.std(axis=0, ddof=1) / math.sqrt(len(runs)) if len(runs) > 1 else np.zeros_like(off)
    z = float((off / error).max()) if len(runs) > 1 else math.nan
    return float(off.max() / size), float(error.max() / size), z
