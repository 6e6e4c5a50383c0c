"""Boundaries of planes: sharp ones against the raster and closed forms, those of finite P against the shares."""

import math

import numpy as np
import pytest
from ellipse import PROBLEM, excess

import meanfield as mf
from meanfield.phases.boundaries import _at, _crossings, _edges, _sorted_phase
from meanfield.posterior.certificate import ConvergenceError
from meanfield.theories.single_layer.transitions.boundary import trace_boundary

TASK = mf.class_task(fractions=[0.5, 0.25, 0.25])


@pytest.fixture(scope="module")
def cusp_plane():
    plane = mf.sweep(mf.Network("sigmoid"), TASK, off=np.linspace(-1, 0.95, 12), sigma_a=np.linspace(0.5, 2.5, 12))
    return plane, plane.boundaries()


def test_the_cusp_is_a_meeting_point(cusp_plane):
    """phases/THEORY.md, "Boundaries in the plane of off and sigma_a"."""
    _, found = cusp_plane
    (cusp,) = [point for point in found.points if point.kind == "cusp"]
    assert cusp.parameters == pytest.approx({"off": 0.771578712608, "sigma_a": 1.705095081546}, abs=1e-10)
    assert {found[i].label.split()[0] for i in cusp.curves} == {"0-1-1", "1-1-1"}
    assert sum(not curve.crossover for curve in found) == 4
    assert sum(curve.crossover for curve in found) == 2
    assert "cusp" in repr(found)


def test_boundaries_are_continuous_and_say_so(cusp_plane):
    """J is concave in the targets and the solution on the curve unique, so that nothing can jump."""
    plane, found = cusp_plane
    assert [row["continuous"] for row in found.table()] == [True] * len(found)
    assert found.jumps == (0.0,) * len(found)
    curve = next(curve for curve in found if curve.label == "1-1-1 enters")
    (on,) = curve.at("sigma_a", 1.0)
    beside = [plane.solve(off=on.value + step, sigma_a=1.0) for step in (-1e-4, 1e-4)]
    np.testing.assert_allclose(beside[0].solution.t, beside[1].solution.t, atol=5e-3)


def test_raster_and_curves_agree(cusp_plane):
    """Every change of the raster is crossed by a curve; every sharp curve is among changes of the raster."""
    plane, found = cusp_plane
    assert found.unexplained == ()
    phase = _sorted_phase(plane)
    ends = np.array([edge[:2] for edge in _edges(phase)], dtype=float)
    cells = []
    for curve in found:
        places = curve.fine()
        cells.append(
            np.stack([np.interp(places[:, k], a, np.arange(12.0)) for k, a in enumerate(plane.axes.values())], 1)
        )
    crossed = np.any([_crossings(line, ends) for line in cells], axis=0)
    assert crossed.all()
    for curve, line in zip(found, cells, strict=True):
        if curve.crossover:
            continue
        for i, j in np.floor(line).astype(int):
            around = phase[max(i - 1, 0) : i + 3, max(j - 1, 0) : j + 3]
            assert len(np.unique(around)) > 1, (curve.label, i, j)


def test_four_boundaries_meet_and_all_are_rooted_there():
    plane = mf.sweep(mf.Network("sigmoid"), TASK, off=np.linspace(0.3, 0.7, 9), fraction_1=np.linspace(0.62, 0.8, 9))
    found = plane.boundaries()
    (point,) = [point for point in found.points if point.kind == "4-fold point"]
    assert point.error < 1e-9
    assert found.unexplained == ()
    # At the point two codes that are absent are as high as those that are present.
    task = TASK.with_(fractions=[p := point.parameters["fraction_1"], (1 - p) / 2, (1 - p) / 2])
    posterior = mf.solve(mf.Network("sigmoid"), task.with_(off=point.parameters["off"]))
    assert {code.pattern for code in posterior.codes if code.weight > 1e-6} == {"011", "101", "110"}


