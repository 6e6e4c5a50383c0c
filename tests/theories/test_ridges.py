"""Cones of outliers and what lies at their edges: readouts far out, and the proof that there is none better.

Rectifiers have a closed form of G, so that the value of J is bracketed here without the package: from above by h at the
best readout of random ascents, from below by the primal problem at the weights that were found.
"""

import numpy as np
import pytest
import sympy as sp
from independent import SingleSite, stationarity
from scipy.special import log_ndtr

import meanfield as mf
from meanfield.numerics.budget import new_stop
from meanfield.theories.single_layer import limit
from meanfield.theories.single_layer.compiled import far, frames, globalcheck, outlier, ridges
from meanfield.theories.single_layer.compiled.bounds import growth_bound, remainder_maximum

Z = sp.Symbol("z", real=True)
ELU = sp.Piecewise((Z, Z > 0), (sp.exp(Z) - 1, True))
SILU = Z / (1 + sp.exp(-Z))
# phi, sigma_a, tau, fractions, targets
TASKS = {
    # a cone of three dimensions; its edges reach to infinity, oblique to all axes
    "relu": (
        "relu", 1.128, 0.0, (0.253, 0.125, 0.261, 0.060, 0.301),
        [[-0.08, -1.98, 1.16], [-1.70, -1.84, 1.86], [0.07, 1.72, 1.59], [0.94, -1.88, 0.58], [-1.74, -1.96, 1.38]],
    ),
    # six codes at readouts of hundreds, on edges
    "leaky_relu": (
        "leaky_relu", 0.938, 0.05, (0.564, 0.107, 0.187, 0.142),
        [[-1.81, 1.53, 0.61], [1.76, -0.73, 0.24], [0.28, -1.44, 0.22], [0.42, -0.27, -0.60]],
    ),
    # growth falls short of one by 1e-9 on one of two directions, held down by a code at 3,000
    "leaky_relu, one ridge": (
        "leaky_relu", 2.974, 0.0, (0.059, 0.652, 0.289), [[-1.98, 1.18, 1.64], [-1.71, 0.64, -1.79], [0.33, 0.5, 0.35]],
    ),
    # by 1e-10 and 6e-9, two such codes
    "leaky_relu, two ridges": (
        "leaky_relu", 0.342, 0.0, (0.181, 0.182, 0.498, 0.139),
        [[0.7, 1.76, -1.07], [-0.39, -0.9, -1.79], [0.49, 0.51, 2.0], [0.4, -0.42, 1.6]],
    ),
    # two kappa held at once, two spaces of two directions
    "leaky_relu, planes": (
        "leaky_relu", 0.376, 0.0, (0.392, 0.147, 0.075, 0.18, 0.206),
        [[0.11, 1.41, -1.28, -0.1, 0.33], [1.08, 1.76, 0.2, 1.69, -0.65], [1.06, 1.05, 0.21, -1.3, -0.46],
         [-0.84, 1.87, 0.58, 1.64, -0.82], [-0.28, 0.27, -0.58, -0.17, 0.4]],
    ),
    # the proof needs boxes along rays at which growth is one
    "leaky_relu, flat rays": (
        "leaky_relu", 2.554, 0.05, (0.192, 0.204, 0.1, 0.153, 0.351),
        [[1.49, -0.89, -0.37], [0.03, 1.88, -0.94], [0.64, 1.04, -1.41], [1.48, 0.02, 1.83], [1.56, 1.79, -1.27]],
    ),
    # at the edge of a face of growth one a readout at 1,100, from which ascents of the cone keep away
    "leaky_relu, beyond a face": (
        "leaky_relu", 2.047, 0.05, (0.4, 0.258, 0.05, 0.159, 0.133),
        [[1.04, -1.71, -0.94], [1.25, -0.12, -0.19], [1.87, -0.72, -1.83], [-0.43, -1.39, -1.67], [0.27, 1.81, 0.32]],
    ),
    # of one class that is held at 1 and one that is between 10^3 and 10^4, along a ray that is no coordinate
    "leaky_relu, along a ray": (
        "leaky_relu", 2.924, 0.05, (0.066, 0.051, 0.208, 0.577, 0.098),
        [[-0.453, 1.432, -0.77, -0.61], [-1.238, 1.838, 1.215, -0.15], [-0.943, 1.864, -0.413, -1.157],
         [-0.301, 0.876, 1.083, -1.564], [1.784, 0.698, -1.75, 1.35]],
    ),
    # R of one class is above the level by 5e-5, and growth falls short of one by 1e-9 to 1e-7
    "leaky_relu, nearly rays": (
        "leaky_relu", 1.873, 0.0, (0.242, 0.252, 0.217, 0.058, 0.231),
        [[1.682, -0.978, -1.344, 1.585], [-1.185, -1.112, 1.221, 1.864], [1.378, 0.067, -0.498, 1.954],
         [0.944, 0.516, -1.955, -1.219], [-1.946, 1.628, -1.054, -1.316]],
    ),
    "elu, more classes than outputs": (
        ELU, 1.846, 0.0, (0.466, 0.167, 0.367), [[1.20, 1.92], [1.92, 1.90], [1.80, 1.71]],
    ),
    # a cone with cuts beside it that run away
    "elu, more outputs than classes": (
        ELU, 1.579, 0.0, (0.050, 0.523, 0.427),
        [[1.63, -0.92, 0.86, -1.05, -1.70], [0.98, -1.83, 0.80, -0.87, -0.05], [1.57, -1.03, -0.13, -0.58, -1.24]],
    ),
    # weights of 1e-5 at curvatures of 1e-5: the residual wanders about its rounding
    "silu": (
        SILU, 0.421, 0.0, (0.688, 0.182, 0.130),
        [[-1.41, 1.45, -0.27, -0.91], [-0.63, 1.97, 1.82, -1.67], [-0.74, 0.88, -1.86, -1.86]],
    ),
    # a better readout that only the proof finds
    "gelu": (
        "gelu", 1.859, 0.05, (0.402, 0.400, 0.083, 0.115),
        [[-1.78, -1.53, 1.13, -0.52, -0.03], [-0.20, -1.17, -1.82, -1.27, 1.43], [-0.65, -0.32, -0.94, 0.96, 0.81],
         [-0.46, 0.03, -0.42, 0.29, 0.37]],
    ),
}  # fmt: skip


