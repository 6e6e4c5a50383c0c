"""The saddle equations of a layer of many exchangeable classes of rectifiers, integrated with NumPy and SciPy alone.

Given the one field that exchangeable classes share they are independent: what one class adds is a function of two
numbers, tabulated by plain sums over its own field and read by splines. Conjugate fields are Sobol points of a mixture
of Student laws, one of them around the origin and one along the ray of each outlier; the shared field is a plain grid.
"""

import math

import numpy as np
from relu_oracles import _log_student, _outlier, _tail, plain_site
from scipy.interpolate import RectBivariateSpline
from scipy.special import ndtri
from scipy.stats import qmc

_CUT = 28.0  # ln of the weight of a class's own field that is left out
_SCAN, _NODES = 1.0, 64  # of the shared field: steps that find where it is, and nodes there


def _table(b, m, n, d, delta, spread):
    """Splines of ln of the integral over a class's own field and of the means of g_b, its square, g_bb, g_h, its square
    and g_hh, at places b and means m of that field."""
    width = 1.0 / math.sqrt(1.0 / spread + n / d)
    low = min(-2.0, m[0]) - 9.0 * math.sqrt(spread)
    values = np.empty((7, len(b), len(m)))
    for i, place in enumerate(b):  # where the class is active its field is moved by n b spread
        high = m[-1] + max(n * place * spread / (1.0 - max(delta, 0.0) * d), 0.0) + 9.0 * math.sqrt(spread)
        h = np.arange(low, high, 0.7 * width)
        g, g_b, g_bb, g_h, g_hh = plain_site(np.full(len(h), place), h, d, delta)
        log = n * g - 0.5 * (h - m[:, None]) ** 2 / spread  # (m, h)
        top = log.max(axis=1, keepdims=True)
        w = np.exp(np.maximum(log - top, -_CUT * 4))
        total = w.sum(axis=1)
        values[0, i] = top[:, 0] + np.log(total * 0.7 * width / math.sqrt(2 * math.pi * spread))
        for k, f in enumerate((g_b, g_b**2, g_bb, g_h, g_h**2, g_hh), 1):
            values[k, i] = w @ f / total
    return [RectBivariateSpline(b, m, value, kx=5, ky=5) for value in values]


def exchangeable_averages(root, n, d, delta, covariance, outliers, rng, log2_points=11, share=0.5):
    """Averages over the bulk: (g_b, g_bb, g_hh) and squares of g_b and g_h (C, C), each of one class and of two, and
    (q, C) of beta g_b; and the effective share of the points.

    `outliers` (o, q) are rays along which the weight is large.
    """
    n_classes, q = root.shape
    shared = float(covariance[0, 1])
    spread, u = float(covariance[0, 0]) - shared, math.sqrt(shared)
    unit = qmc.Sobol(q + 3, rng=rng).random_base2(log2_points)
    white = ndtri(unit[:, :q]) * _tail(unit[:, q])[:, None]
    rays = outliers / np.linalg.norm(outliers, axis=1)[:, None]
    chosen = np.where(unit[:, q + 1] < share, -1, (unit[:, q + 1] - share) / (1 - share) * len(rays)).astype(int)
    chosen[unit[:, q + 1] < share] = -1
    # Along a ray the distance is exponential, of mean 8, and across it unit Student.
    along = -8.0 * np.log1p(-unit[:, q + 2])
    wide = np.linalg.cholesky(_wide(root))
    beta = np.where(chosen[:, None] < 0, white @ wide.T, white + along[:, None] * rays[chosen])
    parts = [math.log(share) + _log_student(np.linalg.solve(wide, beta.T).T, np.log(np.diag(wide)).sum())]
    steps = np.linspace(0.0, 120.0, 601)
    for ray in rays:  # the law of a sum has no closed form: integrated along the ray
        at = beta[:, None] - steps[:, None] * ray
        log = _log_student(at.reshape(-1, q), 0.0).reshape(len(beta), -1) - steps / 8.0 - math.log(8.0)
        top = log.max(axis=1)
        density = np.exp(log - top[:, None])
        integral = 0.2 * (density.sum(axis=1) - 0.5 * density[:, 0])
        parts.append(math.log((1 - share) / len(rays)) + top + np.log(integral))
    log_q = np.logaddexp.reduce(parts, axis=0)
    b = beta @ root.T
    scan = np.arange(-12.0, 12.0 + u * n * np.maximum(b, 0.0).sum(axis=1).max(), _SCAN)
    table = _table(np.linspace(b.min(), b.max(), 170), u * scan, n, d, delta, spread)
    height = sum(table[0].ev(b[:, [c]], u * scan) for c in range(n_classes)) - 0.5 * scan**2
    kept = height > height.max(axis=1, keepdims=True) - 22.0
    first, last = scan[kept.argmax(axis=1)] - _SCAN, scan[len(scan) - 1 - kept[:, ::-1].argmax(axis=1)] + _SCAN
    alpha = first[:, None] + (last - first)[:, None] * np.arange(_NODES) / (_NODES - 1)
    assert ((last - first) / (_NODES - 1)).max() < 0.6
    grid = np.broadcast_to(u * alpha[:, None], (*b.shape, _NODES))
    place = np.broadcast_to(b[..., None], grid.shape)
    read = [one.ev(place, grid) for one in table]  # (points, C, alpha)
    log = read[0].sum(axis=1) - 0.5 * alpha**2 - (0.5 * (beta**2).sum(axis=1) + log_q - np.log(last - first))[:, None]
    w = np.exp(log - log.max())
    w /= w.sum()
    means = np.array([np.einsum("ka,kca->c", w, f) for f in read[1:]])
    squares = []
    for k in (1, 4):
        both = np.einsum("ka,kca,kea->ce", w, read[k], read[k])
        both[np.diag_indices(n_classes)] = means[k]
        squares.append(both)
    beta_b = np.einsum("ka,kq,kca->qc", w, beta, read[1])
    effective = w.sum(axis=1)
    return (means[[0, 2, 3, 5]], np.array(squares), beta_b), 1.0 / (len(b) * (effective**2).sum())


