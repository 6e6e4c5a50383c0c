"""Order parameters of deep networks against the saddle equations on plain tensor grids.

Two classes. Nothing of the solver's quadrature is used: grids in b and h along the axes of the classes, Gauss-Hermite
nodes in xi, and the coupling of both classes by two matrix products, so that the four-dimensional integral of a middle
layer is exact up to its grids.
"""

import functools
import math

import deep_grids
import numpy as np
import pytest

import meanfield as mf
from meanfield.theories.deep.solve import solve_deep

BINARY = mf.class_task(targets=[1, -1], n_samples=100)
RTOL = 1e-6
NODES = np.polynomial.hermite_e.hermegauss(64)
site = functools.partial(deep_grids.site, nodes=NODES)


def gaussian(grid, covariance):
    """N(x; 0, covariance) at all pairs of grid points, and the area of a cell."""
    x = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1)
    exponent = -0.5 * np.einsum("abi,ij,abj->ab", x, np.linalg.inv(covariance), x)
    return np.exp(exponent) * (grid[1] - grid[0]) ** 2 / (2 * math.pi * math.sqrt(np.linalg.det(covariance)))


def pair(left, right, outer, inner):
    """sum over b1, b2, h1, h2 of outer[b1, b2] left[b1, h1] right[b2, h2] inner[h1, h2]."""
    return float(((left.T @ outer @ right) * inner).sum())


def averages(g, b1, b2, n, outer, inner):
    """ln Z, <g_b g_b^T> (11, 12), <g_bb>, <g_h g_h^T> (11, 12), <g_hh>; both classes alike but for their rows of b."""
    one, two = ([part[rows] for part in g] for rows in (b1, b2))
    # What the classes have in common in the exponent is taken out of each.
    shift = max(float(one[0].max()), float(two[0].max()))
    e1, e2 = np.exp(n * (one[0] - shift)), np.exp(n * (two[0] - shift))

    def mean(x, y):
        return pair(e1 * x, e2 * y, outer, inner)

    unit = np.ones_like(e1)
    z = mean(unit, unit)
    entries = {
        "kernel": (mean(one[1] ** 2, unit) / z, mean(one[1], two[1]) / z), "d": mean(one[2], unit) / z,
        "tilde": (mean(one[3] ** 2, unit) / z, mean(one[3], two[3]) / z), "delta": mean(one[4], unit) / z,
        "mean": (mean(one[1], unit) / z, mean(unit, two[1]) / z),
    }  # fmt: skip
    return math.log(z) + 2 * n * shift, entries


def lower_layer(phi, n, tilde, delta, covariance, d):
    """A layer whose conjugate field is Gaussian; covariance None: the first one."""
    values = np.linalg.eigvalsh(tilde)
    spacing, reach = 0.8 * math.sqrt(values[0]), 7.5 * math.sqrt(tilde[0, 0]) + n * abs(tilde[0, 0]) + 0.2
    b = np.arange(-reach, reach + spacing, spacing)
    if covariance is None:
        h, inner = np.zeros(1), np.ones((1, 1))
    else:
        h = np.arange(-6.5 * math.sqrt(covariance[0, 0]), 6.5 * math.sqrt(covariance[0, 0]), 0.07)
        inner = gaussian(h, covariance)
    rows = np.arange(len(b))
    return averages(site(phi, b, h, d, delta), rows, rows, n, gaussian(b, tilde), inner)


