"""Transitions and boundaries against phases/THEORY.md, closed forms and exact symmetries."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq

import meanfield as mf
from meanfield.theories.single_layer.transitions.boundary import trace_boundary
from meanfield.theories.single_layer.transitions.transition import locate

UNEQUAL = (0.5, 0.25, 0.25)
EQUAL = (1 / 3, 1 / 3, 1 / 3)
V0 = math.asin(math.pi / (2 + math.pi)) / (2 * math.pi)  # G''(0) of the sigmoid at k = 1


def one_hot(off, fractions=UNEQUAL):
    return mf.class_task(fractions=fractions, off=off)


def binary(u):
    return mf.class_task(targets=[1.0, u])


def slope(kappa, phi="sigmoid"):
    """G'(kappa)."""
    return float(mf.activation(phi) and _site(phi).direct(kappa)[1])


def _site(phi):
    from meanfield.activations.cumulant import cumulant

    return cumulant(mf.activation(phi))


def with_pattern(post, pattern):
    return [i for i, code in enumerate(post.codes) if code.pattern == pattern]


def leaving(network, task, tau, parameter, pattern, **options):
    """The transition at which the code with this pattern enters or leaves, from a solution that has it."""
    post = mf.solve(network, task, tau)
    codes = with_pattern(post, pattern)
    return locate("weight", network, task, tau, parameter, post.solution, codes=codes, **options)


def assert_certified(found):
    assert found.residual <= 1e-13
    assert found.solution.certificate.kkt_residual <= 1e-10
    assert found.solution.certificate.duality_gap <= 1e-8
    assert found.solution.certificate.global_check
    assert found.singular_value > 1e-6


@pytest.mark.parametrize(
    ("sigma_a", "fractions", "start", "pattern", "expected", "label"),
    [
        (1.0, UNEQUAL, 0.5, "111", 0.477274295593, "1-1-1 enters"),
        (1.0, UNEQUAL, 0.0, "100", 0.032090245991, "1-0-0 leaves"),
        (2.0, UNEQUAL, 0.28, "100", 0.308308895021, "1-0-0 leaves"),
        (0.5, UNEQUAL, -0.77, "100", -0.789715184407, "1-0-0 enters"),
        (0.6, UNEQUAL, 0.42, "111", 0.385779677654, "1-1-1 enters"),
        (0.6, UNEQUAL, -0.2, "100", -0.158579462551, "1-0-0 leaves"),
        (1.5, UNEQUAL, 0.15, "100", 0.202679350058, "1-0-0 leaves"),
        (3.0, UNEQUAL, 0.45, "100", 0.451247913349, "1-0-0 leaves"),
        (1.0, EQUAL, 0.5, "111", 0.472753631785, "1-1-1 enters"),
        (0.75, EQUAL, 0.45, "111", 0.412416994272, "1-1-1 enters"),
        (1.5, EQUAL, 0.65, "111", 0.621862686735, "1-1-1 enters"),
        (3.0, EQUAL, 0.88, "111", 0.867029384426, "1-1-1 enters"),
    ],
)
def test_codes_enter_and_leave(sigma_a, fractions, start, pattern, expected, label):
    network = mf.Network("sigmoid", sigma_a=sigma_a)
    found = leaving(network, one_hot(start, fractions), 0.0, "off", pattern)
    assert found.value == pytest.approx(expected, abs=1e-11)
    assert found.label == label
    assert not found.crossover
    assert found.codes == (pattern,)
    assert found.solution.weight[found.marginal[0]] == pytest.approx(0.0, abs=1e-13)
    assert_certified(found)


