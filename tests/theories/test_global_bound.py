"""The proof that no readout is better, held against landscapes that are made to mislead it."""

import math

import numpy as np
import pytest
from independent import SingleSite
from scipy.special import erf

import meanfield as mf
from meanfield.activations.cumulant import cumulant
from meanfield.theories.single_layer import limit
from meanfield.theories.single_layer.compiled import ascent, globalcheck, outlier, relaxation
from meanfield.theories.single_layer.compiled.bounds import curvature_range
from meanfield.theories.single_layer.compiled.chords import chord_bound
from meanfield.theories.single_layer.compiled.tails import asymptotic_lines


def bound(name, p, t, level, tolerance=1e-10, max_boxes=200_000):
    """(proved, excess, highest maximum that ascents find) for phi of this name."""
    phi = mf.activation(name) if isinstance(name, str) else name
    table, bounds, _ = limit.compiled_tables(phi, 1.0)
    low, high, infimum, supremum = limit.phi_range(phi, 1.0)
    p, t = np.array(p, dtype=float), np.array(t, dtype=float)
    maxima, heights = np.empty((1024, t.shape[1])), np.empty(1024)
    count = ascent.find_maxima(table, p, t, low, high, np.empty((0, t.shape[1])), True, maxima, heights)
    confinement = 1.0
    if table.growth_plus or table.growth_minus:
        confinement = 1.0 - outlier.worst_directions(table, p, t, np.inf, np.empty((0, t.shape[1])), np.empty(0))[1]
    top = float(heights[:count].max())
    known = maxima[:count][heights[:count] <= top + level]
    proved, excess, _ = globalcheck.global_bound(
        table, bounds, p, t, top + level, known, infimum, supremum, tolerance, max_boxes, confinement,
        np.empty(t.shape[1]),
    )  # fmt: skip
    return proved, excess, top


def sigmoid(z):
    return 0.5 * (1 + erf(np.sqrt(np.pi) * z / 2))


@pytest.mark.parametrize("split", [1e-9, 1e-6])
def test_near_degenerate_maxima(split):
    """Code and complement are degenerate where sum_c p_c t_c = 0; a little off, their heights differ by `split`."""
    p, t = [0.5, 0.5], np.array([[5.0], [-5.0]])
    single = SingleSite(sigmoid, 1.0, reach=12.0)

    def top(t, sign):  # the maximum on this side
        a = np.array([sign * 2.0])
        for _ in range(3000):
            a = np.asarray(single(t @ a)[1]) * 0.5 @ t
        return float(np.asarray(single(t @ a)[0]) @ p - 0.5 * a @ a)

    t[0] += 2.0 * split / 2.2  # dh/dt = p G' a
    gap = abs(top(t, 1.0) - top(t, -1.0))
    assert 0.3 * split < gap < 3.0 * split
    assert bound("sigmoid", p, t, 0.0)[0]
    assert not bound("sigmoid", p, t, -0.5 * gap, tolerance=1e-11)[0]  # between the two


def test_far_maximum():
    """A maximum at |a| = 300 in an almost unconfined direction, above the one near the origin."""
    phi = mf.activation("gelu")
    table = limit.compiled_tables(phi, 1.0)[0]
    # Two classes that pull along one output; growth leaves 1e-3 of the prior along +a.
    t = np.array([[math.sqrt((1.0 - 1e-3) / 0.5), 0.0], [-0.9, 0.8]])
    p = np.array([0.5, 0.5])
    a = np.array([300.0, 1.0])
    far, _ = ascent.ascend(table, p, t, a)
    near = np.array([0.1, 0.1])
    low, _ = ascent.ascend(table, p, t, near)
    assert np.abs(a).max() > 50.0
    assert far > low + 1e-3
    assert bound(phi, p, t, 0.0, tolerance=1e-8)[0]
    assert not bound(phi, p, t, low - far + 1e-6)[0]  # the level of the near one is refuted


@pytest.mark.parametrize("name", ["relu", "sigmoid"])
def test_flat_ridge(name):
    """Two classes with parallel t: h does not depend on one direction but for the prior, and little on the other."""
    t = np.array([[0.9, 0.9, 0.0], [0.9 + 1e-7, 0.9, 0.0], [0.0, 0.0, 1e-3]])
    p = np.array([0.3, 0.3, 0.4])
    assert bound(name, p, t, 0.0)[0]
    assert not bound(name, p, t, -1e-4)[0]


