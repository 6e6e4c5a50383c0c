"""The proof that no readout is better, held against landscapes that are made to mislead it."""

import math

import numpy as np
import pytest
from independent import SingleSite
from scipy.special import erf

import meanfield as mf
from meanfield.theories.single_layer import limit
from meanfield.theories.single_layer.compiled import ascent, globalcheck, outlier


def bound(name, p, t, level, tolerance=1e-10, max_boxes=200_000):
    """(proved, excess, highest maximum that ascents find) for phi of this name."""
    phi = mf.activation(name) if isinstance(name, str) else name
    table, bounds, _ = limit.compiled_tables(phi, 1.0)
    low, high, infimum, supremum = limit.phi_range(phi, 1.0)
    p, t = np.array(p, dtype=float), np.array(t, dtype=float)
    maxima, heights = np.empty((1024, t.shape[1])), np.empty(1024)
    count = ascent.find_maxima(table, p, t, low, high, np.empty((0, t.shape[1])), maxima, heights)
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
