"""Islands that no point of a raster hits: found from the minima of what keeps a phase together."""

import math

import numpy as np
import pytest
from ellipse import PROBLEM, excess
from scipy.optimize import minimize

import meanfield as mf
from meanfield.activations.cumulant import cumulant
from meanfield.phases.islands import hidden_islands, margins
from meanfield.problem.problem import Problem


@pytest.mark.parametrize("shift", [0.0, 0.07])
def test_an_island_between_all_points_of_the_raster(shift):
    axis = np.linspace(-1.25, 1.25, 6)  # in cells of 1/2 the ellipse is 0.46 and 0.64 wide
    plane = mf.sweep(*PROBLEM, target_1=axis, target_2=axis + shift, progress=False)
    assert (excess(*np.meshgrid(*plane.axes.values(), indexing="ij")) > 0).all()
    found = plane.boundaries()
    (island,) = [curve for curve in found if not curve.crossover]
    assert island.ends == ("closed", "closed")
    np.testing.assert_allclose(excess(*island.curve.T), 0.0, atol=1e-8)
    angle = np.unwrap(np.arctan2(island.curve[:, 1] / math.sqrt(2), island.curve[:, 0]))
    assert abs(angle[-1] - angle[0]) > 2 * math.pi - 0.3
    assert found.unexplained == ()


def test_an_island_of_a_single_code():
    """Beside equal targets one code does for all classes; at a distance others enter."""
    network, task = (
        mf.Network("sigmoid", sigma_a=1.35),
        mf.class_task(fractions=[0.3, 0.36, 0.34], targets=[0, 1, -0.04]),
    )
    axis = np.linspace(-1.0, 1.0, 8)
    plane = mf.sweep(network, task, target_1=axis, target_2=axis, progress=False)
    assert min(len(plane.posterior((int(i), int(j))).codes) for i, j in np.ndindex(plane.shape)) > 1
    closed = [curve for curve in plane.boundaries() if curve.ends == ("closed", "closed")]
    (island,) = [curve for curve in closed if curve.kind == "weight"]
    assert np.ptp(island.curve, axis=0).max() < 0.1 * (axis[1] - axis[0]) * 4
    centre = island.curve.mean(axis=0)
    for place in island.curve[:: len(island.curve) // 5]:
        for share, several in ((0.98, False), (1.02, True)):
            beside = task.with_(targets=[*(centre + share * (place - centre)), -0.04])
            assert (len(mf.solve(network, beside).codes) > 1) == several


def test_a_wedge_that_the_border_cuts_between_two_points():
    """At sigma_a = 0.15 1-0-0 has weight between two values of off; the further points of each row are outside."""
    task = mf.class_task(fractions=[0.5, 0.25, 0.25])
    axes = {"off": np.array([-0.95, -0.65, -0.38, -0.1]), "sigma_a": np.array([0.13, 0.14, 0.15])}
    plane = mf.sweep(mf.Network("sigmoid"), task, progress=False, **axes)
    assert len({len(plane.posterior((i, j)).codes) for i, j in np.ndindex(plane.shape)}) == 1
    curves = [curve for curve in plane.boundaries() if not curve.crossover]
    assert sorted(curve.label for curve in curves) == ["1-0-0 enters", "1-0-0 leaves"]
    ends = sorted(curve.at("sigma_a", 0.15)[0].parameters["off"] for curve in curves)
    for end, side in zip(ends, (1, -1)):
        beside = [
            mf.solve(mf.Network("sigmoid", sigma_a=0.15), task.with_(off=end + side * by)) for by in (-1e-6, 1e-6)
        ]
        assert [any(code.pattern == "100" for code in post.codes) for post in beside] == [False, True]


@pytest.mark.parametrize("shift", [0.0, 0.07])
def test_an_island_without_outliers(shift):
    """ReLU, one output, targets near zero: the bulk does it alone. Other phases meet around the island."""
    network, task = mf.Network("relu"), mf.class_task(fractions=[0.3, 0.3, 0.4], targets=[0.5, 0.4, 0.02])
    axis = np.linspace(-1.0, 1.0, 6)  # cells of 0.4; the island is about 0.15 wide
    plane = mf.sweep(network, task, 0.02, target_1=axis, target_2=axis + shift, progress=False)
    assert (plane.points.column("n_outliers") > 0).all()
    legs = list(hidden_islands(plane))
    assert len(legs) == 4
    curves = plane.boundaries()
    for leg in legs:
        (other,) = leg.fixed

        def alone(value, leg=leg):
            values = {**leg.fixed, leg.name: value}
            there = task.with_(targets=[values["target_1"], values["target_2"], 0.02])
            return not len(mf.solve(network, there, 0.02).solution.outlier_weight)

        inside, outside = leg.axes[leg.name]
        assert alone(inside)
        assert not alone(outside)
        while abs(outside - inside) > 1e-5:
            middle = 0.5 * (inside + outside)
            inside, outside = (middle, outside) if alone(middle) else (inside, middle)
        k = list(plane.axes).index(leg.name)
        crossings = []
        for curve in curves:
            places = curve.fine(64)
            before, after = places[:-1, 1 - k] - leg.fixed[other], places[1:, 1 - k] - leg.fixed[other]
            for i in np.flatnonzero(before * after <= 0.0):
                share = before[i] / (before[i] - after[i])
                crossings.append(places[i, k] + share * (places[i + 1, k] - places[i, k]))
        assert np.abs(np.array(crossings) - inside).min() < 3e-5


def test_rasters_without_islands_have_none():
    task = mf.class_task(fractions=[0.5, 0.25, 0.25])
    axes = {"off": np.linspace(0.05, 0.45, 6), "sigma_a": np.linspace(0.95, 1.05, 6)}
    assert not list(hidden_islands(mf.sweep(mf.Network("sigmoid"), task, progress=False, **axes)))
    assert not list(hidden_islands(mf.sweep(mf.Network("relu"), task, progress=False, **axes)))


def test_margins_against_maxima_found_by_scipy():
    task = mf.class_task(fractions=[0.5, 0.25, 0.25], off=0.3)
    network = mf.Network("sigmoid", sigma_a=0.8)
    posterior = mf.solve(network, task)
    count, (gap, weight, apart, firm) = margins(Problem(network, task, 0.0), posterior.solution)
    t, present = posterior.solution.t, posterior.solution.readout

    def h(a):
        return task.fractions @ cumulant(network.activation, 1.0).direct(t @ a)[0] - 0.5 * a @ a / 0.8**2

    heights = []
    for word in np.ndindex(2, 2, 2):
        found = minimize(lambda a: -h(a), 0.8**2 * (task.fractions * word) @ t, tol=1e-10)
        if np.linalg.norm(present - found.x, axis=1).min() > 0.01:
            heights.append(-found.fun)
    assert gap == pytest.approx(posterior.solution.level - max(heights), abs=1e-7)
    assert gap > 0
    assert count == len(posterior.codes)
    assert weight == pytest.approx(min(code.weight for code in posterior.codes))
    distances = [np.sum((a - b) ** 2) for i, a in enumerate(present) for b in present[:i]]
    assert apart == pytest.approx(min(distances) / 0.8**2)
    bends = []
    for a in present:
        steps = 1e-3 * np.eye(3)
        hessian = np.array([[h(a + x + y) - h(a + x - y) - h(a - x + y) + h(a - x - y) for x in steps] for y in steps])
        bends.append(np.linalg.eigvalsh(0.8**2 * hessian / 4e-6).max())
    assert firm == pytest.approx(-max(bends), abs=1e-5)
