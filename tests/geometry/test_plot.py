"""Figures: what is drawn is what was measured."""

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")
import matplotlib.pyplot as plt
from legible import assert_legible

from meanfield import geometry
from meanfield.plot import PALETTE


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def path():
    spheres = {r: geometry.spherical_manifolds(4, 50, 20, 3, r, seed=1) for r in (0.4, 0.8, 1.2)}
    return geometry.trajectory(
        spheres, parameter_name="radius of the spheres", options={"glue": {"n_probes": 60}}, seed=0
    )


@pytest.fixture(scope="module")
def clouds():
    return geometry.spherical_manifolds(3, 30, 40, 2, 0.5, seed=2)


def test_radius_dimension(path, clouds):
    ax = geometry.plot_radius_dimension(path)
    line = ax.lines[0]
    assert np.array_equal(line.get_xdata(), path["radius"])
    assert np.array_equal(line.get_ydata(), path["dimension"])
    one = geometry.glue(clouds, n_probes=60, seed=3)
    assert geometry.plot_radius_dimension({"spheres": one}, utility=1.0).texts[0].get_text() == "spheres"
    same = plt.subplots()[1]
    assert geometry.plot_radius_dimension([one, one], ax=same, label="twice") is same
    assert "0.5" in geometry.plot_radius_dimension(one, utility=0.5).get_title()


def test_trajectory_and_factors(path):
    ax = geometry.plot_trajectory(path)
    assert np.array_equal(ax.lines[0].get_ydata(), path["capacity"])
    assert ax.get_xlabel() == "radius of the spheres"
    ax = geometry.plot_trajectory(path, ["capacity", "rank"], relative=True)
    assert ax.lines[0].get_ydata()[0] == 1.0
    ax = geometry.plot_factors(path)
    total, *factors = (line.get_ydata() for line in ax.lines[:4])
    assert np.allclose(np.prod(factors, axis=0), total, rtol=1e-10)


def test_names_become_ticks(clouds):
    path = geometry.trajectory(
        [clouds, clouds], parameter=["first", "second"], options={"glue": {"n_probes": 60}}, seed=4
    )
    ax = geometry.plot_trajectory(path)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["first", "second"]


def test_anchors(clouds):
    anchors = geometry.anchor_points(clouds, n_probes=60, seed=5)
    ax = geometry.plot_anchors(anchors, clouds)
    assert len(ax.collections) == 6  # points and anchors of three manifolds
    plane = np.eye(30)[:2]
    ax = geometry.plot_anchors(anchors, directions=plane)
    assert np.allclose(ax.collections[0].get_offsets(), anchors.anchors[:, 0, :2])
    with pytest.raises(ValueError, match=r"shape \(2, 30\)"):
        geometry.plot_anchors(anchors, directions=np.eye(3))


def test_alignment_and_separability(clouds):
    result = geometry.glue(dict(zip(("cat", "dog", "owl"), clouds)), n_probes=60, seed=6)
    ax = geometry.plot_alignment(result)
    assert np.array_equal(ax.images[0].get_array(), result.center_cosines)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["cat", "dog", "owl"]
    assert geometry.plot_alignment(np.eye(2)).images[0].get_clim() == (-1.0, 1.0)
    with pytest.raises(ValueError, match="a matrix"):
        geometry.plot_alignment(np.ones(3))
    simulated = geometry.simulated_capacity(clouds, n_draws=20, seed=7)
    ax = geometry.plot_separability(simulated, label="spheres")
    assert ax.lines[0].get_ydata()[-1] == 1.0


def test_pictures_have_the_style_of_the_house(path):
    before = dict(plt.rcParams)
    for draw in (geometry.plot_trajectory, geometry.plot_factors, geometry.plot_radius_dimension):
        ax = draw(path)
        assert not ax.spines["top"].get_visible()
        assert {line.get_color() for line in ax.lines} <= {*PALETTE, "black", "0.8"}
        assert ax.xaxis.label.get_size() == 8.0
        assert_legible(ax)
    assert dict(plt.rcParams) == before


def test_calls_on_the_same_axes_have_colours_of_their_own(path):
    ax = plt.subplots()[1]
    geometry.plot_radius_dimension(path, ax=ax, label="one")
    geometry.plot_radius_dimension(path, ax=ax, label="other")
    assert [container[0].get_color() for container in ax.containers] == list(PALETTE[:2])