def solved(name):
    phi, sigma_a, tau, fractions, targets = TASKS[name]
    phi = mf.activation(phi) if isinstance(phi, str) else mf.Activation(phi, Z)
    task = mf.class_task(fractions=np.array(fractions), targets=np.array(targets))
    return mf.solve(mf.Network(phi, sigma_a=sigma_a), task, tau=tau)


class Rectifier:
    """G = ln [e^(kappa^2/2) Phi(kappa) + e^(l^2 kappa^2/2) Phi(-l kappa)] of slopes 1 and l, and G'."""

    def __init__(self, slope):
        self.slope = slope

    def __call__(self, kappa):
        up, down = 0.5 * kappa**2 + log_ndtr(kappa), 0.5 * (self.slope * kappa) ** 2 + log_ndtr(-self.slope * kappa)
        value = np.logaddexp(up, down)
        share = np.exp(up - value)
        normal = np.exp(-0.5 * np.log(2 * np.pi) - value)  # density at 0, tilted
        mean = share * kappa + normal + (1 - share) * self.slope**2 * kappa - self.slope * normal
        return value, mean

    def growth(self, kappa):
        return np.where(kappa > 0, 1.0, self.slope**2) * kappa


def bracket(rectifier, task, solution, tau, sigma_a):
    """(primal value, J at t by the best readout of random ascents, largest Q of random ascents), sigma_a = 1."""
    p, y, t = task.fractions, task.targets / sigma_a, solution.t * sigma_a
    tau = tau / sigma_a**2
    a = solution.readout / sigma_a
    rng = np.random.default_rng(0)
    climbers = np.concatenate([a, rng.normal(size=(200, a.shape[1])) * np.exp(rng.uniform(-2, 7, (200, 1)))])
    rays = rng.normal(size=(400, a.shape[1]))
    best = -np.inf
    for _ in range(300):
        value, mean = rectifier(climbers @ t.T)
        best = max(best, (value @ p - 0.5 * (climbers**2).sum(1)).max())
        climbers = (mean * p) @ t
        rays = (rectifier.growth(rays @ t.T) * p) @ t
        rays /= np.linalg.norm(rays, axis=1)[:, None]
    linear = (-p[:, None] * t * y).sum() + 0.5 * tau * (p[:, None] * t**2).sum()
    kappa = a @ t.T
    value, mean = rectifier(kappa)
    cost = 0.5 * (a**2).sum(1) + (kappa * mean - value) @ p
    primal = -solution.weight @ cost
    produced = np.einsum("g,gr,gc->cr", solution.weight, a, mean)
    for direction, weight in zip(solution.outlier_direction, solution.outlier_weight):
        length = np.linalg.norm(direction)
        u, weight = direction / length, weight * (length / sigma_a) ** 2
        pull = rectifier.growth(t @ u)
        produced += weight * np.outer(pull, u)
        primal -= weight * (0.5 + 0.5 * (p * pull) @ (t @ u))
    misfit = y - produced
    primal -= 0.5 * (p @ misfit**2).sum() / tau if tau > 0 else (p @ np.abs(t * misfit)).sum()
    return primal, best + linear, ((rectifier.growth(rays @ t.T) * (rays @ t.T)) @ p).max()


