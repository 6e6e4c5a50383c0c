"""The dual on any data: exact cases, convexity, derivatives, lattices, hard cases (general_data/THEORY.md)."""

from __future__ import annotations

import numpy as np
import pytest
from general_oracles import digits, numpy_ep

import meanfield as mf
from meanfield.activations.activation import activation
from meanfield.theories.general_data.lattice.dual import LatticeDual, minimise
from meanfield.theories.general_data.lattice.nodes import Lattice, LatticeNodes, grow
from meanfield.theories.general_data.neuron import Neuron
from meanfield.theories.general_data.solve import solve_frozen, solve_general

SIGMOID = activation("sigmoid")


def _solve(matrix, targets, labels, tau=0.01, phi=SIGMOID, **options):
    options.setdefault("method", "lattice")
    return solve_general(phi, matrix, targets, 1.0, tau, labels=labels, threads=2, rng=0, **options)


def _mixture(n_samples, n_inputs, seed=1, off=0.0, classes=2):
    """Gaussian clusters: features, one-hot targets, labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n_samples) % classes
    inputs = rng.normal(size=(n_samples, n_inputs)) + 0.8 * rng.normal(size=(classes, n_inputs))[labels]
    return inputs / np.sqrt(n_inputs), np.where(np.eye(classes)[labels] > 0, 1.0, off), labels


@pytest.fixture(scope="module")
def small():
    """Three classes, more samples than directions of input space."""
    matrix, targets, labels = _mixture(30, 60, classes=3)
    return matrix, targets, labels, _solve(matrix, targets, labels, tolerance=1e-8)


@pytest.mark.parametrize(("fractions", "off"), [((0.5, 0.25, 0.25), 0.5), ((0.5, 0.5), 0.0)])
def test_orthogonal_data_is_the_factorised_theory(fractions, off):
    """EP is exact for a diagonal kernel: t, J and weights of the single-layer solver at the same P."""
    p = 40
    task = mf.class_task(fractions=fractions, on=1.0, off=off, n_samples=p)
    posterior = mf.solve(mf.Network(activation="sigmoid"), task, tau=0.01)
    labels = np.repeat(np.arange(len(fractions)), [round(f * p) for f in fractions])
    targets = np.where(np.eye(len(fractions))[labels] > 0, 1.0, off)
    found = _solve(np.eye(p), targets, labels, tolerance=1e-8, spacing=1.1, window=16.0)
    assert found.status == "optimal"
    assert found.residual < 1e-7
    want = posterior.order_parameters["t"][labels]
    # The truncated tail e^-16 and the lattice of spacing 1.1 are what separates the two.
    assert found.t == pytest.approx(want, abs=2e-5 * np.abs(want).max())
    assert found.objective / p == pytest.approx(posterior.objective, abs=1e-6)
    heavy = [code for code in posterior.codes if code.weight > 0.05]
    assert len(heavy) == np.sum(found.code_weight > 0.05)
    for code in heavy:
        nearest = np.argmin(np.sum((found.code_readout - code.readout) ** 2, axis=1))
        assert np.abs(found.code_readout[nearest] - code.readout).max() < 0.2


def test_residual_is_that_of_plain_numpy(small):
    """Y = <a phi> + tau t with every component's E phi from an independent expectation propagation."""
    matrix, targets, _, found = small
    mean = np.zeros_like(targets)
    for a, w, s, nu in zip(found.readout, found.weight, found.s, found.nu):
        _, phi, _, _ = numpy_ep(SIGMOID, matrix, found.t @ a, s, nu, tolerance=1e-8)
        mean += w * np.outer(phi, a)
    gradient = found.tau * found.t - targets + mean
    assert np.abs(gradient).max() < 1e-6
    assert found.residual < 1e-6
    assert found.status == "optimal"
    assert found.weight.sum() == pytest.approx(1.0)
    assert found.code_weight.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("sharpness", [1.0, 0.3])
