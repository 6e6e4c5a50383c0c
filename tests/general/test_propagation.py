"""The derived equations of one sample of expectation propagation, against explicit integrals."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import multivariate_normal, norm

from meanfield.symbolic import propagation as symbolic
from meanfield.theories.general_data.compiled.generated import propagation

MARGINAL, SITE = (0.3, 0.7), (0.4, -1.1)


def integral(f):
    return quad(f, -30, 30, epsabs=1e-13, epsrel=1e-13, limit=200)[0]


def test_cavity_times_site_is_the_marginal():
    mean, variance = propagation.cavity(*MARGINAL, *SITE)

    def product(z):
        return norm.pdf(z, mean, math.sqrt(variance)) * math.exp(-SITE[0] * z**2 / 2 + SITE[1] * z)

    total = integral(product)
    first = integral(lambda z: z * product(z)) / total
    second = integral(lambda z: (z - first) ** 2 * product(z)) / total
    assert (first, second) == pytest.approx(MARGINAL, rel=1e-11)
    assert math.log(total) == pytest.approx(propagation.site_share(*MARGINAL, mean, variance), rel=1e-11)
    assert propagation.matching_site(*MARGINAL, mean, variance) == pytest.approx(SITE, rel=1e-12)


def test_a_linear_piece_shifts_a_gaussian():
    k, intercept, slope = 1.7, 0.2, -0.6
    mean, variance = MARGINAL
    shift, height = propagation.tilted_piece(k, intercept, slope, mean, variance)
    for z in (-1.0, 0.4, 2.0):
        left = norm.pdf(z, mean, math.sqrt(variance)) * math.exp(k * (intercept + slope * z))
        right = math.exp(height) * norm.pdf(z, mean + shift, math.sqrt(variance))
        assert left == pytest.approx(right, rel=1e-13)


def test_readout_given_the_preactivation():
    cov = np.array([[1.3, 0.4], [0.4, 0.7]])
    mean, x, f = np.array([0.2, -0.5]), 0.9, 0.6
    slope, rest = propagation.given_preactivation(cov[0, 0], cov[0, 1], cov[1, 1])
    found = propagation.joint_exponent(mean[0], slope, rest, x, f)
    pair = multivariate_normal(mean, cov)
    z = mean[1] + x
    weight = norm.pdf(z, mean[1], math.sqrt(cov[1, 1]))
    assert math.exp(found) == pytest.approx(integral(lambda u: pair.pdf([u, z]) * math.exp(u * f)) / weight, rel=1e-10)


def test_curvature_of_a_kink_and_a_jump():
    """Of phi = jump + turn (z - end) above `end`, 0 below: E phi = jump Q + turn (sd n - (end - mean) Q)."""
    end, turn, jump, sd = 0.3, 1.4, -0.7, 0.8

    def mean_phi(mean):
        x = (end - mean) / sd
        return jump * norm.sf(x) + turn * (sd * norm.pdf(x) - (end - mean) * norm.sf(x))

    step, mean = 1e-3, -0.4
    values = [mean_phi(mean + n * step) for n in (-2, -1, 0, 1, 2)]
    second = np.dot([-1, 16, -30, 16, -1], values) / (12 * step**2)
    x = (end - mean) / sd
    found = propagation.kink_curvature(turn, jump, x, sd) * norm.pdf(x) / sd
    assert found == pytest.approx(second, rel=1e-7)


def test_a_form_that_is_not_what_was_derived_is_refused():
    x = symbolic.z
    assert symbolic._checked(x * (x + 1), x**2 + x) == x * (x + 1)
    with pytest.raises(ValueError, match="is not"):
        symbolic._checked(x * (x + 1), x**2 - x)
    with pytest.raises(ValueError, match="not quadratic"):
        symbolic.natural(x**3)
