"""Compiled loops count their work where it is done, and a call that does not look at its stop word is left behind."""

import threading

import numpy as np
import pytest

import meanfield as mf
from meanfield.numerics.budget import HARD, USED, new_stop
from meanfield.numerics.limits import call_in_thread, long_work
from meanfield.numerics.linalg import cholesky, cholesky_until
from meanfield.theories.single_layer import limit
from meanfield.theories.single_layer.compiled.ascent import ascend, climb_direction

SIGMOID = mf.activation("sigmoid")
SHARES = np.array([0.5, 0.5])


@pytest.fixture
def table():
    """Tables of the sigmoid with a stop word of their own."""
    return limit.compiled_tables(SIGMOID, 1.0)[0]._replace(stop=new_stop())


def test_every_step_of_an_ascent_is_counted(table):
    """At sigma_a = 1e5 one takes a hundred steps: counted as one, solves overran their time limit by many seconds."""
    t = np.array([[8.0], [-8.0]])
    start = np.array([0.01])
    ascend(table, SHARES, t, start)
    steps = table.stop[USED]
    assert steps > 2
    table.stop[HARD] = table.stop[USED] + 1
    again = np.array([0.01])
    ascend(table, SHARES, t, again)
    assert abs(again[0] - start[0]) > 1e-3  # it was not finished
    again[0] = 0.01
    ascend(table, SHARES, t, again)
    assert again[0] == 0.01


def test_every_step_along_a_direction_is_counted():
    table = limit.compiled_tables(mf.activation("relu"), 1.0)[0]._replace(stop=new_stop())
    t = np.array([[1.0, 0.1], [0.1, 1.0]])
    climb_direction(table, SHARES, t, np.array([0.8, 0.6]))
    assert table.stop[USED] > 2
    table.stop[HARD] = 0
    direction = np.array([0.8, 0.6])
    climb_direction(table, SHARES, t, direction)
    np.testing.assert_array_equal(direction, [0.8, 0.6])


@pytest.mark.parametrize("n", [1, 7, 60])
def test_a_factorisation_that_can_be_stopped_has_the_same_bits(n):
    x = np.random.Generator(np.random.PCG64(n)).standard_normal((n, n))
    whole, watched = x @ x.T + np.eye(n), x @ x.T + np.eye(n)
    assert cholesky(whole)
    assert cholesky_until(watched, new_stop())
    np.testing.assert_array_equal(whole, watched)
    assert not cholesky_until(x @ x.T + np.eye(n), new_stop(hard=-1))
    assert not cholesky_until(-np.eye(n), new_stop())


def test_a_call_that_does_not_end_is_left_behind():
    wait = threading.Event()
    stop = new_stop()
    with long_work(0.05, False), pytest.raises(TimeoutError, match="max_seconds"):
        call_in_thread(wait.wait, stop, lambda: 0)
    assert stop[0] != 0  # it was told
    wait.set()


def test_a_solver_that_does_not_end_is_left_behind(monkeypatch):
    """The answer has nothing of what it may still write to."""
    wait, begun = threading.Event(), []

    def deaf(tables, tasks, phi_range, parent, max_boxes, first, *_):
        begun.append(first)
        if len(begun) > 1:
            wait.wait()
        return first

    monkeypatch.setattr(limit.sweep, "sweep_points", deaf)
    task = mf.class_task(n_classes=2)
    post = mf.solve(mf.Network("sigmoid"), task, max_seconds=0.05, on_failure="return")
    wait.set()
    assert post.status == "stopped"
    assert "max_seconds" in post.message
    assert len(begun) == 2
    with pytest.raises(mf.ConvergenceError, match=r"not converged|failed"):
        mf.solve(mf.Network("sigmoid"), task)  # the call ends at once, and has written nothing


@pytest.mark.parametrize("n_samples", [np.inf, 3000])
def test_matrices_that_do_not_fit_are_refused_in_words(n_samples):
    shares = np.linspace(1.0, 2.0, 300)
    with pytest.raises(mf.ConvergenceError, match="90000 order parameters"):
        mf.solve(mf.Network("sigmoid"), mf.class_task(shares / shares.sum(), n_samples=n_samples), tau=0.1)