def test_objective_is_convex_and_its_gradient_is_right(small, sharpness):
    matrix, targets, _, found = small
    neuron = Neuron(SIGMOID, matrix, found.prior, threads=2)
    lattice = Lattice(3, found.prior, 1.4, 8.0, sharpness=sharpness)
    dual = LatticeDual(neuron, targets, found.tau, lattice, None)
    rng = np.random.default_rng(3)
    direction = rng.normal(size=found.t.shape)
    index = np.unique(lattice.nearest(found.readout), axis=0)

    def nodes(x):
        t = found.t + x * direction
        return LatticeNodes(lattice, t, index, neuron.evaluate(t, lattice.readouts(index), tolerance=1e-10))

    x = np.array([-0.2, -0.1, 0.0, 0.1, 0.2])
    values = np.array([dual.objective(grow(neuron, nodes(here), 1e-9)) for here in x])
    assert (np.diff(values, 2) > 0).all()
    # On a fixed set of nodes J is smooth, and its gradient exact. The window must not cut.
    wide = Lattice(3, found.prior, 1.4, 1e9, sharpness=sharpness)
    h = 1e-4
    low, high = (dual.objective(LatticeNodes(wide, n.t, n.index, n.at)) for n in (nodes(-h), nodes(h)))
    here = nodes(0.0)
    slope = np.sum(dual.state(found.t, LatticeNodes(wide, here.t, here.index, here.at)).gradient * direction)
    assert (high - low) / (2 * h) == pytest.approx(slope, abs=2e-6)


def test_lattice_leaves_no_trace(small):
    """Shifted by half a step, finer, deeper: same t and J to the error bound of the lattice."""
    matrix, targets, labels, found = small
    for options in ({"shift": 0.5}, {"spacing": 1.15, "window": 10.0}):
        other = _solve(matrix, targets, labels, **options)
        assert other.objective == pytest.approx(found.objective, abs=2e-3)
        assert np.sqrt(np.mean((other.t - found.t) ** 2)) < 2e-3 * np.abs(found.t).max()
        assert np.sum(other.code_weight > 0.02) == np.sum(found.code_weight > 0.02)


def test_more_starts_find_no_more(small):
    matrix, _, _, found = small
    neuron = Neuron(SIGMOID, matrix, found.prior, threads=2)
    dual = LatticeDual(neuron, found.targets, found.tau, Lattice(3, found.prior, 1.4, 8.0), None)
    nodes = None
    for seed in range(4):
        more = dual.search(found.t, 2.5, np.random.default_rng(seed), 1e-6)
        nodes = more if nodes is None else dual.merge(nodes, more)
    nodes = grow(neuron, nodes, 1e-6)
    assert dual.objective(nodes) == pytest.approx(found.objective, abs=1e-4)


def test_factor_of_the_kernel_does_not_matter(small):
    matrix, targets, labels, found = small
    values, vectors = np.linalg.eigh(matrix @ matrix.T)
    other = _solve(vectors * np.sqrt(np.maximum(values, 0)), targets, labels, tolerance=1e-8)
    assert other.t == pytest.approx(found.t, abs=2e-5)


def test_labels_are_not_needed(small):
    matrix, targets, _, found = small
    other = _solve(matrix, targets, None)
    assert other.objective == pytest.approx(found.objective, abs=1e-4)
    again = _solve(matrix, targets, None, warm_start=found)
    assert again.iterations < other.iterations
    assert again.t == pytest.approx(found.t, abs=1e-4)


def test_frozen_at_equilibrium_is_equilibrium(small):
    _, targets, _, found = small
    same = solve_frozen(found, found.code_weight, threads=2, tolerance=1e-7)
    assert same.frozen
    assert same.t == pytest.approx(found.t, abs=1e-3)
    shifted = found.code_weight * np.linspace(1.2, 0.8, found.n_codes)
    other = solve_frozen(found, shifted, threads=2)
    assert other.status == "optimal"
    assert other.code_weight == pytest.approx(shifted / shifted.sum(), rel=1e-9)
    fit = np.einsum("n,nm,np->pm", other.weight, other.readout, other.phi)
    assert fit + other.tau * other.t == pytest.approx(targets, abs=1e-4)
    with pytest.raises(ValueError, match="one per code"):
        solve_frozen(found, [1.0])


