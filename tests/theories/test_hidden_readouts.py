"""The proof against landscapes in which a readout above the level hides: it must refuse, whatever the level is called.

In each the level lies below a readout whose height is checked by quadrature; no maximum is told to the proof.
"""

import numpy as np
import pytest
import sympy as sp
from independent import SingleSite, h

import meanfield as mf
from meanfield.activations.cumulant import cumulant
from meanfield.numerics.budget import new_stop
from meanfield.theories.single_layer import limit
from meanfield.theories.single_layer.compiled import ascent, globalcheck, outlier

Z = sp.Symbol("z", real=True)
UNEVEN = 1.0 + 2e-11


def growth_of(table, p, t):
    none = np.empty((0, t.shape[1]))
    return outlier.worst_directions(table, p, t, np.inf, none, np.empty(0))[1] if table.growth_plus > 0.0 else 0.0


class Landscape:
    """h(a; t) of phi, t scaled to a growth of 1 - gap where phi has one."""

    def __init__(self, phi, p, t, gap=None):
        self.phi = mf.activation(phi) if isinstance(phi, str) else phi
        self.table, self.bounds, _ = limit.compiled_tables(self.phi, 1.0)
        self.table = self.table._replace(stop=new_stop())
        self.p, self.t = np.array(p) / np.sum(p), np.array(t, dtype=float)
        if gap is not None and self.table.growth_plus > 0.0:
            self.t *= np.sqrt((1.0 - gap) / growth_of(self.table, self.p, self.t))

    def proved(self, level, known=None, boxes=20_000):
        limits = limit.phi_range(self.phi, 1.0)[2:]
        known = np.empty((0, self.t.shape[1])) if known is None else known
        room = 1.0 - growth_of(self.table, self.p, self.t)
        tolerance = 1e-9 * (1.0 + abs(level))
        arguments = (known, *limits, tolerance, boxes, room, np.empty(self.t.shape[1]))
        return globalcheck.global_bound(self.table, self.bounds, self.p, self.t, level, *arguments)[0]

    def climb(self, a):
        a = np.array(a, dtype=float)
        ascent.ascend(self.table, self.p, self.t, a)
        return a

    def height(self, a):
        return cumulant(self.phi, 1.0).direct(self.t @ a)[0] @ self.p - 0.5 * a @ a