def test_order_of_the_transition():
    """dJ/dy_- = -sum_c p_c t_c.d_y_c is the same on both sides of where 1-1-1 enters; the second derivative jumps."""
    network = mf.Network("sigmoid")
    found = leaving(network, one_hot(0.5), 0.0, "off", "111")
    others = 1.0 - np.eye(3)

    def derivative(solution):
        return -np.sum(np.array(UNEQUAL)[:, None] * solution.t * others)

    at = derivative(found.solution)
    assert at == pytest.approx(2.0445, abs=2e-4)
    below, above = (derivative(mf.solve(network, one_hot(found.value + d)).solution) for d in (-1e-4, 1e-4))
    assert (at - below) / 1e-4 == pytest.approx(-3.79, abs=0.1)  # from a coarse difference; -3.71 in the limit
    assert (above - at) / 1e-4 == pytest.approx(-0.25, abs=0.01)
    step = 1e-5
    values = [mf.solve(network, one_hot(found.value + d)).objective for d in (-step, step)]
    assert (values[1] - values[0]) / (2 * step) == pytest.approx(at, abs=2e-5)


def test_scaling():
    """J(y, sigma_a) = J(y / sigma_a, 1)."""
    found = leaving(mf.Network("sigmoid"), mf.class_task(fractions=UNEQUAL, on=0.5, off=0.14), 0.0, "off", "100")
    assert 2 * found.value == pytest.approx(0.308308895021, abs=1e-11)


@pytest.mark.parametrize("parameter", ["off", "on", "sigma_a", "sigma_w", "gain", "fraction_1", "fraction_3"])
def test_every_parameter_finds_the_same_surface(parameter):
    """Move one parameter to its transition, then come back along y_-."""
    network, task = mf.Network("sigmoid"), one_hot(0.48)
    first = leaving(network, task, 0.0, parameter, "111")
    back = locate("weight", first.network, first.task, first.tau, "off", first.solution, codes=first.marginal)
    assert back.value == pytest.approx(first.task.off, abs=1e-11)
    assert_certified(first)


def test_label_crossover():
    network, task = mf.Network("sigmoid", sigma_a=2.0), one_hot(0.77)
    post = mf.solve(network, task)
    (code,) = [i for i, c in enumerate(post.codes) if c.readout[0] < min(c.readout[1:])]
    found = locate("label", network, task, 0.0, "off", post.solution, pairs=((code, 0),))
    assert 0.75 < found.value < 0.8
    assert found.crossover
    assert found.label == "0-1-1 becomes 1-1-1"
    kappa = found.solution.t @ found.solution.readout[found.marginal[0]]
    assert kappa[0] == pytest.approx(0.0, abs=1e-12)
    assert_certified(found)


@pytest.mark.parametrize(
    ("fractions", "start", "expected"), [(UNEQUAL, 0.14, 0.145362992143), (EQUAL, 0.13, 0.128048400714)]
)
def test_temperature_transitions_at_a_distance(fractions, start, expected):
    network, task = mf.Network("sigmoid"), one_hot(0.2, fractions)
    post = mf.solve(network, task, start)
    lightest = int(np.argmin(post.solution.weight))
    found = locate("weight", network, task, start, "tau", post.solution, codes=(lightest,))
    assert found.value == pytest.approx(expected, abs=1e-11)
    assert_certified(found)


def test_temperature_pitchfork():
    network, task = mf.Network("sigmoid"), one_hot(0.2)
    post = mf.solve(network, task, 0.12)
    pair = [i for i, c in enumerate(post.codes) if abs(c.readout[1] - c.readout[2]) > 0.1]
    found = locate("merge", network, task, 0.12, "tau", post.solution, codes=pair)
    assert found.value == pytest.approx(0.129325686327, abs=1e-11)
    assert found.quartic == pytest.approx(-2.43, abs=0.01)
    assert_certified(found)


def test_critical_temperature_of_zero_mean_targets():
    """sum_c p_c y_c = 0: tau_c = sigma_a sqrt(v_0 lambda_max(sum_c p_c y_c y_c^T))."""
    network = mf.Network("sigmoid", sigma_a=1.7)
    post = mf.solve(network, binary(-1.0), 0.5)
    found = locate("merge", network, binary(-1.0), 0.5, "tau", post.solution, codes=(0, 1))
    assert found.value == pytest.approx(1.7 * math.sqrt(V0), abs=1e-12)
    assert found.label == "codes merge into a readout of zero"
    assert math.sqrt(V0) == pytest.approx(0.323449138858, abs=1e-12)