def _wide(root):
    """(q, q) covariance of the law around the origin: wider than the prior in every direction."""
    return 3.0 * np.eye(root.shape[1])


def second_layer_violations(problem, span, s, scramblings=6, log2_points=11, seed=3):
    """Of two layers: (deviation relative to the size of the order parameter, its error, largest z) of every equation
    of the second one, averaged over equivalent classes, and the least effective share of the points."""
    n, scale, push = problem.n, problem.scales[0], problem.push[0]
    root = math.sqrt(problem.readout_variance) * s.t @ span
    d, covariance = scale * s.d[0], scale * s.kernel[0]
    fields = s.outlier_field[1]
    rays = np.linalg.lstsq(root, fields.T, rcond=None)[0].T
    pushes = np.array([_outlier(b, n, d, 0.0 * n, covariance) for b in fields])
    activation, force = pushes[:, 0], pushes[:, 1]
    runs, least = [], 1.0
    for k in range(scramblings):
        rng = np.random.default_rng([seed, k])
        (one, squares, beta_b), share = exchangeable_averages(
            root, float(n[0]), float(d[0]), 0.0, covariance, rays, rng, log2_points
        )
        least = min(least, share)
        output = math.sqrt(problem.readout_variance) * (span @ beta_b).T + activation.T @ s.outlier_readout
        kernel, tilde = squares[0] + activation.T @ activation, push * (squares[1] + force.T @ force)
        out = output + problem.tau * s.t
        runs.append(
            np.concatenate(
                [*map(_two, (kernel, tilde, out @ span @ np.eye(len(n)))), [one[1].mean(), push * one[3].mean()]]
            )
        )
    wanted = np.concatenate([*map(_two, (s.kernel[1], s.tilde[0], problem.y)), [s.d[1].mean(), s.delta[0].mean()]])
    runs = np.array(runs)
    off, error = runs.mean(axis=0) - wanted, runs.std(axis=0, ddof=1) / math.sqrt(len(runs))
    names = ("kernel", "tilde", "outputs")
    size = np.repeat([np.abs(wanted[2 * i : 2 * i + 2]).max() for i in range(3)], 2)
    size = np.concatenate([size, np.abs(wanted[6:])])
    labels = [f"{name} {kind}" for name in names for kind in ("own", "other")] + ["d", "delta"]
    return {label: (o / z, e / z, o / e) for label, o, e, z in zip(labels, off, error, size)}, least


def _two(matrix):
    """Means on and off the diagonal."""
    own = np.diag(matrix).mean()
    return np.array([own, (matrix.sum() - len(matrix) * own) / (len(matrix) * (len(matrix) - 1))])
