"""The tilted single-site density for every built-in nonlinearity, at any tilt and variance."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meanfield.activations import density
from meanfield.activations.activation import activation
from meanfield.activations.builtin import names
from meanfield.activations.cumulant import cumulant

PHIS = st.sampled_from(names()).map(activation)
KAPPAS = st.floats(-40, 40)
VARIANCES = st.sampled_from([0.25, 1.0, 3.0])  # a table of G is made for each


@given(PHIS, KAPPAS, VARIANCES)
@settings(deadline=None)
def test_the_support_holds_the_density_and_its_moments(phi, kappa, k):
    low, high = density.support(phi, k, kappa)
    cuts = np.unique([low, *(x for x in phi.kinks if low < x < high), *np.linspace(low, high, 400), high])
    x, w = np.polynomial.legendre.leggauss(12)
    half = 0.5 * np.diff(cuts)[:, None]
    z = cuts[:-1, None] + half * (1 + x)
    weight = half * w * density.preactivation_density(phi, k, kappa, z)
    assert weight.sum() == pytest.approx(1, abs=1e-11)
    mean = cumulant(phi, k).direct(np.array([kappa]))[1][0]
    assert (weight * phi(z)).sum() == pytest.approx(mean, abs=1e-10 * max(1, abs(mean)))


@given(PHIS, st.lists(KAPPAS, min_size=1, max_size=5), VARIANCES)
@example(activation("hard_tanh"), [39.75], 3.0)  # 3.1e-5 off while the distribution was linear within cells
@settings(deadline=None)
def test_quantiles_invert_the_distribution_function(phi, kappas, k):
    u = np.tile(np.linspace(0.01, 0.99, 15), (len(kappas), 1))
    z = density.preactivation_quantile(phi, k, np.array(kappas), u)
    assert (np.diff(z, axis=1) > 0).all()
    x, w = np.polynomial.legendre.leggauss(20)
    for kappa, points, levels in zip(kappas, z, u, strict=True):
        low = density.support(phi, k, kappa)[0]
        for point, level in zip(points[::5], levels[::5], strict=True):
            cuts = np.unique([low, *(q for q in phi.kinks if low < q < point), *np.linspace(low, point, 60)])
            half = 0.5 * np.diff(cuts)[:, None]
            nodes = cuts[:-1, None] + half * (1 + x)
            below = (half * w * density.preactivation_density(phi, k, kappa, nodes)).sum()
            assert below == pytest.approx(level, abs=1e-6)


@pytest.mark.parametrize("name", names())
def test_atoms_are_where_the_nonlinearity_is_flat(name):
    phi = activation(name)
    values, masses = density.activation_atoms(phi, 1.0, 0.7)
    expected = {"relu": [0], "step": [0, 1], "hard_sigmoid": [0, 1], "hard_tanh": [-1, 1]}.get(name, [])
    assert values == pytest.approx(expected)
    assert (masses > 0).all()
    if name == "step":  # G = ln (1 + e^kappa)/2
        assert masses == pytest.approx([1 / (1 + np.exp(0.7)), 1 / (1 + np.exp(-0.7))], abs=1e-9)
