"""Sweeps on the executors of other packages: the same bits, and little to be sent."""

import pickle
import warnings

import numpy as np
import pytest

import meanfield as mf
from meanfield.phases import work as work_module
from meanfield.phases.grid import Grid
from meanfield.phases.work import SweepWork

PROBLEM = mf.Network("sigmoid"), mf.class_task(fractions=[0.5, 0.25, 0.25])
AXES = {"off": np.linspace(0.2, 0.6, 40), "sigma_a": np.linspace(0.8, 1.2, 20)}


class Recorder:
    """An executor that solves at once and keeps what it was sent."""

    def __init__(self):
        self.sent = []

    def submit(self, function, /, *arguments):
        from concurrent.futures import Future

        self.sent.append(pickle.dumps(arguments))
        future = Future()
        future.set_result(function(*arguments))
        return future


@pytest.fixture(scope="module")
def alone():
    return mf.sweep(*PROBLEM, **AXES)


@pytest.mark.parametrize("n_samples", [np.inf, 100.0])
def test_segments_are_sent_as_bytes_and_little_of_them(n_samples):
    """Executors that look into their arguments find one object: numbers where points are quick, else places."""
    task, axes = PROBLEM[1].with_(n_samples=n_samples), AXES if np.isinf(n_samples) else {"off": AXES["off"]}
    alone = mf.sweep(PROBLEM[0], task, **axes)
    work, executor = SweepWork(Grid(PROBLEM[0], task, 0.0, axes), None), Recorder()
    work.on_pool(executor)
    assert 1 < len(executor.sent) <= len(work.segments)
    assert all(isinstance(pickle.loads(job)[0], bytes) for job in executor.sent)
    sizes = len(pickle.dumps(work.grid)) + 200 * np.array([len(points) for points in work.segments])
    assert sum(map(len, executor.sent)) < sizes.sum()
    points = work.joined()
    np.testing.assert_array_equal(points.column("objective"), alone.points.column("objective"))


def test_quick_segments_go_out_a_few_at_a_time_and_those_that_are_stopped_come_back(alone, monkeypatch):
    monkeypatch.setattr(work_module, "segment_size", lambda problem: 20)
    work, executor = SweepWork(Grid(*PROBLEM, 0.0, AXES), None), Recorder()
    work.on_pool(executor)
    assert len(executor.sent) <= len(work.segments) // 2 == 20
    monkeypatch.setattr(work_module, "_POOL_SLICE", 0.0)
    stopped, slow = SweepWork(Grid(*PROBLEM, 0.0, AXES), None), Recorder()
    stopped.on_pool(slow)
    assert len(slow.sent) >= len(stopped.segments)
    for name, array in work.joined().arrays().items():
        np.testing.assert_array_equal(array, stopped.joined().arrays()[name], err_msg=name)


def test_loky_gives_the_same_bits(alone):
    loky = pytest.importorskip("joblib.externals.loky", reason="joblib is not installed")
    with loky.ProcessPoolExecutor(2) as executor:
        found = mf.sweep(*PROBLEM, executor=executor, **AXES)
    np.testing.assert_array_equal(found.objective, alone.objective)


def test_dask_gives_the_same_bits(alone):
    distributed = pytest.importorskip("distributed", reason="dask is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the cluster, about its own ports and sockets
        cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None)
        with cluster, distributed.Client(cluster) as client:
            found = mf.sweep(*PROBLEM, executor=client.get_executor(), **AXES)
    np.testing.assert_array_equal(found.objective, alone.objective)
