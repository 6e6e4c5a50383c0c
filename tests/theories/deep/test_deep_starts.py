"""Three layers far from what planted codes expect: codes that a layer must not miss, fields that lattices must reach,
starts from the limit of many samples, and an end in words."""

from dataclasses import replace

import numpy as np
import pytest

import meanfield as mf
from meanfield.numerics.limits import OutOfTime, time_limit
from meanfield.posterior.certificate import ConvergenceError
from meanfield.theories.deep.layers.layer import Layer
from meanfield.theories.deep.layers.rules import CHECK, COARSE, FINE, NotCovered, Setting
from meanfield.theories.deep.layers.work import spend
from meanfield.theories.deep.newton import admissible, newton
from meanfield.theories.deep.readout import readout_minimum
from meanfield.theories.deep.reduction import problem_of
from meanfield.theories.deep.search import branches, coding, upwards
from meanfield.theories.deep.search.limit_start import first_conjugate, has_limit, limit_order
from meanfield.theories.deep.search.start import planted, relax
from meanfield.theories.deep.solve import solve_deep
from meanfield.theories.deep.system import Order, System
from tests.deep_oracles import Weight, layer_means

SIZES = np.array([2870.49063, 2013.50937])
TARGETS = np.array([[-0.3289958865, -0.3924100105], [-0.2880126350, 0.0111051351]])  # random task 68


def step_setting(t):
    """The last layer of a network of steps that has learned, random task 24."""
    root = np.sqrt(1.5**2 / SIZES.sum()) * np.array(t)
    covariance = np.array([[0.248, 0.24571], [0.24571, 0.24355]])
    return Setting(root, covariance, np.array([0.00703, 0.01505]), np.zeros(2))


@pytest.mark.parametrize("rule", [COARSE, FINE])
def test_a_layer_finds_codes_that_it_has_not_seen_before(rule):
    """t moved as the minimisation over it moved it; the code 11, the highest at first, is thousands of nats below."""
    phi = mf.Network("step", 2).activation
    layer = Layer(phi, SIZES, rule, True)
    for t in (
        [[1.4038, -0.40763], [-0.58112, 2.00120]],
        [[1.56315, -0.57662], [-0.82126, 2.22580]],
        [[1.80219, -0.83011], [-1.18148, 2.56270]],
    ):
        found = layer.evaluate(step_setting(t))[0]
    last = step_setting(t)
    afresh = Layer(phi, SIZES, rule, True).evaluate(last)[0]
    weight = Weight(phi, SIZES, last.root, np.linalg.cholesky(last.covariance), last.d, last.delta)
    means, _ = layer_means(weight, np.random.default_rng(0), scramblings=2, power=10)
    sampled = np.mean([one[0] for one in means])
    assert sampled > 6000.0
    assert found.log_z == pytest.approx(sampled, abs=0.1)  # of 6,000 that were missing; few Sobol points
    assert afresh.log_z == pytest.approx(found.log_z, abs=1e-3)  # other nodes of the same lattices, coarse ones too


def hard_tanh_problem():
    """Random task 68."""
    network = mf.Network("hard_tanh", 3, readout_exponent=1.0 / 3.0)
    fractions = np.array([46530.81948, 35581.18052]) / 82112.0
    return network, mf.class_task(fractions=fractions / fractions.sum(), targets=TARGETS, n_samples=82112), 0.022


