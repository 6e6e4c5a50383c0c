"""The solver at P -> infinity: reference values, certificates, a second method, exact limits, symmetries."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from independent import SingleSite, exchange, h, objective, stationarity
from scipy.special import erf

import meanfield as mf
from meanfield.solve import CertificateWarning

PHI = {
    "sigmoid": lambda z: 0.5 * (1 + erf(np.sqrt(np.pi) * z / 2)),
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0.0),
    "step": lambda z: (z > 0).astype(float),
    "softplus": lambda z: np.logaddexp(0.0, z),
    "hard_tanh": lambda z: np.clip(z, -1.0, 1.0),
}
KINKS = {"relu": (0.0,), "step": (0.0,), "hard_tanh": (-1.0, 1.0)}
GROWTH = {"relu": (0.0, 1.0), "softplus": (0.0, 1.0)}
P3 = [0.5, 0.25, 0.25]
few = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def site(name, k=1.0):
    return SingleSite(PHI[name], k, KINKS.get(name, ()))


def check(post):
    """Every solution against its own stationarity equations, in plain NumPy, and its level against random readouts."""
    name, network = post.network.activation.name, post.network
    single, solution = site(name, network.k), post.solution
    growth = GROWTH.get(name, (0.0, 0.0))
    worst = stationarity(single, post.task, solution, post.tau, network.sigma_a, network.k, growth)
    assert worst <= 1e-10
    c = post.certificate
    assert c.kkt_residual <= 1e-10
    assert c.duality_gap <= 1e-8
    assert c.global_check
    assert post.objective == pytest.approx(objective(post.task, solution.t, solution.level, post.tau), abs=1e-9)
    a = np.random.default_rng(1).normal(size=(2000, post.task.n_outputs)) * (0.1 + 1.5 * np.abs(solution.readout).max())
    assert h(single, post.task.fractions, solution.t, a, network.sigma_a).max() <= solution.level + 1e-9


REFERENCE = [
    ("sigmoid", 0.5, -3.75433206, {"011": 0.3316, "110": 0.3154, "101": 0.3154, "111": 0.0376}),
    ("sigmoid", -1.0, -15.38592394, None),
    ("sigmoid", 0.2, -4.58869594, {"011": 0.3296, "110": 0.3352, "101": 0.3352}),
    ("sigmoid", -0.5, -9.37321459, {
        "110": 0.16632087, "101": 0.16632087, "010": 0.16072839, "001": 0.16072839, "100": 0.17911384,
        "011": 0.16678765,
    }),
    ("relu", 0.0, -1.62411463, None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "off", "j", "weights"), REFERENCE)
def test_reference_values_of_three_classes(name, off, j, weights):
    post = mf.solve(mf.Network(name), mf.class_task(fractions=P3, off=off))
    check(post)
    assert post.objective == pytest.approx(j, abs=6e-9)
    if weights is not None:
        found = {code.pattern: code.weight for code in post.codes}
        assert found.keys() == weights.keys()
        digits = 8 if off == -0.5 else 4
        assert all(round(found[key], digits) == pytest.approx(value, abs=1e-12) for key, value in weights.items())


def test_readouts_of_the_reference():
    post = mf.solve(mf.Network("sigmoid"), mf.class_task(fractions=P3, off=0.5))
    readout = {code.pattern: np.round(code.readout, 4) for code in post.codes}
    assert readout["011"] == pytest.approx([-0.3275, 1.6126, 1.6126], abs=1e-9)
    assert readout["110"] == pytest.approx([1.7322, 1.5739, -0.3357], abs=1e-9)
    assert readout["111"] == pytest.approx([1.1640, 1.3449, 1.3449], abs=1e-9)


def test_hard_case_has_its_four_codes():
    post = mf.solve(mf.Network("sigmoid"), mf.class_task(fractions=P3, off=-1.0))
    assert {code.pattern for code in post.codes} == {"110", "101", "011", "100"}


def test_relu_bulk_and_outliers():
    post = mf.solve(mf.Network("relu"), mf.class_task(fractions=P3, off=0.0))
    assert np.round(post.bulk.readout, 4) == pytest.approx([0.3122, 0.1694, 0.1694], abs=1e-9)
    found = {o.pattern: (np.round(o.readout, 4), np.round(o.preactivation, 4)) for o in post.outliers}
    assert found["100"][0] == pytest.approx([0.7596, -0.0865, -0.0865], abs=1e-9)
    assert found["100"][1] == pytest.approx([1.0881, 0, 0], abs=1e-9)
    assert found["010"][0] == pytest.approx([-0.1087, 0.6724, -0.0589], abs=1e-9)
    assert found["010"][1] == pytest.approx([0, 1.3673, 0], abs=1e-9)


@pytest.mark.parametrize(
    ("targets", "j", "t", "weights"),
    [([1, -1], -3.95223, 5.1745, [0.5, 0.5]), ([1, 0], -1.71612, None, [0.8601, 0.1399])],
)
def test_two_classes_one_output(targets, j, t, weights):
    """b = sum_c p_c t_c = 0: codes +-a with a^2 = t (y_1 - y_2) / 2 and P_+ - P_- = (y_1 + y_2) / a."""
    post = mf.solve(mf.Network("sigmoid"), mf.class_task(fractions=[0.5, 0.5], targets=targets))
    check(post)
    assert round(post.objective, 5) == j
    plus, minus = sorted(post.codes, key=lambda code: -code.readout[0])
    a, order = plus.readout[0], post.solution.t[0, 0]
    assert minus.readout[0] == pytest.approx(-a, abs=1e-10)
    assert a**2 == pytest.approx(order * (targets[0] - targets[1]) / 2, abs=1e-9)
    assert plus.weight - minus.weight == pytest.approx((targets[0] + targets[1]) / a, abs=1e-10)
    assert [round(plus.weight, 4), round(minus.weight, 4)] == weights
    if t is not None:
        assert round(order, 4) == t


def test_two_class_relu_closed_form():
    post = mf.solve(mf.Network("relu"), mf.class_task(fractions=[0.5, 0.5], targets=[1, -1]))
    check(post)
    assert post.objective == pytest.approx(-math.sqrt(2), abs=1e-12)
    assert post.solution.t.ravel() == pytest.approx([math.sqrt(2), -math.sqrt(2)], abs=1e-11)
    assert sorted(float(o.readout[0]) for o in post.outliers) == pytest.approx([-(2**-0.25), 2**-0.25], abs=1e-11)
    assert max(o.preactivation.max() for o in post.outliers) == pytest.approx(2**0.25, abs=1e-11)


@pytest.mark.parametrize("sigma_a", [0.5, 1.0, 2.0])
def test_full_cone_of_outliers_closed_form(sigma_a):
    """p_c = 1/C beyond y_-* = 2 sigma_a / (pi sqrt(C)): J = ln(e^{-1/pi}/2 + Phi(sqrt(2/pi))) - sqrt(C)/sigma_a."""
    from scipy.special import ndtr

    off = 2 * sigma_a / (math.pi * math.sqrt(3)) * 1.2
    post = mf.solve(mf.Network("relu", sigma_a=sigma_a), mf.class_task(n_classes=3, off=off))
    expected = math.log(0.5 * math.exp(-1 / math.pi) + ndtr(math.sqrt(2 / math.pi))) - math.sqrt(3) / sigma_a
    assert post.objective == pytest.approx(expected, abs=1e-10)
    assert post.bulk.readout @ post.solution.t.T == pytest.approx([math.sqrt(2 / math.pi)] * 3, abs=1e-8)


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "step", "hard_tanh", "relu", "softplus"])
@pytest.mark.parametrize("tau", [0.0, 0.05])
def test_random_tasks_solve_their_own_equations(name, tau):
    rng = np.random.default_rng([len(name), int(100 * tau)])
    for _ in range(4):
        n_classes, m = rng.integers(2, 5), rng.integers(1, 4)
        fractions = 0.05 + (1 - 0.05 * n_classes) * rng.dirichlet(np.ones(n_classes))
        task = mf.class_task(fractions=fractions / fractions.sum(), targets=rng.uniform(-2, 2, (n_classes, m)))
        network = mf.Network(name, sigma_a=rng.uniform(0.5, 3), sigma_w=rng.uniform(0.7, 1.5))
        post = mf.solve(network, task, tau=tau)
        single, k = site(name, network.k), network.k
        worst = stationarity(single, task, post.solution, tau, network.sigma_a, k, GROWTH.get(name, (0.0, 0.0)))
        assert worst <= 1e-10


@pytest.mark.parametrize(("name", "seed"), [("step", 0), ("sigmoid", 1), ("relu", 2)])
def test_agrees_with_a_generic_convex_method(name, seed):
    rng = np.random.default_rng(seed)
    p = np.array([0.6, 0.4])
    y = rng.uniform(-1, 1, (2, 2))
    single = SingleSite(PHI[name], 1.0, KINKS.get(name, ()), reach=12.0 if name != "relu" else 25.0)
    j, _ = exchange(single, p, y, 0.05, GROWTH.get(name, (0.0, 0.0)))
    post = mf.solve(mf.Network(name), mf.class_task(fractions=p, targets=y), tau=0.05)
    assert post.objective == pytest.approx(j, abs=1e-6)


@few
@given(
    seed=st.integers(0, 10**6),
    sigma_a=st.floats(0.5, 2.0),
    name=st.sampled_from(["sigmoid", "relu"]),
    tau=st.sampled_from([0.0, 0.1]),
)
def test_scaling_symmetry(seed, sigma_a, name, tau):
    """J(y, sigma_a, tau) = J(y / sigma_a, 1, tau / sigma_a^2)."""
    y = np.random.default_rng(seed).uniform(-1, 1, (3, 2))
    one = mf.solve(mf.Network(name, sigma_a=sigma_a), mf.class_task(fractions=P3, targets=y), tau=tau)
    two = mf.solve(mf.Network(name), mf.class_task(fractions=P3, targets=y / sigma_a), tau=tau / sigma_a**2)
    assert one.objective == pytest.approx(two.objective, abs=1e-9)
    assert np.sort([c.weight for c in one.codes]) == pytest.approx(np.sort([c.weight for c in two.codes]), abs=1e-8)


@few
@given(seed=st.integers(0, 10**6), name=st.sampled_from(["sigmoid", "tanh", "relu"]))
def test_rotation_and_permutation_symmetry(seed, name):
    """J(R y) = J(y) for orthogonal R, readouts rotate along; permuting classes permutes t."""
    rng = np.random.default_rng(seed)
    y = rng.uniform(-1, 1, (3, 2))
    angle = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    order = rng.permutation(3)
    p = np.array([0.5, 0.3, 0.2])
    one = mf.solve(mf.Network(name), mf.class_task(fractions=p, targets=y), tau=0.02)
    two = mf.solve(mf.Network(name), mf.class_task(fractions=p[order], targets=(y @ rotation.T)[order]), tau=0.02)
    assert two.objective == pytest.approx(one.objective, abs=1e-9)
    assert two.solution.t == pytest.approx((one.solution.t @ rotation.T)[order], abs=1e-6)


@few
@given(off=st.floats(-0.9, 0.2), sigma_a=st.floats(0.6, 1.5))
def test_mirror_symmetry(off, sigma_a):
    """y_-' = -(2 + y_-)/(1 - 4 y_-), sigma' = 3 sigma/|1 - 4 y_-| leaves J and the weights unchanged (C = 3)."""
    one = mf.solve(mf.Network("sigmoid", sigma_a=sigma_a), mf.class_task(fractions=P3, off=off))
    two = mf.solve(
        mf.Network("sigmoid", sigma_a=3 * sigma_a / (1 - 4 * off)),
        mf.class_task(fractions=P3, off=-(2 + off) / (1 - 4 * off)),
    )
    assert two.objective == pytest.approx(one.objective, abs=1e-8 * (1 + abs(one.objective)))
    assert np.sort([c.weight for c in one.codes]) == pytest.approx(np.sort([c.weight for c in two.codes]), abs=1e-6)


@few
@given(seed=st.integers(0, 10**6), name=st.sampled_from(["sigmoid", "tanh", "relu", "step"]))
def test_weights_are_a_distribution_and_objective_falls_with_scale(seed, name):
    rng = np.random.default_rng(seed)
    y = rng.uniform(-1, 1, (3, 1))
    post = mf.solve(mf.Network(name), mf.class_task(fractions=P3, targets=y))
    weights = np.array([code.weight for code in post.codes])
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)
    wider = mf.solve(mf.Network(name, sigma_a=1.5), mf.class_task(fractions=P3, targets=y))
    assert wider.objective >= post.objective - 1e-9  # a wider prior makes the targets cheaper


@pytest.mark.parametrize("name", ["sigmoid", "relu"])
def test_ten_classes(name):
    post = mf.solve(mf.Network(name), mf.class_task(n_classes=10, off=0.0))
    c = post.certificate
    assert c.global_check
    assert c.kkt_residual <= 1e-10
    assert c.duality_gap <= 1e-8
    t = post.solution.t  # classes are exchangeable, and t is unique
    assert np.ptp(np.diag(t)) <= 1e-8
    assert np.ptp(t[~np.eye(10, dtype=bool)]) <= 1e-8


def test_a_new_nonlinearity_is_one_expression():
    import sympy as sp

    z = sp.Symbol("z", real=True)
    network = mf.Network(mf.Activation(z / (1 + sp.Abs(z)), z))
    post = mf.solve(network, mf.class_task(fractions=P3, off=0.2))
    assert post.scheme == "redundant"
    single = SingleSite(lambda x: x / (1 + np.abs(x)), 1.0, (0.0,))
    assert stationarity(single, post.task, post.solution, 0.0) <= 1e-10
    assert post.certificate.global_check


def test_failure_is_raised_warned_or_returned():
    network, task = mf.Network("sigmoid"), mf.class_task(fractions=P3, off=0.5)
    with pytest.raises(mf.ConvergenceError, match="branch and bound") as caught:
        mf.solve(network, task, max_boxes=1)
    assert caught.value.result.objective == pytest.approx(-3.75433206, abs=1e-8)
    assert not caught.value.result.certificate.global_check
    with pytest.warns(CertificateWarning, match="not proven global"):
        mf.solve(network, task, max_boxes=1, on_failure="warn")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mf.solve(network, task, max_boxes=1, on_failure="return").status == "not proven global"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"network": "sigmoid"}, "must be a Network"),
        ({"task": [1, 2]}, "must be a ClassTask"),
        ({"tau": -1.0}, "tau"),
        ({"tau": math.nan}, "tau"),
        ({"on_failure": "ignore"}, "on_failure"),
        ({"network": mf.Network("relu", depth=2)}, "one hidden layer, the network has 2"),
        ({"network": mf.Network("sigmoid", scaling="lazy")}, "lazy"),
    ],
)
def test_bad_input_is_refused_in_words(change, match):
    arguments = {"network": mf.Network("sigmoid"), "task": mf.class_task(fractions=P3, off=0.5)} | change
    with pytest.raises(ValueError, match=match):
        mf.solve(**arguments)


def test_affine_activation_with_offset_is_refused():
    import sympy as sp

    z = sp.Symbol("z", real=True)
    with pytest.raises(ValueError, match="offset"):
        mf.solve(mf.Network(mf.Activation(z + 1, z)), mf.class_task(n_classes=2))


def test_warm_start_reaches_the_same_solution():
    network = mf.Network("sigmoid")
    near = mf.solve(network, mf.class_task(fractions=P3, off=0.45))
    task = mf.class_task(fractions=P3, off=0.5)
    cold = mf.solve(network, task)
    assert mf.solve(network, task, warm_start=near).objective == pytest.approx(cold.objective, abs=1e-12)
    with pytest.raises(ValueError, match="warm_start"):
        mf.solve(network, mf.class_task(n_classes=4), warm_start=near)