@pytest.mark.parametrize(("u", "start", "expected"), [(-0.5, 0.2, 0.211048528631), (0.0, 0.05, 0.061043202957)])
def test_two_classes_lose_their_complement_with_temperature(u, start, expected):
    """E'(q t) = q/(sigma_a^2 t), tau* = ((1 - u)/2 - q^2/(sigma_a^2 t)) / t with q = 1 + u, E' = G' - 1/2."""
    network, task = mf.Network("sigmoid"), binary(u)
    found = locate("weight", network, task, start, "tau", mf.solve(network, task, start).solution, codes=(1,))
    q = 1 + u
    t = brentq(lambda t: slope(q * t) - 0.5 - q / t, 1.0, 10.0, xtol=1e-14)
    assert found.value == pytest.approx(((1 - u) / 2 - q * q / t) / t, abs=1e-12)
    assert found.value == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize(("sigma_a", "start", "expected"), [(1.0, 0.18, 0.205261456883), (2.0, 0.38, 0.400412755028)])
def test_two_classes_end_of_the_complement_phase(sigma_a, start, expected):
    """G'(2 (1 + u)^3 / (sigma_a^2 (1 - u))) = 1/(1 + u)."""
    network, task = mf.Network("sigmoid", sigma_a=sigma_a), binary(start)
    found = locate("weight", network, task, 0.0, "target_2", mf.solve(network, task).solution, codes=(1,))
    exact = brentq(
        lambda u: slope(2 * (1 + u) ** 3 / (sigma_a**2 * (1 - u))) - 1 / (1 + u), 0.05, 0.8, xtol=1e-15, rtol=1e-15
    )
    assert found.value == pytest.approx(exact, abs=1e-12)
    assert found.value == pytest.approx(expected, abs=1e-11)


def test_two_classes_label():
    """G'(16 u^3 / sigma_a^2) = 1/(2u)."""
    network, task = mf.Network("sigmoid"), binary(0.6)
    post = mf.solve(network, task)
    found = locate("label", network, task, 0.0, "target_2", post.solution, pairs=((0, 1),))
    exact = brentq(lambda u: slope(16 * u**3) - 1 / (2 * u), 0.55, 0.8, xtol=1e-15, rtol=1e-15)
    assert found.value == pytest.approx(exact, abs=1e-12)
    assert found.label == "1-0 becomes 1-1"


# ---- ReLU ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "pairs", "expected", "objective"),
    [
        (0.2, ((1, 2),), 0.216467776599, -1.5748508843),
        (0.25, ((1, 2),), 0.216467776599, -1.5748508843),  # from inside the cone
        (0.3, ((0, 1), (0, 2)), 0.374982820561, -1.5706026676),
        (0.45, ((0, 1), (0, 2)), 0.374982820561, -1.5706026676),
    ],
)
def test_relu_outliers_become_cones(start, pairs, expected, objective):
    network, task = mf.Network("relu"), one_hot(start)
    found = locate("cone", network, task, 0.0, "off", mf.solve(network, task).solution, pairs=pairs)
    assert found.value == pytest.approx(expected, abs=1e-11)
    assert found.solution.objective == pytest.approx(objective, abs=1e-10)
    assert_certified(found)


def test_relu_isolated_outliers_see_the_same_transition():
    """t_2.t_3 = 0 is where class 3 starts to drive the outlier of class 2."""
    network, task = mf.Network("relu"), one_hot(0.2)
    post = mf.solve(network, task)
    drive = post.solution.outlier_direction @ post.solution.t.T
    pairs = [(int(np.argmax(drive[:, c])), d) for c, d in ((1, 2), (2, 1))]
    found = locate("driven", network, task, 0.0, "off", post.solution, pairs=pairs)
    assert found.value == pytest.approx(0.216467776599, abs=1e-11)
    assert_certified(found)