def last_layer(phi, n, t, s, covariance, d):
    """The last layer, a on a lattice; "a2" is <a^2>."""
    a = 0.07 * math.sqrt(s / 0.01) * np.arange(-75, 76)
    log_weight = -0.5 * a**2 / s + math.log((a[1] - a[0]) / math.sqrt(2 * math.pi * s))
    h = np.arange(-6.5 * math.sqrt(covariance[0, 0]), 6.5 * math.sqrt(covariance[0, 0]), 0.07)
    inner = gaussian(h, covariance)
    g = site(phi, a * t, h, d, 0.0)
    up, down = np.arange(len(a)), np.arange(len(a))[::-1]
    peak = g[0].max(axis=1)
    e = np.exp(n * (g[0] - peak[:, None]))
    exponent = log_weight + n * (peak[up] + peak[down])
    top = float(exponent.max())
    scale = np.exp(exponent - top)

    def mean(x, y):
        return float((scale * np.einsum("ai,ij,aj->a", e[up] * x, inner, e[down] * y)).sum())

    one, two = [part[up] for part in g], [part[down] for part in g]
    unit = np.ones_like(e)
    z = mean(unit, unit)
    square = float((scale * a**2 * np.einsum("ai,ij,aj->a", e[up], inner, e[down])).sum()) / z
    return math.log(z) + top, {
        "kernel": (mean(one[1] ** 2, unit) / z, mean(one[1], two[1]) / z), "d": mean(one[2], unit) / z,
        "tilde": (mean(one[3] ** 2, unit) / z, mean(one[3], two[3]) / z), "delta": mean(one[4], unit) / z,
        "a2": square,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("depth", "exponent", "tau"), [(2, 1.0, 0.01), (2, 0.5, 0.05), (3, 1.0, 0.01), (3, 1 / 3, 0.05)]
)
def test_order_parameters_solve_the_equations_on_plain_grids(depth, exponent, tau):
    network = mf.Network("sigmoid", depth, readout_exponent=exponent)
    post = solve_deep(network, BINARY, tau, rtol=1e-8, second=False, competitors=False)
    assert post.status == "optimal"
    s, phi, n, variance = post.solution, network.activation, 50.0, 100.0**-exponent
    t = float(s.t[0, 0])
    found, log_z = [], []
    for layer in range(depth):
        covariance, d = (None, 1.0) if layer == 0 else (s.kernel[layer - 1], float(s.d[layer - 1][0]))
        if layer < depth - 1:
            one = lower_layer(phi, n, s.tilde[layer], float(s.delta[layer][0]), covariance, d)
        else:
            one = last_layer(phi, n, t, variance, covariance, d)
        log_z.append(one[0])
        found.append(one[1])
    for layer in range(depth):
        np.testing.assert_allclose(found[layer]["kernel"], s.kernel[layer][0], rtol=RTOL)
        assert found[layer]["d"] == pytest.approx(s.d[layer][0], rel=RTOL)
        if layer:
            np.testing.assert_allclose(found[layer]["tilde"], s.tilde[layer - 1][0], rtol=RTOL)
            assert found[layer]["delta"] == pytest.approx(s.delta[layer - 1][0], rel=RTOL)
    kernel, d = found[-1]["kernel"], found[-1]["d"]
    assert 1.0 / (variance * (n * (kernel[0] - kernel[1]) + d) + tau) == pytest.approx(t, rel=RTOL)
    assert found[-1]["a2"] == pytest.approx(s.second_readout[0, 0], rel=RTOL)
    value = sum(log_z) - 2 * n * t + tau * n * t**2
    for k, e, conjugate, own in zip(s.kernel, s.d, s.tilde, s.delta, strict=False):
        value -= n**2 * (conjugate * k).sum() / 2 + n * (e[0] * conjugate[0, 0] + own[0] * (k[0, 0] + e[0]))
    assert value == pytest.approx(post.free_energy, rel=RTOL)


def mean_moments(phi, b, h, d, delta, n):
    """ln of the weight of a class, <phi>, and <m^k>, k = 1 .. 4, of the mean m of phi over its n samples, on a grid."""
    g, w, value = deep_grids.tilted(phi, b, h, d, delta, NODES)
    one = (w * value).sum(axis=2)
    apart = value - one[:, :, None]
    two, three, four = ((w * apart**k).sum(axis=2) for k in (2, 3, 4))
    two, three, four = two / n, three / n**2, (four - 3 * two**2) / n**3
    moments = [one, one**2 + two, one**3 + 3 * one * two + three]
    moments.append(one**4 + 6 * one**2 * two + 3 * two**2 + 4 * one * three + four)
    return n * g, one, moments


def weighted(e, outer, inner, x, y):
    """Average of a function x of one class and y of the other, each of weight e."""
    return pair(e * x, e * y, outer, inner) / pair(e, e, outer, inner)


@pytest.mark.parametrize(("exponent", "tau"), [(1.0, 0.01), (1 / 3, 0.05)])
def test_sharpness_of_layers_on_plain_grids(exponent, tau):
    """Kurtosis of differences of class means, with the fields and samples that they have in common and apart."""
    post = solve_deep(mf.Network("sigmoid", 3, readout_exponent=exponent), BINARY, tau, second=False, competitors=False)
    s, phi, n = post.solution, post.network.activation, 50.0
    for layer, spacing in ((1, 0.3), (2, 0.5)):
        tilde, delta = s.tilde[layer - 1], float(s.delta[layer - 1][0])
        step, reach = spacing * math.sqrt(np.linalg.eigvalsh(tilde)[0]), 7.5 * math.sqrt(tilde[0, 0]) + n * tilde[0, 0]
        b = np.arange(-reach, reach + step, step)
        h, inner, d = np.zeros(1), np.ones((1, 1)), 1.0
        if layer == 2:
            width, d = math.sqrt(s.kernel[0][0, 0]), float(s.d[0][0])
            h = np.arange(-6.5 * width, 6.5 * width, 0.06)
            inner = gaussian(h, s.kernel[0])
        log_weight, mean, m = mean_moments(phi, b, h, d, delta, n)
        e, outer, one = np.exp(log_weight - log_weight.max()), gaussian(b, tilde), np.ones_like(log_weight)
        average = functools.partial(weighted, e, outer, inner)
        second = 2 * average(m[1], one) - 2 * average(m[0], m[0])
        fourth = 2 * average(m[3], one) - 8 * average(m[2], m[0]) + 6 * average(m[1], m[1])
        found = post.separation(layer)
        assert found["kurtosis"][0, 1] == pytest.approx(fourth / second**2, rel=1e-6)
        for key, kind in (("on", mean > 0.5), ("off", mean <= 0.5)):
            wanted = average(mean * kind, one) / average(one * kind, one)
            assert found[key][0] == pytest.approx(wanted, abs=3e-3 if layer == 1 else 1e-3)  # a line through lattices
