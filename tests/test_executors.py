"""Sweeps on the executors of other packages: the same bits, and little to be sent."""

import pickle
import warnings

import numpy as np
import pytest

import meanfield as mf
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


def test_a_segment_is_sent_as_bytes_that_do_not_grow_with_its_points(alone):
    """Executors that look into their arguments find one object; problems are made where they are solved."""
    work, executor = SweepWork(Grid(*PROBLEM, 0.0, AXES), None), Recorder()
    work.on_pool(executor)
    assert len(executor.sent) == len(work.segments) > 1
    assert all(isinstance(pickle.loads(job)[0], bytes) for job in executor.sent)
    assert max(map(len, executor.sent)) < 40 * max(map(len, work.segments))  # bytes per point
    points = work.joined()
    np.testing.assert_array_equal(points.column("objective"), alone.points.column("objective"))


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