@pytest.mark.parametrize(("sigma_a", "n_classes"), [(1.0, 3), (0.6, 4), (1.2, 2)])
def test_relu_equal_fractions_closed_form(sigma_a, n_classes):
    """y_-* = 2 sigma_a / (pi sqrt(C)); there J = ln(e^{-1/pi}/2 + Phi(sqrt(2/pi))) - sqrt(C)/sigma_a."""
    network = mf.Network("relu", sigma_a=sigma_a)
    exact = 2 * sigma_a / (math.pi * math.sqrt(n_classes))
    task = mf.class_task(n_classes=n_classes, off=exact - 0.05)
    pairs = [(c, d) for c in range(n_classes) for d in range(c)]
    found = locate("cone", network, task, 0.0, "off", mf.solve(network, task).solution, pairs=pairs)
    assert found.value == pytest.approx(exact, abs=1e-12)
    normal = 0.5 * (1 + math.erf(1 / math.sqrt(math.pi)))
    objective = math.log(0.5 * math.exp(-1 / math.pi) + normal) - math.sqrt(n_classes) / sigma_a
    assert found.solution.objective == pytest.approx(objective, abs=1e-12)


@pytest.mark.parametrize(
    ("sigma_a", "start", "expected"),
    [(1.5, 0.45, 0.494804037447), (1.5, 0.93, 0.910602691636), (2.3, 0.45, 0.502608410718), (1.0, -0.1, 0.0)],
)
def test_relu_two_classes_lose_an_outlier(sigma_a, start, expected):
    network, task = mf.Network("relu", sigma_a=sigma_a), binary(start)
    solution = mf.solve(network, task).solution
    lightest = int(np.argmin(solution.outlier_weight))
    found = locate("outlier", network, task, 0.0, "target_2", solution, codes=(lightest,))
    assert found.value == pytest.approx(expected, abs=1e-11)
    assert_certified(found)


def test_relu_two_classes_share_an_outlier():
    network, task = mf.Network("relu", sigma_a=1.3), binary(0.25)
    found = locate("driven", network, task, 0.0, "target_2", mf.solve(network, task).solution, pairs=((0, 1),))
    assert found.value == pytest.approx(1.3 / (math.pi * math.sqrt(2)), abs=1e-12)
    assert found.label == "class 2 drives outlier 1-0"


@pytest.mark.parametrize(("slope_minus", "expected"), [(0.0, 0.450158), (0.5, 0.332171)])
def test_leaky_relu_cone_onset(slope_minus, expected):
    """y_-* = sigma_a kappa^2 / sqrt(C), normal density(s kappa) = (1 + s) kappa Phi(-s kappa); here C = 2."""

    def balance(x):
        density = math.exp(-0.5 * (slope_minus * x) ** 2) / math.sqrt(2 * math.pi)
        return density - (1 + slope_minus) * x * 0.5 * math.erfc(slope_minus * x / math.sqrt(2))

    kappa = brentq(balance, 0.1, 2.0, xtol=1e-15, rtol=1e-15)
    exact = kappa**2 / math.sqrt(2)
    assert exact == pytest.approx(expected, abs=1e-6)
    network = mf.Network(mf.activation("leaky_relu", slope=slope_minus))
    task = mf.class_task(n_classes=2, off=exact + 0.02)  # inside the cone, where angles describe the phase
    found = locate("cone", network, task, 0.0, "off", mf.solve(network, task).solution, pairs=((0, 1),))
    assert found.value == pytest.approx(exact, abs=1e-11)