@pytest.mark.parametrize("name", [name for name in TASKS if "relu" in name])
def test_rectifiers_at_the_edges_of_cones(name):
    post = solved(name)
    assert post.status == "optimal"
    rectifier = Rectifier(0.0 if name == "relu" else 0.01)
    primal, dual, growth = bracket(rectifier, post.task, post.solution, post.tau, post.network.sigma_a)
    assert growth <= 1.0 + 1e-9  # J is finite
    assert primal - 1e-9 <= post.objective <= dual + 1e-9
    assert dual - primal < 2e-8


@pytest.mark.parametrize("name", ["leaky_relu, two ridges", "leaky_relu, planes"])
def test_last_digits_do_not_decide(name):
    """Targets that are off by their rounding, outputs that are turned, classes in another order: one solution."""
    phi, sigma_a, tau, p, y = TASKS[name]
    p, y = np.array(p), np.array(y)
    network = mf.Network(phi, sigma_a=sigma_a)
    rng = np.random.default_rng(0)
    found = []
    for number in range(6):
        order, turn = np.arange(len(p)), np.eye(y.shape[1])
        if number % 3 == 1:
            turn = np.linalg.qr(rng.normal(size=turn.shape))[0]
        elif number % 3 == 2:
            order = rng.permutation(len(p))
        targets = (y * (1.0 + 1e-15 * rng.normal(size=y.shape)))[order] @ turn
        task = mf.class_task(fractions=p[order], targets=targets)
        post = mf.solve(network, task, tau=tau)
        assert post.status == "optimal"
        found.append((post.solution.t @ turn.T)[np.argsort(order)])
    assert np.ptp(found, axis=0).max() < 1e-9 * np.abs(found).max()