def test_lattices_of_fields_reach_those_of_soft_neurons_far_from_the_maxima():
    """ln Z of the middle layer was 1e-3 too small where h ended at the fields of the maxima; Sobol points: -8.94228."""
    phi, n = mf.Network("hard_tanh", 2).activation, np.array([46530.81948, 35581.18052])
    tilde = np.array([[0.13821400814514267, -0.028219837293906026], [-0.028219837293906026, 0.26369189130181786]])
    values, vectors = np.linalg.eigh(tilde / n.sum())
    covariance = np.array([[0.00039, 5.8e-05], [5.8e-05, 0.000336]])
    setting = Setting(
        (vectors * np.sqrt(values)) @ vectors.T, covariance, np.array([0.5157, 0.51575]), np.array([-0.00088, -0.00072])
    )  # fmt: skip
    fine, check = (Layer(phi, n, rule).evaluate(setting)[0] for rule in (FINE, CHECK))
    assert fine.log_z == pytest.approx(check.log_z, abs=1e-8)
    np.testing.assert_allclose(fine.tilde, check.tilde, rtol=1e-7)
    np.testing.assert_allclose(fine.kernel, check.kernel, rtol=1e-7)


def test_many_samples_at_the_exponent_one_over_depth_start_from_their_limit():
    network, task, tau = hard_tanh_problem()
    problem, _ = problem_of(network, task, tau, merge=True)
    assert has_limit(problem)
    assert not has_limit(replace(problem, exponent=1.0))
    solution = solve_deep(network, task, tau, competitors=False, second=False).solution
    assert solution.status == "optimal"
    assert solution.free_energy == pytest.approx(-112.190187822, abs=1e-6)
    order = limit_order(problem)  # what it leaves out is of relative order P^(-1/3) = 0.02
    np.testing.assert_allclose(solution.t, order.t, rtol=0.05, atol=0.02 * np.abs(order.t).max())
    np.testing.assert_allclose(solution.kernel[1], order.kernel[1], atol=0.03 * order.kernel[1].max())
    n_tilde_d = np.linalg.eigvals(first_conjugate(problem, order) * problem.n * order.d[0])
    assert np.all((n_tilde_d > 0.9) & (n_tilde_d < 1.0))


def test_codes_of_weak_targets_are_hardly_saturated_in_the_limit_of_many_samples():
    """Random task 86: starts with strong fields lost them, and no planted start led to the codes at P = 742,423."""
    p, y, s, scale = np.array([0.46185558, 0.53814442]), np.array([-0.4296923, 0.51874252]), 1.5**2, 0.64
    network = mf.Network("hard_tanh", 3, sigma_a=1.5, sigma_w=0.8, readout_exponent=1.0 / 3.0)
    post = mf.solve(network, mf.class_task(fractions=p, targets=y, n_samples=np.inf), 0.14)
    assert post.status == "optimal"
    assert len(post.solution.weight) == 2  # the code and its mirror image

    def mean(f, variance, around=0.0):
        z = around + np.sqrt(variance) * np.linspace(-9, 9, 200_001)
        weight = np.exp(-0.5 * (z - around) ** 2 / variance)
        return float((weight * f(z)).sum() / weight.sum())

    def phi(z):
        return np.clip(z, -1.0, 1.0)

    # One code: X = (Gamma |w|^4)^(1/3) along w = sqrt(p) h; fields are stationary at t_c = h_c / (X a phibar'(h_c)).
    first = mean(lambda z: phi(z) ** 2, scale)
    second = mean(lambda z: phi(z) ** 2, scale * first)
    gain = mean(lambda z: np.abs(z) < 1.0, scale * first)
    code = int(np.argmax(post.solution.activation @ y))
    a, activation = post.solution.readout[code, 0], post.solution.activation[code]
    h = np.array([-0.30315, 0.36774])
    np.testing.assert_allclose(activation, [mean(phi, scale * second, one) for one in h], atol=2e-5)
    np.testing.assert_allclose(a * activation, y, rtol=1e-8)
    slope = np.array([mean(lambda z: np.abs(z) < 1.0, scale * second, one) for one in h])
    stiffness = (scale**2 * first * gain**2 * float(p @ h**2) ** 2) ** (1.0 / 3.0)
    t = h / (stiffness * a * slope)
    assert a == pytest.approx(s * float((p * activation) @ t), rel=2e-4)