def test_relu_outlier_vanishes_in_two_descriptions():
    """With rising tau |t_1| becomes slack: as an isolated outlier, and as the multiplier of the norm."""
    network, task, tau = mf.Network("relu"), mf.class_task(fractions=[0.3, 0.35, 0.35], off=0.2), 0.42
    s = mf.solve(network, task, tau).solution
    own = int(np.argmax(s.outlier_direction @ s.t[0]))
    isolated = locate("outlier", network, task, tau, "tau", s, codes=(own,))
    norm = locate("outlier", network, task, tau, "tau", s, pairs=((0, 0),))
    assert norm.value == pytest.approx(isolated.value, abs=1e-12)
    assert norm.label == isolated.label == "outlier 1-0-0 vanishes"
    slack = [1 - 0.3 * np.sum(mf.solve(network, task, norm.value + d).solution.t[0] ** 2) for d in (-1e-3, 1e-3)]
    assert abs(slack[0]) < 1e-9
    assert slack[1] > 1e-5


# ---- two parameters --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def upper_boundary():
    """P_111 = 0 in (y_-, sigma_a)."""
    start = leaving(mf.Network("sigmoid"), one_hot(0.5), 0.0, "off", "111")
    return trace_boundary(start, "sigma_a", {"off": (-1.0, 0.99), "sigma_a": (0.5, 3.0)})


def test_boundary_table_and_cusp(upper_boundary):
    table = {0.6: 0.385779677654, 0.75: 0.413834508979, 1.25: 0.559030127860, 1.65: 0.733089947113}
    for sigma_a, off in table.items():
        (point,) = upper_boundary.at("sigma_a", sigma_a)
        assert point.value == pytest.approx(off, abs=1e-11)
        assert point.network.sigma_a == sigma_a
    assert upper_boundary.ends == ("limit of sigma_a", "cusp")
    assert upper_boundary.curve[0, 1] == pytest.approx(0.5, abs=1e-12)
    cusp = upper_boundary.points[-1]
    np.testing.assert_allclose(upper_boundary.curve[-1], [0.771578712608, 1.705095081546], atol=1e-11)
    code = cusp.marginal[0]
    np.testing.assert_allclose(cusp.solution.readout[code], [0.57843959, 1.63366131, 1.63366131], atol=1e-8)
    assert cusp.solution.weight[code] == pytest.approx(0.49682976, abs=1e-8)
    for point in upper_boundary.points:
        assert point.residual < 1e-11
        assert point.solution.certificate.kkt_residual < 1e-10


def test_other_branch_of_the_cusp_has_a_fold():
    network, task = mf.Network("sigmoid", sigma_a=1.5), one_hot(0.95)
    post = mf.solve(network, task)
    lightest = int(np.argmin(post.solution.weight))
    start = locate("weight", network, task, 0.0, "off", post.solution, codes=(lightest,))
    assert start.value == pytest.approx(0.967615709589, abs=1e-11)
    curve = trace_boundary(start, "sigma_a", {"off": (0.0, 0.9999), "sigma_a": (0.5, 3.0)})
    assert set(curve.ends) == {"cusp", "limit of off"}
    ((name, fold),) = curve.folds
    assert name == "sigma_a"
    assert fold["sigma_a"] == pytest.approx(1.7515, abs=1e-4)
    assert fold["sigma_a"] > curve.curve[:, 1].max() - 1e-9
    for sigma_a, off in {1.3: 0.996525608048, 1.7: 0.906593314994}.items():
        assert min(abs(p.value - off) for p in curve.at("sigma_a", sigma_a)) < 1e-10
    # Re-entrant between cusp and fold: crossed twice.
    assert len(curve.at("sigma_a", 1.72)) == 2


