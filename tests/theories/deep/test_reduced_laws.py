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


@pytest.mark.parametrize(("name", "depth", "p", "y"), TASKS)
def test_no_law_of_codes_costs_less(name, depth, p, y):
    post = mf.solve(mf.Network(name, depth, readout_exponent=1 / depth), mf.class_task(p, targets=y))
    laws, s = Laws(name, depth, p, y), post.solution
    field = np.interp(s.activation, laws.mean(laws.mean.x), laws.mean.x)
    for _ in range(3):
        field = field - (laws.mean(field) - s.activation) / np.maximum(laws.slope(field), 1e-6)
    cost = laws.parts(field, s.weight, 1e-15, 1e-9)[0]
    assert -post.free_energy == pytest.approx(cost, rel=2e-4)
    least = laws.least(4, np.random.default_rng(1))
    assert -post.free_energy < least + 2e-4 * depth * abs(least)


def test_weights_that_are_not_unique_are_said():
    """One-hot targets of four classes, tanh: the words with an even number of ones make the outputs alone, as do those
    with an odd number."""
    post = mf.solve(mf.Network("tanh", 2, readout_exponent=0.5), mf.class_task(n_classes=4))
    assert not post.certificate.unique
    assert post.certificate.nullity == 1
    assert "1 free" in " ".join(post.notes)
    assert post.solution.weight == pytest.approx([1 / 16] * 16, abs=1e-8)
