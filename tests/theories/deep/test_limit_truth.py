"""P = infinity held against plain quadrature and one-dimensional problems: steep phi, odd phi, many layers."""

import itertools
import math

import numpy as np
import pytest
import sympy as sp
from scipy.optimize import brentq, minimize_scalar
from scipy.special import expit

import meanfield as mf
from meanfield.theories.deep.large_p.saturated import _shortest, saturated_solve

X, W = np.polynomial.legendre.leggauss(1200)
X, W = 9.0 * X, 9.0 * W * np.exp(-40.5 * X * X) / math.sqrt(2.0 * math.pi)  # of N(0, 1)
PHI = {"tanh": np.tanh, "logistic": expit}


def limit(network, targets, fractions=None):
    return mf.solve(network, mf.class_task(fractions=fractions, targets=targets, n_samples=math.inf), 0.1)


@pytest.mark.parametrize(
    ("name", "scales", "gain"),
    [("tanh", (5.0, 5.0), 1.0), ("tanh", (1.0, 1.0, 1.0), 8.0), ("logistic", (3.0, 20.0, 20.0), 1.0)],
)
def test_kernels_of_the_prior_of_steep_activations(name, scales, gain):
    """80 Hermite nodes left 1e-2 of them, certified."""
    network = mf.Network(
        mf.activation(name, gain=gain), len(scales), sigma_w=scales[0], layer_sigmas=scales[1:], readout_exponent=1.0
    )
    found = limit(network, [1, -1]).solution
    common, whole = 0.0, scales[0] ** 2  # of preactivations
    for layer, scale in enumerate(scales[1:]):
        z = math.sqrt(common) * X[:, None] + math.sqrt(whole - common) * X
        mean, square = (PHI[name](gain * z) ** n @ W for n in (1, 2))
        wanted = W @ mean**2, W @ square
        kernel = found.kernel[layer, 0, 1]
        assert (kernel, kernel + found.d[layer, 0]) == pytest.approx(wanted, abs=1e-9)
        common, whole = scale**2 * wanted[0], scale**2 * wanted[1]


def test_what_is_left_of_differences_after_many_layers():
    """d falls by sigma_w^2 <phi'>^2 per layer, 1e-15 of the kernel in the end: no difference of squares."""
    found = limit(mf.Network("logistic", 14), [1, -1]).solution
    h = math.sqrt(found.kernel[11, 0, 1]) * X
    slope = W @ (expit(h) * expit(-h)) ** 2
    assert 0.0 < found.d[12, 0] < 1e-14
    assert found.d[12, 0] / found.d[11, 0] == pytest.approx(slope, rel=1e-6)


def mean_tanh(h, d):
    return W @ np.tanh(h + math.sqrt(d) * X)


def field_of(mean, noise):
    return brentq(lambda x: mean_tanh(x, noise) - mean, -20.0, 20.0)


def reduced_scales(depth):
    """Noise of the last layer, and Gamma, of tanh under the prior."""
    noise, gamma = 1.0, 1.0
    for layer in range(depth - 1):
        slope = W @ np.cosh(math.sqrt(noise) * X) ** -2.0
        noise = W @ np.tanh(math.sqrt(noise) * X) ** 2
        gamma *= noise if layer == 0 else slope**2
    return noise, gamma


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("y", [(1.0, -1.0), (1.0, -0.4), (1.0, 0.8)])
def test_odd_activations_share_no_field_for_nothing(depth, y):
    """Two classes, one output: a neuron and its mirror image; minimise a^2 / 2 + L/2 (sum_c p_c h_c^2 / Gamma)^(1/L)
    over a, with a phibar(h_c) = y_c. A common field of all classes does not exist under the prior of an odd phi."""
    noise, gamma = reduced_scales(depth)
    p = np.array([0.3, 0.7])

    def cost(a):
        h = np.array([field_of(target / a, noise) for target in y])
        return 0.5 * a**2 + 0.5 * depth * (p @ h**2 / gamma) ** (1.0 / depth)

    best = minimize_scalar(cost, bounds=(1.01, 6.0), method="bounded", options={"xatol": 1e-7})
    post = limit(mf.Network("tanh", depth, readout_exponent=1 / depth), list(y), p)
    assert post.free_energy == pytest.approx(-best.fun, abs=1e-7)
    assert np.abs(post.solution.readout).ravel() == pytest.approx([best.x, best.x], abs=1e-4)
    assert post.solution.weight == pytest.approx([0.5, 0.5])


def test_three_classes_of_an_odd_activation():
    """One-hot: all eight signs are equally frequent, and H = p h^2 in every direction."""
    noise, gamma = reduced_scales(2)

    def cost(a):
        h = field_of(1.0 / a, noise)
        return 1.5 * a**2 + 3.0 * math.sqrt(h**2 / 3.0 / gamma)

    best = minimize_scalar(cost, bounds=(1.01, 6.0), method="bounded", options={"xatol": 1e-7})
    post = limit(mf.Network("tanh", 2, readout_exponent=0.5), np.eye(3))
    assert post.free_energy == pytest.approx(-best.fun, abs=1e-7)
    assert post.solution.weight == pytest.approx([1 / 8] * 8, abs=1e-8)
    assert np.abs(post.solution.readout) == pytest.approx(best.x, abs=1e-4)


