"""More than three classes of different targets: lattices around the peaks of a weight."""

import math
from dataclasses import replace

import numpy as np
import pytest
from deep_oracles import plain_averages

import meanfield as mf
from meanfield.posterior.certificate import UnstableFractions
from meanfield.theories.deep import solve as solve_module
from meanfield.theories.deep.compiled.generated.site import ORDERS
from meanfield.theories.deep.coverage import refuses
from meanfield.theories.deep.layers.layer import Layer
from meanfield.theories.deep.layers.rules import CHECK, FINE, Setting
from meanfield.theories.deep.layers.scattered import ScatteredSites
from meanfield.theories.deep.layers.site import site_derivatives, z_rule
from meanfield.theories.deep.layers.work import counted
from meanfield.theories.deep.solve import solve_deep
from meanfield.theories.deep.system import Order, System
from meanfield.theories.deep.unlike_classes import patched as patched_module
from meanfield.theories.deep.unlike_classes.packings import ball, names, node_lattice
from meanfield.theories.deep.unlike_classes.patched import PatchedLayer
from meanfield.theories.deep.unlike_classes.patches import Patch, clustered
from meanfield.theories.deep.unlike_classes.peaks import Peaks, moments

NETWORK, THREE = mf.Network("sigmoid", depth=2), mf.Network("sigmoid", depth=3)
PHI = NETWORK.activation
FOUR = mf.class_task([0.4, 0.3, 0.2, 0.1], targets=[[1.0], [-0.4], [-1.0], [0.3]], n_samples=100)


@pytest.mark.parametrize("size", range(1, 11))
def test_lattices_integrate_gaussians(size):
    basis = node_lattice(size, 1.0)
    dual = np.linalg.inv(basis).T
    shortest = np.linalg.norm(ball(dual, 1.3, np.zeros(size)) @ dual, axis=1)
    assert np.sort(shortest)[1] == pytest.approx(1.0)
    if size < 6:
        offset = np.linspace(0.1, 0.7, size)
        v = (ball(basis, 6.0, offset) + offset) @ basis
        total = math.exp(-0.5 * size * math.log(2 * math.pi)) * np.exp(-0.5 * (v**2).sum(axis=1)).sum()
        assert total * abs(np.linalg.det(basis)) == pytest.approx(1.0, abs=2e-6)
        assert np.sort(np.linalg.norm(v, axis=1))[0] < 1.5
    index = np.random.default_rng(0).integers(-10, 11, size=(500, size))
    assert len(np.unique(names(index))) == len(np.unique(index, axis=0))


def test_lattices_are_exact_for_a_peak_times_quadratics():
    spread = np.array([[1.0, 0.3, 0.0], [0.3, 0.5, -0.1], [0.0, -0.1, 1.4]])
    peaks = Peaks(np.array([[1.0, -2.0, 0.5]]), spread[None], np.ones(1))
    (cluster,) = clustered(peaks, np.arange(1))

    def log_weight(v):
        return -0.5 * peaks.squares(v)[:, 0]

    errors = []
    for correct in (False, True):
        patch = Patch(cluster, 1.2, np.random.default_rng(1))
        patch.grow(log_weight, 8.0, -math.inf, 100_000)
        kept = np.ones(len(patch.v), dtype=bool)
        log_cell = patch.corrected(kept) if correct else patch.log_cell
        weight = np.exp(log_weight(patch.v) + log_cell) / math.sqrt(np.linalg.det(2.0 * math.pi * spread))
        mean, covariance = moments(patch.v, weight, float(weight.sum()))
        errors.append([abs(weight.sum() - 1.0), np.abs(mean - peaks.mean[0]).max(), np.abs(covariance - spread).max()])
    assert max(errors[1]) < 1e-9 < 1e-5 < min(errors[0][0], errors[0][2])


def test_single_sites_at_scattered_fields():
    rng = np.random.default_rng(0)
    b, h = 3.0 * rng.normal(size=40), rng.normal(size=40)
    sites = ScatteredSites(PHI, 0.4, 100.0).at(0.08, -0.3)
    g, found = sites(b, h, 4)
    nodes = z_rule(PHI, 0.08, h.min(), h.max(), 0.4, np.abs(b).max())
    exact, table = site_derivatives(nodes, b, h, 0.08, -0.3, 4)
    at = np.arange(40)
    assert sites.table is None
    np.testing.assert_allclose(g, exact[at, at], atol=1e-12)
    np.testing.assert_allclose(found, table[:, at, at], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["sigmoid", "hard_tanh", "tanh"])
