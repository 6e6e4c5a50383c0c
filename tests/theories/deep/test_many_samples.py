"""Rectifiers with many samples: the action that Newton starts from, and what it says of codes."""

import math

import numpy as np
import pytest

import meanfield as mf
from meanfield.theories.deep.relu.average import ROUGH
from meanfield.theories.deep.relu.outlier import worst_direction
from meanfield.theories.deep.relu.reduction import relu_problem
from meanfield.theories.deep.relu.search.bare import every_word
from meanfield.theories.deep.relu.search.many_samples import (  # fmt: skip
    ManySamples,
    _between,
    _given_room,
    _matched,
    _minima,
    many_sample_starts,
)

TWO = mf.class_task(targets=[[1.0, 0.2], [-0.3, 0.9]], n_samples=3000)


@pytest.mark.parametrize("layers", [{}, {"sigma_w": 0.9, "layer_sigmas": [0.7, 1.2], "width_ratios": [2.0, 0.5]}])
@pytest.mark.parametrize("depth", [2, 3])
def test_derivatives_are_those_of_the_action(depth, layers):
    task = mf.class_task([0.5, 0.3, 0.2], targets=[[1.0, 0.2], [-0.3, 0.9], [0.4, -0.5]], n_samples=500)
    layers = {name: given if name == "sigma_w" else given[: depth - 1] for name, given in layers.items()}
    problem, _, _ = relu_problem(mf.Network("relu", depth, **layers), task, 0.1)
    action = ManySamples(problem, every_word(3))
    rng = np.random.default_rng(2)
    tilt, shown = 0.3 * rng.normal(size=3), rng.uniform(0.2, 1.0, (depth, 6, 3)) * action.on
    by_tilt, by_shown = rng.normal(size=3), rng.normal(size=shown.shape) * action.on
    found, step = action.parts(tilt, shown), 1e-6
    ends = [action.parts(tilt + s * step * by_tilt, shown + s * step * by_shown).total for s in (1.0, -1.0)]
    slope = float(found.by_tilt @ by_tilt + (found.by_activation * by_shown).sum())
    assert (ends[0] - ends[1]) / (2.0 * step) == pytest.approx(slope, rel=1e-6)


def test_without_outliers_it_is_the_gaussian_process_whose_first_layer_is_tilted():
    """One class more weakly than the other: <phi>, <phi^2> under exp(b phi), and the arc-cosine kernel by sampling."""
    problem, _, _ = relu_problem(mf.Network("relu", 2), TWO, 0.1)
    tilt = np.array([0.4, -0.3])
    found = ManySamples(problem, every_word(2)).parts(tilt, np.zeros((2, 2, 2)))
    z = np.linspace(-12.0, 12.0, 200_001)
    weight = np.exp(-0.5 * z**2 / problem.k + tilt[:, None] * np.maximum(z, 0.0))
    weight /= weight.sum(axis=1)[:, None]
    mean, square = weight @ np.maximum(z, 0.0), weight @ np.maximum(z, 0.0) ** 2
    np.testing.assert_allclose(found.kernel[0], np.outer(mean, mean), rtol=1e-8)
    np.testing.assert_allclose(found.d[0], square - mean**2, rtol=1e-8)
    rng = np.random.default_rng(3)
    h = rng.multivariate_normal(np.zeros(2), problem.scales[0] * found.kernel[0], 400_000)
    phi = np.maximum(h + np.sqrt(problem.scales[0] * found.d[0]) * rng.normal(size=(2, *h.shape)), 0.0)
    between = (phi[0].T @ phi[1]) / len(h)
    np.testing.assert_allclose(found.kernel[1], between, atol=4e-3)


def test_the_start_is_near_to_the_solution():
    task = mf.class_task(targets=[1.0, -0.5], n_samples=2000)
    problem, _, _ = relu_problem(mf.Network("relu", 2), task, 0.05)
    system, x = many_sample_starts(problem)[0]
    post = mf.solve(mf.Network("relu", 2), task, 0.05, progress=False)
    order, s = system.order(x, ROUGH), post.solution
    np.testing.assert_allclose(order.kernel[0], s.kernel[0], rtol=0.02)
    np.testing.assert_allclose(order.d[0], s.d[0], rtol=0.02)
    np.testing.assert_allclose(order.tilde, s.tilde, rtol=0.03, atol=0.03 * np.abs(s.tilde).max())
    assert "many samples" in " ".join(post.certificate.searched)
    there = {w for w, a in zip(s.patterns, s.outlier_activation[0]) if np.linalg.norm(a) > 1e-6}
    assert there == {word for o, word in enumerate(system.words) if system.present[0, o]}