@pytest.mark.parametrize("name", [name for name in TASKS if "relu" not in name])
def test_cones_and_far_codes_of_other_activations(name):
    """Stationary, and no readout of random ascents is better: own quadrature."""
    post = solved(name)
    assert post.status == "optimal"
    s, p, t = post.solution, post.task.fractions, post.solution.t
    phi, sigma_a = post.network.activation, post.network.sigma_a
    reach = 15.0 + 1.2 * np.abs(s.readout @ t.T).max()
    site = SingleSite(phi, 1.0, phi.kinks, reach=reach, panels_per_unit=1)
    assert stationarity(site, post.task, s, post.tau, sigma_a, 1.0, phi.growth) < 1e-9 * max(1.0, reach / 15.0)
    rng = np.random.default_rng(1)
    a = np.concatenate([s.readout, s.readout[:1] + rng.normal(size=(8, t.shape[1])) * np.abs(s.readout).max()])
    for _ in range(40):
        value, mean, _ = site(a @ t.T)
        assert (value @ p - 0.5 * (a**2).sum(1) / sigma_a**2).max() < s.level + 1e-8 * (1.0 + abs(s.level))
        step = sigma_a**2 * (mean * p) @ t
        a = np.where(np.abs(step @ t.T).max(1, keepdims=True) < reach / 1.3, step, a)  # those towards infinity stay


@pytest.mark.parametrize("name", ["relu", "leaky_relu"])
def test_boxes_in_all_fields_prove_the_maximum_and_nothing_less(name):
    """Five classes, three outputs, Q = 1: the level of the best readout is proven, one that is 1e-4 lower is not."""
    phi = mf.activation(name)
    table, bounds, _ = limit.compiled_tables(phi, 1.0)
    table = table._replace(stop=new_stop())
    rectifier = Rectifier(0.01 if name == "leaky_relu" else 0.0)
    rng = np.random.default_rng(5)
    none = np.empty((0, 3))
    proven = 0
    for _ in range(6):
        p = rng.dirichlet(np.full(5, 4.0))
        t = rng.normal(size=(5, 3))
        t /= np.sqrt(outlier.worst_directions(table, p, t, np.inf, none, np.empty(0))[1])
        a = rng.normal(size=(400, 3)) * np.exp(rng.uniform(-2, 8, (400, 1)))
        best, top = np.zeros(3), 0.0
        for _ in range(500):
            value, mean = rectifier(a @ t.T)
            h = value @ p - 0.5 * (a**2).sum(1)
            if h.max() > top + 1e-13:
                top, best = h.max(), a[h.argmax()].copy()
            a = (mean * p) @ t
        known, where = best[None], np.empty(3)
        arguments = (*limit.phi_range(phi, 1.0)[2:], 1e-9)
        proven += globalcheck.global_bound(table, bounds, p, t, top, known, *arguments, 60_000, 0.0, where)[0]
        assert not globalcheck.global_bound(table, bounds, p, t, top - 1e-4, none, *arguments, 60_000, 0.0, where)[0]
    assert proven >= 5  # of the sixth, a maximum of its own may have been missed


def test_frames_are_coordinates_and_ties_keep_what_belongs_to_the_box():
    rng = np.random.default_rng(2)
    t = rng.normal(size=(5, 3))
    found = frames.class_frames(t, 3)
    assert len(found.volume) == 10
    a = rng.normal(size=(400, 3)) * np.exp(rng.uniform(0, 8, (400, 1)))
    for f in range(len(found.volume)):
        inside = (a @ t.T)[:, found.classes[f]]
        assert np.allclose(inside @ found.to_kappa[f].T, a @ t.T, rtol=1e-9, atol=1e-9)
        assert np.allclose(np.einsum("ni,ij,nj->n", inside, found.prior[f], inside), (a**2).sum(1), rtol=1e-9)
        assert found.volume[f] == pytest.approx(np.log(abs(np.linalg.det(t[found.classes[f]]))), abs=1e-9)
    kappa = a[:40] @ t.T
    low, high = kappa.min(0), kappa.max(0)
    low[:3], high[:3] = -1e9, 1e9  # of three classes the sides are those that the others leave
    frame = frames.narrowest_frame(found, low, high)
    for f in (frame, *range(len(found.volume))):
        assert frames.tie(found.classes[f], found.to_kappa[f], low, high)
    assert (kappa >= low - 1e-9).all()
    assert (kappa <= high + 1e-9).all()
    far = kappa[0] + np.array([0.0, 0.0, 0.0, 0.0, 1.0])  # no readout has these fields
    low, high = far - 1e-6, far + 1e-6
    assert not all(frames.tie(found.classes[f], found.to_kappa[f], low, high) for f in range(len(found.volume)))
    assert len(frames.class_frames(np.outer(np.ones(4), [1.0, 2.0, 3.0]), 2).volume) == 0