@pytest.mark.parametrize("highest", [0, 2, 4])
def test_many_scattered_fields_are_read_from_a_table(name, highest):
    """Few of them, which are integrated directly, agree; their cost is counted."""
    phi, rng = mf.Network(name).activation, np.random.default_rng(1)
    b, h = 8.0 * rng.normal(size=60_000), rng.normal(size=60_000)
    sites = ScatteredSites(phi, 0.45, 50.0).at(0.05, -0.3)
    with counted() as work:
        g, found = sites(b, h, highest)
    assert sites.table is not None
    assert work.done > 1e7
    some = slice(0, None, 300)
    exact, derived = ScatteredSites(phi, 0.37, 50.0).at(0.05, -0.3)(b[some], h[some], highest)
    np.testing.assert_allclose(50.0 * g[some], 50.0 * exact, atol=5e-9)
    low = [i for i, order in enumerate(ORDERS) if sum(order) <= highest]
    for one, other in zip(found[low][:, some], derived[low]):
        np.testing.assert_allclose(one, other, atol=1e-6 * np.abs(other).max())


@pytest.fixture(scope="module")
def three():
    """Layers of a task that one lattice takes as well."""
    task = mf.class_task([0.5, 0.3, 0.2], targets=[[1.0, 0.0], [0.0, 1.0], [-0.5, -0.7]], n_samples=120)
    post = solve_deep(NETWORK, task, 0.1, competitors=False, second=False)
    return post._system, [post._system.setting(post._order, layer) for layer in (0, 1)]


@pytest.mark.parametrize("layer", [0, 1])
def test_peaks_against_one_lattice(three, layer):
    system, settings = three
    n = system.problem.n
    exact, _ = Layer(PHI, n, FINE, layer == 1).evaluate(settings[layer], curvature=True)
    own = PatchedLayer(PHI, n, FINE, layer == 1)
    other = PatchedLayer(PHI, n, CHECK, layer == 1)
    for patched in (own, other):
        found, _ = patched.evaluate(settings[layer], curvature=True)
        assert found.log_z == pytest.approx(exact.log_z, abs=1e-5)
        for name in ("kernel", "d", "tilde", "delta"):
            value = getattr(exact, name)
            np.testing.assert_allclose(getattr(found, name), value, atol=2e-5 * max(np.abs(value).max(), 1e-12))
        unit = np.sqrt(np.diag(exact.curvature))
        np.testing.assert_allclose(found.curvature, exact.curvature, atol=2e-4 * np.outer(unit, unit).max())
        other.as_fine(own)
    assert other.reach > own.reach


LAST = np.array([[0.9, 0.2], [-0.7, 0.5], [0.3, -0.8], [0.1, 0.6]])
MIDDLE = np.hstack([LAST, [[0.3, 0.1], [0.2, -0.4], [-0.1, 0.3], [0.5, 0.2]]])


@pytest.mark.statistical
@pytest.mark.parametrize("root", [LAST, MIDDLE], ids=["last", "middle"])
def test_four_classes_against_plain_monte_carlo(root):
    """A middle layer has a conjugate field of every class, correlated fields h, and delta."""
    last, n = root is LAST, np.array([3, 2, 2, 1])
    mixing = np.random.default_rng(5).normal(size=(4, 4))
    delta = np.zeros(4) if last else np.array([-0.4, 0.3, -0.2, 0.5])
    setting = Setting(root, 0.1 * mixing @ mixing.T + 0.2, np.array([0.3, 0.4, 0.2, 0.5]), delta)
    found, _ = PatchedLayer(PHI, n.astype(float), FINE, last).evaluate(setting, curvature=True)
    mean, error = plain_averages(PHI, n, setting, 400_000, seed=3)
    assert abs(mean.pop("log_z") - found.log_z) < 5.0 * error["log_z"]
    for (name, *at), value in mean.items():
        own = found.kernel[*at] if name == "kernel" else found.kernel[at[0], at[0]] + found.d[at[0]]
        assert abs(value - own) < 5.0 * error[name, *at]