@pytest.mark.parametrize("name", ["tanh", "erf", "hard_tanh", "step"])
def test_other_bounded_activations(name):
    matrix, targets, labels = _mixture(30, 60, off=-1.0)
    found = _solve(matrix, targets, labels, phi=activation(name))
    assert found.status == "optimal"
    fit = np.einsum("n,nm,np->pm", found.weight, found.readout, found.phi)
    assert fit + found.tau * found.t == pytest.approx(targets, abs=1e-4)


def test_unbounded_activations_are_refused():
    matrix, targets, labels = _mixture(10, 5)
    for name in ("relu", "linear", "softplus"):
        with pytest.raises(ValueError, match="unbounded"):
            _solve(matrix, targets, labels, phi=activation(name))


def test_one_sample():
    """P = 1: t alone, by a one-dimensional integral over the preactivation and the Gaussian readout."""
    x, w = np.polynomial.hermite_e.hermegauss(120)
    phi, w = SIGMOID(1.3 * x), w / np.sqrt(2 * np.pi)
    found = _solve(np.array([[1.3]]), np.array([[0.7]]), None, tau=0.1, tolerance=1e-9, spacing=1.0, window=25.0)
    # Given phi the readout is N(t phi, 1); its integral leaves exp((t phi)^2 / 2).
    t = found.t[0, 0]
    weight = w * np.exp(0.5 * (t * phi) ** 2)
    assert t * (weight @ phi**2) / weight.sum() + 0.1 * t == pytest.approx(0.7, abs=1e-6)
    assert found.status == "optimal"


def test_duplicated_inputs_with_different_targets():
    """The network fits their mean; the rest is residual: t = (y - f) / tau is large, and says so."""
    matrix, targets, labels = _mixture(16, 10)
    matrix = np.vstack([matrix, matrix[:2]])
    targets = np.vstack([targets, 1.5 - targets[:2]])
    labels = np.append(labels, 1 - labels[:2])
    found = _solve(matrix, targets, labels, tau=0.2)
    assert found.status == "optimal"
    fit = targets - found.tau * found.t
    assert fit[-2:] == pytest.approx(fit[:2], abs=0.05)


@pytest.mark.parametrize("tau", [0.03, 0.003])
def test_random_labels_and_small_tau(tau):
    """Labels that mean nothing, tau -> 0: irregular t, and a residual tau t that vanishes with tau."""
    rng = np.random.default_rng(5)
    matrix = rng.normal(size=(24, 80)) / np.sqrt(80)
    labels = rng.integers(0, 2, 24)
    targets = np.where(np.eye(2)[labels] > 0, 1.0, 0.0)
    found = _solve(matrix, targets, labels, tau=tau)
    assert found.status == "optimal"
    assert np.abs(found.tau * found.t).max() < 12 * tau


def test_bad_input():
    matrix, targets, labels = _mixture(10, 5)
    with pytest.raises(ValueError, match="equally many rows"):
        _solve(matrix[:5], targets, labels)
    with pytest.raises(ValueError, match="tau"):
        _solve(matrix, targets, labels, tau=0.0)
    with pytest.raises(ValueError, match="one per sample"):
        _solve(matrix, targets, labels[:4])
    with pytest.raises(ValueError, match="finite"):
        _solve(np.where(matrix > 0, matrix, np.nan), targets, labels)
    with pytest.raises(ValueError, match="warm_start"):
        _solve(matrix, targets, labels, fractions=[1.0])