def test_a_step_beyond_two_limits_ends_at_the_one_that_is_met_first():
    """The last step leaves at off = -1 and tau = 0.3 at once; the curve once ended at off = -1.06."""
    task = mf.class_task(fractions=[0.5, 0.25, 0.25], off=-0.8)
    row = mf.sweep(mf.Network("sigmoid"), task, tau=np.linspace(0.25, 0.27, 5), progress=False)
    (transition,) = row.transitions()
    limits = {"tau": (0.0, 0.3), "off": (-1.0, 0.0)}
    curve = trace_boundary(transition, "off", limits, order=("tau", "off"), longest=0.3)
    assert "limit of off" in curve.ends
    end = curve.curve[np.argmin(curve.curve[:, 1])]
    np.testing.assert_allclose(end, [0.288828276996, -1.0], atol=1e-9)
    for (low, high), values in zip(limits.values(), curve.curve.T, strict=True):
        assert low - 1e-9 <= values.min() <= values.max() <= high + 1e-9


def test_curves_are_as_good_up_to_the_point_where_they_meet_others():
    """The end came once in one step of .15 from the last point; between them the cubic was .022 off."""
    task = mf.class_task(fractions=[0.5, 0.25, 0.25], off=-0.1)
    row = mf.sweep(mf.Network("sigmoid"), task, fraction_1=np.linspace(0.4, 0.45, 3), progress=False)
    (transition,) = row.transitions()
    limits = {"off": (-1.0, 0.95), "fraction_1": (0.1, 0.8)}
    curve = trace_boundary(transition, "off", limits, order=("off", "fraction_1"), longest=0.12)
    fine = curve.fine(64)
    for off in (0.4, 0.43, 0.46, 0.49, 0.505, 0.509):
        near = fine[np.argsort(np.abs(fine[:, 0] - off))[:6]]
        drawn = np.polyval(np.polyfit(near[:, 0] - off, near[:, 1], 2), 0.0)
        row = mf.sweep(
            mf.Network("sigmoid"), task.with_(off=off), fraction_1=[drawn - 3e-3, drawn + 3e-3], progress=False
        )
        assert any("1-0-0" in found.label for found in row.transitions()), off


def test_codes_that_merge_end_where_they_would_jump():
    """phases/THEORY.md, "Finite temperature": at y_- = 0.2 the pairs merge at tau = 0.129325686327."""
    plane = mf.sweep(mf.Network("sigmoid"), TASK, tau=np.linspace(0.1, 0.17, 6), off=np.linspace(0.05, 0.26, 6))
    found = plane.boundaries()
    (merger,) = [curve for curve in found if curve.kind == "merge"]
    assert merger.at("off", 0.2)[0].parameters["tau"] == pytest.approx(0.129325686327, abs=1e-10)
    ends = [point for point in found.points if point.kind == "end of mergers"]
    assert len(ends) == 2
    assert all(point.quartic < 0 for point in merger.points)


@pytest.mark.parametrize("shift", [0.1, 0.08])
def test_an_island_between_the_rows_of_the_raster_is_closed(shift):
    axis = np.linspace(-1.05, 0.95, 5)  # in cells of 1/2 the island is 0.46 and 0.64 wide: one point is in it
    plane = mf.sweep(*PROBLEM, target_1=axis, target_2=axis + shift, progress=False)
    assert (plane.phase == plane.phase[2, 2]).sum() == 1
    found = plane.boundaries()
    assert found.unexplained == ()
    (island,) = [curve for curve in found if not curve.crossover]
    assert island.ends == ("closed", "closed")
    first, second = island.curve.T
    np.testing.assert_allclose(excess(first, second), 0.0, atol=1e-8)
    # Nothing but symmetry fixes this readout: rounding must not move it.
    assert max(np.abs(point.solution.readout).max() for point in island.points) < 1e-6
    angle = np.unwrap(np.arctan2(second / math.sqrt(2), first))
    assert abs(angle[-1] - angle[0]) > 2 * math.pi - 0.3
    assert np.abs(np.diff(angle)).max() < 0.7


