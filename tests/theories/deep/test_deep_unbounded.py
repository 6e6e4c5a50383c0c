"""Deep networks of unbounded activations other than max(z, 0): values, limits, plain grids, what is refused."""

import itertools
import math

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import quad
from unbounded_oracles import two_class_violations

import meanfield as mf
from meanfield.posterior.posterior import NotAvailable
from meanfield.theories.deep.relu import solve as solver
from meanfield.theories.deep.relu.average import FINE, slab
from meanfield.theories.deep.relu.compiled.site import N_SLOPES, site, site_slopes
from meanfield.theories.deep.relu.distant import distant, ended
from meanfield.theories.deep.relu.nonlinearity import RECTIFIER, nonlinearity_of
from meanfield.theories.deep.relu.outlier import above, condensed
from meanfield.theories.deep.relu.reduction import relu_problem
from meanfield.theories.deep.relu.search.branch import followed
from meanfield.theories.deep.relu.search.remote import correction
from meanfield.theories.deep.relu.search.retraction import retracted
from meanfield.theories.deep.relu.setting import BulkDiverges, ReluSetting
from meanfield.theories.deep.relu.system import ReluSystem

TASK = mf.class_task(targets=[1, -1], n_samples=100)
ZERO = mf.class_task(targets=[1, 0], n_samples=100)
Z = sp.Symbol("z", real=True)
ELU = mf.Activation(sp.Piecewise((Z, Z > 0), (sp.exp(Z) - 1, True)), Z, name="elu")
HARD_SWISH = mf.Activation(Z * sp.Min(sp.Max(Z + 3, 0), 6) / 6, Z, name="hardswish")
MISH = mf.Activation(Z * sp.tanh(sp.log(1 + sp.exp(Z))), Z, name="mish")


def leaky(slope):
    return mf.activation("leaky_relu", slope=slope)


def solved(phi, depth=2, task=TASK, **given):
    return mf.solve(mf.Network(phi, depth), task, 0.05, **given)


@pytest.fixture(scope="module")
def leaky_third():
    return solved(leaky(0.3))


@pytest.fixture(scope="module")
def softplus():
    return solved("softplus")


# ---- the single-site function -----------------------------------------------------------------------


