"""The compiled energy against a plain one, its gradient by complex steps, and the geometry of leapfrog."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.special
import sympy as sp
from margins import below
from scipy.stats import chi2

import meanfield as mf
from meanfield.sampling.compiled import energy_gradient, forward, trajectory
from meanfield.sampling.problem import problem

RNG = np.random.default_rng(11)
DATA = mf.data_task(RNG.standard_normal((7, 4)), RNG.standard_normal((7, 2)))
CLASSES = mf.class_task(fractions=[0.5, 0.25, 0.25], off=-0.3, n_samples=8)
Z = sp.Symbol("z", real=True)
# phi for complex arguments, written once more.
PHI = {
    "sigmoid": lambda z: 0.5 * (1 + scipy.special.erf(0.5 * math.sqrt(math.pi) * z)),
    "tanh": np.tanh,
    "linear": lambda z: z,
    "relu": lambda z: np.where(z.real > 0, z, 0),
    "softplus": lambda z: np.log(1 + np.exp(z)),
    "algebraic": lambda z: z / np.sqrt(1 + z * z),
}
CASES = [
    (name, depth, scaling, task, sigma_a)
    for name, depth in [("sigmoid", 1), ("sigmoid", 2), ("sigmoid", 3), ("tanh", 1), ("relu", 2), ("softplus", 3)]
    for scaling, task, sigma_a in [("non-lazy", CLASSES, 1.0), ("non-lazy", DATA, 0.6), ("lazy", DATA, 1.3)]
] + [("linear", 2, "non-lazy", DATA, 1.0), ("algebraic", 2, "lazy", CLASSES, 1.0)]


def pose(name, depth=1, scaling="non-lazy", task=CLASSES, sigma_a=1.0, width=5, tau=0.3):
    phi = mf.Activation(Z / sp.sqrt(1 + Z**2), Z) if name == "algebraic" else name
    return problem(mf.Network(phi, depth, sigma_a, 1.2, scaling), task, width, tau)


def plain_energy(posed, name, x, beta):
    """E from its definition, for real or complex x."""
    n, p, m = posed.width, posed.n_samples, posed.n_outputs
    features = posed.features if posed.features.size else 1.2 * np.eye(p)
    at = n * features.shape[1]
    z = x[:at].reshape(n, -1) @ features.T
    for _ in range(posed.network.depth - 1):
        z = 1.2 * x[at : at + n * n].reshape(n, n) @ PHI[name](z) / math.sqrt(n)
        at += n * n
    exponent = 1.0 / posed.network.depth if name in ("relu", "softplus", "linear") else 1.0
    a = posed.network.sigma_a * p ** (-0.5 * exponent) * x[at:].reshape(m, n)
    f = a @ PHI[name](z) / (n if posed.network.scaling == "non-lazy" else math.sqrt(n))
    return 0.5 * beta * np.sum((posed.targets.T - f) ** 2) + 0.5 * np.sum(x * x)


@pytest.mark.parametrize(("name", "depth", "scaling", "task", "sigma_a"), CASES)
def test_energy_and_gradient(name, depth, scaling, task, sigma_a):
    posed = pose(name, depth, scaling, task, sigma_a)
    x = np.random.default_rng(depth).standard_normal(posed.n_weights)
    gradient, beta = np.empty(x.size), 13.0
    energy = energy_gradient(posed.target(), x, beta, posed.work(), gradient)
    assert energy == pytest.approx(plain_energy(posed, name, x, beta), rel=1e-12)
    steps = x + 1e-30j * np.eye(x.size)
    exact = np.array([plain_energy(posed, name, row, beta).imag for row in steps]) / 1e-30
    np.testing.assert_allclose(gradient, exact, rtol=1e-9, atol=1e-9 * np.abs(exact).max())


def test_energy_of_layers_of_different_width_and_scale():
    """f from its definition, layer by layer, and its gradient by complex steps."""
    network = mf.Network("sigmoid", 3, 0.7, 1.2, layer_sigmas=(0.8, 1.3), width_ratios=(2.0, 0.5))
    posed = problem(network, CLASSES, 4, 0.3)
    assert (posed.widths, posed.n_hidden) == ((8, 2, 4), 8 * 8 + 2 * 8 + 4 * 2)

    def plain(x):
        first, second, third = x[:64].reshape(8, 8), x[64:80].reshape(2, 8), x[80:88].reshape(4, 2)
        phi = PHI["sigmoid"](1.2 * first)
        phi = PHI["sigmoid"](0.8 * second @ phi / math.sqrt(8))
        phi = PHI["sigmoid"](1.3 * third @ phi / math.sqrt(2))
        f = 0.7 / math.sqrt(8) * x[88:].reshape(3, 4) @ phi / 4
        return 0.5 * 13.0 * np.sum((posed.targets.T - f) ** 2) + 0.5 * np.sum(x * x)

    x = np.random.default_rng(3).standard_normal(posed.n_weights)
    gradient = np.empty(x.size)
    assert energy_gradient(posed.target(), x, 13.0, posed.work(), gradient) == pytest.approx(plain(x), rel=1e-12)
    exact = np.array([plain(row).imag for row in x + 1e-30j * np.eye(x.size)]) / 1e-30
    np.testing.assert_allclose(gradient, exact, rtol=1e-9, atol=1e-9 * np.abs(exact).max())
    with pytest.raises(ValueError, match="whole numbers"):
        problem(network, CLASSES, 5, 0.3)


def test_orthogonal_inputs_need_no_features():
    """Inputs with X X^T = N_0 are those of a class task, whichever way they are turned: energies, outputs elsewhere."""
    labels = np.repeat([0, 1, 2], [4, 2, 2])
    turned = np.linalg.qr(RNG.standard_normal((8, 8)))[0]
    task = mf.data_task(math.sqrt(8) * turned, CLASSES.targets[labels], center=False, scale=None)
    network, new = mf.Network("sigmoid", sigma_w=1.2), RNG.standard_normal((3, 8))
    lean, classes = problem(network, task, 5, 0.3, new), pose("sigmoid")
    features = task.features(1.2)
    projected = features.project(task.transform(new))[0]
    dense = dataclasses.replace(lean, features=features.matrix, new_features=projected)
    x = RNG.standard_normal(classes.n_weights)
    other = x.copy()
    other[: lean.n_hidden] = (lean.weights(x)[0] @ dense.features / 1.2).ravel()
    values = [
        energy_gradient(posed.target(), state, 3.0, posed.work(), np.empty(x.size))
        for posed, state in ((classes, x), (lean, x), (dense, other))
    ]
    assert lean.features.size == 0
    assert values == pytest.approx([values[0]] * 3, rel=1e-13)
    outputs = [posed.weights(state)[0] @ posed.new_features.T for posed, state in ((lean, x), (dense, other))]
    assert outputs[0] == pytest.approx(outputs[1], rel=1e-12, abs=1e-13)


def test_inputs_of_unequal_norms_keep_their_features():
    inputs = math.sqrt(8) * np.diag([1.0] * 7 + [1.001])
    task = mf.data_task(inputs, np.ones((8, 1)), center=False, scale=None)
    assert problem(mf.Network("sigmoid"), task, 5, 0.3).features.shape == (8, 8)


def test_forward_leaves_the_residual():
    posed = pose("tanh", depth=2, task=DATA)
    x = np.random.default_rng(3).standard_normal(posed.n_weights)
    work = posed.work()
    forward(posed.target(), x, posed.readout(x), work)
    zero = plain_energy(posed, "tanh", x, 0.0)
    assert 0.5 * np.sum(work.residual**2) == pytest.approx(plain_energy(posed, "tanh", x, 1.0) - zero, rel=1e-11)


def move(posed, x, momentum, step, n_steps):
    x, momentum = x.copy(), momentum.copy()
    beta, work = posed.coldness, posed.work()
    change = trajectory(posed.target(), x, momentum, beta, step, n_steps, 1000.0, work, np.empty(x.size))
    return x, momentum, change


@pytest.fixture(params=[1, 2], ids=["L=1", "L=2"])
def moving(request):
    posed = pose("sigmoid", depth=request.param, task=CLASSES)
    rng = np.random.default_rng(request.param)
    return posed, rng.standard_normal(posed.n_weights), rng.standard_normal(posed.n_weights)


def test_leapfrog_is_reversible(moving):
    posed, x, momentum = moving
    there, arrived, change = move(posed, x, momentum, 0.05, 40)
    back, returned, other = move(posed, there, -arrived, 0.05, 40)
    assert np.abs(there - x).max() > 0.5  # it did move
    np.testing.assert_allclose(back, x, atol=1e-11)
    np.testing.assert_allclose(-returned, momentum, atol=1e-11)
    assert change == pytest.approx(-other, abs=1e-10)


def test_leapfrog_preserves_volume():
    posed = pose("sigmoid", width=2, task=mf.class_task(n_classes=2, n_samples=2))
    rng = np.random.default_rng(5)
    start = rng.standard_normal(2 * posed.n_weights)
    n, h = posed.n_weights, 1e-5

    def flow(state):
        return np.concatenate(move(posed, state[:n], state[n:], 0.2, 5)[:2])

    columns = [(flow(start + h * e) - flow(start - h * e)) / (2 * h) for e in np.eye(2 * n)]
    assert np.linalg.det(np.array(columns)) == pytest.approx(1.0, abs=1e-8)


def test_energy_error_is_of_second_order(moving):
    """The change of the total energy over a fixed time falls with the square of the step."""
    posed, x, momentum = moving
    steps = 2.0 ** -np.arange(4, 9)
    change = [abs(move(posed, x, momentum, step, round(0.75 / step))[2]) for step in steps]
    exponent = np.diff(np.log(change)) / np.diff(np.log(steps))
    np.testing.assert_allclose(exponent[-2:], 2.0, atol=0.03)


def test_divergence_is_noticed(moving):
    posed, x, momentum = moving
    assert move(posed, x, momentum, 50.0, 20)[2] == math.inf
    assert move(posed, np.full(x.size, np.nan), momentum, 0.1, 3)[2] == math.inf


@pytest.mark.statistical
@pytest.mark.parametrize("width", [3, 12], ids=["N<P", "N>P"])
def test_exact_draw_of_the_readout(width):
    """Mean and covariance of many draws against the Gaussian conditional, in units of their Monte-Carlo error."""
    posed = dataclasses.replace(pose("sigmoid", task=CLASSES), width=width)
    rng = np.random.default_rng(1)
    phi = rng.random((width, 8))
    beta, q, count = 30.0, posed.readout_std * posed.output_scale, 4000
    draws = np.array([posed.draw_readout(phi, beta, rng) for _ in range(count)])  # (count, m, N)
    covariance = np.linalg.inv(np.eye(width) + beta * q * q * phi @ phi.T)
    mean = beta * q * posed.targets.T @ phi.T @ covariance
    z = (draws.mean(axis=0) - mean) / np.sqrt(np.diag(covariance) / count)
    assert below(z)
    whitened = (draws.mean(axis=0) - mean) @ np.linalg.cholesky(np.linalg.inv(covariance)) * np.sqrt(count)
    assert below(np.log10(chi2.sf(np.sum(whitened**2), whitened.size)), 6.0, "log10 of p")  # 3 N independent numbers
    centred = draws - mean
    found = np.einsum("kri,krj->ij", centred, centred) / (count * 3)
    spread = np.sqrt((covariance**2 + np.outer(np.diag(covariance), np.diag(covariance))) / (count * 3))
    assert below((found - covariance) / spread)