def test_the_island_on_a_fine_raster():
    axes = {"target_1": np.linspace(-0.4, 0.4, 15), "target_2": np.linspace(-0.5, 0.5, 15)}
    plane = mf.sweep(*PROBLEM, **axes, progress=False)
    assert plane.certified.all()
    inside = np.array(plane.phase_labels)[plane.phase] == "0-0-0"
    expected = excess(*np.meshgrid(*axes.values(), indexing="ij"))
    np.testing.assert_array_equal(inside, expected < 0)
    assert 30 < inside.sum() < 200


def test_regions_with_outliers():
    """phases/THEORY.md, "ReLU", two classes: class 2 drives the outlier from u = sigma_a / (pi sqrt 2) on."""
    plane = mf.sweep(
        mf.Network("relu"), mf.class_task(targets=[1.0, 0.2]), target_2=[0.1, 0.2, 0.3, 0.4], sigma_a=[0.8, 1.0, 1.2]
    )
    (curve,) = plane.boundaries()
    assert curve.kind == "driven"
    np.testing.assert_allclose(curve.curve[:, 0], curve.curve[:, 1] / (math.pi * math.sqrt(2)), atol=1e-9)


def test_at_finite_samples_a_code_has_one_neuron_in_a_thousand():
    network, task = mf.Network("sigmoid"), TASK.with_(n_samples=60)
    plane = mf.sweep(network, task, off=np.linspace(0.3, 0.6, 4), tau=[0.02, 0.05])
    found = plane.boundaries()
    assert found.unexplained == ()
    curve = next(curve for curve in found if curve.label == "1-1-1")
    assert curve.kind == "share"
    assert curve.crossover

    def share(off, tau):
        codes = mf.solve(network, task.with_(off=off), tau).codes
        return sum(code.weight for code in codes if code.pattern == "111")

    for point in curve.points:
        off, tau = point.parameters["off"], point.parameters["tau"]
        if tau in plane.axes["tau"]:  # on an edge along off, of length 0.1
            assert share(off - 0.003, tau) < 1e-3 < share(off + 0.003, tau)


def test_along_depth_each_row_has_its_transitions():
    network = mf.Network("sigmoid")
    plane = mf.sweep(network, TASK, depth=[1, 2, 3], off=np.linspace(-0.1, 0.6, 8))
    found = plane.boundaries()
    by_code = {curve.label: curve for curve in found}
    first = mf.sweep(network, TASK, off=np.linspace(-0.1, 0.6, 8)).transitions()
    expected = sorted(t.value for t in first if not t.crossover)
    at_one = sorted(row[1] for curve in by_code.values() for row in curve.curve if row[0] == 1)
    np.testing.assert_allclose(at_one, expected, atol=1e-9)
    assert len(by_code["1-1-1"].points) == 3


def test_planes_without_sharp_codes_have_no_curves():
    assert len(mf.sweep(mf.Network("linear"), TASK, off=[0.0, 0.1], sigma_a=[1.0, 1.1]).boundaries()) == 0


def test_bad_requests():
    with pytest.raises(ValueError, match="curves in a plane"):
        mf.sweep(mf.Network("sigmoid"), TASK, off=[0.1, 0.2]).boundaries()
    line = mf.sweep(mf.Network("sigmoid"), TASK, off=[0.1, 0.2], fractions=[[0.5, 0.25, 0.25], [0.4, 0.3, 0.3]])
    with pytest.raises(ValueError, match="sweep one fraction"):
        line.boundaries()


def test_two_fractions_are_set_at_once_and_have_no_boundaries():
    plane = mf.sweep(mf.Network("sigmoid"), TASK, fraction_1=[0.2, 0.5], fraction_2=[0.3, 0.4], progress=False)
    np.testing.assert_allclose(plane.problem((1, 0)).task.fractions, [0.5, 0.3, 0.2], atol=1e-15)
    np.testing.assert_allclose(plane.problem((0, 1)).task.fractions, [0.2, 0.4, 0.4], atol=1e-15)
    with pytest.raises(ValueError, match="plane of two fractions"):
        plane.boundaries()
    with pytest.raises(ValueError, match="the other fraction would not stay"):
        plane.row(0, 0)


