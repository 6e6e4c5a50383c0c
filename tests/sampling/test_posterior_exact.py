"""Samples of small networks against their exact posteriors, in units of the Monte-Carlo error."""

import math

import numpy as np
import pytest
from margins import below, beyond
from problems import fixed_rng

import meanfield as mf
from meanfield.sampling.diagnostics import mcse_mean, rhat

pytestmark = pytest.mark.statistical


def z_scores(draws, exact):
    """(mean - exact) / standard error of draws (c, d, ...)."""
    assert below(np.max(rhat(draws)) - 1, 0.02, "R-hat - 1")
    return (np.mean(draws, axis=(0, 1)) - exact) / mcse_mean(draws)


def quadrature(network, y, features, width, tau, nodes):
    """Exact posterior means by Gauss-Hermite quadrature over all hidden weights; the readout is integrated out.

    Returns the means of y - f, of a^2, and per sample of phi and phi^2 averaged over the neurons of the last layer.
    """
    (p, r), m = features.shape, y.shape[1]
    shapes = [(width, r)] + [(width, width)] * (network.depth - 1)
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    index = np.indices((nodes,) * sum(math.prod(shape) for shape in shapes)).reshape(
        -1, nodes ** sum(map(math.prod, shapes))
    )
    parts = np.split(x[index].T, np.cumsum([math.prod(shape) for shape in shapes])[:-1], axis=1)
    phi = network.activation(parts[0].reshape(-1, *shapes[0]) @ features.T)  # (points, N, P)
    for part, shape in zip(parts[1:], shapes[1:]):
        phi = network.activation(network.sigma_w * part.reshape(-1, *shape) @ phi / math.sqrt(width))
    s2 = network.sigma_a**2 / p ** (network.readout_exponent or 1.0)  # phi is bounded, or L = 1: by default 1
    scale = 1 / width if network.scaling == "non-lazy" else 1 / math.sqrt(width)
    temperature = tau / width if network.scaling == "non-lazy" else tau
    transposed = np.swapaxes(phi, 1, 2)
    covariance = scale**2 * s2 * transposed @ phi + temperature * np.eye(p)  # of y given phi
    inverse = np.linalg.inv(covariance)
    solved = inverse @ y
    log_weight = np.log(w[index]).sum(axis=0) - 0.5 * np.sum(y * solved, axis=(1, 2))
    log_weight -= 0.5 * m * np.linalg.slogdet(covariance)[1]
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    readout = scale * s2 * phi @ solved  # mean given phi
    f = scale * transposed @ readout
    spread = s2 * width - scale**2 * s2**2 * np.sum(phi * (phi @ inverse), axis=(1, 2))  # trace of its covariance
    square = (np.sum(readout**2, axis=(1, 2)) + m * spread) / (width * m)
    rows = [(y - f).reshape(-1, y.size), square[:, None], phi.mean(axis=1), (phi**2).mean(axis=1)]
    return weight @ np.concatenate(rows, axis=1)


HALF = mf.Network("sigmoid", depth=2, readout_exponent=0.5)
CASES = {
    # network, targets, inputs (None: orthogonal), width, tau, nodes
    "N=1, P=2": (mf.Network("sigmoid"), [[1.0], [-0.4]], None, 1, 0.3, 120),
    "N=2, P=2, m=2": (mf.Network("sigmoid", sigma_a=1.5), [[1.0, 0.0], [-0.5, 0.7]], None, 2, 0.5, 22),
    "lazy, N=2": (mf.Network("sigmoid", scaling="lazy", sigma_w=1.3), [[0.8], [-0.6]], None, 2, 0.5, 22),
    "ReLU-like, one input": (mf.Network("softplus"), [[1.0], [0.2], [-0.7]], [[1.0], [-0.5], [0.3]], 2, 0.6, 60),
    "L=2, N=1": (mf.Network("tanh", depth=2, sigma_w=1.4), [[0.5], [-0.4]], None, 1, 0.4, 40),
    "L=2, N=2, one input": (HALF, [[0.5], [-0.4]], [[1.0], [-0.8]], 2, 0.8, 8),
    "L=3, N=1, one input": (mf.Network("tanh", depth=3, sigma_w=1.2), [[0.5], [-0.2]], [[1.2], [-0.8]], 1, 0.4, 40),
}


@pytest.mark.parametrize("name", CASES)
def test_tiny_network_against_quadrature(name):
    network, targets, inputs, width, tau, nodes = CASES[name]
    y = np.array(targets)
    if inputs is None:
        task = mf.class_task(targets=y, n_samples=len(y))
        features = network.sigma_w * np.eye(len(y))
    else:
        task = mf.data_task(np.array(inputs), y)
        features = network.sigma_w * np.array(inputs) / math.sqrt(np.shape(inputs)[1])
    exact = quadrature(network, y, features, width, tau, nodes)
    coarse = quadrature(network, y, features, width, tau, nodes - 2)
    chains = mf.sample(network, task, width, tau, draws=2000, warmup=300, chains=4, rng=7, progress=False)
    phi_mean = chains.class_activation.mean(axis=2)  # (c, d, C)
    own = (y - exact[: y.size].reshape(y.shape)).ravel()
    assert np.abs(own).max() > 0.02  # the task is not trivial
    found = [chains.residual.reshape(*chains.energy.shape, -1), (chains.readout**2).mean(axis=(2, 3))[:, :, None]]
    wanted = [exact[: y.size], exact[y.size : y.size + 1]]
    rough = [coarse[: y.size], coarse[y.size : y.size + 1]]
    if inputs is None:  # every class is one sample
        found += [phi_mean, chains.kernel_diagonal[:, :, -1]]
        wanted, rough = [exact], [coarse]
    draws, exact, coarse = np.concatenate(found, axis=2), np.concatenate(wanted), np.concatenate(rough)
    assert np.abs(exact - coarse).max() < 0.2 * mcse_mean(draws).min()  # the quadrature has converged
    assert below(z_scores(draws, exact))
    warmer = quadrature(network, y, features, width, 5 * tau, nodes)
    assert beyond(z_scores(draws, warmer if inputs is None else warmer[: y.size + 1]))