def test_mirror_map(upper_boundary):
    """(y_-, sigma_a) -> (-(2 + y_-)/(1 - 4 y_-), 3 sigma_a/(1 - 4 y_-)) maps boundaries onto boundaries."""
    start = leaving(mf.Network("sigmoid"), one_hot(0.0), 0.0, "off", "100")
    curve = trace_boundary(start, "sigma_a", {"off": (-1.0, 0.2), "sigma_a": (0.3, 2.0)}, longest=0.3)
    mirrored = 0
    for point in curve.points[::3]:
        off, sigma_a = point.value, point.network.sigma_a
        image = -(2 + off) / (1 - 4 * off), 3 * sigma_a / (1 - 4 * off)
        if not 0.3 < image[1] < 3.0:
            continue
        network, task = mf.Network("sigmoid", sigma_a=image[1]), one_hot(image[0])
        # Readouts turn with R = 1 - (2/3) 11^T, weights stay; y scales with 3/(1 - 4 y_-).
        reflect = np.eye(3) - 2 / 3
        scale = 3 / (1 - 4 * off)
        s = point.solution
        turned = mf.solve(network, task).solution
        again = locate(
            "weight",
            network,
            task,
            0.0,
            "off",
            _replaced(turned, s.t @ reflect / scale, s.readout @ reflect * scale, s.weight, s.level),
            codes=point.marginal,
        )
        assert again.value == pytest.approx(image[0], abs=1e-9)
        assert again.solution.objective == pytest.approx(s.objective, abs=1e-9)
        mirrored += 1
    assert mirrored >= 3
    (point,) = curve.at("sigma_a", 0.360675698137)
    assert point.value == pytest.approx(-0.291013547206, abs=1e-10)


def _replaced(solution, t, readout, weight, level):
    from dataclasses import replace

    return replace(solution, t=t, readout=readout, weight=weight, level=level)


def test_two_codes_vanish_together():
    """The boundaries of 0-1-1 and of the pairs in (tau, y_-) meet in a point; from there on both are one transition."""
    network, task, tau = mf.Network("sigmoid"), one_hot(0.7), 0.0438
    post = mf.solve(network, task, tau)
    solution = post.solution
    found = leaving(network, task, tau, "tau", "011")
    assert found.value == pytest.approx(0.0441156267, abs=1e-9)
    curve = trace_boundary(found, "off", {"tau": (0.0, 0.3), "off": (0.6, 0.95)})
    (end,) = [end for end in curve.ends if "negative" in end]
    last = curve.points[0 if curve.ends[0] == end else -1]
    codes = np.argsort(last.solution.weight)[:3]
    point = locate(
        "weight", last.network, last.task, last.tau, ("tau", "off"), last.solution, codes=tuple(map(int, codes))
    )
    np.testing.assert_allclose(list(point.parameters.values()), [0.0153182508, 0.8903887382], atol=1e-9)
    assert np.count_nonzero(point.solution.weight > 1e-12) == solution.weight.size - 3
    assert set(point.codes) == {"011", "110", "101"}


def test_relu_boundary_scales():
    """ReLU: the cone onset of equal fractions is a straight line, y_-* = 2 sigma_a / (pi sqrt 3)."""
    network, task = mf.Network("relu"), one_hot(0.3, EQUAL)
    pairs = ((1, 0), (2, 0), (2, 1))
    start = locate("cone", network, task, 0.0, "off", mf.solve(network, task).solution, pairs=pairs)
    curve = trace_boundary(start, "sigma_a", {"off": (0.1, 0.8), "sigma_a": (0.1, 5.0)})
    assert set(curve.ends) == {"limit of off"}
    np.testing.assert_allclose(curve.curve[:, 0], 2 * curve.curve[:, 1] / (math.pi * math.sqrt(3)), atol=1e-12)


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_coinciding_codes_are_refused():
    network, task = mf.Network("sigmoid"), one_hot(0.2)
    s = mf.solve(network, task).solution
    twice = _replaced(s, s.t, np.vstack([s.readout, s.readout[:1] + 1e-5]), np.append(s.weight, 0.01), s.level)
    with pytest.raises(mf.ConvergenceError, match="two codes coincide"):
        locate("weight", network, task, 0.0, "off", twice, codes=(3,))