def test_ridges_lead_to_what_is_held_at_an_edge():
    """t_1 and t_2 orthogonal, Q = 1 along t_1: a far readout with kappa_2 where R of ReLU is largest is found."""
    phi = mf.activation("leaky_relu")
    table = limit.compiled_tables(phi, 1.0)[0]._replace(stop=new_stop())
    p, t = np.array([0.5, 0.5]), np.array([[-1.3, 0.0], [0.0, 1.2]])
    t[0] *= np.sqrt((1.0 - 1e-6) / 0.5) / 1.3
    maxima, heights = np.empty((64, 2)), np.empty(64)
    count, _ = ridges.climb_ridges(table, p, t, maxima, heights, 0)
    assert count > 0
    rectifier = Rectifier(0.01)
    kappa = maxima[:count] @ t.T
    value, mean = rectifier(kappa)
    assert np.abs((mean * p) @ t - maxima[:count]).max() < 1e-9
    assert heights[:count] == pytest.approx(value @ p - 0.5 * (maxima[:count] ** 2).sum(1), abs=1e-10)
    # along the ridge the best kappa_2 is that of the second class alone
    grid = np.linspace(0.0, 3.0, 300_001)
    alone = (p[1] * rectifier(grid * t[1, 1] ** 2)[0] - 0.5 * (grid * t[1, 1]) ** 2).argmax()
    best = kappa[heights[:count].argmax()]
    assert best[1] == pytest.approx(grid[alone] * t[1, 1] ** 2, abs=2e-5)


def test_a_readout_above_the_level_at_the_edge_of_a_face():
    """Q = 1 on a plane at whose edge kappa_3 = 0 the level is below p_3 R: found, and above the level; not else."""
    phi = mf.activation("leaky_relu")
    table = limit.compiled_tables(phi, 1.0)[0]._replace(stop=new_stop())
    p = np.array([0.3, 0.3, 0.4])
    t = np.array([[0.3**-0.5, 0.0, 0.0], [0.0, 0.3**-0.5, 0.0], [-0.02, 0.02, 0.3]])
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    t = t @ turn
    t /= np.sqrt(outlier.worst_directions(table, p, t, np.inf, np.empty((0, 3)), np.empty(0))[1])
    rectifier, where = Rectifier(0.01), np.empty(3)
    for level, found in ((0.02, True), (0.14, False)):  # R is below 0.136
        assert ridges.edge_above(table, p, t, level, 1.0, where) == found
        if found:
            height = rectifier(t @ where)[0] @ p - 0.5 * where @ where
            assert height > level


def of_rectifier(name):
    """Table and bounds of G as they are compiled, and G in closed form."""
    table, bounds, _ = limit.compiled_tables(mf.activation(name), 1.0)
    return table, bounds, Rectifier(0.01 if name == "leaky_relu" else 0.0)