def linear_moments(y, s2, k, width, temperature, points=4000):
    """Exact means for phi(z) = z, L = 1, m = 1, orthogonal inputs of kernel k, at any N and P.

    Given the readout, f_mu ~ N(0, k |a|^2 / N^2) independently; its square s = |a|^2 is the only integral left.
    """
    p = y.size
    log_s = np.linspace(math.log(1e-3 * width * s2), math.log(1e5 * width * s2), points)
    s = np.exp(log_s)
    v = k * s / width**2 + temperature
    log_weight = 0.5 * width * log_s - 0.5 * s / s2 - 0.5 * p * np.log(v) - 0.5 * np.sum(y**2) / v
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    # z = (part along a) + rest; the part along a is Gaussian with this mean per unit of y.
    along = k * np.sqrt(s) / width / v
    variance = k * temperature / v
    return {
        "residual": y * (weight @ (temperature / v)),
        "a2": weight @ s / width,
        "kernel": weight @ along**2 / width,  # times y_mu y_nu
        "diagonal": (weight @ (along**2), ((width - 1) * k + weight @ variance) / width),
    }


@pytest.mark.parametrize(("scaling", "tau"), [("non-lazy", 0.3), ("non-lazy", 0.01), ("lazy", 0.3)])
def test_linear_network_against_its_exact_posterior(scaling, tau):
    """N = 24, P = 16: no limit is taken on either side."""
    width, y = 24, np.repeat([1.0, -0.5], 8)
    network = mf.Network("linear", sigma_w=1.2, sigma_a=0.8, scaling=scaling)
    # f = a.z / sqrt(N) is a network with readouts sqrt(N) times as large in the non-lazy scaling, at T = tau.
    unit, temperature = (1.0, tau / width) if scaling == "non-lazy" else (width, tau)
    task = mf.class_task(targets=[1.0, -0.5], n_samples=16)
    chains = mf.sample(network, task, width, tau, draws=700, warmup=300, chains=4, rng=5, progress=False)

    def scores(heat):
        exact = linear_moments(y, unit * 0.8**2 / 16, 1.44, width, heat * temperature)
        class_y = np.array([1.0, -0.5])
        signal, rest = exact["diagonal"]
        pairs = [
            (chains.class_residual[..., 0], exact["residual"][[0, 8]]),
            ((chains.readout**2).mean(axis=(2, 3)), exact["a2"] / unit),
            (chains.kernel_between[:, :, 0], exact["kernel"] * np.outer(class_y, class_y)),
            (chains.kernel_diagonal[:, :, 0], signal * class_y**2 / width + rest),
        ]
        return np.concatenate([np.ravel(z_scores(draws, wanted)) for draws, wanted in pairs])

    assert below(scores(1.0))
    assert beyond(scores(1.3))


def test_predictor_of_a_linear_network():
    """New inputs partly outside the span of the training inputs: mean and variance of f against the exact ones."""
    rng = fixed_rng(8)
    inputs, new = rng.standard_normal((3, 5)), rng.standard_normal((4, 5))
    y, width, tau = np.array([1.0, -0.6, 0.3]), 4, 0.4
    chains = mf.sample(
        mf.Network("linear"),
        mf.data_task(inputs, y),
        width,
        tau,
        inputs=new,
        draws=2000,
        warmup=300,
        chains=4,
        rng=1,
        progress=False,
    )
    kernel, cross, own = inputs @ inputs.T / 5, new @ inputs.T / 5, np.sum(new**2, axis=1) / 5
    s2 = 1 / 3
    log_s = np.linspace(math.log(1e-4 * s2), math.log(1e4 * s2), 4000)
    s = np.exp(log_s)

    def moments(temperature):
        """Given s = |a|^2 all outputs are jointly Gaussian with covariance s / N^2 times the kernel."""
        log_weight, means, squares = [], [], []
        for scale in s / width**2:
            covariance = scale * kernel + temperature * np.eye(3)
            log_weight.append(-0.5 * y @ np.linalg.solve(covariance, y) - 0.5 * np.linalg.slogdet(covariance)[1])
            mean = scale * cross @ np.linalg.solve(covariance, y)
            variance = scale * own - scale**2 * np.sum(cross * np.linalg.solve(covariance, cross.T).T, axis=1)
            means.append(mean)
            squares.append(mean**2 + variance)
        log_weight = np.array(log_weight) + 0.5 * width * log_s - 0.5 * s / s2
        weight = np.exp(log_weight - log_weight.max())
        weight /= weight.sum()
        return np.concatenate([weight @ np.array(means), weight @ np.array(squares)])

    f = chains.prediction[..., 0]
    draws = np.concatenate([f, f**2], axis=2)
    assert below(z_scores(draws, moments(tau / width)))
    assert beyond(z_scores(draws, moments(1.3 * tau / width)))