def test_a_kernel_without_any_positive_part_is_no_step():
    network, task, tau = hard_tanh_problem()
    problem, _ = problem_of(network, task, tau, merge=True)
    system, order = System(problem, COARSE), limit_order(problem)
    good = Order(order.kernel, order.d, np.array([np.eye(2), np.eye(2)]), order.delta, order.t)
    assert admissible(system, system.pack(good))
    assert not admissible(system, system.pack(replace(good, kernel=-1e-9 * good.kernel)))
    assert not admissible(system, system.pack(replace(good, kernel=0.0 * good.kernel)))


def test_the_search_for_codes_ends_in_words(monkeypatch):
    monkeypatch.setattr(coding, "_WORK", 1e7)
    task = mf.class_task(targets=[1.0, -1.0], n_samples=100)
    with pytest.raises(ConvergenceError, match="codes were not found in the work that is allowed"):
        mf.solve(mf.Network("sigmoid", 3), task, 0.01)


@pytest.mark.parametrize("rule", [COARSE, FINE])
def test_lattices_of_fields_resolve_what_lies_beside_flat_maxima(rule):
    """A saturated class is flat at its maxima and four times as stiff beside them: lattices by the maxima alone left
    1e-3 of ln Z, other ones at every evaluation, and tens of the sum of all conjugates, at least -1 / (K + d / P)."""
    network = mf.Network("hard_sigmoid", 3, sigma_a=0.7, sigma_w=0.8, readout_exponent=1 / 3)
    task = mf.class_task(targets=[[1.0, -0.47], [-0.47, 1.0]], n_samples=29683)
    problem, _ = problem_of(network, task, 0.011)
    order = replace(limit_order(problem), t=np.array([[0.0088715, -0.0044103], [-0.0044103, 0.0088715]]))

    def together(found):
        return problem.push[-1] * (problem.n @ found.tilde @ problem.n + problem.n @ found.delta)

    exact = System(problem, CHECK).averages(order, 2)[0]
    least = -1.0 / (order.kernel[1].mean() + order.d[1, 0] / problem.n_samples)
    assert least < together(exact) < 0.99 * least
    system = System(problem, rule)
    for _ in range(3):
        found = system.averages(order, 2)[0]
        assert abs(found.log_z - exact.log_z) < (3e-4 if rule is COARSE else 1e-7)
        assert abs(together(found) - together(exact)) < (1.0 if rule is COARSE else 1e-3)


def test_codes_that_planted_starts_do_not_lead_to_are_followed_from_few_samples():
    """Targets that hardly tell classes apart: Newton's method is lost from all planted starts at P = 1,456."""
    network = mf.Network("logistic", 3, sigma_a=1.5, sigma_w=0.8, readout_exponent=1.0)
    task = mf.class_task(targets=[[1.0, 0.61], [0.61, 1.0]], n_samples=1456)
    problem, _ = problem_of(network, task, 0.0017)
    system, found = upwards.from_few(problem, 5e-5)
    assert system.problem.n_samples == pytest.approx(1456)
    assert found.residual <= 5e-5
    system, found = branches.polish(system, found, 1e-8, None)
    assert found.residual <= 1e-8
    assert system.free_energy(found.x, found.averages) == pytest.approx(-1221.5080514, abs=1e-6)
    kernel = system.unpack(found.x).kernel
    assert (kernel[:, 0, 0] - kernel[:, 0, 1]).min() > 5e-3  # codes


def test_two_layers_that_planted_starts_lose_at_many_samples_are_followed_from_few():
    """Weak targets: neurons are soft up to 10^5 samples; the readout tends to that of the limit."""
    network = mf.Network("logistic", 2, sigma_a=0.7, sigma_w=1.25)
    task = mf.class_task(fractions=[0.2866, 0.7134], targets=[[1.0, 0.8], [0.8, 1.0]], n_samples=1e5)
    problem, _ = problem_of(network, task, 0.003)
    system, found = upwards.from_few(problem, 5e-5)
    assert found.residual <= 5e-5
    limit = mf.class_task(fractions=[0.2866, 0.7134], targets=[[1.0, 0.8], [0.8, 1.0]], n_samples=np.inf)
    there = mf.solve(network, limit, 0.003, progress=False).solution
    assert np.abs(system.unpack(found.x).t - there.t).max() < 0.03 * np.abs(there.t).max()
    assert system.free_energy(found.x, found.averages) / 1e5 == pytest.approx(there.free_energy, abs=0.03)


