"""Activations with kinks and jumps in deep networks: the quadrature over z, kernels of the prior, the limit."""

import itertools
import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import log_ndtr
from scipy.stats import norm

import meanfield as mf
from meanfield.theories.deep.compiled.generated.site import ORDERS
from meanfield.theories.deep.layers.rules import CHECK, FINE, NotCovered
from meanfield.theories.deep.layers.single_sites import SingleSites
from meanfield.theories.deep.layers.site import SiteNodes, noisy_means, site_derivatives, site_rule, site_values, z_rule

B = np.linspace(-700.0, 700.0, 15)
H = np.linspace(-4.0, 4.0, 17)


@pytest.mark.parametrize("rule", [FINE, CHECK])
@pytest.mark.parametrize("d", [0.01, 0.3, 2.0])
@pytest.mark.parametrize("delta", [0.0, -1.0])
def test_site_of_a_step_is_its_closed_form(rule, d, delta):
    """g = ln(Phi(-x) + exp(b + delta / 2) Phi(x)), x = h / sqrt(d); a jump asks for no narrow panels elsewhere."""
    x = np.linspace(-30.0, 30.0, 17)
    h = math.sqrt(d) * x
    nodes = z_rule(mf.activation("step"), d, h[0], h[-1], rule.z, 700.0)
    assert len(nodes.z) < 2500  # panels of 0.0025 made 428,448 of them at d = 0.01 and |h| < 4
    wanted = np.logaddexp(log_ndtr(-x), B[:, None] + 0.5 * delta + log_ndtr(x))
    assert np.abs(site_values(nodes, B, h, d, delta) - wanted).max() < 1e-12 * 700.0


def test_panels_have_an_end():
    """A step of three layers on its way to silence asked for 5e8 panels, 4 GB at a time, and the process was killed."""
    with pytest.raises(NotCovered, match="the noise of a layer is too weak"):
        z_rule(mf.activation("step"), 1e-12, -300.0, 300.0, FINE.z, 10.0)


@pytest.mark.parametrize("d", [1e-3, 0.2])
def test_site_of_intervals_is_that_of_many_panels(d):
    """phi that is constant between three jumps, and g with its derivatives from moments over the intervals alone."""
    breaks, values = np.array([-0.5, 0.7, 0.8]), np.array([-1.0, 0.2, 1.0, 0.5])
    b, h = np.linspace(-20.0, 20.0, 11), np.linspace(-1.5, 1.5, 61)
    edges = np.unique(np.concatenate([np.linspace(-1.5 - 9.0 * d**0.5, 1.5 + 9.0 * d**0.5, 800), breaks]))
    x, w = np.polynomial.legendre.leggauss(12)
    half = 0.5 * np.diff(edges)
    z = ((edges[1:] + edges[:-1]) / 2 + half * x[:, None]).T.ravel()
    panels = SiteNodes(z, (half * w[:, None]).T.ravel(), values[np.searchsorted(breaks, z)])
    intervals = SiteNodes(np.array([-1.0, 0.1, 0.75, 1.0]), np.ones(4), values, breaks)
    one, two = (site_derivatives(nodes, b, h, d, -0.7) for nodes in (panels, intervals))
    assert np.abs(one[0] - two[0]).max() < 1e-11
    for first, second in zip(one[1], two[1]):
        assert np.abs(first - second).max() < 1e-10 * np.abs(first).max()


def test_a_step_needs_no_nodes_however_little_noise_there_is():
    step = mf.activation("step")
    assert len(site_rule(step, 1e-9, -5.0, 5.0, 0.4, 50.0).z) == 2
    with pytest.raises(NotCovered):
        site_rule(step, 0.0, -5.0, 5.0, 0.4, 50.0)
    assert site_rule(mf.activation("hard_tanh"), 0.1, -5.0, 5.0, 0.4, 50.0).breaks is None


@pytest.mark.parametrize("name", ["step", "hard_tanh", "hard_sigmoid"])
def test_site_under_strong_fields(name):
    """Panels that are graded towards kinks against many uniform ones."""
    phi, d = mf.activation(name), 0.3
    edges = np.unique(np.concatenate([np.linspace(-30.0, 30.0, 6001), phi.kinks]))
    x, w = np.polynomial.legendre.leggauss(8)
    half = 0.5 * np.diff(edges)
    z = (0.5 * (edges[1:] + edges[:-1]) + half * x[:, None]).ravel()
    fine = type(z_rule(phi, d, -1.0, 1.0, 0.4))(z, (half * w[:, None]).ravel(), phi(z))
    nodes = z_rule(phi, d, H[0], H[-1], FINE.z, 700.0)
    for one, other in zip(site_derivatives(nodes, B, H, d, -0.5, 2), site_derivatives(fine, B, H, d, -0.5, 2)):
        assert np.abs(one - other)[:3].max() < 1e-9


