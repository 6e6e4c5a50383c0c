"""Fits in 1/N on deviations made up by formula."""

from types import SimpleNamespace

import numpy as np
import pytest

import meanfield as mf
from meanfield.sampling.compare import Row


def made_up(width, deviation, n_samples=100, error=1e-4, name="kernel diagonal [1]", dof=1e4):
    row = Row(name, "kernel", 1.0, 1.0 + deviation, error, dof, deviation / error, 1.0, 500.0, True)
    return SimpleNamespace(
        width=width, max_z=abs(row.z), draws=SimpleNamespace(labels=np.zeros(n_samples)), tested=[row]
    )


def test_deviation_of_order_one_over_n_vanishes():
    trend = mf.finite_size_trend([made_up(width, 0.3 / width) for width in (200, 50, 100)])
    (row,) = trend.rows
    assert trend.widths.tolist() == [50, 100, 200]
    assert row.slope == pytest.approx(0.3)
    assert abs(row.limit) < 1e-12
    assert row.misfit == pytest.approx(1.0)
    assert trend.passed()


def test_deviation_that_stays_is_found():
    """Weighted least squares with two parameters and two widths: limit = 2 d(100) - d(50), error sqrt(5) times."""
    (row,) = mf.finite_size_trend([made_up(width, 0.002 + 0.3 / width) for width in (50, 100)]).rows
    assert row.limit == pytest.approx(0.002)
    assert row.limit_error == pytest.approx(np.sqrt(5) * 1e-4)
    assert row.z == pytest.approx(0.002 / (np.sqrt(5) * 1e-4))
    assert np.isnan(row.misfit)


def test_square_root_of_n_is_not_taken_for_one_over_n():
    trend = mf.finite_size_trend([made_up(width, 0.3 / np.sqrt(width)) for width in (100, 200, 400)])
    assert not trend.passed()
    assert trend.rows[0].misfit < 1e-6


def test_second_order():
    given = [made_up(width, 0.3 / width + 40 / width**2) for width in (100, 200, 400)]
    assert not mf.finite_size_trend(given).passed()
    second = mf.finite_size_trend(given, order=2)
    assert second.passed()
    assert second.rows[0].slope == pytest.approx(0.3)
    with pytest.raises(ValueError, match="three or more"):
        mf.finite_size_trend(given[:2], order=2)
    with pytest.raises(ValueError, match="must be 1 or 2"):
        mf.finite_size_trend(given, order=3)


def test_covariances_at_fixed_ratio_of_p_and_n():
    """A covariance is O(1/P): with P = N its deviation of relative order 1/N is 1/N^2."""
    given = [made_up(n, 3.0 / n**2, n_samples=n, error=1e-6, name="covariance 1-1-0 [1,1]") for n in (100, 200, 400)]
    assert mf.finite_size_trend(given).passed()


def test_few_degrees_of_freedom_make_large_ratios_common():
    """Ten standard errors from three chains are nothing."""
    given = [made_up(width, 0.002 + 0.0 / width, dof=2) for width in (50, 100)]
    assert 1 < mf.finite_size_trend(given).max_z < 3