def test_equal_targets_are_refused():
    network, task = mf.Network("sigmoid"), one_hot(0.999)
    s = mf.solve(network, task).solution
    assert len(s.weight) > 1
    with pytest.raises(mf.ConvergenceError):
        locate("weight", network, task, 0.0, "off", s, codes=range(1, len(s.weight)))


def test_root_outside_the_bracket_is_refused():
    network, task = mf.Network("sigmoid"), one_hot(0.5)
    with pytest.raises(mf.ConvergenceError, match="outside the bracket") as caught:
        leaving(network, task, 0.0, "off", "111", bracket=(0.49, 0.5))
    assert caught.value.result.value == pytest.approx(0.477274295593, abs=1e-11)


def test_a_weight_that_never_vanishes_is_refused():
    network, task = mf.Network("sigmoid"), one_hot(0.2)
    with pytest.raises(mf.ConvergenceError):
        leaving(network, task, 0.0, "tau", "011", bracket=(0.0, 0.05))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "jump"}, "kind must be one of"),
        ({"parameter": "of"}, "'of' is not a parameter"),
        ({"codes": (7,)}, "indices of the 4 readouts"),
        ({"codes": ()}, "indices of the 4 readouts"),
        ({"kind": "label"}, "needs pairs="),
        ({"kind": "outlier"}, "unbounded activation"),
        ({"parameter": "target_1"}, "'target_1' is not a parameter"),
    ],
)
def test_bad_requests(changes, message):
    network, task = mf.Network("sigmoid"), one_hot(0.5)
    solution = mf.solve(network, task).solution
    arguments = {"kind": "weight", "parameter": "off", "codes": (3,), **changes}
    kind, parameter = arguments.pop("kind"), arguments.pop("parameter")
    with pytest.raises(ValueError, match=message):
        locate(kind, network, task, 0.0, parameter, solution, **arguments)


def test_bad_limits(upper_boundary):
    start = upper_boundary.points[3]
    with pytest.raises(ValueError, match="limits must be given"):
        trace_boundary(start, "sigma_a", {"off": (0, 1)})
    with pytest.raises(ValueError, match="outside limits"):
        trace_boundary(start, "sigma_a", {"off": (0, 1), "sigma_a": (2, 3)})


def test_outliers_along_parameters_of_phi_and_sigma_w():
    """Closed forms for two classes, one output, p = 1/2, y = (1, u): growth of G changes along these parameters."""
    # One point in eight at slopes below 1/2 is not certified; which of them, rounding decides: five are given.
    slopes = [0.42, 0.43, 0.44, 0.45, 0.46, 0.55]
    diagram = mf.sweep(mf.Network("leaky_relu"), mf.class_task(targets=[1.0, -0.25]), slope=slopes)
    (found,) = diagram.transitions()
    assert (found.kind, found.value) == ("outlier", pytest.approx(0.5, abs=1e-12))  # sqrt(-u)
    diagram = mf.sweep(mf.Network("relu"), mf.class_task(targets=[1.0, 0.3]), sigma_w=[1.2, 1.45])
    (found,) = diagram.transitions()
    assert (found.kind, found.value) == ("driven", pytest.approx(0.3 * np.pi * np.sqrt(2.0), abs=1e-12))


def test_a_second_code_of_the_bulk_is_not_passed_over():
    """Leaky ReLU, one outlier all along: no type of transition is known for it, which has to be said."""
    network = mf.Network(mf.activation("leaky_relu", slope=0.69))
    targets = [[0.526], [-1.162], [0.619], [0.031]]
    task = mf.class_task(fractions=[0.272, 0.493, 0.188, 0.047], targets=targets)
    diagram = mf.sweep(network, task, 0.02, sigma_w=[1.1, 1.8])
    assert [len(diagram.posterior(i).codes) for i in (0, 1)] == [1, 2]
    with pytest.warns(RuntimeWarning, match="between sigma_w = 1.2"):
        assert diagram.transitions() == ()