def test_powers_of_the_number_of_samples_are_continued_exactly():
    """Also those of the first layer's fields, whose conjugate comes ever closer to an instability."""
    shares, turned = np.array([0.3, 0.7]), np.array([[0.8, 0.6], [-0.6, 0.8]])

    def order(size):
        samples = np.exp(size)
        d = np.array([[0.2, 0.3]]) * samples**-0.1
        fields = (turned * [5.0 * samples**-0.5, 0.1 * samples**-1.2]) @ turned.T
        tilde = np.linalg.inv(np.linalg.inv(fields) + np.diag(samples * shares * d[0]))
        apart = np.array([[[1.0, -1.0], [-1.0, 1.0]]]) * samples**-0.5
        delta, t = np.array([[-0.3, -0.1]]) * samples**-0.6, np.array([[2.0], [-1.0]]) * samples**0.2
        return Order(0.25 + apart, d, tilde[None], delta, t)

    sizes, end = [3.0, 4.0, 5.0], 6.3
    found, wanted = upwards._extrapolated([(size, order(size)) for size in sizes], end, shares), order(end)
    for name in ("kernel", "d", "tilde", "delta", "t"):
        assert getattr(found, name) == pytest.approx(getattr(wanted, name), rel=1e-9)


def test_two_classes_on_three_layers_start_from_kernels_that_codes_ask_for():
    """What they share in the middle layer's kernel is .21, of the prior .27; from 30 samples upwards the same."""
    network = mf.Network("sigmoid", 3, readout_exponent=1.0 / 3.0)
    problem, _ = problem_of(network, mf.class_task(targets=[1, -1], n_samples=1e6), 0.1)
    system, found = coding.coarse_starts(problem)[0]()
    assert found.residual <= 5e-5
    system, found = branches.polish(system, found, 1e-8, None)
    assert found.residual <= 1e-8
    assert system.free_energy(found.x, found.averages) == pytest.approx(-856.948636705, abs=1e-6)
    assert system.unpack(found.x).kernel[1].mean() == pytest.approx(0.2139263, abs=1e-6)


def test_too_few_samples_and_branches_without_codes_are_no_start():
    network = mf.Network("sigmoid", 3)
    problem, _ = problem_of(network, mf.class_task(targets=[1.0, -1.0], n_samples=40), 0.01)
    with pytest.raises(NotCovered, match="few samples"):
        upwards.from_few(problem, 5e-5)
    problem, _ = problem_of(network, mf.class_task(targets=[1.0, -1.0], n_samples=1000), 50.0)
    with pytest.raises(NotCovered, match="not found at 300 samples"):
        upwards.from_few(problem, 5e-5)


def test_counting_work_looks_at_the_clock():
    """A single evaluation far from any solution took minutes, and the time limit was seen after it."""
    with time_limit(0.0), pytest.raises(OutOfTime):
        spend(1.0)


@pytest.mark.parametrize("sigma_w", [0.5, 2.0])
def test_planted_kernels_know_the_weights_above_them(sigma_w):
    """sigma_w^2 of the upper layers was missing in Gamma: Newton's method was lost (0.5), or took 13 steps (2)."""
    network = mf.Network("sigmoid", 3, sigma_w=sigma_w, readout_exponent=1.0)
    problem, _ = problem_of(network, mf.class_task(targets=[1.0, -0.5], n_samples=5000), 0.02)
    system = System(problem, COARSE)
    order = readout_minimum(system, planted(problem, limit=True))[0]
    found = newton(system, relax(system, order, critical=True, limit=True), 5e-5, most=10)
    assert found.residual <= 5e-5
