"""P = infinity at the exponent 1/L held against the cost of laws of codes (`deep_laws.py`), from random starts."""

import numpy as np
import pytest
from deep_laws import Laws

import meanfield as mf

# Tasks that had no answer, or, the last one, a wrong one that was certified (Phi = -8.3295 for -7.4600).
TASKS = [
    ("sigmoid", 2, [0.25] * 4, [0.2, 0.2, 1.0, 0.9]),
    ("sigmoid", 3, [0.593, 0.407], [1.0, 0.935]),  # a code that fields do not tell apart
    ("sigmoid", 3, [0.41, 0.23, 0.12, 0.24], [[-0.18, 1.0], [1.0, -0.18], [-0.18, 1.0], [-0.16, 0.94]]),
    ("tanh", 3, [0.43, 0.25, 0.14, 0.18], [[0.48, 0.48, 1.0], [0.48, 1.0, 1.0], [1.0, 1.0, 1.0], [0.49, 0.46, 0.9]]),
]


def cost_of(post, laws):
    """The cost of the law of codes that was found. Its fields are known where neurons are not saturated; a descent from
    there has the others."""
    s = post.solution
    field = np.interp(s.activation, laws.mean(laws.mean.x), laws.mean.x)
    for _ in range(3):
        field = field - (laws.mean(field) - s.activation) / np.maximum(laws.slope(field), 1e-6)
    end = laws.descent(field, s.weight, ((1e-6, 1e-9), (1e-15, 1e-9)))
    moved, weight = laws.split(end, len(field))
    np.testing.assert_allclose(laws.mean(moved), s.activation, atol=3e-3)
    np.testing.assert_allclose(weight, s.weight, atol=3e-3)
    return laws(end, len(field), 1e-15, 1e-9)[0]


@pytest.mark.parametrize(("name", "depth", "p", "y"), TASKS)
def test_no_law_of_codes_costs_less(name, depth, p, y):
    post = mf.solve(mf.Network(name, depth, readout_exponent=1 / depth), mf.class_task(p, targets=y))
    laws = Laws(name, depth, p, y)
    assert -post.free_energy == pytest.approx(cost_of(post, laws), rel=2e-4)
    least = laws.least(4, np.random.default_rng(1))
    assert -post.free_energy < least + 2e-4 * depth * abs(least)


def test_codes_along_one_direction():
    """Descents of laws along both directions end at 13.990."""
    p, y = [0.53, 0.12, 0.35], [[-0.06, -0.38, -0.49], [-1.39, 0.5, 0.93], [0.61, 0.19, 0.0]]
    post = mf.solve(mf.Network("sigmoid", 3, readout_exponent=1 / 3), mf.class_task(p, targets=y))
    assert post.status == "optimal"
    assert -post.free_energy == pytest.approx(cost_of(post, Laws("sigmoid", 3, p, y)), rel=2e-4)
    assert post.free_energy > -13.455


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_layers_of_different_width_and_scale(name):
    sigmas, ratios, p, y = [0.8, 1.3], [2.0, 0.5], [0.3, 0.7], [1.0, -0.4]
    network = mf.Network(name, 3, readout_exponent=1 / 3, layer_sigmas=sigmas, width_ratios=ratios)
    post = mf.solve(network, mf.class_task(p, targets=y))
    laws = Laws(name, 3, p, y, sigmas, ratios)
    assert -post.free_energy == pytest.approx(cost_of(post, laws), rel=2e-4)
    least = laws.least(2, np.random.default_rng(1))
    assert least == pytest.approx(-post.free_energy, rel=2e-3)


def test_weights_that_are_not_unique_are_said():
    """One-hot targets of four classes, tanh: the words with an even number of ones make the outputs alone, as do those
    with an odd number."""
    post = mf.solve(mf.Network("tanh", 2, readout_exponent=0.5), mf.class_task(n_classes=4))
    assert not post.certificate.unique
    assert post.certificate.nullity == 1
    assert "1 free" in " ".join(post.notes)
    assert post.solution.weight == pytest.approx([1 / 16] * 16, abs=1e-8)
