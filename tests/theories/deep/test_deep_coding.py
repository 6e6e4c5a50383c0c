"""The table of starts for codes: which are tried in which order, and when no other one can help."""

from dataclasses import replace

import numpy as np
import pytest

import meanfield as mf
from meanfield.theories.deep.codes import states
from meanfield.theories.deep.layers import terms
from meanfield.theories.deep.layers.layer import Layer
from meanfield.theories.deep.layers.rules import FINE, NotCovered, Setting, TooFine
from meanfield.theories.deep.layers.work import OutOfWork
from meanfield.theories.deep.reduction import problem_of
from meanfield.theories.deep.search import coding
from meanfield.theories.deep.search.coding import Kind, coding_and_starts, starts_of
from meanfield.theories.deep.solve import solve_deep
from meanfield.theories.deep.system import System

TASK = mf.class_task(targets=[1, -1], n_samples=100)
ASKED, LIMIT, PLANTED = "the kernels that codes ask for", "the limit of many samples", "planted codes"
FEW, OTHER, CLIMB = "few samples", "planted codes with other kernels", "a climb along Phi"
THIRD, ASCENT = "a third of the samples", "an ascent along the conjugates"


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (Kind(2, 2, 100.0, False, False), [PLANTED, THIRD, CLIMB, ASCENT]),
        (Kind(2, 3, 5e3, False, False), [ASKED, PLANTED, OTHER, THIRD, CLIMB, ASCENT]),
        (Kind(2, 3, 1e5, False, True), [ASKED, LIMIT, PLANTED, FEW, OTHER, THIRD, CLIMB, ASCENT]),
        (Kind(3, 2, 100.0, False, False), [PLANTED, FEW, OTHER, CLIMB, THIRD, ASCENT]),
        (Kind(3, 2, 1e6, False, True), [ASKED, LIMIT, PLANTED, FEW, OTHER, CLIMB, THIRD, ASCENT]),
        (Kind(3, 4, 150.0, True, False), [ASKED, PLANTED, OTHER, ASCENT, THIRD]),
        (Kind(2, 4, 150.0, True, False), [PLANTED, ASCENT, THIRD]),
        (Kind(1, 2, 100.0, False, False), [PLANTED, THIRD, ASCENT]),
    ],
)
def test_starts_by_what_they_are_expected_to_cost(kind, names):
    assert [start.name for start in starts_of(kind)] == names


def test_very_many_samples_are_reached_from_fewer_alone():
    assert starts_of(Kind(3, 2, 2e7, False, False))[0].alone
    assert not any(start.alone for start in starts_of(Kind(3, 2, 1e7, False, False)))


def table(tried, *made):
    """Starts that are tried one after the other, made in these ways."""

    def recorded(place, make):
        def start(problem, report):
            tried.append(place)
            return make(problem, report)

        return coding.Start(f"start {place}", start, lambda kind: True, lambda kind: float(place))

    return tuple(recorded(place, make) for place, make in enumerate(made, 1))


def test_a_coarse_solution_that_the_fine_quadrature_refuses_is_looked_for_twice_and_said(monkeypatch):
    problem, _ = problem_of(mf.Network("sigmoid", 2), TASK, 0.05)
    (plant,) = (start for start in coding.STARTS if start.name == PLANTED)
    tried = []
    monkeypatch.setattr(coding, "STARTS", table(tried, plant.make, plant.make, plant.make))

    def refuses(*given):
        raise TooFine("a layer needs too many nodes")

    monkeypatch.setattr(coding, "polish", refuses)
    with pytest.raises(NotCovered, match=r"found at the coarse quadrature \(Phi = -.*too many nodes"):
        coding_and_starts(problem, 1e-8)
    assert tried == [1, 2]


def test_starts_that_are_lost_or_too_long_leave_the_others(monkeypatch):
    def lost(problem, report):
        raise NotCovered("lost")

    def long(problem, report):
        raise OutOfWork("too long")

    problem, _ = problem_of(mf.Network("sigmoid", 2), TASK, 0.05)
    (plant,) = (start for start in coding.STARTS if start.name == PLANTED)
    tried = []
    monkeypatch.setattr(coding, "STARTS", table(tried, lost, long, plant.make, lost))
    _, found, others = coding_and_starts(problem, 1e-8)
    assert tried == [1, 2, 3]
    assert found.residual <= 1e-8
    assert others is None  # some before led to none
    monkeypatch.setattr(coding, "STARTS", table(tried, long, lost))
    with pytest.raises(NotCovered, match="lost"):
        coding_and_starts(problem, 1e-8)


def test_words_at_one_node_of_every_orbit_are_those_at_all(monkeypatch):
    """One-hot classes may be exchanged: an orbit has up to six nodes."""
    task = mf.class_task(targets=np.eye(2), n_samples=60)
    post = solve_deep(mf.Network("sigmoid", 2), task, 0.3, competitors=False)
    system, order = post._system, post._order
    system = System(system.problem, FINE)
    detail, words = states.layer_nodes(system, order, 1)
    found = states._apart(system, order, 1, detail, words)
    assert len(system.layers[1].node_orbits(detail.beta)[0]) < 0.6 * len(detail.beta)
    monkeypatch.setattr(Layer, "node_orbits", lambda layer, beta: (np.arange(len(beta)),) * 2)
    each = states._apart(system, order, 1, detail, words)
    assert found @ detail.share > 1e-6
    np.testing.assert_allclose(found, each, rtol=1e-7, atol=1e-12)


def test_lattices_of_two_shared_fields_grow_on_the_side_that_is_too_narrow(monkeypatch):
    monkeypatch.setattr(terms, "_FEW_PAIRS", 0)
    phi, n = mf.Network("sigmoid", 2).activation, np.array([60.0, 50.0, 40.0])
    line = np.array([[0.29, 0.19, 0.24], [0.19, 0.30, 0.26], [0.24, 0.26, 0.26]])
    given = Setting(0.1 * np.array([[1.0], [0.4], [-0.8]]), line, np.array([0.1, 0.11, 0.12]), np.zeros(3))
    usual = Layer(phi, n, FINE)
    expected = usual.evaluate(given)[0]
    narrow = replace(usual, sides=np.array([[1.0, 1.0], [0.2, 1.0]]), index=np.empty((0, 0), dtype=np.int64))
    found = narrow.evaluate(given)[0]
    assert found.log_z == pytest.approx(expected.log_z, abs=1e-9)
    np.testing.assert_allclose(found.kernel, expected.kernel, rtol=1e-8)
    assert narrow.sides[1, 0] > 0.2
    np.testing.assert_array_equal(narrow.sides[0], 1.0)
    assert narrow.stretch == 1.0