@pytest.mark.parametrize("slope", [0.14, 0.18, 0.22, 0.3, 0.38, 0.42, 0.46, 0.54])
def test_rays_that_tie_with_the_bulk_on_both_sides(slope):
    """Outliers on both sides of two classes: h(0) = 0 = h at infinity, which rounding of slope^2 must not decide."""
    phi, target = mf.activation("leaky_relu", slope=slope), 0.3
    t = math.sqrt(2.0 / (1.0 + slope**2))
    assert bound(phi, [0.5, 0.5], [[t], [-t]], 0.0)[:2] == (True, pytest.approx(0.0, abs=1e-10))
    assert not bound(phi, [0.5, 0.5], [[t], [-t]], -1e-8, max_boxes=2_000)[0]
    post = mf.solve(mf.Network(phi), mf.class_task(fractions=[0.5, 0.5], targets=[1, -target]))
    assert post.certificate.boxes < 300
    assert post.objective == pytest.approx(-0.5 * t * (1 + target), abs=1e-12)  # -sum_c p_c y_c t_c
    assert sorted(np.sign(o.readout[0]) for o in post.outliers) == [-1.0, 1.0]


@pytest.mark.parametrize("formula", ["asinh", "sqrt"])
def test_unbounded_without_growth(formula):
    """The ball that replaces a range of phi: the level of the best readout is proven, one below is not."""
    import sympy as sp

    z = sp.Symbol("z", real=True)
    phi = mf.Activation({"asinh": sp.asinh(z), "sqrt": sp.sqrt(sp.Abs(z))}[formula], z)
    t = np.array([[2.0, 0.5], [-1.0, 1.5], [0.3, -2.0]])
    p = np.array([0.5, 0.3, 0.2])
    assert bound(phi, p, t, 0.0)[0]
    assert not bound(phi, p, t, -1e-6)[0]


@pytest.mark.parametrize("name", ["sigmoid", "erf", "log"])
def test_chords_bound_h_to_second_order_in_the_width_of_a_box(name):
    """Over random boxes, against readouts inside; around a stationary point what is too much falls with the square."""
    import sympy as sp

    z, rng = sp.Symbol("z", real=True), np.random.default_rng(5)
    phi = mf.Activation(sp.log(1 + z**2), z) if name == "log" else mf.activation(name)
    single = cumulant(phi, 1.0)
    scratch = np.empty(3), np.empty(3)
    for _ in range(40):
        p, t = rng.dirichlet(np.ones(3)), rng.normal(size=(3, 3)) * rng.choice([1.0, 10.0])

        def h(kappa, p=p, t=t):
            a = np.linalg.solve(t, kappa.T).T
            return single.direct(kappa)[0] @ p - 0.5 * (a**2).sum(axis=-1)

        a = rng.normal(size=3)
        for _ in range(2000):
            a = (p * single.direct(t @ a)[1]) @ t
        excess, unit = [], rng.uniform(0.5, 1.0, 3)
        for width in (10.0, 1.0, 0.1, 0.01):
            sides = width * unit
            low = t @ a + (rng.normal(size=3) * width if width > 0.5 else -0.5 * sides)
            high = low + sides
            corners = single.direct(low)[0], single.direct(high)[0]
            most = chord_bound(p, t @ t.T, low, high, *corners, *scratch)
            inside = rng.uniform(low, high, (500, 3))
            assert most >= h(inside).max() - 1e-12 * (1.0 + abs(most))
            excess.append(most - h((t @ a)[None])[0])
        assert excess[3] < 0.02 * excess[2] + 1e-12


@pytest.mark.parametrize("name", ["sigmoid", "step", "relu", "gelu"])
def test_curvature_range_holds_and_shrinks_with_the_interval(name):
    """G'' by quadrature lies in the range, whose width falls in proportion to that of the interval."""
    phi = mf.activation(name)
    table, bounds, _ = limit.compiled_tables(phi, 1.0)
    direct = cumulant(phi, 1.0).direct
    rng = np.random.default_rng(0)
    for centre in rng.normal(size=12) * 3.0:
        second = float(np.asarray(direct(np.array([centre]))[2])[0])
        widths = []
        for half in (0.5, 5e-3, 5e-5):
            inside = centre + half * np.append(rng.uniform(-1.0, 1.0, 20), [-1.0, 1.0])
            exact = np.asarray(direct(inside)[2])
            least, most = curvature_range(table, bounds, centre - half, centre + half, centre, second)
            assert least - 1e-9 <= exact.min() <= exact.max() <= most + 1e-9
            widths.append(most - least)
        assert widths[2] < 2e-4
        assert widths[1] < 2e-2
        assert widths[2] <= widths[1] <= widths[0]