def test_what_looks_odd_near_zero_only_is_refused():
    """A step at z = 200 is constant up to there; the reduced problem is for phi that are odd around their middle."""
    z = sp.Symbol("z", real=True)
    step = mf.Activation(sp.Heaviside(z - 200, sp.Rational(1, 2)), z, name="far_step")
    with pytest.raises(ValueError, match="odd, up to a constant"):
        limit(mf.Network(step, 2, sigma_w=200.0, readout_exponent=0.5), [1, -1])


def test_the_law_of_an_activation_has_all_of_its_weight():
    """phi(z) = z / sqrt(1 + z^2) comes from |z| up to 40 where sigma_w = 4; what lay beyond 12 was left out."""
    z = sp.Symbol("z", real=True)
    phi = mf.Activation(z / sp.sqrt(1 + z**2), z, name="algebraic")
    post = mf.solve(mf.Network(phi, 2, sigma_w=4.0), mf.class_task(targets=[1, -1], n_samples=80), 0.1)
    angle = np.linspace(-0.5 * np.pi, 0.5 * np.pi, 40001)[1:-1]
    value = np.sin(angle)
    for layer in (1, 2):
        density = post.activation_density(None, 0, value, layer=layer) * np.cos(angle) * (angle[1] - angle[0])
        assert density.sum() == pytest.approx(1.0, abs=1e-5)
        assert density @ value**2 == pytest.approx(post.kernel(layer).diagonal[0], abs=1e-5)


@pytest.mark.parametrize(
    ("phi", "targets"),
    [("sigmoid", [1, 1, -1]), ("tanh", [1, 0, -1]), ("tanh", [1, 1, -0.5]), ("sigmoid", [[1, 0], [1, 0], [0, 1]])],
)
def test_t_without_noise_is_that_of_little_noise(phi, targets):
    """Only sum_c S_c p_c t_c of the codes is determined at tau = 0; classes of equal targets had t = 2 and 5."""
    task = mf.class_task([0.5, 0.2, 0.3], targets=targets)
    none, little = (mf.solve(mf.Network(phi, 2), task, tau).solution.t for tau in (0.0, 1e-8))
    np.testing.assert_allclose(none, little, atol=3e-7 * np.abs(little).max())


def test_t_without_noise_where_a_code_without_weight_bounds_it():
    """Codes 110 and 101 have weight; u_1 = .3 and u_2 = u_3 = 1.7 were shorter, and code 111 beyond both."""
    words = np.array(list(itertools.product((1.0, 0.0), repeat=3)))
    weight = 0.5 * np.array([word.tolist() in ([1.0, 1.0, 0.0], [1.0, 0.0, 1.0]) for word in words])
    u = np.array([[2.0], [0.0], [0.0]])
    np.testing.assert_allclose(_shortest(words, weight, u, np.array([0.1, 0.5, 0.4])), u, atol=1e-7)


@pytest.mark.parametrize(("size", "sigma_a"), [(1e-3, 1.0), (1e3, 1.0), (1e-5, 0.01), (1.0, 100.0)])
def test_saturated_codes_do_not_depend_on_the_size_of_targets(size, sigma_a):
    """J(u; y, tau, sigma_a) is homogeneous: at 1e-3 codes that are none were certified, J off by 2e-4 of it."""
    p, y = np.array([0.46, 0.06, 0.48]), np.where(np.eye(3, dtype=bool), 1.0, 3.5 - math.sqrt(10.0))
    one, other = (
        mf.solve(mf.Network("sigmoid", 2, sigma_a=s), mf.class_task(p, targets=scale * y), 1e-5 * s**2)
        for scale, s in ((1.0, 1.0), (size, sigma_a))
    )
    assert [code.pattern for code in other.codes] == [code.pattern for code in one.codes]
    np.testing.assert_allclose(other.solution.weight, one.solution.weight, atol=1e-8)
    np.testing.assert_allclose(other.solution.readout, size * one.solution.readout, rtol=1e-8, atol=1e-9 * size)
    assert other.free_energy == pytest.approx(size**2 / sigma_a**2 * one.free_energy, rel=1e-9)


@pytest.mark.parametrize(
    ("y", "tau"),
    [
        ([[0, -2, -2], [0, -2, 0], [0, 2, -1], [-2, -1, 2], [2, 1, 1]], 0.0),
        ([[2, -1], [1, 0], [-1, 0], [1, 0], [0, -2]], 0.05),
    ],
)
def test_saturated_codes_that_nearly_tie(y, tau):
    """The climb does not tell which codes have weight; both were refused, with a gap as large as J."""
    y, p, words = np.array(y) / 2.0, np.full(5, 0.2), np.array(list(itertools.product((1.0, -1.0), repeat=5)))
    found = saturated_solve(p, y, tau, 1.0, -1.0, 1.0)
    u = found.t * p[:, None]
    upper = -np.sum(u * y) + 0.5 * tau * np.sum(u**2) / 0.2 + 0.5 * ((words @ u) ** 2).sum(axis=1).max()
    matrix = (found.words.T * found.weight) @ found.words + tau / 0.2 * np.eye(5)
    lower = -0.5 * np.sum(y * (np.linalg.pinv(matrix) @ y))
    assert found.weight.min() > 0.0
    assert found.weight.sum() == pytest.approx(1.0, abs=32e-9)  # of 32 codes those below 1e-9 are not listed
    assert (upper, lower) == (pytest.approx(found.objective, rel=1e-10), pytest.approx(found.objective, rel=1e-9))