# phi, p, t, gap, where a maximum is found from
HIDDEN = {
    # inverses of t t^T lose all digits that a narrow box needs
    "nearly parallel classes": (
        "erf", (0.642, 0.358), [[-0.0317, 1.283, 2.0171, -2.9661], [-0.0429, 1.2799, 2.0347, -2.9815]], None,
        (0.034, -1.23, -1.941, 2.851),
    ),
    "nearly opposite classes": (
        "sigmoid", (0.351, 0.649), [[-3.0471, -0.498, -0.0379, 2.0958], [3.0342, 0.5096, 0.0515, -2.1029]], None,
        (1.681, 0.283, 0.029, -1.166),
    ),
    # kappa of the fifth class at the centre of a box in the other four is far outside of the box
    "more classes than outputs": (
        "gelu", (0.168, 0.275, 0.19, 0.161, 0.207),
        [[-0.2303, -0.1531, -0.0576, 0.3351], [-0.5607, 0.7106, 0.8935, 0.1262], [1.2731, -0.6096, -1.4946, -0.4403],
         [-0.0833, -1.065, 0.8217, -0.7535], [-1.6164, 1.0854, -0.7034, -0.046]],
        3.44427e-4, (-131.0, 99.0, -16.0, 2.3),
    ),
    # a mirror that is off by 1e-11: the maximum lies on the plane of two classes, by so much beside it
    "almost equal classes": (
        "relu", (0.247, 0.247, 0.506), [[0.3207 * UNEVEN, 0.4357 * UNEVEN], [-0.3207, 0.4357], [0.0, -1.406]], 1e-6,
        (0.0, -0.37),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HIDDEN)
def test_a_level_below_a_maximum_is_refused(name):
    phi, p, t, gap, start = HIDDEN[name]
    landscape = Landscape(phi, p, t, gap)
    a = landscape.climb(start)
    top = landscape.height(a)
    for below in (1e-6, 1e-4, 1e-2):
        assert not landscape.proved(top - below * (1.0 + abs(top)))
    assert landscape.proved(top, a[None])


def test_a_maximum_beyond_the_table():
    """GELU at kappa = -1,350, where the table ends at -488: the proof must not undercut heights by quadrature."""
    landscape = Landscape(
        "gelu", (0.179, 0.13, 0.136, 0.32, 0.236), [[-0.8054], [-1.229], [0.3932], [-1.342], [-0.6895]], 2.62e-6
    )
    assert (landscape.t * -3445.0).min() < -2.0 * landscape.table.kappa_max
    site = SingleSite(landscape.phi, reach=6000.0, panels_per_unit=1)
    place = np.linspace(-4000.0, -3000.0, 41)[:, None]
    top = h(site, landscape.p, landscape.t, place).max()
    assert top > 0.5
    for below in (1e-6, 1e-3, 0.1):
        assert not landscape.proved(top - below)


def test_a_place_beside_the_maximum_does_not_stand_for_it():
    """What is called a known maximum counts with its slope."""
    landscape = Landscape("sigmoid", (0.5, 0.5), [[5.0, 1.0], [4.0, -2.0]])
    a = landscape.climb((2.0, 0.0))
    top = landscape.height(a)
    beside = a + np.array([0.02, 0.01])
    level = landscape.height(beside)
    assert level < top - 1e-5
    assert not landscape.proved(level, beside[None])
    assert landscape.proved(top, a[None])


def families(rng):
    """Random t: nearly dependent classes, large ones, nearly no confinement, mirrors that are a little off."""
    n, m = rng.integers(2, 6), rng.integers(2, 5)
    p = np.maximum(rng.dirichlet(np.full(n, 3.0)), 0.03)
    t = rng.normal(size=(n, m))
    yield p, t * np.exp(rng.uniform(0.0, 4.0)), 10 ** rng.uniform(-8, -1)
    yield p, rng.choice([-1, 1], (n, 1)) * t[0] + 10 ** rng.uniform(-6, -1) * t, 10 ** rng.uniform(-8, -1)
    n = max(n, 3)
    p, t = np.maximum(rng.dirichlet(np.full(n, 3.0)), 0.03), rng.normal(size=(n, m))
    t[:, 0] = 0.0
    t[0, 0] = 1.0
    t[1], p[1] = t[0] * np.where(np.arange(m) == 0, -1.0, 1.0), p[0]
    t[0] *= 1.0 + 10 ** rng.uniform(-15, -9)
    yield p, t * np.exp(rng.uniform(0.0, 3.0)), 10 ** rng.uniform(-8, -1)


@pytest.mark.parametrize(
    "phi", ["sigmoid", "erf", "step", "relu", "leaky_relu", "gelu", Z / (1 + sp.exp(-Z)), sp.asinh(Z)], ids=str
)
def test_no_level_below_the_best_of_many_ascents_is_proven(phi):
    phi = phi if isinstance(phi, str) else mf.Activation(phi, Z)
    rng = np.random.default_rng(3)
    looked = 0
    for _ in range(6):
        for p, t, gap in families(rng):
            landscape = Landscape(phi, p, t, gap)
            sizes = np.exp(rng.uniform(-2.0, 6.0, (40, 1)))
            found = [landscape.climb(a) for a in rng.normal(size=(40, t.shape[1])) * sizes]
            heights = np.array([landscape.height(a) for a in found])
            heights[~np.isfinite(heights)] = -np.inf  # beyond the reach of quadrature
            top, best = heights.max(), found[heights.argmax()]
            rounding = 2e-15 * best @ best
            for below in (3e-9, 1e-6, 1e-3):
                level = top - below * (1.0 + abs(top)) - rounding
                known = np.array([a for a, height in zip(found, heights) if height <= level]).reshape(-1, t.shape[1])
                assert not landscape.proved(level, known, 5_000)
                looked += 1
    assert looked == 54


@pytest.mark.parametrize("name", ["hardshrink", "softshrink", "tanhshrink"])
def test_odd_activations_below_their_growth_have_the_solution_of_the_linear_network(name):
    """G <= kappa^2 / 2, so J is that of the linear network: at tau = 0 the nuclear norm of sqrt(p) y."""
    half = sp.Rational(1, 2)
    phi = {
        "hardshrink": sp.Piecewise((Z, half < Z), (Z, -half > Z), (0, True)),
        "softshrink": sp.Piecewise((Z - half, half < Z), (Z + half, -half > Z), (0, True)),
        "tanhshrink": Z - sp.tanh(Z),
    }[name]
    rng = np.random.default_rng(1)
    network = mf.Network(mf.Activation(phi, Z, name=name), sigma_a=1.3314)
    for n, m in ((5, 5), (4, 2), (2, 4)):
        p = rng.dirichlet(np.full(n, 4.0))
        task = mf.class_task(fractions=p, targets=rng.uniform(-2, 2, (n, m)))
        singular = np.linalg.svd(np.sqrt(p)[:, None] * task.targets / network.sigma_a)[1]
        for tau in (0.0, 0.05, 20.0):
            post = mf.solve(network, task, tau=tau)
            assert post.status == "optimal"
            scaled = tau / network.sigma_a**2
            x = np.minimum(1.0, singular / scaled) if tau > 0.0 else np.ones(len(singular))
            assert post.objective == pytest.approx((0.5 * scaled * x**2 - singular * x).sum(), abs=1e-10)
