"""Classes as functions of conjugates and common fields, their own fields summed, and narrow common fields."""

import numpy as np
import pytest
from deep_oracles import plain_averages

import meanfield as mf
from meanfield.theories.deep.compiled.generated.site import KEYS
from meanfield.theories.deep.layers.rules import CHECK, COARSE, FINE, Setting
from meanfield.theories.deep.unlike_classes.own_fields import OwnFieldSites, own_and_common
from meanfield.theories.deep.unlike_classes.patched import PatchedLayer

PHI = mf.Network("sigmoid").activation


@pytest.mark.parametrize("size", [3, 4, 6])
def test_own_fields_leave_a_positive_matrix(size):
    """The covariance is what it was, and no class may have more of its own."""
    mixing = np.random.default_rng(size).normal(size=(size, size))
    covariance = 0.1 * mixing @ mixing.T + 0.3 + 0.1 * np.eye(size)
    own, common = own_and_common(covariance)
    np.testing.assert_allclose(np.diag(own) + common @ common.T, covariance, atol=1e-8)
    assert own.min() >= 0.0
    assert common.shape[1] <= size - 1
    assert np.linalg.eigvalsh(covariance - np.diag(own))[0] == pytest.approx(0.0, abs=1e-7)
    small = own_and_common(np.diag(np.full(size, 0.2)) + 0.5)
    np.testing.assert_allclose(small[0], 0.2, atol=1e-6)
    assert small[1].shape == (size, 1)


def test_equal_classes_have_no_own_fields():
    own, common = own_and_common(np.kron(np.array([[0.3, 0.1], [0.1, 0.4]]), np.ones((2, 2))))
    np.testing.assert_allclose(own, 0.0, atol=1e-7)
    assert common.shape == (4, 2)


@pytest.mark.parametrize("own", [0.07, 2e-4, 0.0])
def test_a_class_against_plain_sums(own):
    """W, its derivatives by differences, and the mean field, from dense sums over h and z."""
    n, d, delta = 12.0, 0.05, -0.4
    b, m = np.meshgrid(np.linspace(-0.7, 0.8, 7), np.linspace(-1.2, 1.0, 6))
    b, m = b.ravel(), m.ravel()
    xi = np.linspace(-9.0, 9.0, 1801)
    weight = np.exp(-0.5 * xi**2) / np.exp(-0.5 * xi**2).sum()

    def plain(b, m):
        h = m[:, None] + np.sqrt(own) * xi[::6]
        z = h[:, :, None] + np.sqrt(d) * xi[::12]
        value = PHI(z)
        inner = np.exp(b[:, None, None] * value + 0.5 * delta * value**2) @ (weight[::12] / weight[::12].sum())
        terms = inner**n * (weight[::6] / weight[::6].sum())
        return np.log(terms.sum(axis=1)), (terms * h).sum(axis=1) / terms.sum(axis=1)

    log_w, field = plain(b, m)
    for rule, error in ((COARSE, 3e-4), (FINE, 1e-6), (CHECK, 1e-6)):
        sites = OwnFieldSites(PHI, rule, n).at(d, delta, own)
        found, columns = sites(b, m, 4)
        np.testing.assert_allclose(found, log_w, atol=error)
        np.testing.assert_allclose(columns[-1], field, atol=30 * error)
        step = 1e-3
        for axis, key in ((0, (1, 0, 0, 0)), (1, (0, 1, 0, 0))):
            shift = step * np.eye(2)[axis]
            slope = (plain(b + shift[0], m + shift[1])[0] - plain(b - shift[0], m - shift[1])[0]) / (2 * step)
            np.testing.assert_allclose(columns[KEYS.index(key)], slope, atol=300 * error + 2e-5)
        drawn = sites.drawn(np.full(4000, b[3]), np.full(4000, m[3]), (np.arange(4000) + 0.5) / 4000)
        assert drawn.mean() == pytest.approx(field[3], abs=2e-3)


@pytest.mark.statistical
def test_narrow_fields_against_plain_monte_carlo():
    """Five classes, two of whose common fields are narrow: the lattices of coarse rules do not have them."""
    n, rng = np.array([3, 2, 2, 1, 2]), np.random.default_rng(2)
    wide, narrow = rng.normal(size=(5, 1)) * 0.5, 0.04 * rng.normal(size=(5, 2))
    covariance = wide @ wide.T + narrow @ narrow.T + np.diag([0.09, 0.07, 0.08, 0.06, 0.08])
    root = np.array([[0.9, 0.2], [-0.7, 0.5], [0.3, -0.8], [0.1, 0.6], [-0.5, -0.4]])
    setting = Setting(root, covariance, np.array([0.3, 0.4, 0.2, 0.5, 0.3]), np.zeros(5))
    layer = PatchedLayer(PHI, n.astype(float), COARSE, True)
    found, detail = layer.evaluate(setting, detail=True)
    assert layer.frame.narrow.shape[1] == 2
    assert layer.nodes.v.shape[1] == 2 + layer.frame.common.shape[1]
    mean, error = plain_averages(PHI, n, setting, 400_000, seed=3)
    assert abs(mean.pop("log_z") - found.log_z) < 5.0 * error["log_z"]
    for (name, *at), value in mean.items():
        own = found.kernel[*at] if name == "kernel" else found.kernel[at[0], at[0]] + found.d[at[0]]
        assert abs(value - own) < 5.0 * error[name, *at]
    np.testing.assert_allclose(detail.share @ detail.activation_square, np.diag(found.kernel), atol=1e-9)
