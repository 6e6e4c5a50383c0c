"""Moments of N(z; mean, variance) exp(k phi(z)): against quadrature and exact limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sympy as sp
from general_oracles import tilted

from meanfield.activations.activation import Activation, activation
from meanfield.theories.general_data.compiled.tilted import gaussian_curvature, half_line, scratch, tilted_moments
from meanfield.theories.general_data.tilt import tilt_of

Z = sp.Symbol("z")
WORK = scratch()


def _moments(phi, k, mean, variance):
    return np.array(tilted_moments(tilt_of(phi), k, mean, variance, WORK))


@pytest.mark.parametrize(
    "phi",
    [
        activation("sigmoid"),
        activation("tanh"),
        activation("tanh", gain=3.0),
        activation("erf"),
        activation("softplus"),
        Activation(Z / (1 + Z**2), Z),
    ],
    ids=lambda phi: repr(phi),
)
@pytest.mark.parametrize("k", [-20.0, -1.5, 0.0, 0.4, 6.0])
def test_smooth(phi, k):
    for mean in (-2.5, 0.1, 1.4):
        for variance in (1e-3, 0.2, 1.0, 3.0):
            want = np.array(tilted(phi, np.array([k]), np.array([mean]), np.array([variance]), points=40001))[:, 0]
            assert _moments(phi, k, mean, variance) == pytest.approx(want, rel=3e-10, abs=3e-10)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "hard_tanh", "hard_sigmoid", "step"])
@pytest.mark.parametrize("k", [-7.0, -0.5, 0.0, 2.0, 9.0])
def test_piecewise_linear(name, k):
    """Gauss-Legendre on the pieces."""
    phi = activation(name)
    for mean in (-2.0, 0.3, 1.5):
        for variance in (0.05, 1.0, 2.5):
            sd = math.sqrt(variance)
            reach = 12 + 1.2 * abs(k) * sd
            edges = np.unique([*np.linspace(-reach, reach, 60), *((np.array(phi.kinks) - mean) / sd)])
            node, weight = np.polynomial.legendre.leggauss(40)
            half = 0.5 * np.diff(edges)
            x = (0.5 * (edges[1:] + edges[:-1])[:, None] + half[:, None] * node).ravel()
            z = mean + sd * x
            f = phi(z)
            exponent = k * f - 0.5 * x * x
            w = (half[:, None] * weight).ravel() * np.exp(exponent - exponent.max())
            log_z = exponent.max() + np.log(w.sum() / np.sqrt(2 * np.pi))
            w /= w.sum()
            m, e = w @ z, w @ f
            want = [log_z, m, w @ (z - m) ** 2, e, w @ (f - e) ** 2, w @ ((f - e) * (z - m))]
            assert _moments(phi, k, mean, variance) == pytest.approx(want, rel=1e-11, abs=1e-12)


@pytest.mark.parametrize("u", [0.3, 3.9, 4.1, 7.0, 20.0, 500.0])
def test_far_tail_keeps_its_digits(u):
    """A normal variable cut to [u, inf), to 40 digits."""
    mpmath = pytest.importorskip("mpmath")
    log_mass, excess, variance = half_line(u)
    with mpmath.workdps(60):
        x = mpmath.mpf(u)
        mass = mpmath.erfc(x / mpmath.sqrt(2)) / 2
        ratio = mpmath.npdf(x) / mass
        assert log_mass == pytest.approx(float(mpmath.log(mass)), rel=1e-13)
        assert excess == pytest.approx(float(ratio - x), rel=1e-12)
        assert variance == pytest.approx(float(1 - ratio * (ratio - x)), rel=1e-12)


def test_smooth_with_a_kink():
    """|z| / (1 + |z|) is not analytic at 0: panels end there."""
    phi = Activation(sp.Abs(Z) / (1 + sp.Abs(Z)), Z)
    assert phi.kinks == (0.0,)
    for k in (-5.0, 0.7, 8.0):
        want = np.array(tilted(phi, np.array([k]), np.array([0.3]), np.array([0.8]), points=400001))[:, 0]
        assert _moments(phi, k, 0.3, 0.8) == pytest.approx(want, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("name", ["sigmoid", "relu", "hard_tanh", "step"])
def test_curvature_of_the_gaussian_mean(name):
    phi = activation(name)
    for mean, variance in ((-0.4, 0.3), (1.1, 1.7)):
        h = 1e-3
        values = [_moments(phi, 0.0, mean + d * h, variance)[3] for d in (-1, 0, 1)]
        want = (values[0] - 2 * values[1] + values[2]) / h**2
        assert gaussian_curvature(tilt_of(phi), mean, variance, WORK) == pytest.approx(want, abs=3e-6)


def test_too_rough_a_nonlinearity_is_refused():
    with pytest.raises(ValueError, match="too rough"):
        tilt_of(Activation(sp.sin(4000 * Z), Z))