def test_two_classes_taken_for_four():
    """A class split in two of the same targets changes nothing; the kernel of the four is singular."""
    task = mf.class_task(targets=[1.0, -1.0], n_samples=100)
    two = solve_deep(NETWORK, task, 0.05, competitors=False, second=False)
    problem, split = two._system.problem, np.array([0, 0, 1, 1])
    other = replace(problem, n=np.array([20.0, 30.0, 35.0, 15.0]), y=problem.y[split])
    system = System(other, distinct=True, peaks=True)
    assert isinstance(system.layers[1], PatchedLayer)
    o = two._order
    both = np.ix_([0], split, split)
    x = system.pack(Order(o.kernel[both], o.d[:, split], o.tilde[both], o.delta[:, split], o.t[split]))
    found = system.evaluate(x)
    assert np.abs(system.residual(x, found)).max() < 2e-5
    assert system.free_energy(x, found) == pytest.approx(two.free_energy, abs=2e-5)


@pytest.fixture(scope="module")
def four():
    return solve_deep(NETWORK, FOUR, 0.1, competitors=False)


def test_four_classes_are_certified(four):
    proof = four.certificate
    assert four.status == "optimal"
    assert proof.order_error < 1e-5
    assert proof.inner_curvature > 0.0 > proof.outer_curvature
    n, s, o = 100.0 * np.array(FOUR.fractions), 0.01, four.solution
    np.testing.assert_allclose(
        s * (o.kernel[-1] @ (n[:, None] * o.t) + o.d[-1][:, None] * o.t) + 0.1 * o.t, FOUR.targets, atol=1e-7
    )
    assert sum(code.weight for code in four.codes) == pytest.approx(1.0, abs=1e-6)


@pytest.fixture(scope="module")
def check(four):
    """Lattices of another rule, around the peaks of the solution."""
    system = four._system.at_rule(CHECK)
    system.evaluate(system.pack(four._order))
    return system


@pytest.mark.parametrize("name", ["kernel", "d", "tilde", "delta", "t"])
def test_phi_is_stationary_at_four_classes(four, check, name):
    """Differences of Phi, on lattices of another rule, by one kind of order parameter, beside those of ln Z alone."""
    order, step = four._order, 2e-4
    value = getattr(order, name)
    rng = np.random.default_rng(1)
    turn, factor = rng.normal(size=(4, 4)), rng.normal(size=value.shape)
    phi, log_z = [], []
    for sign in (-1.0, 1.0):
        if value.ndim == 3:  # stays positive
            frame = np.eye(4) + sign * step * turn
            moved = (frame @ value[0] @ frame.T)[None]
        else:
            moved = value * (1.0 + sign * step * factor)
        x = check.pack(replace(order, **{name: moved}))
        found = check.evaluate(x, grow=False)
        phi.append(check.free_energy(x, found))
        log_z.append(np.array([one.log_z for one in (*found.lower, *found.top)]))
    assert abs(phi[1] - phi[0]) < 1e-3 * np.abs(log_z[1] - log_z[0]).max()


def test_given_shares_of_four_classes(four):
    """At the shares of equilibrium the answer is that of equilibrium; a code that is no peak has no neurons.

    The readout is negative on one of the two peaks, and on the codes that differ on the fourth class alone.
    """
    first = sum(code.weight for code in four.codes if code.readout[0] > 0.0)
    given = four.frozen({"1001": first, "0110": 1.0 - first})
    for name in ("kernel", "d", "tilde", "t"):
        value = getattr(four.solution, name)
        np.testing.assert_allclose(getattr(given.solution, name), value, atol=2e-4 * np.abs(value).max())
    assert given.free_energy == pytest.approx(four.free_energy, abs=1e-3)
    neurons = given.sample_neurons(400, rng=0, samples_per_class=1)
    assert 0.4 < np.mean(neurons.readouts[:, 0] > 0.0) < 0.8
    with pytest.raises(UnstableFractions, match="no neuron is locally stable with code 1000"):
        four.frozen({"1001": 0.5, "0110": 0.4, "1000": 0.1})


