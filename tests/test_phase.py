"""Sweeps, phase diagrams, and the transitions found along a line."""

import math
import warnings

import numpy as np
import pytest

import meanfield as mf
from meanfield.theories.single_layer.transitions import line

TASK = mf.class_task(fractions=(0.5, 0.25, 0.25))
SIGMOID = mf.Network("sigmoid")


@pytest.fixture(scope="module")
def default_line():
    return mf.sweep(SIGMOID, TASK, off=np.linspace(-1, 0.95, 40))


@pytest.fixture(scope="module")
def plane():
    return mf.sweep(SIGMOID, TASK, off=np.linspace(-0.4, 0.6, 6), sigma_a=[0.7, 1.0, 1.4])


def found_along(network, task, **axes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return mf.sweep(network, task, **axes).transitions()


def assert_found(transitions, expected):
    """(position, label) pairs, in order."""
    assert [t.label for t in transitions] == [label for _, label in expected]
    np.testing.assert_allclose([t.value for t in transitions], [value for value, _ in expected], rtol=0, atol=1e-9)


# ---- sweeps ----------------------------------------------------------------------------------------------------------


def test_every_point_is_what_solve_gives(plane):
    assert plane.certified.all()
    assert plane.objective.shape == (6, 3)
    for i, off in enumerate(plane.axes["off"]):
        for j, sigma_a in enumerate(plane.axes["sigma_a"]):
            alone = mf.solve(mf.Network("sigmoid", sigma_a=sigma_a), TASK.with_(off=off))
            assert plane.objective[i, j] == pytest.approx(alone.objective, abs=1e-10)
            np.testing.assert_allclose(plane.t[i, j], alone.solution.t, atol=1e-7)
            post = plane.posterior((i, j))
            assert sorted(c.pattern for c in post.codes) == sorted(c.pattern for c in alone.codes)
            assert post.certificate.kkt_residual < 1e-10
    assert plane.kkt_residual.max() < 1e-10
    assert np.abs(plane.duality_gap).max() < 1e-8


def test_weights_phases_and_labels(default_line):
    off = default_line.axes["off"]
    total = sum(default_line.weights(pattern) for pattern in default_line.codes)
    np.testing.assert_allclose(total, 1.0, atol=1e-12)
    assert (default_line.weights("111")[off < 0.477] == 0).all()
    assert (default_line.weights("111")[off > 0.478] > 0).all()
    names = np.array(default_line.phase_labels)[default_line.phase]
    assert names[np.argmin(abs(off - 0.2))] == "0-1-1, 1-0-1, 1-1-0"
    assert names[-1] == "0-1-1, 1-0-1, 1-1-0, 1-1-1"
    with pytest.raises(ValueError, match="no point has a code '000'"):
        default_line.weights("000")


def test_solve_between_grid_points(default_line):
    post = default_line.solve(off=0.123)
    assert post.objective == pytest.approx(mf.solve(SIGMOID, TASK.with_(off=0.123)).objective, abs=1e-11)
    with pytest.raises(ValueError, match="give a value for each of off"):
        default_line.solve(sigma_a=1.0)


@pytest.mark.parametrize(
    "axes",
    [
        {"tau": [0.0, 0.05, 0.1]},
        {"sigma_w": [0.8, 1.0, 1.2]},
        {"gain": [0.8, 1.2], "on": [0.9, 1.1]},
        {"n_samples": [60.0, 200.0, math.inf]},
        {"fractions": [[0.5, 0.25, 0.25], [0.4, 0.3, 0.3]]},
        {"fraction_2": [0.2, 0.3]},
    ],
    ids=lambda axes: "-".join(axes),
)
def test_every_parameter_can_be_swept(axes):
    diagram = mf.sweep(SIGMOID, TASK.with_(off=0.3), **axes)
    assert diagram.certified.all()
    assert diagram.shape == tuple(len(values) for values in axes.values())
    last = tuple(n - 1 for n in diagram.shape)
    network, task, tau = diagram.problem(last)
    assert diagram.objective[last] == pytest.approx(mf.solve(network, task, tau).objective, abs=1e-9)
    assert network != SIGMOID or task != TASK.with_(off=0.3) or tau > 0 or "n_samples" in axes


def test_linear_networks_are_analog():
    diagram = mf.sweep(mf.Network("linear"), TASK, off=[0.0, 0.5])
    assert diagram.phase_labels == ("analog",)
    assert diagram.codes == ()
    assert diagram.transitions() == ()


def test_save_and_load(plane, tmp_path):
    path = plane.save(tmp_path / "plane")
    again = mf.PhaseDiagram.load(path)
    assert list(again.axes) == ["off", "sigma_a"]
    np.testing.assert_array_equal(again.objective, plane.objective)
    np.testing.assert_array_equal(again.phase, plane.phase)
    assert again.phase_labels == plane.phase_labels
    assert again.network == plane.network
    assert again.task == plane.task
    np.testing.assert_array_equal(again.posterior((2, 1)).solution.readout, plane.posterior((2, 1)).solution.readout)
    with np.load(path, allow_pickle=False) as archive:
        assert all(archive[name].dtype != object for name in archive.files)


def test_to_xarray(plane):
    data = plane.to_xarray()
    assert data["objective"].dims == ("off", "sigma_a")
    chosen = data.sel(off=0.6, sigma_a=1.0, method="nearest")
    assert float(chosen["weight"].sum()) == pytest.approx(1.0)
    assert plane.phase_labels[int(chosen["phase"])] == "0-1-1, 1-0-1, 1-1-0, 1-1-1"


def test_repr_counts_phases(plane):
    assert "off (6) x sigma_a (3)" in repr(plane)
    assert "18 of 18 points certified" in repr(plane)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({}, "one or two parameters"),
        ({"off": [0, 1], "on": [1, 2], "tau": [0, 1]}, "one or two parameters"),
        ({"of": [0.0, 0.5]}, "'of' is not a parameter"),
        ({"off": [[0.0, 0.5]]}, "list of values"),
        ({"off": [0.0, np.nan]}, "finite"),
        ({"sigma_a": [1.0, -1.0]}, "sigma_a"),
    ],
)
def test_bad_sweeps(axes, message):
    with pytest.raises(ValueError, match=message):
        mf.sweep(SIGMOID, TASK, **axes)