def test_moments_of_a_gaussian_bulk_are_matched_in_one_step():
    """<beta beta^T> = (1 - R^T H R)^-1, inverted directly before and after R -> R W."""
    rng, one = np.random.default_rng(4), np.eye(3)
    curvature = rng.normal(size=(3, 3))
    curvature = curvature @ curvature.T
    root = rng.normal(size=(3, 3))
    root *= 0.98 / math.sqrt(np.linalg.eigvalsh(root.T @ curvature @ root)[-1])
    wanted = rng.normal(size=(3, 3))
    wanted = 20.0 * wanted @ wanted.T
    here = np.linalg.inv(one - root.T @ curvature @ root) - one
    turned = _between(here, wanted)
    np.testing.assert_allclose(turned, turned.T, atol=1e-12)
    after = np.linalg.inv(one - turned.T @ root.T @ curvature @ root @ turned) - one
    np.testing.assert_allclose(after, wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max())


def test_room_of_the_bulk_along_a_ray():
    """One class on, one on the kink of many samples: ln of the weight falls like -c x at gain 1."""
    from meanfield.theories.deep.relu.compiled.site import site
    from meanfield.theories.deep.relu.outlier import condensed
    from meanfield.theories.deep.relu.search.many_samples import _room
    from meanfield.theories.deep.relu.setting import ReluSetting

    n, d = np.array([2e7, 2e7]), np.array([0.3, 0.3])
    covariance = np.array([[0.4, 0.15], [0.15, 0.4]])
    root = np.array([[1.0], [-0.4]]) / 2e7
    setting = ReluSetting(root, n, d, np.zeros(2), covariance)
    gain = condensed(setting, np.array([1.0])).gain
    setting = ReluSetting(root / math.sqrt(gain), n, d, np.zeros(2), covariance)
    root, inverse = setting.root[:, 0], setting.inverse

    def log_weight(x):
        """-x^2 / 2 and the maximum over h of the rest, on a grid that is refined."""
        centre, width = x * np.array([0.8, 0.1]), 1.5 * x + 3.0
        for _ in range(14):
            grids = [np.linspace(c - width, c + width, 25) for c in centre]
            own = [
                np.array([n[c] * site(root[c] * x, h, d[c], 0.0, setting.phi.numbers)[0] for h in grids[c]])
                for c in range(2)
            ]
            h = np.stack(np.meshgrid(*grids, indexing="ij"), axis=-1)
            value = own[0][:, None] + own[1] - 0.5 * np.einsum("...c,ce,...e", h, inverse, h)
            at = np.unravel_index(value.argmax(), value.shape)
            centre, width = h[at], 0.2 * width
        return float(value.max()) - 0.5 * x**2

    slope = -(log_weight(800.0) - log_weight(400.0)) / 400.0
    density = 1.0 / math.sqrt(2.0 * math.pi)
    expected = 2.0 * density / slope**3 / (0.5 + density / slope)
    assert slope > 0.04
    assert _room(setting, np.array([1.0])) == pytest.approx(expected, rel=0.03)


def test_the_last_match_leaves_a_bulk_that_ends():
    """Three layers and classes without outliers above the first layer: the fourth match goes beyond gain 1."""
    fractions = np.array([0.37920523, 0.17625664, 0.44453813])
    task = mf.class_task(fractions=fractions / fractions.sum(), off=0.26, n_samples=930)
    problem, _, _ = relu_problem(mf.Network("relu", 3), task, 0.0017854)
    for words, order in _minima(problem):
        full, start, present = _given_room(problem, words, order)
        assert present.any(axis=1).tolist() == [True, False, False]
        matched = _matched(full, start, present, order)
        for layer in (1, 2):
            assert worst_direction(full.setting(matched, layer)) < 1.0
