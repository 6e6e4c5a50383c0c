"""Rectifiers with fewer samples than separate bulk and outliers at infinite width: the saddle at a finite one."""

import math

import numpy as np
import pytest

import meanfield as mf
from meanfield.theories.deep.relu.average import FINE, FINE_WIDE, bulk, bulk_slopes
from meanfield.theories.deep.relu.search.few import other_codes
from meanfield.theories.deep.relu.setting import ReluSetting

NETWORK = mf.Network("relu", 2)


def task(n_samples):
    return mf.class_task(targets=[1, -1], n_samples=n_samples)


@pytest.mark.parametrize(("n_samples", "carried", "square"), [(60, 0.570, 0.412), (42, 0.369, 0.269)])
def test_numbers_of_the_discrete_saddle(n_samples, carried, square):
    """What outliers carry of the outputs, and their squared readouts, from plain Newton on the equations at N = 3e4."""
    post = mf.solve(NETWORK, task(n_samples), 0.05, width=3e4, progress=False)
    found = post.solution
    assert post.status == "optimal"
    assert post.certificate.residual < 1e-7
    assert found.outlier_readout[0, 0] ** 2 == pytest.approx(square, abs=6e-4)
    outputs = found.outlier_activation[-1].T @ found.outlier_readout
    assert abs(outputs[0, 0]) == pytest.approx(carried, abs=6e-4)
    assert found.barrier.min() > math.log(3e4)
    assert any("followed from 80 samples" in note for note in found.certificate.searched)


def test_too_few_samples_are_refused_in_words():
    with pytest.raises(mf.ConvergenceError, match=r"36 samples per class.*width="):
        mf.solve(NETWORK, task(60), 0.05, progress=False)


def test_a_code_that_is_missing_is_found():
    """The gain of a direction that condenses and is no outlier's counts, that of outliers themselves does not."""
    order = type("Order", (), {"outliers": lambda self, layer: np.array([[2.0, 0.0]])})()
    n = np.array([50.0, 50.0])

    class System:
        problem = type("Problem", (), {"depth": 1})()

        def unpack(self, x):
            return order

        def setting(self, order, layer):
            root = np.diag([0.32, 0.3])  # n d root^2: 1.28 and 1.125 of classes that are on alone
            return ReluSetting(root, n, np.full(2, 0.25), np.zeros(2), np.zeros((2, 2)))

    assert other_codes(System(), np.zeros(0)) == pytest.approx(50.0 * 0.25 * 0.09, rel=1e-9)


def setting(n_classes, exchangeable):
    """A layer of three conjugate fields, with one shared field or two."""
    rng = np.random.default_rng(4)
    root = 0.02 * np.eye(n_classes) + 0.004 * rng.standard_normal((n_classes, n_classes))
    covariance = 0.2 + np.diag(np.full(n_classes, 0.1))
    if not exchangeable:
        v = np.array([0.3, -0.25, 0.02])
        covariance = 0.02 * np.eye(3) + np.outer(v, v) + 0.01
    return ReluSetting(root, np.full(n_classes, 40.0), np.full(n_classes, 0.3), np.full(n_classes, -0.05), covariance)


@pytest.mark.parametrize("exchangeable", [True, False])
def test_lattices_of_four_and_five_dimensions(exchangeable):
    """Wider lattices, of error 2 exp(-2 pi^2 / 1.02^2) = 1e-8 and some ten times that in second moments, agree with
    fine ones, and derivatives by the root with differences."""
    given, walls = setting(3, exchangeable), np.zeros((0, 3))
    assert given.shared[0].shape[1] == (1 if exchangeable else 2)
    wide = bulk(given, FINE_WIDE, walls, True)
    narrow = bulk(given, FINE, walls, True)
    for name in ("log_z", "b", "b_b", "bb", "h_h", "hh", "beta_b", "beta_beta"):
        assert np.abs(np.asarray(getattr(wide, name)) - getattr(narrow, name)).max() < 5e-7
    slopes = bulk_slopes(given, FINE, walls)
    step = np.zeros((3, 3))
    step[1, 2] = 1e-4
    ends = [
        bulk(ReluSetting(given.root + s * step, given.n, given.d, given.delta, given.covariance), FINE, walls, True)
        for s in (1.0, -1.0)
    ]
    wanted = (ends[0].b_b - ends[1].b_b) / 2e-4
    assert np.abs(slopes.by_root[5, 4:13].reshape(3, 3) - wanted).max() < 1e-5 * np.abs(wanted).max()