# ---- transitions along a line ----------------------------------------------------------------------------------------


def test_default_line(default_line):
    expected = [(0.032090245991, "1-0-0 leaves"), (0.477274295593, "1-1-1 enters")]
    assert_found(default_line.transitions(), expected)


@pytest.mark.parametrize(
    ("sigma_a", "expected"),
    [
        (
            0.5,
            [(-0.789715184407, "1-0-0 enters"), (-0.212662718576, "1-0-0 leaves"), (0.370954357672, "1-1-1 enters")],
        ),
        (2.0, [(0.308308895021, "1-0-0 leaves"), (0.765879844415, "0-1-1 becomes 1-1-1")]),
    ],
)
def test_other_readout_scales(sigma_a, expected):
    transitions = found_along(mf.Network("sigmoid", sigma_a=sigma_a), TASK, off=np.linspace(-1, 0.95, 27))
    assert_found(transitions, expected)
    assert [t.crossover for t in transitions] == ["becomes" in label for _, label in expected]


def test_reentrant_phase_between_cusp_and_fold():
    """sigma_a = 1.72: the four-code phase is entered and left again, and a label flips on either side."""
    network = mf.Network("sigmoid", sigma_a=1.72)
    transitions = found_along(network, TASK, off=np.linspace(0.3, 0.95, 14))
    labels = ["0-1-1 becomes 1-1-1", "1-1-1 enters", "1-1-1 becomes 0-1-1", "0-1-1 leaves"]
    assert [t.label for t in transitions] == labels
    for one in transitions:
        if not one.crossover:
            (code,) = one.marginal
            again = mf.solve(network, TASK.with_(off=one.value))
            assert again.objective == pytest.approx(one.solution.objective, abs=1e-10)
            assert one.solution.weight[code] == pytest.approx(0.0, abs=1e-12)


def test_rising_temperature():
    transitions = found_along(SIGMOID, TASK.with_(off=0.2), tau=np.linspace(0, 0.2, 21))
    kinds = [(t.kind, round(t.value, 9)) for t in transitions if not t.crossover]
    assert kinds == [("merge", 0.129325686), ("weight", 0.145362992)]


