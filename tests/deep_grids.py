"""Deep networks of two equal classes with opposite targets on plain grids, at thousands of samples, too.

phi(z) + phi(-z) is constant, so that both classes are alike. The part of the Gaussian of h that tells the classes apart
is put into the exponent of each class before anything is exponentiated: neither factor is a number by itself where
kernels nearly agree. Nothing of the solver's quadrature is used; g comes from Gauss-Hermite nodes.
"""

import math

import numpy as np

_NODES = np.polynomial.hermite_e.hermegauss(48)  # of the noise
_LAST = 1e-40  # of the largest summand


def tilted(phi, b, h, d, delta, nodes=_NODES):
    """g on the grid (b, h), and there the law of xi over its nodes and the values of phi (h, xi)."""
    xi, weight = nodes
    value = phi(h[:, None] + math.sqrt(d) * xi)
    exponent = b[:, None, None] * value + 0.5 * delta * value**2
    top = exponent.max(axis=2)
    w = np.exp(exponent - top[:, :, None]) * weight
    z = w.sum(axis=2)
    w /= z[:, :, None]
    return top + np.log(z / weight.sum()), w, value


def site(phi, b, h, d, delta, nodes=_NODES):
    """g, g_b, g_bb, g_h, g_hh on the grid (b, h)."""
    g, w, value = tilted(phi, b, h, d, delta, nodes)
    mean, xi = (w * value).sum(axis=2), (w * nodes[0]).sum(axis=2)
    variance = (w * value**2).sum(axis=2) - mean**2
    return g, mean, variance, xi / math.sqrt(d), ((w * nodes[0] ** 2).sum(axis=2) - xi**2 - 1.0) / d


def _even(reach, spacing):
    steps = math.ceil(reach / spacing)
    return spacing * np.arange(-steps, steps + 1)


def first_layer(phi, n, tilde, delta):
    """ln Z and the kernel (11, 12), where h = 0 and d = 1."""
    spacing = 0.6 * math.sqrt(np.linalg.eigvalsh(tilde)[0])
    b = _even(7.5 * math.sqrt(tilde[0, 0]) + n * abs(tilde[0, 0] - tilde[0, 1]) + 0.3, spacing)
    g, mean, *_ = (part[:, 0] for part in site(phi, b, np.zeros(1), 1.0, delta))
    inverse = np.linalg.inv(tilde)
    square = inverse[0, 0] * (b[:, None] ** 2 + b**2) + 2.0 * inverse[0, 1] * b[:, None] * b
    log = n * (g[:, None] + g) - 0.5 * square
    w = np.exp(log - log.max())
    cell = spacing**2 / (2.0 * math.pi * math.sqrt(np.linalg.det(tilde)))
    log_z = float(log.max()) + math.log(w.sum() * cell)
    w /= w.sum()
    return log_z, (float(w.sum(axis=1) @ mean**2), float(mean @ w @ mean))


def upper_layer(phi, n, left, log_weight, kernel, d, delta=0.0, fine=0.7):
    """A layer above: b of the first class at `left` (B,), of the second at the reverse, `log_weight` (B,) of each.

    Returns ln Z and averages: kernel, tilde (11, 12), d, delta and, over b > 0, mean and deviation of h of class 1.
    """
    apart, along = kernel[0, 0] - kernel[0, 1], kernel[0, 0] + kernel[0, 1]
    spacing = min(0.07, 0.7 * fine * math.sqrt(apart), 1.2 * fine / math.sqrt(n))
    h = _even(min(6.5 * math.sqrt(kernel[0, 0]), 3.6) if apart < 0.05 else 6.5 * math.sqrt(kernel[0, 0]), spacing)
    inner = np.exp((h[:, None] + h) ** 2 / 4.0 * (1.0 / apart - 1.0 / along))
    g = site(phi, left, h, d, delta)
    low = n * g[0] - h**2 / (2.0 * apart)
    peak = low.max(axis=1)
    e = np.exp(low - peak[:, None])
    exponent = log_weight + peak + peak[::-1]
    scale = np.exp(exponent - exponent.max())
    rows = np.flatnonzero(scale > _LAST)
    scale, other = scale[rows], len(left) - 1 - rows
    one, two = [part[rows] for part in g], [part[other] for part in g]
    unit = np.ones_like(one[0])

    def total(x, y, weight=scale):
        return float(weight @ (((e[rows] * x) @ inner) * (e[other] * y)).sum(axis=1))

    z, on = total(unit, unit), np.where(left[rows] > 0.0, scale, 0.0)
    shown, fields = total(unit, unit, on), np.broadcast_to(h, unit.shape)
    mean = total(fields, unit, on) / shown
    log_z = float(exponent.max()) + math.log(z * spacing**2 / (2.0 * math.pi * math.sqrt(apart * along)))
    return log_z, {
        "kernel": (total(one[1] ** 2, unit) / z, total(one[1], two[1]) / z), "d": total(one[2], unit) / z,
        "tilde": (total(one[3] ** 2, unit) / z, total(one[3], two[3]) / z), "delta": total(one[4], unit) / z,
        "h": mean, "sdh": math.sqrt(total(fields**2, unit, on) / shown - mean**2),
    }  # fmt: skip


def last_layer(phi, n, t, variance, kernel, d, fine=0.7):
    """The last layer: b = a t and -a t, a on a lattice."""
    sd = math.sqrt(variance)
    a = _even(3.2 + 7.0 * sd, fine * sd)
    log_weight = -0.5 * a**2 / variance + math.log((a[1] - a[0]) / math.sqrt(2.0 * math.pi * variance))
    return upper_layer(phi, n, a * t, log_weight, kernel, d, fine=fine)


def two_layers(post):
    """Own ln p(Y) / N and order parameters at those of a posterior of two layers, y = 1, -1, sigma_a = sigma_w = 1.

    Returns them and the largest violation of the equations, relative (of t, too).
    """
    s, phi, n, tau = post.solution, post.network.activation, post.task.n_samples / 2.0, post.tau
    variance, t = post.network.readout_variance(post.task.n_samples), float(s.t[0, 0])
    log_first, kernel = first_layer(phi, n, s.tilde[0], float(s.delta[0][0]))
    log_last, last = last_layer(phi, n, t, variance, s.kernel[0], float(s.d[0][0]))
    on, off = last["kernel"]
    own_t = 1.0 / (variance * (n * (on - off) + last["d"]) + tau)
    conjugate, k, d = s.tilde[0], s.kernel[0], s.d[0][0]
    value = log_first + log_last - 2.0 * n * t + tau * n * t**2 - n**2 * (conjugate * k).sum() / 2.0
    value -= n * (d * conjugate[0, 0] + s.delta[0][0] * (k[0, 0] + d))
    pairs = [
        (kernel, k[0]), (last["kernel"], s.kernel[1][0]), (last["tilde"], conjugate[0]), (last["delta"], s.delta[0][0]),
        (own_t, t),
    ]  # fmt: skip
    violation = max(float(np.abs(np.asarray(own) / np.asarray(given) - 1.0).max()) for own, given in pairs)
    found = {
        "Phi": value,
        "kappa1": 0.5 * (kernel[0] - kernel[1]),
        "h 10 1": last["h"],
        "sdh": last["sdh"],
        "t 11": own_t,
    }
    return found, violation