def test_lattices_are_refined_until_the_error_is_what_was_asked_for(four, monkeypatch):
    """A solution on few nodes, of a certificate that asks for more than these give."""
    monkeypatch.setitem(patched_module._NODES, False, 3000)
    reaches, refined = [], solve_module.refined

    def watched(system, found, *options):
        reached = refined(system, found, *options)
        reaches.append([max(layer.reach for layer in one.layers) for one in (system, reached[0])])
        return reached

    monkeypatch.setattr(solve_module, "refined", watched)
    options = {"warm_start": four, "competitors": False, "second": False}
    rough = solve_deep(NETWORK, FOUR, 0.1, rtol=1.0, **options)
    wanted = 0.1 * rough.certificate.order_error
    assert not reaches
    finer = solve_deep(NETWORK, FOUR, 0.1, rtol=wanted, **options)
    assert reaches
    assert all(after > before for before, after in reaches)
    assert finer.status == "optimal"
    assert finer.certificate.order_error <= wanted
    apart = [np.abs(one.solution.kernel - four.solution.kernel).max() for one in (rough, finer)]
    assert apart[1] < 0.3 * apart[0]


def test_codes_of_whole_nodes_are_said_to_be(four):
    """Of the first layer, too, about which no note is printed: 29 % of its neurons and nothing said, at P = 40."""
    states = four._states(0)
    part = float(states.share @ states.unsure)
    assert part > 1e-2
    with pytest.warns(RuntimeWarning, match=f"codes of layer 1 overlap: about {100.0 * part:.2g} %"):
        four.layer_codes(1)


def test_neurons_of_four_classes(four):
    """Means over drawn neurons of both layers against the kernels of the theory, within five standard errors."""
    for layer in (1, 2):
        neurons = four.sample_neurons(1500, rng=layer, samples_per_class=2, layer=layer)
        activation, kernel = neurons.activations, four.solution.kernel[layer - 1]
        for one, other in ((0, 1), (2, 3), (4, 5), (0, 2), (0, 4), (0, 6), (2, 4), (4, 6)):
            product = activation[:, one] * activation[:, other]
            error = product.std() / math.sqrt(len(product))
            assert abs(product.mean() - kernel[neurons.labels[one], neurons.labels[other]]) < 5.0 * error


def test_densities_of_four_classes(four):
    z = np.linspace(-9.0, 9.0, 721)
    for layer in (1, 2):
        density = four.preactivation_density(None, 2, z, layer=layer)
        assert density.sum() * (z[1] - z[0]) == pytest.approx(1.0, abs=1e-4)
        square = four.solution.kernel[layer - 1][2, 2] + four.solution.d[layer - 1][2]
        assert (density * PHI(z) ** 2).sum() * (z[1] - z[0]) == pytest.approx(square, rel=1e-4)


def test_four_classes_saved_and_loaded(four, tmp_path):
    again = mf.load(four.save(tmp_path / "four.npz"))
    np.testing.assert_array_equal(again.solution.kernel, four.solution.kernel)


@pytest.mark.parametrize(
    "ask",
    [
        lambda post: post.one_loop(),
        lambda post: post.rivals(1),
        lambda post: post.readout_density([[0.0]]),
    ],
)
def test_what_four_classes_do_not_have_is_refused(four, ask):
    with pytest.raises(ValueError, match="up to 3 classes of different targets"):
        ask(four)


def test_which_tasks_of_many_classes_are_refused():
    eye = mf.class_task([0.2, 0.2, 0.2, 0.3, 0.1], targets=np.eye(5), n_samples=100)
    assert refuses(NETWORK, eye, 0.1) is None
    six = mf.class_task([0.2, 0.2, 0.2, 0.2, 0.1, 0.1], targets=np.eye(6), n_samples=100)
    assert "for up to 4 classes of different targets, got 6: a layer would have 10 fields" in refuses(NETWORK, six, 0.1)
    five = mf.class_task(targets=[[1.0], [-0.4], [-1.0], [0.3], [0.0]], n_samples=100)
    assert refuses(NETWORK, five, 0.1) is None
    assert "up to 4 classes of different targets, got 5" in refuses(THREE, five, 0.1)
    assert refuses(THREE, mf.class_task(n_classes=4, n_samples=100), 0.1) is None
    assert refuses(THREE, FOUR, 0.1) is None
    assert refuses(NETWORK, mf.class_task(n_classes=5, n_samples=100), 0.1) is None
    assert refuses(NETWORK, mf.class_task(n_classes=4, n_samples=100), 0.1) is None