def test_kernels_of_the_prior_of_a_step():
    """Layer 1: correlation 0, 1/4. Layer 2: correlation 1/2, 1/4 + asin(1/2) / 2 pi = 1/3."""
    task = mf.class_task(targets=[1, -1], n_samples=math.inf)
    solution = mf.solve(mf.Network("step", 3), task, tau=0.1).solution
    assert solution.kernel[:2, 0, 1] == pytest.approx([1 / 4, 1 / 3], abs=1e-10)
    assert solution.d[:2, 0] == pytest.approx([1 / 4, 1 / 6], abs=1e-10)


def _weighted(z, phi, power, mean, deviation):
    return float(phi(z)) ** power * norm.pdf(z, mean, deviation)


def test_means_of_a_noisy_hard_tanh():
    phi, d, h = mf.activation("hard_tanh"), 0.52, np.array([-3.0, 0.2, 1.1])
    mean, _, variance = noisy_means(phi, h, d)
    for found, power in ((mean, 1), (variance + mean**2, 2)):
        for value, at in zip(found, h):
            wanted = quad(_weighted, -9, 9, args=(phi, power, at, math.sqrt(d)), points=[-1, 1])[0]
            assert value == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize(("name", "depth"), [*itertools.product(("hard_tanh", "hard_sigmoid"), (2, 3)), ("step", 2)])
def test_limit_of_activations_with_kinks(name, depth):
    """The limit of many samples at the exponent 1 / L, whose exponent looked higher at other codes for hard tanh."""
    task = mf.class_task(targets=[1, -1], n_samples=math.inf)
    post = mf.solve(mf.Network(name, depth, readout_exponent=1 / depth), task, tau=0.1)
    assert post.status == "optimal"


@pytest.mark.parametrize("name", ["step", "hard_tanh", "hard_sigmoid", "relu"])
@pytest.mark.parametrize("d", [1e-3, 0.3, 2.0])
def test_noisy_means_of_a_piecewise_linear_phi_are_integrals(name, d):
    phi, root = mf.activation(name), math.sqrt(d)
    h = np.array([-7.0, -0.4, 0.0, 1.0, 2.5, 9.0])
    x, w = np.polynomial.legendre.leggauss(12)
    for i, centre in enumerate(h):
        ends = [centre - 12.0 * root, *(k for k in phi.kinks if abs(k - centre) < 12.0 * root), centre + 12.0 * root]
        edges = np.unique(np.concatenate([np.linspace(a, b, 100) for a, b in itertools.pairwise(ends)]))
        half = 0.5 * np.diff(edges)
        z = (0.5 * (edges[1:] + edges[:-1]) + half * x[:, None]).ravel()
        law = (half * w[:, None]).ravel() * norm.pdf(z, centre, root)
        mean = law @ phi(z)
        wanted = (mean, law @ (phi(z) * (z - centre)) / d, law @ (phi(z) - mean) ** 2)
        for found, integral in zip(noisy_means(phi, h, d), wanted):
            assert abs(found[i] - integral) < 1e-12 * max(1.0, abs(integral))


def test_hard_tanh_at_infinity_with_three_classes():
    """Means of phi were sums over panels: 20 s were not enough."""
    post = mf.solve(mf.Network("hard_tanh", 2, readout_exponent=0.5), mf.class_task(n_classes=3), 0.1)
    assert post.status == "optimal"
    weight, activation, readout = (getattr(post.solution, name) for name in ("weight", "activation", "readout"))
    assert np.abs((activation.T * weight) @ readout - np.eye(3)).max() < 1e-8


def test_a_broad_interval_is_integrated_where_it_is_read():
    """Thousands of points for a few b: a table of them took ten seconds."""
    phi, h = mf.activation("sigmoid"), np.linspace(-2.0, 2.0, 9)
    asked, table = (SingleSites(phi, FINE, 0.01, 0.0, h, (-640.0, 640.0)) for _ in range(2))
    b = np.linspace(-600.0, 600.0, 7)
    found, derived = asked.interpolated(b), asked.interpolated_derivatives(b, slice(2, 8), [0, 1])
    assert "_table" not in asked.__dict__
    assert not asked.derived
    highest = max(sum(ORDERS[order]) for order in (0, 1))
    table.asked.update({0: 10**6, highest: 10**6})
    assert np.abs(found - table.interpolated(b)).max() < 1e-9 * np.abs(found).max()
    other = table.interpolated_derivatives(b, slice(2, 8), [0, 1])
    assert np.abs(derived - other).max() < 1e-9 * np.abs(other).max()
    assert "_table" in table.__dict__
    assert highest in table.derived


@pytest.mark.parametrize("name", ["step", "sigmoid", "hard_tanh"])
def test_noise_that_vanishes_is_said(name):
    with pytest.raises(NotCovered, match="vanishes"):
        z_rule(mf.activation(name), 0.0, -1.0, 1.0, 0.5, 1.0)