def test_too_many_outputs_are_refused():
    matrix = np.eye(12)
    with pytest.raises(ValueError, match="at most 5"):
        _solve(matrix, np.eye(6)[np.arange(12) % 6], np.arange(12) % 6)


def test_single_neurons_beyond_capacity_are_refused_in_words():
    """Random signs, many more samples than directions, tiny tau: EP fails, and the result says so."""
    rng = np.random.default_rng(0)
    found = _solve(rng.normal(size=(14, 3)), np.where(rng.random((14, 1)) < 0.5, -1.0, 1.0), None)
    assert found.status != "optimal"
    assert found.message


def _random_labels(n_samples, n_inputs, classes=2):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(n_samples, n_inputs)) / np.sqrt(n_inputs)
    return matrix, np.eye(classes)[rng.integers(0, classes, n_samples)]


def _contradictions():
    matrix, targets, _ = _mixture(30, 15)
    return np.vstack([matrix, matrix[:4]]), np.vstack([targets, 1.0 - targets[:4]])


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
@pytest.mark.parametrize(
    "data",
    [_random_labels(60, 30), _random_labels(60, 20, 3), _random_labels(20, 3), _contradictions()],
    ids=["random", "three classes", "three inputs", "duplicates"],
)
def test_no_claim_beyond_capacity(name, data):
    """More random labels than directions, duplicates with other targets, at tau = 0.01: refused, with what helps."""
    matrix, targets = data
    found = _solve(matrix, targets, None, phi=activation(name), method="lattice")
    assert found.status == "EP failed"
    assert "larger tau" in found.message
    fit = np.einsum("n,nm,np->pm", found.weight, found.readout, found.phi)
    misfit = np.abs(fit + found.tau * found.t - targets).max()
    assert misfit > 1e-3 or found.extrapolated_weight > 0.02
    # The same samples at a temperature at which a neuron can fit them are solved.
    warm = _solve(matrix, targets, None, phi=activation(name), method="lattice", tau=2.0)
    assert warm.status == "optimal"
    fit = np.einsum("n,nm,np->pm", warm.weight, warm.readout, warm.phi)
    assert fit + 2.0 * warm.t == pytest.approx(targets, abs=1e-4)


def test_polishing_ends_where_only_noise_is_left(small):
    """A gradient that is good enough is improved only as long as a few steps still help."""
    matrix, targets, _, found = small
    neuron = Neuron(SIGMOID, matrix, found.prior, threads=2)
    dual = LatticeDual(neuron, targets, found.tau, Lattice(3, found.prior, 1.4, 8.0), None)
    nodes = grow(neuron, dual.search(found.t, 2.5, np.random.default_rng(0), 1e-6), 1e-6)
    steps = {}
    for accepted in (1e-4, 0.0):
        errors = []
        rng = np.random.default_rng(1)

        def report(state, message, errors=errors):
            errors.append(state.error)

        end = minimise(dual, dual.state(found.t, nodes), 0.0, 1e-6, rng, report, accepted)
        assert end.error < 1e-5
        steps[accepted] = len(errors)
    assert steps[1e-4] + 5 < steps[0.0]


@pytest.mark.slow
def test_digits_with_a_shallow_code():
    """Digits 0, 1, 2 at y_- = 1/2, P = 90: |grad| <= 1e-4 where Laplace in a stalled at 0.025."""
    matrix, targets, labels = digits(0.5, 90, seed=2)
    found = _solve(matrix, targets, labels)
    assert found.status == "optimal"
    assert found.residual <= 1e-5
    assert found.extrapolated_weight < 5e-3
    assert len(found.directions) >= 1  # P(w | a) is bimodal on the shallow code
    heavy = found.code_readout[found.code_weight > 0.1]
    assert heavy.shape == (3, 3)
    # Two-hot codes: one output off, two on.
    assert np.sort(heavy, axis=1)[:, 0] == pytest.approx(0.06, abs=0.05)
    assert np.sort(heavy, axis=1)[:, 1:] == pytest.approx(1.48, abs=0.08)