@pytest.mark.parametrize("phi", [leaky(0.3), mf.activation("softplus"), mf.activation("gelu"), ELU, HARD_SWISH])
@pytest.mark.parametrize(
    ("b", "h", "d", "delta"), [(0.7, -0.3, 0.4, -0.5), (-2.0, 0.9, 0.2, 0.3), (3.0, -4.0, 1.0, 0.0)]
)
def test_the_single_site_function_is_its_integral(phi, b, h, d, delta):
    def integral(f):
        def weight(z):
            x = float(phi(z))
            return math.exp(b * x + 0.5 * delta * x * x - 0.5 * (z - h) ** 2 / d) / math.sqrt(2 * math.pi * d) * f(z)

        edges = sorted({h - 14, 0, 16, *phi.kinks})
        return sum(quad(weight, *ends, epsabs=0, epsrel=1e-12, limit=400)[0] for ends in itertools.pairwise(edges))

    total = integral(lambda _: 1.0)
    mean, square = (integral(lambda z, k=k: float(phi(z)) ** k) / total for k in (1, 2))
    first, second = (integral(lambda z, k=k: z**k) / total for k in (1, 2))
    expected = [math.log(total), mean, square - mean**2, (first - h) / d, (second - first**2 - d) / d**2]
    np.testing.assert_allclose(site(b, h, d, delta, nonlinearity_of(phi).numbers), expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("phi", [leaky(0.3), leaky(-0.5), mf.activation("softplus"), mf.activation("gelu")])
@pytest.mark.parametrize(("b", "h"), [(-9.0, 0.5), (0.4, -0.2), (5.0, 3.0), (-1.9, -1.6)])
def test_higher_derivatives_are_those_of_lower_ones(phi, b, h):
    d, delta, step, numbers = 0.4, -0.5, 1e-4, nonlinearity_of(phi).numbers
    out, ends = np.zeros(N_SLOPES), np.zeros((2, 2, N_SLOPES))
    site_slopes(b, h, d, delta, numbers, out)
    for k, sign in itertools.product((0, 1), (0, 1)):
        move = step * (1 - 2 * sign)
        site_slopes(b + move * (k == 0), h + move * (k == 1), d, delta, numbers, ends[k, sign])
    by_b, by_h = (ends[:, 0] - ends[:, 1]) / (2 * step)
    # g, g_b, g_bb, g_h, g_hh, g_bh, g_bbb, g_bbh, g_bhh, g_hhh, g_bbbb, g_bbhh, g_hhhh
    pairs = [(by_b, 0, 1), (by_b, 1, 2), (by_h, 0, 3), (by_h, 3, 4), (by_h, 1, 5), (by_b, 2, 6), (by_h, 2, 7)]
    pairs += [(by_h, 5, 8), (by_h, 4, 9), (by_b, 6, 10), (by_h, 7, 11), (by_h, 9, 12)]
    for slopes, lower, higher in pairs:
        assert slopes[lower] == pytest.approx(out[higher], rel=1e-5, abs=2e-5), (lower, higher)


def test_prior_moments_are_those_of_an_integral():
    x, w = np.polynomial.hermite_e.hermegauss(120)
    w = w / w.sum()
    for phi in (leaky(0.4), mf.activation("softplus")):
        both, whole = nonlinearity_of(phi).second_moments(1.3, 0.5)
        inner = np.asarray(phi(math.sqrt(0.5) * x[:, None] + math.sqrt(0.8) * x)) @ w
        np.testing.assert_allclose(both, w @ inner**2, rtol=2e-3)  # of a kink Hermite nodes are no better
        np.testing.assert_allclose(whole, w @ np.asarray(phi(math.sqrt(1.3) * x)) ** 2, rtol=2e-3)
    assert RECTIFIER.second_moments(1.3, 0.5) == pytest.approx(
        nonlinearity_of(mf.activation("relu")).second_moments(1.3, 0.5)
    )


# ---- solutions --------------------------------------------------------------------------------------


def test_leaky_relu_of_two_layers(leaky_third):
    s = leaky_third.solution
    assert leaky_third.status == "optimal"
    np.testing.assert_allclose(s.kernel[0][0], [0.2044344, 0.0717663], atol=2e-7)
    np.testing.assert_allclose(s.kernel[1][0], [1.3872399, 0.0144993], atol=2e-6)
    np.testing.assert_allclose(s.t[:, 0], [0.1440682, -0.1440682], atol=1e-7)
    assert leaky_third.free_energy == pytest.approx(-19.0872171, abs=1e-6)
    assert not leaky_third.outliers  # the codes are modes of the bulk
    assert leaky_third.certificate.bound_gap < -1e-3
    assert leaky_third.certificate.inner_curvature > 0.0 > leaky_third.certificate.outer_curvature


def test_plain_grids_agree(leaky_third, softplus):
    for phi, post in ((leaky(0.3), leaky_third), (mf.activation("softplus"), softplus)):
        assert max(two_class_violations(phi, post).values()) < 1e-6


def test_gelu_on_plain_grids():
    """No neuron condenses: where phi is negative classes that are not driven pull back."""
    post = solved("gelu")
    assert max(two_class_violations(mf.activation("gelu"), post).values()) < 1e-6
    assert not post.outliers
    np.testing.assert_allclose(post.solution.kernel[0][0], [0.2151447, 0.0914776], atol=1e-6)


def test_slope_to_one_is_the_linear_network():
    linear = mf.solve(mf.Network("linear", 2), TASK, 0.05)
    kernels = [np.array(solved(leaky(s)).solution.kernel) for s in (0.98, 0.96)]
    limit = 2.0 * kernels[0] - kernels[1]
    for layer in (1, 2):
        np.testing.assert_allclose(limit[layer - 1], linear.kernel(layer).block, atol=2e-3)
    apart = [abs(k[0] - linear.kernel(1).block).max() for k in kernels]
    assert apart[0] < 0.7 * apart[1]


def test_slope_to_zero_is_the_rectifier():
    found = [solved(leaky(s)) for s in (0.02, 0.01)]
    first, second = (np.array(post.solution.kernel) for post in found)
    np.testing.assert_allclose((2.0 * second - first)[0][0], [0.290554, 0.174512], atol=3e-5)
    np.testing.assert_allclose((2.0 * second - first)[1][0], [1.65105, 0.26593], atol=2e-4)
    assert sorted(o.label for o in found[1].outliers) == ["0-1", "1-0"]  # a class is on the kink in the last layer,
    assert not found[1].layer_outliers(1)  # and none is in the first


def test_softplus_condenses_in_every_layer(softplus):
    assert softplus.status == "optimal"
    assert len(softplus.layer_outliers(1)) == len(softplus.outliers) == 2
    assert softplus.free_energy == pytest.approx(-18.7772818, abs=1e-6)
    wide = solved("softplus", width=3000)
    np.testing.assert_allclose(wide.solution.t, softplus.solution.t, rtol=0.01)
    drawn = softplus.sample_neurons(500, rng=1, samples_per_class=2)
    assert drawn.activations.min() > 0.0


def test_a_gain_other_than_one_is_a_scale():
    """phi = g max(z, 0): sigma_w / g in every layer gives back the same kernels."""
    one = solved("relu")
    two = mf.solve(mf.Network(mf.activation("relu", gain=2.0), 2, sigma_w=0.5), TASK, 0.05)
    np.testing.assert_allclose(two.solution.kernel, one.solution.kernel, rtol=1e-6)


def test_three_layers_and_unequal_targets():
    deep = solved(leaky(0.3), depth=3)
    assert deep.status == "optimal"
    assert deep.free_energy == pytest.approx(-10.2102827, abs=1e-6)
    for phi, targets in ((leaky(0.2), [1, -0.5]), (leaky(0.3), [1, 0.3]), ("softplus", [1, -0.5])):
        assert solved(phi, task=mf.class_task(targets=targets, n_samples=100)).status == "optimal"
    two = solved(leaky(0.5), task=mf.class_task(targets=np.eye(2), n_samples=100))
    assert two.status == "optimal"
    assert two.certificate.global_check


def test_expression_of_a_user():
    post = solved(mf.Activation(Z / (1 + sp.exp(-Z)), Z, name="silu"))
    assert post.status == "optimal"
    assert post.free_energy == pytest.approx(-20.8069570, abs=1e-5)
    assert max(two_class_violations(lambda z: z / (1 + np.exp(-z)), post).values()) < 1e-6


@pytest.mark.parametrize(
    ("phi", "free_energy"),
    [
        (leaky(0.3), -10.195855717), (ELU, -9.232068343), (mf.activation("relu"), -10.945535089),
        (mf.activation("softplus"), -11.246251745),
    ],
    ids=["leaky ReLU", "ELU", "ReLU", "softplus"],
)  # fmt: skip
def test_a_class_whose_target_is_zero(phi, free_energy):
    """It is silenced: its t is negative where that of the other is positive, and nothing condenses on it."""
    post = solved(phi, task=ZERO)
    assert post.solution.t[0, 0] > 0.0 > post.solution.t[1, 0]
    assert {outlier.label for outlier in post.outliers} <= {"1-0"}
    assert post.status == "optimal"
    assert post.free_energy == pytest.approx(free_energy, abs=1e-7)
    assert max(two_class_violations(phi, post).values()) < 1e-7


def test_many_samples_are_reached_from_fewer():
    """With softplus and a class of target 0 no start leads to the solution at 300 samples: it is followed from 150."""
    task = mf.class_task(targets=[1, 0], n_samples=300)
    post = solved("softplus", task=task)
    assert post.status == "optimal"
    assert [outlier.label for outlier in post.outliers] == ["1-0"]
    assert max(two_class_violations(mf.activation("softplus"), post).values()) < 1e-7


def test_even_phi_condenses_as_a_rectifier():
    """|z| is lowest at its kink: classes that are not driven stay there. Maxima come in pairs h, -h."""
    phi = mf.Activation(sp.Abs(Z), Z)
    post = solved(phi, task=mf.class_task(targets=[1, 0.3], n_samples=100))
    assert post.layer_outliers(1)
    assert post.certificate.inner_curvature > 0.0 > post.certificate.outer_curvature
    assert max(two_class_violations(phi, post).values()) < 1e-8
    with pytest.raises(ValueError, match="width"):
        solved(phi, width=400)


@pytest.fixture(scope="module")
def remote():
    return solved(MISH, task=ZERO, rtol=1e-4)


def test_a_mode_beyond_all_lattices_is_an_outlier_to_first_order(remote):
    """The certificate counts what that leaves, of order 1 / x at x = 1e5 standard deviations."""
    with pytest.raises(mf.ConvergenceError, match=r"error of .* of the order parameters.*standard deviations"):
        solved(MISH, task=ZERO)
    proof = remote.certificate
    assert [o.label for o in remote.outliers] == ["1-0"]
    assert 1e-7 < proof.residual < 1e-6
    assert "standard deviations" in " ".join(proof.searched)
    assert max(two_class_violations(MISH, remote).values()) < 1e-6
    errors = {(e.name, e.layer): e.value for e in proof.order_errors}
    assert 1e-6 < errors.pop(("outliers", 2)) < 1e-4
    assert max(errors.values()) < 1e-5


def test_what_remote_modes_lack_is_that_of_averages_at_finite_distances(remote):
    """To first order in 1 / distance."""
    system, order = remote._system
    setting, beta = system.setting(order, 1), order.top[system.words.index("10")]
    unit = beta / np.linalg.norm(beta)
    found, (activation, force) = condensed(setting, unit), correction(setting, unit, 1.0)
    near, far = (
        [x * (part.b / x - found.activation), x * (part.h_h / x**2 - np.outer(found.force, found.force))]
        for x in (1000.0, 4000.0)
        for part in (slab(setting, x * unit, FINE),)
    )
    squares = np.outer(force, found.force) + np.outer(found.force, force)
    np.testing.assert_allclose((4.0 * far[0] - near[0]) / 3.0, activation, rtol=0.02)
    np.testing.assert_allclose((4.0 * far[1] - near[1]) / 3.0, squares, rtol=0.01, atol=1e-9)


def test_files_keep_it(leaky_third, tmp_path):
    back = mf.load(leaky_third.save(tmp_path / "post"))
    np.testing.assert_array_equal(back.solution.kernel, leaky_third.solution.kernel)


# ---- far modes and what condenses -------------------------------------------------------------------


def first_layer(phi, post):
    problem, _, _ = relu_problem(mf.Network(phi, 2), TASK, 0.05)
    s = post.solution
    value, vector = np.linalg.eigh(s.tilde[0])
    root = (vector * np.sqrt(value)) @ vector.T
    return ReluSetting(root, problem.n, np.full(2, problem.k), s.delta[0], np.zeros((2, 2)), problem.phi)


def test_seeds_lie_along_rays_until_the_weight_ends(leaky_third):
    setting = first_layer(leaky(0.3), leaky_third)
    fields, _ = distant(setting, np.zeros((0, 2)), 30.0)
    sizes = np.linalg.norm(fields, axis=1)
    _, found = above(setting, "10")
    assert sizes.max() == pytest.approx(math.sqrt(60.0 / (1.0 - found.gain)), rel=0.15)
    rectifier = first_layer("relu", solved("relu"))
    assert distant(rectifier, np.zeros((0, 2)), 30.0) is None


def test_a_step_keeps_modes_below_gain_one(leaky_third):
    """And agrees with the straight one to first order; where the derivative crosses 1 there is none."""
    system, order = leaky_third._system
    x = system.pack(order)
    longer = system.unpack(x)
    longer.tilde[0] *= 1.0 + 0.999 * (1.0 / above(system.setting(order, 0), "10")[1].gain - 1.0)
    change = system.pack(longer) - x

    def end(size):
        return retracted(lambda along: (system, x + along * size * change))

    off = [np.linalg.norm(end(size) - x - size * change) for size in (0.4, 0.2)]
    assert 0.0 < off[1] < 0.35 * off[0]
    gain = above(system.setting(system.unpack(end(0.99)), 0), "10")[1].gain
    assert 1.0 - gain == pytest.approx((1.0 - above(system.setting(order, 0), "10")[1].gain) / 1.99, rel=0.02)
    with pytest.raises(BulkDiverges):
        end(1.1)


def test_which_weights_have_an_end(softplus):
    beta, _ = above(first_layer("softplus", softplus), "10")
    assert ended(first_layer("softplus", softplus), beta)
    assert ended(first_layer("relu", softplus), beta)
    assert not ended(first_layer("gelu", softplus), beta)  # c > 0
    assert not ended(first_layer(leaky(0.1), softplus), beta)  # no class is on the kink


def test_an_outlier_without_an_end_is_refused():
    from meanfield.theories.deep.relu.search.homotopy import _missing

    post = solved("relu")
    problem, _, _ = relu_problem(mf.Network("gelu", 2), TASK, 0.05)
    _, order = post._system
    assert _missing(ReluSystem(problem, ("10", "01")), order)


# ---- what is not there ------------------------------------------------------------------------------


def test_tables_say_what_was_computed(leaky_third, softplus):
    """The second order has its numbers, and there is no heading of outliers where nothing condenses."""
    for post, condenses in ((leaky_third, False), (softplus, True)):
        text = post.table()
        assert f"second order passed: over conjugates {post.certificate.inner_curvature:.1e}, over kernels" in text
        assert post.certificate.inner_curvature > 0.0 > post.certificate.outer_curvature
        assert ("outliers in units" in text) == condenses


def test_what_is_not_there_is_refused_in_words(leaky_third, softplus):
    with pytest.raises(ValueError, match="modes at finite distances"):
        solved(leaky(0.3), width=400)
    with pytest.raises(NotAvailable, match="not drawn"):
        leaky_third.sample_neurons(100)
    with pytest.raises(ValueError, match="max\\(z, 0\\) only"):
        solved("softplus", width=3000).one_loop()
    for phi in (sp.sqrt(1 + Z**2), sp.Max(Z, 0) + sp.Max(Z - 1, 0) + sp.Max(Z - sp.sqrt(2), 0)):
        own = mf.activation(phi)  # slow tails; kinks on no common lattice
        with pytest.raises(ValueError, match="straight asymptotes"):
            solved(own)
        assert nonlinearity_of(own) is None
    assert "varphi_{\\infty}" in mf.equations(mf.Network("gelu", 2)).latex()


def test_errors_that_cannot_be_found_are_said_in_words(leaky_third, monkeypatch):
    """The equations hold; what is integrated beside the solution for the errors of the order parameters diverges."""

    def diverges(*_):
        raise BulkDiverges("the weight of a neuron grows along an outlier.")

    monkeypatch.setattr(solver, "order_errors", diverges)
    post = solved(leaky(0.3), warm_start=leaky_third, on_failure="return")
    assert post.status == "residual too large"
    assert post.certificate.residual < 1e-7
    assert math.isnan(post.certificate.order_error)
    assert "error of the order parameters" in post.message
    assert post.message.endswith("was not found, as the weight of a neuron grows along an outlier")


def test_a_code_that_a_class_leaves_as_it_condenses_is_followed():
    """The code of all classes of layer 2 reaches gain 1 with the second class just above the kink."""
    network, task = mf.Network("softplus", 2), mf.class_task(targets=[1, 0.1], n_samples=100)
    problem, _, _ = relu_problem(network, task, 0.05)
    system, x = followed(problem, lambda _: None).ends[0]
    order = system.bare(x)
    assert [np.flatnonzero(one).tolist() for one in np.linalg.norm(order.lower, axis=2)] == [[1]]  # 1-0
    assert np.flatnonzero(np.linalg.norm(order.top, axis=1)).tolist() == [2]  # 1-1
