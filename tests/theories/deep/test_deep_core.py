"""Deep theory, from the inside: single site, symmetry, layers, saddle equations, closed forms."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

import meanfield as mf
from meanfield.theories.deep.certificate import SecondOrder
from meanfield.theories.deep.large_p.saturated import saturated_solve
from meanfield.theories.deep.layers.fields import shared_field
from meanfield.theories.deep.layers.layer import Layer
from meanfield.theories.deep.layers.linear import linear_order
from meanfield.theories.deep.layers.rules import CHECK, COARSE, FINE, NotCovered, Setting
from meanfield.theories.deep.layers.site import site_table, z_rule
from meanfield.theories.deep.newton import newton
from meanfield.theories.deep.reduction import problem_of
from meanfield.theories.deep.search.coding import coding_branch
from meanfield.theories.deep.search.start import relax
from meanfield.theories.deep.solve import solve_deep
from meanfield.theories.deep.stability import second_order
from meanfield.theories.deep.symmetry import symmetry
from meanfield.theories.deep.system import DeepProblem, Order, System

SIGMOID = mf.activation("sigmoid")
TWO = np.array([[1.0], [-1.0]])


# ---- one site -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "hard_tanh", "step", "logistic"])
@pytest.mark.parametrize(("d", "delta"), [(1.0, 0.0), (0.06, -0.8), (0.004, 0.5)])
def test_single_site_function_against_plain_quadrature(name, d, delta):
    phi = mf.activation(name)
    b, h = np.array([-6.0, -0.3, 0.0, 4.0, 25.0]), np.array([-1.7, 0.0, 0.4, 2.5])
    site = site_table(z_rule(phi, d, h.min(), h.max(), FINE.z, np.abs(b).max()), b, h, d, delta)
    edges = np.unique(
        np.concatenate([np.linspace(-13, 13, 521), [(k - x) / math.sqrt(d) for k in phi.kinks for x in h]])
    )
    edges = edges[np.abs(edges) <= 13]
    x, w = np.polynomial.legendre.leggauss(12)
    half = np.diff(edges)[:, None] / 2
    xi = (edges[:-1, None] + half * (1 + x)).ravel()
    weight = (half * w).ravel() * np.exp(-0.5 * xi**2) / math.sqrt(2 * math.pi)
    for (i, field), (j, common) in itertools.product(enumerate(b), enumerate(h)):
        value = phi(common + math.sqrt(d) * xi)
        exponent = field * value + 0.5 * delta * value**2
        law = weight * np.exp(exponent - exponent.max())
        total = law.sum()
        mean, first = law @ value / total, law @ xi / total
        wanted = (
            exponent.max() + math.log(total),
            mean,
            law @ (value - mean) ** 2 / total,
            first / math.sqrt(d),
            (law @ (xi - first) ** 2 / total - 1.0) / d,
        )
        found = [part[i, j] for part in site]
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-10 / d)


# ---- symmetry -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "y", "order", "kernels", "outputs"),
    [
        ([50, 50], [[1.0], [-1.0]], 2, 2, 1),
        ([50, 50], [[1.0], [0.0]], 1, 3, 2),
        ([60, 40], [[1.0], [-1.0]], 1, 3, 2),
        ([33, 33, 33], np.eye(3), 6, 2, 2),
        ([50, 25, 25], np.eye(3), 2, 4, 5),
        ([50, 25, 25], np.eye(3) - 1 / 3, 2, 4, 3),
    ],
)
def test_symmetry_of_a_task_is_found(n, y, order, kernels, outputs):
    n, y = np.array(n, float), np.array(y)
    group = symmetry(n, y)
    assert len(group.permutations) == order
    for p, o in zip(group.permutations, group.rotations):
        np.testing.assert_allclose(y[p], y @ o.T, atol=1e-12)
    assert len(group.matrix_basis()) == kernels
    # t = A y with A that commutes with the group, less what the targets' own dependences make the same.
    assert len(group.output_basis(y)) == outputs
    np.testing.assert_allclose(group.outputs(y), y, atol=1e-12)


@pytest.mark.parametrize("n_classes", [2, 3, 4])
@pytest.mark.parametrize("turned", [False, True])
def test_rotations_are_a_group_where_targets_leave_directions_out(n_classes, turned):
    """Centred one-hot targets: what lies across their span was turned anyhow, and orbits of nodes were none."""
    y = np.eye(n_classes) - 1.0 / n_classes
    if turned:
        y = y @ np.linalg.qr(np.random.default_rng(0).normal(size=y.shape))[0]
    group = symmetry(np.ones(n_classes), y)
    assert len(group.permutations) == math.factorial(n_classes)
    for p, o in zip(group.permutations, group.rotations):
        for q, other in zip(group.permutations, group.rotations):
            both = next(k for k, r in enumerate(group.permutations) if (r == q[p]).all())
            np.testing.assert_allclose(other @ o, group.rotations[both], atol=1e-12)


def test_centred_targets_of_three_equal_classes():
    """The lattice of three outputs that use two directions, against itself without symmetry."""
    y, network = 1.5 * np.eye(3) - 0.5, mf.Network("sigmoid", 2)
    post = solve_deep(network, mf.class_task(targets=y, n_samples=100), 0.1, competitors=False)
    assert post.status == "optimal"
    s = post.solution
    problem = problem_of(network, post.task, 0.1)[0]
    order = Order(s.kernel[:-1], s.d[:-1], s.tilde, s.delta, s.t)
    whole, fewest = (System(problem, COARSE._replace(depth=20.0, beta=0.92)) for _ in range(2))
    whole.layers[-1].turns = np.empty((0, 0, 0), dtype=np.int64)
    (one,), (other,) = (system.averages(order, 1) for system in (whole, fewest))
    assert one.log_z == pytest.approx(other.log_z, abs=1e-7)
    assert len(fewest.layers[-1].index) < 0.25 * len(whole.layers[-1].index)


@pytest.mark.parametrize(
    ("inner", "outer", "said"),
    [
        (0.1, -0.1, None), (-0.1, -0.1, "failed"), (0.1, 0.0, "failed"), (0.1, math.nan, "not done"),
        (math.nan, -0.1, "not done"),
    ],
)  # fmt: skip
def test_a_second_order_check_that_is_not_passed_is_said(inner, outer, said):
    notes = SecondOrder(inner, outer, math.nan).said()
    assert (said is None and not notes) or said in notes[0]


def test_given_shares_break_the_symmetry():
    n = np.array([50.0, 50.0])
    assert len(symmetry(n, TWO, {"10": 0.5, "01": 0.5}).permutations) == 2
    assert len(symmetry(n, TWO, {"10": 0.6, "01": 0.4}).permutations) == 1


# ---- one layer ------------------------------------------------------------------------------------


def setting(root, covariance, d=0.07, delta=-0.4):
    return Setting(np.array(root), np.array(covariance), np.full(len(root), d), np.full(len(root), delta))


CASES = {
    "first": ([[0.31, -0.12], [-0.12, 0.31]], np.zeros((2, 2))),
    "middle": ([[0.2, -0.09], [-0.09, 0.15]], [[0.3, 0.2], [0.2, 0.27]]),
    "anticorrelated": ([[0.2, -0.09], [-0.09, 0.15]], [[0.2, -0.1], [-0.1, 0.25]]),
    "top": ([[0.3], [-0.25]], [[0.3, 0.2], [0.2, 0.31]]),
}


@pytest.mark.parametrize("name", CASES)
def test_layer_against_a_dense_grid(name):
    """ln Z and all averages by brute force over beta and h."""
    root, covariance = map(np.array, CASES[name])
    n = np.array([12.0, 9.0])
    given = setting(root, covariance)
    averages, _ = Layer(SIGMOID, n, FINE).evaluate(given)
    grid = np.linspace(-8.5, 8.5, 61)
    r = root.shape[1]
    beta = np.array(list(itertools.product(grid, repeat=r)))
    b = beta @ root.T
    if covariance.any():
        factor = np.linalg.cholesky(covariance)
        eta = np.array(list(itertools.product(np.linspace(-8.0, 8.0, 65), repeat=2)))
        h = eta @ factor.T
        eta_weight = -0.5 * (eta**2).sum(axis=1) + 2 * math.log(0.25 / math.sqrt(2 * math.pi))
    else:
        h, eta_weight = np.zeros((1, 2)), np.zeros(1)
    nodes = z_rule(SIGMOID, 0.07, h.min(), h.max(), 0.3)
    log_weight = -0.5 * (beta**2).sum(axis=1)[:, None] + r * math.log((grid[1] - grid[0]) / math.sqrt(2 * math.pi))
    log_weight = log_weight + eta_weight
    sites = []
    for c in range(2):
        rows, back = np.unique(b[:, c], return_inverse=True)
        columns, there = np.unique(h[:, c], return_inverse=True)
        table = site_table(nodes, rows, columns, 0.07, -0.4)
        sites.append([part[back.ravel()][:, there.ravel()] for part in table])
        log_weight = log_weight + n[c] * sites[c][0]
    w = np.exp(log_weight - log_weight.max())
    log_z = log_weight.max() + math.log(w.sum())
    w /= w.sum()
    assert averages.log_z == pytest.approx(log_z, abs=2e-8)
    for c, e in itertools.product(range(2), repeat=2):
        assert averages.kernel[c, e] == pytest.approx((w * sites[c][1] * sites[e][1]).sum(), rel=1e-7)
        if covariance.any():
            assert averages.tilde[c, e] == pytest.approx((w * sites[c][3] * sites[e][3]).sum(), abs=1e-6)
    for c in range(2):
        assert averages.d[c] == pytest.approx((w * sites[c][2]).sum(), rel=1e-7)
        assert averages.delta[c] == pytest.approx((w * sites[c][4]).sum(), abs=1e-5)


def test_nodes_kept_from_a_neighbour_give_the_same():
    layer = Layer(SIGMOID, np.array([50.0, 50.0]), FINE)
    layer.evaluate(setting(*CASES["middle"]))
    near = setting([[0.22, -0.1], [-0.1, 0.16]], CASES["middle"][1])
    found, _ = layer.evaluate(near)
    fresh, _ = Layer(SIGMOID, np.array([50.0, 50.0]), CHECK).evaluate(near)
    assert found.log_z == pytest.approx(fresh.log_z, abs=1e-9)
    np.testing.assert_allclose(found.tilde, fresh.tilde, atol=1e-8)


def test_covariance_of_the_common_fields_is_split():
    for matrix in (
        [[0.3, 0.2], [0.2, 0.25]],
        [[0.3, -0.2], [-0.2, 0.25]],
        [[0.31, 0.22, 0.22], [0.22, 0.3, 0.2], [0.22, 0.2, 0.3]],
        np.diag([0.2, 0.3, 0.1]),
    ):
        d, u = shared_field(np.array(matrix))
        assert (d >= 0).all()
        np.testing.assert_allclose(np.diag(d) + np.outer(u, u), matrix, atol=1e-14)
    with pytest.raises(NotCovered, match="more than one field"):
        shared_field(np.eye(3) - 1 / 3)


# ---- equations ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "n", "y", "k", "scale", "gain"),
    [
        (1, [50, 50], TWO, 1.0, 1.0, 1.0),
        (2, [50, 50], TWO, 1.0, 1.0, 1.0),
        (3, [50, 50], TWO, 1.44, 1.44, 0.7),
        (4, [60, 40], [[1.0, 0.2], [-0.5, 1.0]], 0.8, 0.8, 1.3),
        (5, [100, 50, 50], np.eye(3) - 0.3, 1.0, 1.0, 1.0),
    ],
)
def test_linear_networks_satisfy_the_closed_form(depth, n, y, k, scale, gain):
    """linear: v (1 + v q)^L = 1/s solves the saddle equations of all layers at tau = 0."""
    n, y = np.array(n, float), np.array(y)
    s = n.sum() ** (-1.0 / depth)
    phi = mf.activation("linear", gain=gain)
    system = System(DeepProblem(phi, depth, n, y, 0.0, s, k, (scale,) * (depth - 1)))
    kernel, d, t = linear_order(n, y, s, k, (scale,) * (depth - 1), gain)
    x = relax(system, Order(kernel, d, np.zeros_like(kernel), np.zeros_like(d), t), 1)
    assert np.abs(system.residual(x, system.evaluate(x))).max() < 1e-8


def test_linear_numbers():
    kernel, _, t = linear_order(np.array([50.0, 50.0]), TWO, 100.0**-0.5, 1.0, (1.0,), 1.0)
    assert kernel[0, 0, 0] == pytest.approx(0.09345, abs=5e-6)
    assert t[0, 0] == pytest.approx(0.0934, abs=5e-5)
    kernel, _, t = linear_order(np.array([50.0, 50.0]), TWO, 100.0 ** (-1 / 3), 1.0, (1.0, 1.0), 1.0)
    assert kernel[:, 0, 0] == pytest.approx([0.03913, 0.23141], abs=1e-5)
    assert t[0, 0] == pytest.approx(0.0391, abs=1e-4)


@pytest.mark.parametrize(
    ("n", "y", "tau"), [([50, 50], TWO, 0.01), ([33, 33, 33], np.eye(3), 0.05), ([60, 30], [[1.0], [-0.4]], 0.2)]
)
def test_one_layer_equals_the_single_layer_solver(n, y, tau):
    n, y = np.array(n, float), np.array(y)
    task = mf.class_task(n / n.sum(), targets=y, n_samples=n.sum())
    wanted = mf.solve(mf.Network("sigmoid"), task, tau=tau)
    system, found = coding_branch(DeepProblem(SIGMOID, 1, n, y, tau, 1.0 / n.sum()), 1e-11)
    assert found.residual < 1e-11
    np.testing.assert_allclose(system.unpack(found.x).t, wanted.solution.t, rtol=1e-8)
    assert system.free_energy(found.x, found.averages) / n.sum() == pytest.approx(wanted.objective, rel=1e-8)


def test_free_energy_is_stationary_and_its_hessian_symmetric():
    """The equations are the derivative of Phi: by differences of Phi itself, and by the symmetry of its Hessian."""
    problem = DeepProblem(SIGMOID, 3, np.array([20.0, 20.0]), TWO, 0.1, 0.05)
    system, found = coding_branch(problem, 1e-10)
    assert found.residual < 1e-10
    phi = system.free_energy(found.x, found.averages)
    for j in range(system.size):
        step = 1e-4 * system.scales(found.x)[j]
        up, down = found.x.copy(), found.x.copy()
        up[j] += step
        down[j] -= step
        slope = (system.free_energy(up, system.evaluate(up)) - system.free_energy(down, system.evaluate(down))) / 2e-4
        assert abs(slope) < 1e-6 * abs(phi)
    curvature = second_order(
        system,
        system.evaluate(found.x, curvature=True),
        system.at_rule(CHECK).hessian(system.at_rule(CHECK).evaluate(found.x, curvature=True)),
    )
    assert curvature.error < 1e-6
    assert curvature.passed


def test_far_from_the_solution_the_gradient_is_that_of_phi():
    """Not only where it vanishes: d Phi / dx by differences of Phi, its Hessian by differences of d Phi / dx."""
    problem = DeepProblem(SIGMOID, 2, np.array([15.0, 10.0]), np.array([[1.0], [-0.5]]), 0.1, 0.08)
    system, found = coding_branch(problem, 1e-6)
    x = found.x * (1.0 + 0.02 * np.cos(np.arange(len(found.x))))
    averages = system.evaluate(x)
    gradient, hessian = system.gradient(x, averages), system.hessian(system.evaluate(x, curvature=True))
    size = np.sqrt(np.abs(np.diag(hessian)))
    for j in range(len(x)):
        step = 1e-5 * max(abs(x[j]), 1e-3)
        up, down = x.copy(), x.copy()
        up[j] += step
        down[j] -= step
        wanted = (system.free_energy(up, system.evaluate(up)) - system.free_energy(down, system.evaluate(down))) / (
            2 * step
        )
        assert gradient[j] == pytest.approx(wanted, rel=1e-5, abs=1e-6 * abs(gradient).max())
        rise = system.gradient(up, system.evaluate(up)) - system.gradient(down, system.evaluate(down))
        np.testing.assert_allclose(rise / (2 * step) / size / size[j], hessian[j] / size / size[j], atol=1e-6)


def test_newton_reports_where_it_stops():
    problem = DeepProblem(SIGMOID, 2, np.array([20.0, 20.0]), TWO, 0.1, 0.05)
    _, found = coding_branch(problem, 1e-9)
    system = System(problem, COARSE)
    again = newton(system, found.x * 1.05, 1e-12, most=1)
    assert again.residual > 1e-12
    assert again.steps == 1
    assert replace(system, rule=FINE).size == system.size


# ---- saturated ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("off", "objective", "patterns"),
    [
        (-1.0, -12.375, "011 101 110"),
        (-0.75, -9.28125, "011 101 110"),
        (-0.5, -6.75, "001 010 011 100 101 110"),
        (-0.25, -4.78125, "011 101 110"),
        (0.0, -3.375, "011 101 110"),
        (0.2, -2.655, "011 101 110"),
        (0.35, -2.350606, "011 101 110 111"),
        (0.4, -2.278420, "011 101 110 111"),
        (0.5, -2.137426, "011 101 110 111"),
        (0.7, -1.868947, "011 101 110 111"),
        (0.9, -1.618479, "011 101 110 111"),
    ],
)
@pytest.mark.parametrize("fractions", [(0.5, 0.25, 0.25), (1 / 3, 1 / 3, 1 / 3)])
def test_saturated_dual_of_three_classes(off, objective, patterns, fractions):
    """At tau = 0 the class fractions drop out."""
    y = np.where(np.eye(3, dtype=bool), 1.0, off)
    found = saturated_solve(np.array(fractions), y, 0.0, 1.0, 0.0, 1.0)
    assert found.objective == pytest.approx(objective, abs=1e-6)
    assert abs(found.gap) < 1e-12
    words = sorted("".join(str(int(x)) for x in word) for word in found.words)
    assert words == patterns.split()
    assert found.nullity == (off == -0.5)
    # pairs have a = x (1, 1, 2 r)
    pair = found.readout[["".join(str(int(x)) for x in word) for word in found.words].index("110")]
    if off < 3.5 - 10**0.5:
        np.testing.assert_allclose(pair, [1.5, 1.5, 1.5 * (2 * off - 1)], atol=1e-9)
    else:
        assert pair[2] / pair[0] == pytest.approx(2 * (3 - 10**0.5), abs=1e-9)


def test_saturated_weights_and_transitions():
    p = np.array([0.5, 0.25, 0.25])

    def codes(off, tau):
        y = np.where(np.eye(3, dtype=bool), 1.0, off)
        found = saturated_solve(p, y, tau, 1.0, 0.0, 1.0)
        assert abs(found.gap) < 1e-10
        names = ["".join(str(int(x)) for x in word) for word in found.words]
        return dict(zip(names, found.weight)), found

    for off, weight in ((0.35, 0.0148), (0.4, 0.0763), (0.5, 0.2053), (0.7, 0.4901), (0.9, 0.8173)):
        assert codes(off, 0.0)[0]["111"] == pytest.approx(weight, abs=5e-5)
    assert "100" not in codes(0.0, 0.032)[0]
    assert "100" in codes(0.0, 0.033)[0]
    for tau in (0.02, 0.3):  # complement-symmetric point
        weights, found = codes(-0.5, tau)
        assert found.objective == pytest.approx(-6.75 / (1 + 10 * tau), abs=1e-9)
        assert np.abs(tau * found.t).max() == pytest.approx(12 * tau / (1 + 10 * tau), abs=1e-9)
        assert len(weights) == 6
    assert set(codes(-0.5, 0.51)[0]) == {"100"}
    two = saturated_solve(np.array([0.5, 0.5]), TWO, 0.01, 1.0, 0.0, 1.0)
    assert two.t[0, 0] == pytest.approx(1 / 0.26, abs=1e-10)
    assert two.objective == pytest.approx(-0.5 / 0.26, abs=1e-12)