def relaxed(phi, p, t, low, high, level, products=True, from_zero=False):
    """Bound of h over a box of kappa (as many classes as outputs), and the box that is left."""
    p, t = np.array(p, dtype=float), np.array(t, dtype=float)
    table, bounds, _ = limit.compiled_tables(phi, 1.0)
    lines = asymptotic_lines(table, *limit.phi_range(phi, 1.0)[2:])
    n = len(p)
    low, high = np.array(low, dtype=float), np.array(high, dtype=float)
    box = low.copy(), high.copy()
    patterns = 1 << n if products else 0
    kept = np.zeros((patterns, n, n)), np.zeros(patterns, np.bool_)
    scratch = np.empty((n, n)), np.empty((n, n))
    value = relaxation.relaxed_bound(
        table,
        bounds,
        p,
        np.eye(n),
        np.linalg.inv(t @ t.T),
        lines,
        *box,
        low,
        high,
        False,
        from_zero,
        level,
        *kept,
        np.empty(n),
        *scratch,
    )
    return value, box


def action_at(phi, p, t, kappa):
    """h at fields kappa (N, C), by quadrature."""
    g0 = np.asarray(cumulant(phi, 1.0).direct(kappa)[0])
    return g0 @ p - 0.5 * np.einsum("nc,cd,nd->n", kappa, np.linalg.inv(t @ t.T), kappa)


@pytest.mark.parametrize("name", ["gelu", "leaky_relu", "sigmoid"])
def test_relaxation_bounds_h_and_cuts_only_what_lies_below(name):
    """Over random boxes, narrow and wide, on one side of zero and across: nothing in the box exceeds the bound."""
    phi = mf.activation(name)
    rng = np.random.default_rng(0)
    finite = 0
    for width in (0.1, 1.0, 10.0, 40.0):
        for _ in range(12):
            p = rng.dirichlet(np.ones(3))
            t = rng.normal(size=(3, 3))
            if name != "sigmoid":
                table = limit.compiled_tables(phi, 1.0)[0]
                growth = outlier.worst_directions(table, p, t, np.inf, np.empty((0, 3)), np.empty(0))[1]
                t *= np.sqrt(rng.uniform(0.5, 1.0) / growth)
            low = rng.normal(size=3) * width * rng.integers(0, 2, 3)
            high = low + width * rng.uniform(0.2, 1.0, 3)
            kappa = low + (high - low) * rng.uniform(size=(400, 3))
            h = action_at(phi, p, t, kappa)
            level = float(np.quantile(h, 0.9))
            value, box = relaxed(phi, p, t, low, high, level, from_zero=bool(rng.integers(2)))
            assert value >= h.max() - 1e-9 * (1.0 + abs(h.max()))
            finite += value < np.inf
            above = kappa[h > level + 1e-9]
            assert (above >= box[0] - 1e-9).all()
            assert (above <= box[1] + 1e-9).all()
    assert finite > 30


def test_products_of_signs_make_copositive_forms_concave():
    """Growth in two classes that point apart: the form is not concave, on kappa > 0 it is confined all the same."""
    phi = mf.activation("relu")
    p, t = np.array([0.5, 0.5]), np.array([[1.3, 0.0], [-1.0, 0.8]])
    form = np.linalg.inv(t @ t.T) - np.diag(p)
    assert np.linalg.eigvalsh(form)[0] < -0.05
    products = np.empty((2, 2))
    relaxation.sign_products(np.linalg.inv(t @ t.T), np.eye(2), p, np.ones(2), products)
    assert products.min() >= 0.0
    assert np.array_equal(products, products.T)
    assert np.linalg.eigvalsh(form - products)[0] > -1e-9
    low, high = [0.0, 0.0], [100.0, 100.0]
    assert relaxed(phi, p, t, low, high, 0.0, products=False)[0] == np.inf
    value, _ = relaxed(phi, p, t, low, high, 0.0)
    corners = np.array([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0], [100.0, 100.0]])
    assert action_at(phi, p, t, corners).max() <= value < 5.0