def test_a_crossing_beside_the_end_of_a_curve_is_none():
    class Ending:
        def at(self, name, value):
            raise ConvergenceError(f"two codes coincide at {name} = {value}")

    assert _at(Ending(), "tau", 0.1) == ()


def test_segments_that_cross_edges():
    edges = np.array([[[0.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [2.0, 0.0]], [[0.0, 1.0], [0.0, 2.0]]])
    line = np.array([[0.5, -0.5], [0.5, 0.5], [0.4, 1.5]])
    assert _crossings(line, edges).tolist() == [True, False, False]
    assert not _crossings(line[:1], edges).any()
    assert math.isfinite(line.sum())


def test_curves_where_weights_are_not_unique_say_whether_they_jump():
    """Codes of tanh come with their complements: weights are selected, and those of 0-0-0 and 1-1-1 vanish linearly."""
    axes = {"off": np.linspace(-0.9, -0.6, 4), "sigma_a": np.linspace(0.8, 1.2, 4)}
    found = mf.sweep(mf.Network("tanh"), mf.class_task([0.5, 0.3, 0.2]), **axes).boundaries()
    (row,) = found.table()
    assert not found[0].continuous  # not proven
    assert row["continuous"]
    assert row["jump"] < 1e-5
    assert ", 0 discontinuous;" in repr(found)


def test_curves_that_begin_where_others_end_are_found():
    """A raster of 12 x 12 sees none of the four boundaries between tau = 0.113 and 0.121; a sweep along a line does."""
    axes = {"off": np.linspace(-0.3, 0.9, 12), "tau": np.linspace(0.0, 0.3, 12)}
    found = mf.sweep(mf.Network("sigmoid"), TASK, **axes).boundaries()
    line = mf.sweep(mf.Network("sigmoid"), TASK, tau=0.1151, off=np.linspace(-0.3, 0.9, 300))
    crossings = [p.parameters["off"] for curve in found if not curve.crossover for p in curve.at("tau", 0.1151)]
    places = [transition.value for transition in line.transitions() if not transition.crossover]
    np.testing.assert_allclose(sorted(crossings), sorted(places), atol=1e-9)
    assert len(places) == 6
    assert all(len(point.curves) >= 3 for point in found.points if point.kind != "crossovers")


def test_pairs_that_share_outliers_are_told_from_all_that_do():
    """ReLU over the share of class 1: classes 1+2, 1+3 share outliers before 2+3 do where it is small; J'' jumps there.

    At equal shares all curves meet, at y_- = 2 / (pi sqrt(3)).
    """
    task = mf.class_task(fractions=[0.5, 0.25, 0.25])
    plane = mf.sweep(mf.Network("relu"), task, off=np.linspace(0.2, 0.5, 9), fraction_1=np.linspace(0.1, 0.6, 9))
    assert {"bulk, outliers 1+2, 1+3", "bulk, outliers 1+2+3"} <= set(plane.phase_labels)
    found = plane.boundaries()
    assert (len(found), found.unexplained) == (4, ())
    at = sorted(point.value for curve in found for point in curve.at("fraction_1", 0.2))
    assert len(at) == 2
    (point,) = found.points
    assert point.parameters["off"] == pytest.approx(2 / (np.pi * np.sqrt(3)), abs=1e-3)
    row = mf.sweep(mf.Network("relu"), task.with_(fractions=[0.2, 0.4, 0.4]), off=[0.2, 0.37, 0.5])
    assert at == pytest.approx([transition.value for transition in row.transitions()], abs=1e-9)


def test_one_outlier_of_all_classes_is_told_from_a_cone():
    """ReLU, three classes: one outlier that all drive, and a cone of them, share the same classes."""
    task = mf.class_task(fractions=[0.5, 0.25, 0.25])
    line = mf.sweep(mf.Network("relu"), task, 0.1, off=[0.7, 0.82, 0.87])
    assert line.phase_labels == tuple(f"bulk, outliers 1+2+3{few}" for few in ("", " (2 alone)", " (1 alone)"))
