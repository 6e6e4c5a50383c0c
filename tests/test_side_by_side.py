"""Minimisations side by side, against SciPy's from the same starts."""

import numpy as np
import pytest
from scipy.optimize import minimize, rosen, rosen_der

from meanfield.numerics.side_by_side import minimise_rows


def valleys(x, height):
    """Rosenbrock's valleys, raised; no number beyond 4."""
    value = height + np.array([rosen(row) for row in x])
    value[np.abs(x).max(axis=1) > 4.0] = np.nan
    return value, np.array([rosen_der(row) for row in x])


def test_rows_end_where_each_would_alone():
    x, height = np.random.default_rng(0).normal(size=(12, 5)), np.arange(12.0)
    x[7] = 1.0  # a minimum
    ends, values = minimise_rows(valleys, x, height, 1e-8, 500)
    for start, end, value, raised in zip(x, ends, values, height, strict=True):
        alone = minimize(rosen, start, jac=rosen_der, method="BFGS", options={"gtol": 1e-8})
        assert np.abs(rosen_der(end)).max() < 1e-7
        assert value == pytest.approx(raised + rosen(end), abs=1e-12)
        assert rosen(end) < alone.fun + 1e-8 or alone.fun == pytest.approx(3.93, abs=0.01)  # one of two minima
    assert ends[7] == pytest.approx(x[7])


def test_rows_that_are_no_number_stay_where_they_are():
    x = np.array([[0.5, 0.5], [5.0, 0.0], [np.nan, 0.0]])
    ends, values = minimise_rows(valleys, x, np.zeros(3), 1e-8, 500)
    assert ends[0] == pytest.approx([1.0, 1.0])
    assert values[1:].tolist() == [np.inf, np.inf]
    np.testing.assert_array_equal(ends[1:], x[1:])
    assert minimise_rows(valleys, x[:0], np.zeros(0), 1e-8, 500)[0].shape == (0, 2)
