"""Limits of time and interrupts of solves on data: in threads, in compiled code, in slices of linear algebra."""

import _thread
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from exact_problems import SIGMOID, Clock
from scipy.linalg import cho_factor, cho_solve

from meanfield.numerics import limits
from meanfield.theories.general_data import slices
from meanfield.theories.general_data.compiled.ep import EP, FAILED
from meanfield.theories.general_data.neuron import Neuron


def test_limits_hold_in_threads_and_in_compiled_code():
    with limits.time_limit(1e-9, 0.0), ThreadPoolExecutor(1) as pool:
        with pytest.raises(limits.OutOfTime):
            list(limits.mapped(pool, lambda item: limits.check_time(), [0]))
        assert limits.stop_word() is not None
    with limits.time_limit(1e6, 1e6 + 1.0), limits.last_seconds():
        limits.check_time()  # what was kept for the end is left
    neuron = Neuron(SIGMOID, np.eye(3), 1.0, 1)
    k, zeros = np.ones((1, 3)), np.zeros((1, 3))

    def status():
        origin, tolerance = np.full(1, -1), np.full(1, 1e-6)
        return neuron.run(k, zeros.copy(), zeros.copy(), origin, tolerance)[0].status[0]

    assert status() == EP
    with limits.time_limit(1e6):
        limits.stop_word()[0] = 1
        assert status() == FAILED


@pytest.mark.parametrize("size", [7, 1300])
def test_sliced_factors_are_those_of_the_library(size, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(limits, "time", clock)
    rows = np.random.default_rng(0).normal(size=(size, size + 5))
    matrix = rows @ rows.T + np.eye(size)
    expected = cho_solve(cho_factor(matrix, lower=True), rows[:, 0])
    clock.now = 0.0
    factor = slices.factorise(matrix.copy())
    looks = clock.now
    np.testing.assert_allclose(cho_solve(factor, rows[:, 0]), expected, rtol=1e-8)
    lower = np.tril(factor[0])
    np.testing.assert_allclose(lower @ slices.solve_rows(lower, rows.T).T, rows, atol=1e-8 * size)
    assert looks >= 10 if size > 1000 else looks >= 1
    with pytest.raises(np.linalg.LinAlgError):
        slices.factorise(matrix - 1e6 * np.eye(size))


def test_ctrl_c_reaches_the_caller_and_the_work():
    """The caller at once; the work where it looks at the clock."""
    ended = threading.Event()

    def work():
        _thread.interrupt_main()
        try:
            while True:
                time.sleep(0.01)
                limits.check_time()
        finally:
            ended.set()

    with pytest.raises(KeyboardInterrupt):
        limits.interruptible(work)
    assert ended.wait(60.0)
    with pytest.raises(ZeroDivisionError):
        limits.interruptible(lambda: 1 / 0)
    assert limits.interruptible(lambda: 5) == 5
