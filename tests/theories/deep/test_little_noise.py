"""Little noise beside the kinks of phi: small weights, whose layers saturate many standard deviations out."""

import numpy as np
import pytest
from scipy.special import logsumexp

import meanfield as mf
from meanfield.theories.deep.layers.layer import Layer
from meanfield.theories.deep.layers.maxima import Maxima
from meanfield.theories.deep.layers.rules import CHECK, COARSE, FINE, Setting
from meanfield.theories.deep.layers.site import site_derivatives, z_rule
from meanfield.theories.deep.solve import solve_deep

N = np.array([50.0, 50.0])
HARD = mf.activation("hard_sigmoid")


# Last layers of two layers, y = +-1, P = 100, tau = .01, near the solutions at sigma_w = .1 and .13.
def _last(readout, common, own, d):
    kernel = np.full((2, 2), common) + own * np.eye(2)
    return Setting(np.array([[readout], [-readout]]), kernel, np.full(2, d), np.zeros(2))


TENTH, SOFT = _last(1.25823, 2.2319e-3, 5.372e-4, 1e-5), _last(0.85041, 3.6713e-3, 1.1069e-3, 7.11732e-5)


def plain_g(phi, b, h, d):
    """g (n_b, n_h) by Gauss-Legendre between the kinks, for every pair by itself."""
    root = np.sqrt(d)
    x, w = np.polynomial.legendre.leggauss(40)
    ends = np.clip((np.array(phi.kinks) - h[:, None]) / root, -9.0, 9.0)
    edges = np.concatenate([np.full((len(h), 1), -9.0), np.sort(ends, axis=1), np.full((len(h), 1), 9.0)], axis=1)
    half = 0.5 * np.diff(edges, axis=1)[..., None]
    xi = ((edges[:, 1:] + edges[:, :-1])[..., None] * 0.5 + half * x).reshape(len(h), -1)
    with np.errstate(divide="ignore"):
        law = np.log((half * w).reshape(len(h), -1)) - 0.5 * xi**2 - 0.5 * np.log(2.0 * np.pi)
    value = phi(h[:, None] + root * xi)
    return np.array([logsumexp(one * value + law, axis=1) for one in b])


def test_fields_beside_kinks_resolve_how_g_bends_there():
    """ln Z of a layer whose maxima lie at the kinks +-1, 20 standard deviations of its fields out, sqrt(d) = .003; by
    three rules it was 113.148, 112.689, 112.913."""
    a = np.linspace(50.0, 72.0, 45)  # and its mirror image
    alpha = np.linspace(-8.0, 8.0, 81)
    fine = np.arange(0.5, 1.06, 0.15 * np.sqrt(1e-5))
    variance, u = 5.372e-4, np.sqrt(2.2319e-3)
    total = -0.5 * a[:, None] ** 2 - 0.5 * alpha**2
    for c, sign in enumerate((1.0, -1.0)):
        for i, one in enumerate(a):
            h = sign * fine
            g = N[c] * plain_g(HARD, np.array([one * TENTH.root[c, 0]]), h, 1e-5)[0]
            law = -0.5 * (h - u * alpha[:, None]) ** 2 / variance
            total[i] += logsumexp(law + g, axis=1) + np.log(0.15 * np.sqrt(1e-5 / (2.0 * np.pi * variance)))
    wanted = logsumexp(total) + np.log(2.0 * 22.0 / 44.0 * 16.0 / 80.0 / (2.0 * np.pi))
    for rule, accuracy in ((COARSE, 1e-4), (FINE, 1e-9), (CHECK, 1e-9)):
        found = Layer(HARD, N, rule, last=True).evaluate(TENTH)[0].log_z
        assert found == pytest.approx(wanted, abs=accuracy)


def test_kinks_that_only_the_shared_field_reaches_count():
    """Classes of an odd phi with rank-one kernels: their h is the shared field alone, and the kinks +-1 lie 47 of its
    standard deviations out. Rules disagreed by 1e-3."""
    phi, u = mf.activation("hard_tanh"), 0.0211873
    kernel = u**2 * np.array([[1.0, -1.0], [-1.0, 1.0]])
    setting = Setting(np.array([[0.471103], [-0.471103]]), kernel, np.full(2, 1e-4), np.zeros(2))
    a, h = np.linspace(-62.0, 62.0, 125), np.arange(-1.12, 1.12, 2.5e-3)
    g = plain_g(phi, a * setting.root[0, 0], h, 1e-4)  # odd: g(-b, -h) = g(b, h)
    total = 2.0 * 50.0 * g - 0.5 * a[:, None] ** 2 - 0.5 * (h / u) ** 2
    wanted = logsumexp(total) + np.log(2.5e-3 / u / (2.0 * np.pi))
    for rule, accuracy in ((COARSE, 1e-4), (FINE, 1e-9), (CHECK, 1e-9)):
        assert Layer(phi, N, rule, last=True).evaluate(setting)[0].log_z == pytest.approx(wanted, abs=accuracy)


def test_codes_of_weak_fields_are_found_from_saturated_ones():
    """From fields as strong as the covariance has them all climbs lead to 0; codes lie behind a barrier of 300 nats."""
    maxima = Maxima(HARD, N)
    b, h = maxima.find(SOFT, 27.0, every=True, exact=True)
    heights = maxima.heights(SOFT)[0]
    best = np.argmax(heights)
    assert heights[best] > 1.5
    assert (np.abs(h[best]) > 0.9).all()
    assert (np.abs(b[best]) > 30.0).all()


def test_windows_of_z_change_nothing():
    h, b, d = np.linspace(-1.3, 1.4, 200), np.array([-80.0, 0.0, 3.0, 80.0]), 1e-4
    nodes = z_rule(HARD, d, h.min(), h.max(), FINE.z, 80.0)
    assert np.ptp(h) > 10.0 * nodes.reach
    grouped = site_derivatives(nodes, b, h, d, -0.3, 2)
    whole = site_derivatives(nodes._replace(reach=np.inf), b, h, d, -0.3, 2)
    np.testing.assert_allclose(grouped[0], whole[0], atol=1e-13)
    for one, other in zip(grouped[1][:3], whole[1][:3]):
        np.testing.assert_allclose(one, other, atol=1e-8 * np.abs(other).max())


def test_a_target_of_nearly_zero_asks_for_no_more_rows_than_there_are_nodes():
    """t of 1e-17 for 5: the bounds of b in units of that were 4e17 rows, and an error of NumPy the answer."""
    setting = Setting(np.array([[0.5], [1e-18]]), 0.01 * np.eye(2), np.full(2, 1e-2), np.zeros(2))
    averages = Layer(mf.activation("hard_tanh"), N, COARSE, last=True).evaluate(setting)[0]
    assert np.isfinite(averages.log_z)


def test_codes_of_small_weights():
    """Refused in words before."""
    network, task = mf.Network("hard_sigmoid", 2, sigma_w=0.13), mf.class_task(targets=[1, -1], n_samples=100)
    post = solve_deep(network, task, 0.01, second=False, competitors=False)
    assert post.status == "optimal"
    assert post.solution.free_energy == pytest.approx(-1194.4871364996, abs=1e-6)