@pytest.mark.parametrize("name", ["relu", "leaky_relu"])
def test_bounds_of_remainder_and_growth_hold(name):
    """R on an interval lies below its bound; the bound over a box with one side to infinity, too."""
    table, bounds, rectifier = of_rectifier(name)
    rng = np.random.default_rng(4)

    def rest(kappa):
        return rectifier(kappa)[0] - 0.5 * kappa * rectifier.growth(kappa)

    for width in (1e-3, 0.1, 2.0):
        for low in rng.uniform(-6.0, 6.0, 20):
            high = low + width
            inside = rest(np.linspace(low, high, 400))
            top = remainder_maximum(table, bounds, low, high, inside[0], inside[-1])
            assert inside.max() <= top + 1e-12
            assert width > 1e-2 or low < 0.0 < high or top <= inside.max() + 1e-6
    # Q = 1 along the first class, the others not confined where they are narrow
    p = np.array([0.5, 0.3, 0.2])
    t = np.array([[np.sqrt(2.0), 0.0, 0.0], [0.0, 2.2, 0.4], [0.0, -0.5, 2.5]])
    prior = np.linalg.inv(t @ t.T)
    low, high = np.array([50.0, 0.5, 0.4]), np.array([1e9, 0.6, 0.5])
    kappa = low + (high - low) * rng.uniform(size=(500, 3)) * np.array([1e-6, 1.0, 1.0])
    form = 0.5 * (kappa**2) @ p - 0.5 * np.einsum("nc,cd,nd->n", kappa, prior, kappa)
    scratch = np.empty((3, 3)), np.empty(3)
    value = growth_bound(table, p, np.eye(3), prior, np.zeros(2), low, high, low, high, *scratch)
    assert form.max() <= value + 1e-9
    assert value < form.max() + 0.05


@pytest.mark.parametrize("name", ["relu", "leaky_relu"])
def test_far_boxes_are_bounded_by_the_fields_that_stay_small(name):
    """A ray with Q = 1 and two fields that vanish along it: over random boxes far out nothing exceeds the bound."""
    table, bounds, rectifier = of_rectifier(name)
    rng = np.random.default_rng(6)
    bounded = close = 0
    for _ in range(40):
        p = rng.dirichlet(np.full(4, 4.0))
        t = rng.normal(size=(4, 3))
        t[:, 0] = 0.0
        t[:2, 0] = 1.0 / np.sqrt(p[0] + p[1])  # the ray is the first axis, and no class is along it
        t[:2, 1:] -= p[:2] @ t[:2, 1:] / p[:2].sum()
        t[:, 1:] *= rng.uniform(0.3, 0.9)
        radius, width = 10 ** rng.uniform(4, 7), rng.uniform(0.05, 2.0)
        centre = rng.normal(size=2)
        a = np.concatenate(
            [radius * rng.uniform(0.5, 1.0, (2000, 1)), centre + rng.uniform(-width, width, (2000, 2))], 1
        )
        kappa = a @ t.T
        value, _ = rectifier(kappa)
        height = value @ p - 0.5 * (a**2).sum(1)
        gap = np.zeros(4)
        low, high = kappa.min(0), kappa.max(0)
        lines = np.zeros(2)
        found = far.far_bound(
            table, bounds, p, t, np.linalg.svd(t, False)[1][-1], lines, low, high, height.max() + 1.0, np.inf, gap
        )
        rounding = 4e-16 * radius**2
        if found < np.inf:
            bounded += 1
            assert found >= height.max() - 1e-9 - rounding
            close += found < height.max() + width
            assert (gap[:2] == 0.0).all()
    assert bounded > 20
    assert close > 10


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "gelu"])
def test_numbers_of_what_is_not_proven_are_those_of_the_point(name):
    """Later ways than the one whose point was looked at may fail, and leave another t."""
    phi, sigma_a, tau, fractions, targets = TASKS[name]
    task = mf.class_task(fractions=np.array(fractions), targets=np.array(targets))
    post = mf.solve(mf.Network(phi, sigma_a=sigma_a), task, tau=tau, on_failure="return", max_boxes=12)
    assert post.status == "not proven global"
    s, p, phi = post.solution, task.fractions, post.network.activation
    linear = (-p[:, None] * s.t * task.targets).sum() + 0.5 * tau * (p[:, None] * s.t**2).sum()
    assert s.level + linear == pytest.approx(post.objective, abs=1e-9)
    reach = 15.0 + 1.2 * np.abs(s.readout @ s.t.T).max()
    site = SingleSite(phi, 1.0, phi.kinks, reach=reach, panels_per_unit=1)
    assert post.certificate.kkt_residual < 1e-10
    assert stationarity(site, task, s, tau, sigma_a, 1.0, phi.growth) < 1e-9 * max(1.0, reach / 15.0)