def test_four_transitions_in_one_interval():
    """y_- = 0.7: 1-0-0 is present only in a window of tau, in which the other codes leave."""
    transitions = found_along(SIGMOID, TASK.with_(off=0.7), tau=[0.0, 0.04, 0.05, 0.06])
    labels = [t.label for t in transitions]
    assert labels[0] == "1-0-0 enters"
    assert labels[1] == "0-1-1 leaves"
    assert set(transitions[2].codes) == {"110", "101"}
    assert labels[3] == "1-0-0 leaves"
    assert all(0.043 < t.value < 0.046 for t in transitions)


def test_two_classes():
    transitions = found_along(SIGMOID, mf.class_task(targets=[1, 0]), target_2=np.linspace(-0.9, 0.9, 10))
    assert_found(transitions, [(0.205261456883, "0-1 leaves"), (0.620698822330, "1-0 becomes 1-1")])


def test_odd_activation_loses_codes_with_their_complements():
    transitions = found_along(mf.Network("tanh"), TASK, off=np.linspace(-0.95, 0.95, 20))
    assert len(transitions) == 2
    for one in transitions:
        assert set(one.codes) == {"000", "111"}
        assert np.sort(one.solution.weight)[:2] == pytest.approx([0, 0], abs=1e-10)


def test_degenerate_point_is_no_transition():
    """At y_- = -1/2 codes and complements tie; the same codes are chosen left and right."""
    assert found_along(SIGMOID, TASK, off=[-0.7, -0.6, -0.5, -0.4, -0.3]) == ()


@pytest.mark.parametrize("sigma_a", [0.5, 1.0, 2.0])
def test_relu_line(sigma_a):
    """The same sequence for every sigma_a: isolated outliers, partial cone, full cone."""
    transitions = found_along(mf.Network("relu", sigma_a=sigma_a), TASK, off=np.linspace(-0.9, 0.9, 19))
    assert [t.kind for t in transitions] == ["cone", "cone"]
    if sigma_a == 1.0:
        np.testing.assert_allclose([t.value for t in transitions], [0.216467776599, 0.374982820561], atol=1e-11)


def test_relu_two_classes_reentrant():
    transitions = found_along(
        mf.Network("relu", sigma_a=1.5), mf.class_task(targets=[1, 0.2]), target_2=np.linspace(-0.95, 0.95, 20)
    )
    expected = [0.0, 1.5 / (math.pi * math.sqrt(2)), 0.494804037447, 0.910602691636]
    np.testing.assert_allclose([t.value for t in transitions], expected, atol=1e-11)
    assert [t.kind for t in transitions] == ["outlier", "driven", "outlier", "outlier"]


def test_transitions_need_one_sharp_axis(plane):
    with pytest.raises(ValueError, match="along one parameter"):
        plane.transitions()
    fractions = mf.sweep(SIGMOID, TASK, fractions=[[0.5, 0.25, 0.25], [0.4, 0.3, 0.3]])
    with pytest.raises(ValueError, match="fraction_<class>"):
        fractions.transitions()
    assert mf.sweep(SIGMOID, TASK, n_samples=[60.0, 200.0]).transitions() == ()


def test_unexplained_changes_warn(default_line, monkeypatch):
    monkeypatch.setattr(line, "_MAX_DEPTH", 1)

    def refuse(*_, **__):
        raise mf.ConvergenceError("no")

    monkeypatch.setattr(line, "locate", refuse)
    with pytest.warns(RuntimeWarning, match="none of the known types"):
        assert default_line.transitions() == ()


def test_points_carry_the_note_that_codes_overlap(tmp_path):
    """At P = 50 codes 0-1-1 and 1-1-1 overlap; at off = -1/2 the codes lie apart."""
    task = TASK.with_(n_samples=50)
    diagram = mf.sweep(SIGMOID, task, 0.02, off=[-0.5, 0.5], progress=False)
    alone = mf.solve(SIGMOID, task.with_(off=0.5), 0.02)
    assert "lie beside a cut" in alone.notes[0]
    for one in (diagram, mf.load(diagram.save(tmp_path / "line.npz"))):
        assert one.notes.tolist() == ["", one.posterior(1).notes[0]]
        assert one.posterior(0).notes == ()
        assert "lie beside a cut" in one.notes[1]
