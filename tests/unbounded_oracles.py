"""The saddle equations of two layers and two classes of any unbounded phi, summed over plain grids with NumPy alone:
no line is shared with the solver."""

import math

import numpy as np

__all__ = ["site_by_panels", "two_class_violations"]


def site_by_panels(phi, b, h, d, delta, reach=11.0):
    """g, g_b, g_bb, g_h, g_hh at fields b, h (k,): Gauss-Legendre panels on either side of 0 and of kinks."""
    b, h = np.broadcast_arrays(np.asarray(b, float), np.asarray(h, float))
    x, w = np.polynomial.legendre.leggauss(16)
    wide = math.sqrt(d / min(1.0, 1.0 - max(delta, 0.0) * d))
    low = min(h.min(), (h + d * b).min(), 0.0) - reach * wide
    high = max(h.max(), (h + d * b).max(), 0.0) + reach * wide
    size = 0.5 * math.sqrt(1.0 / (1.0 / d + np.abs(b).max()))
    edges = np.concatenate([-np.arange(0.0, -low + size, size)[::-1], np.arange(size, high + size, size)])
    kinks = [k for k in getattr(phi, "kinks", ()) if edges[0] < k < edges[-1]]
    edges = np.unique(np.concatenate([edges, kinks]))
    half = 0.5 * np.diff(edges)
    z = (0.5 * (edges[1:] + edges[:-1]) + half * x[:, None]).ravel()
    weight = (half * w[:, None]).ravel() / math.sqrt(2.0 * math.pi * d)
    y = np.asarray(phi(z))
    found = np.empty((5, b.size))
    for part in np.array_split(np.arange(b.size), max(1, b.size * z.size // 2_000_000)):
        height = b[part, None] * y + 0.5 * delta * y**2 - 0.5 * (z - h[part, None]) ** 2 / d
        top = height.max(axis=1)
        law = np.exp(height - top[:, None]) * weight
        total = law.sum(axis=1)
        law /= total[:, None]
        m1, m2, z1 = law @ y, law @ y**2, law @ z
        z2 = (law * (z - z1[:, None]) ** 2).sum(axis=1)
        found[:, part] = top + np.log(total), m1, m2 - m1**2, (z1 - h[part]) / d, (z2 - d) / d**2
    return found


def _first_layer(phi, tilde, n, d, delta, step, cut):
    """Averages over b ~ N(0, tilde): g_b g_b^T, g_bb, ln of the integral."""
    value, axes = np.linalg.eigh(tilde)
    root = axes * np.sqrt(value)
    reach = 100.0  # modes may be far away, with nothing between them and the origin
    while True:
        axis = step * np.arange(-round(reach / step), round(reach / step) + 1)
        across = axis[np.abs(axis) < 0.5 * reach]
        beta = np.stack(np.meshgrid(across, axis, indexing="ij"), -1).reshape(-1, 2)  # the stronger is the second
        b = beta @ root.T
        sites = [site_by_table(phi, b[:, c], d, delta[c]) for c in range(2)]
        height = n[0] * sites[0][0] + n[1] * sites[1][0] - 0.5 * (beta**2).sum(axis=1)
        edge = np.isclose(np.abs(beta[:, 1]), axis[-1]) | np.isclose(np.abs(beta[:, 0]), across[-1])
        if height[edge].max() < height.max() - cut:
            break
        reach *= 1.6
    w = np.exp(height - height.max())
    total = w.sum()
    w /= total
    g_b = np.array([one[1] for one in sites])
    square = np.einsum("k,ck,ek->ce", w, g_b, g_b)
    log_z = height.max() + math.log(total * step**2 / (2.0 * math.pi))
    return square, np.array([w @ one[2] for one in sites]), log_z


def site_by_table(phi, b, d, delta):
    """The same at h = 0, by ten-point interpolation in b."""
    step = 0.02 / math.sqrt(d)
    low = math.floor(b.min() / step) - 6
    nodes = np.arange(low, math.ceil(b.max() / step) + 7)
    parts = np.array_split(nodes * step, max(1, len(nodes) // 64))  # panels are as fine as the strongest b asks for
    table = np.hstack([site_by_panels(phi, part, np.zeros(len(part)), d, delta) for part in parts])
    where = b / step - low
    first = np.floor(where).astype(int) - 4
    found = np.zeros((5, len(b)))
    for i in range(10):
        factor = np.ones(len(b))
        for j in range(10):
            if j != i:
                factor *= (where - first - j) / (i - j)
        found += factor * table[:, first + i]
    return found


def _second_layer(phi, root, n, d, covariance, step, cut):
    """Averages over beta and h ~ N(0, covariance), b = root beta: squares of g_b and g_h, g_bb, g_hh, beta g_b."""
    inverse = np.linalg.inv(covariance)
    spacing = 0.55 / math.sqrt(np.linalg.eigvalsh(inverse)[-1] + n.max() / d.min())
    total, sums, best = 0.0, None, -math.inf
    ends = []
    for sign in (1, -1):
        k, quiet = (0 if sign == 1 else -1), 0
        centre = np.zeros(2)
        while quiet < 30 and abs(k) * step < 400.0:
            beta = step * k
            b = root * beta
            centre, height, squares, ones = _over_h(phi, b, n, d, inverse, spacing, centre)
            height -= 0.5 * beta**2
            if sums is None:
                best, sums = height, 0.0
            if height > best:
                total, sums, best = total * math.exp(best - height), sums * math.exp(best - height), height
            w = math.exp(height - best)
            row = np.concatenate([squares.ravel(), ones.ravel(), (beta * ones[0]).ravel()])
            total, sums = total + w, sums + w * row
            quiet = quiet + 1 if height < best - cut else 0
            k += sign
        ends.append(k * step)
    mean = sums / total
    normal = -0.5 * math.log(np.linalg.det(2.0 * math.pi * covariance))
    log_z = best + math.log(total * step / math.sqrt(2.0 * math.pi)) + normal + 2.0 * math.log(spacing)
    return mean[:8].reshape(2, 2, 2), mean[8:16].reshape(4, 2), mean[16:], log_z


def _over_h(phi, b, n, d, inverse, spacing, near):
    """ln of the sum over a square of h that grows until its rim is light; averages at this b."""
    low, high = near - 40 * spacing, near + 40 * spacing
    even = bool(np.isclose(phi(np.array([1.3])), phi(np.array([-1.3]))).all())  # maxima are pairs h, -h: half of all h
    while True:
        low[0] = 0.0 if even else low[0]
        axes = [spacing * np.arange(math.floor(low[c] / spacing), math.ceil(high[c] / spacing) + 1) for c in range(2)]
        sites = [site_by_panels(phi, np.full(len(axes[c]), b[c]), axes[c], d[c], 0.0) for c in range(2)]
        height = (n[0] * sites[0][0] - 0.5 * inverse[0, 0] * axes[0] ** 2)[:, None]
        height = height + n[1] * sites[1][0] - 0.5 * inverse[1, 1] * axes[1] ** 2
        height = height - inverse[0, 1] * axes[0][:, None] * axes[1]
        top = height.max()
        rims = [-math.inf if even else height[0].max(), height[-1].max(), height[:, 0].max(), height[:, -1].max()]
        heavy = [rim > top - 40.0 for rim in rims]
        if not any(heavy):
            break
        size = high - low
        low = low - 0.5 * size * np.array([heavy[0], heavy[2]])
        high = high + 0.5 * size * np.array([heavy[1], heavy[3]])
    w = np.exp(height - top)
    if even:
        w[0] *= 0.5
        w *= 2.0
    total = w.sum()
    w /= total
    own = [w.sum(axis=1), w.sum(axis=0)]
    squares = np.zeros((2, 2, 2))
    for i, row in enumerate((1, 3)):
        mixed = sites[0][row] @ w @ sites[1][row]
        squares[i] = [[own[0] @ sites[0][row] ** 2, mixed], [mixed, own[1] @ sites[1][row] ** 2]]
    ones = np.array([[own[c] @ sites[c][row] for c in range(2)] for row in range(1, 5)])
    at = np.unravel_index(height.argmax(), height.shape)
    centre = np.array([axes[0][at[0]], axes[1][at[1]]])
    return centre, top + math.log(total), squares, ones


def two_class_violations(phi, post, step=0.8, cut=26.0):
    """Largest violation of every equation of a solution of two layers and two classes with one output, relative to the
    size of its order parameter, and Phi."""
    s, task = post.solution, post.task
    n = task.fractions * task.n_samples
    readout = post.network.readout_variance(task.n_samples)
    scale, ratio = post.network.scales[1] ** 2, post.network.ratios[0]
    kernel, d, log_first = _first_layer(phi, s.tilde[0], n, post.network.k, s.delta[0], step, cut)
    root = math.sqrt(readout) * s.t[:, 0]
    squares, ones, beta_b, log_last = _second_layer(phi, root, n, scale * s.d[0], scale * s.kernel[0], step, cut)
    first, second = s.outlier_activation
    force = np.zeros_like(first)
    for o, z in enumerate(s.outlier_preactivation[1]):  # h = K n f and z - h = d f
        if np.abs(second[o]).max() > 1e-6:
            force[o] = np.linalg.solve(scale * (s.kernel[0] * n + np.diag(s.d[0])), z)
    tilde = scale / ratio * (squares[1] + force.T @ force)
    output = math.sqrt(readout) * beta_b[:, None] + second.T @ s.outlier_readout
    phi_value = (
        ratio * log_first + log_last - float(n @ (s.t * task.targets).sum(axis=1)) + 0.5 * post.tau * n @ s.t[:, 0] ** 2
    )
    own = s.d[0] * np.diag(s.tilde[0]) + s.delta[0] * (np.diag(s.kernel[0]) + s.d[0])
    phi_value -= 0.5 * ratio * (n @ (s.tilde[0] * s.kernel[0]) @ n + n @ own)
    pairs = {
        "kernel 1": (kernel + first.T @ first, s.kernel[0]),
        "d 1": (d, s.d[0]),
        "kernel 2": (squares[0] + second.T @ second, s.kernel[1]),
        "d 2": (ones[1], s.d[1]),
        "tilde": (tilde, s.tilde[0]),
        "delta": (scale / ratio * ones[3], s.delta[0]),
        "outputs": (output + post.tau * s.t, task.targets),
        "Phi": (np.array(phi_value), np.array(s.free_energy)),
    }
    return {name: float(np.abs(a - b).max() / np.abs(b).max()) for name, (a, b) in pairs.items()}
