"""Rectifiers whose layers differ in width and in the scale of their weights."""

import numpy as np
import pytest
from unbounded_oracles import two_class_violations

import meanfield as mf

TASK = mf.class_task(targets=[1.0, -0.5], n_samples=200)
TAU = 0.5


@pytest.fixture(scope="module")
def wide_first():
    network = mf.Network("relu", 2, sigma_w=1.1, layer_sigmas=[0.8], width_ratios=[2.0])
    return mf.solve(network, TASK, TAU, progress=False)


def solved(depth=2, task=TASK, width=None, **layers):
    return mf.solve(mf.Network("relu", depth, **layers), task, TAU, width=width, progress=False)


@pytest.mark.parametrize(
    ("depth", "n_samples", "width"), [(2, 200, None), (2, 2000, None), (2, 200, 1600), (3, 300, None)]
)
def test_scales_of_a_homogeneous_phi_are_scales_of_the_outputs(depth, n_samples, width):
    """relu(c z) = c relu(z): only the product of all scales counts, kernels being in units of those below them."""
    task, root = TASK.with_(n_samples=n_samples), 1.25 ** (1.0 / (depth - 1))
    same = solved(depth, task, width)
    other = solved(depth, task, width, sigma_w=0.8, layer_sigmas=[root] * (depth - 1))
    assert other.free_energy == pytest.approx(same.free_energy, rel=1e-8)
    unit = np.cumprod([0.8, *[root] * (depth - 1)]) ** 2
    np.testing.assert_allclose(other.solution.kernel, unit[:, None, None] * same.solution.kernel, rtol=1e-6)
    np.testing.assert_allclose(other.solution.d, unit[:, None] * same.solution.d, rtol=1e-6)
    np.testing.assert_allclose(other.solution.t, same.solution.t, rtol=1e-6)
    if width is not None:
        found, wanted = other.one_loop(), same.one_loop()
        np.testing.assert_allclose(found.outputs, wanted.outputs, rtol=1e-3)
        np.testing.assert_allclose(found.kernel[-1], wanted.kernel[-1], atol=1e-3 * np.abs(wanted.kernel[-1]).max())


def test_the_bulk_is_named_by_what_the_prior_of_its_own_layer_has():
    one, other = solved(), solved(sigma_w=3.0, layer_sigmas=[1.0 / 3.0])
    for layer in (1, 2):
        assert other.layer_bulk(layer).pattern == one.layer_bulk(layer).pattern
    assert one.layer_bulk(2).pattern == "11"  # .42 and .43; the prior .28, that of `other` below it 1.2


def test_plain_grids_agree(wide_first):
    found = two_class_violations(wide_first.network.activation, wide_first)
    assert max(found.values()) < 1e-8
    network = mf.Network("softplus", 2, layer_sigmas=[0.8], width_ratios=[2.0])
    other = mf.solve(network, TASK, TAU, progress=False)
    assert max(two_class_violations(other.network.activation, other).values()) < 1e-8


def test_second_order_is_that_of_a_saddle(wide_first):
    proof = wide_first.certificate
    assert proof.inner_curvature > 0.0 > proof.outer_curvature
    assert proof.curvature_error < 1e-3


def test_files_and_tables_know_of_layers(wide_first, tmp_path):
    wide_first.save(tmp_path / "wide.npz")
    again = mf.load(tmp_path / "wide.npz")
    assert again.network == wide_first.network
    assert again.free_energy == wide_first.free_energy
    assert "width_ratios = (2)" in wide_first.table()
    assert "outliers in units of sqrt(N_l)" in wide_first.table()
