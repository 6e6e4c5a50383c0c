"""Speed of the single-layer solver as ratios to a generic SciPy exchange method, timed interleaved in one process.

    pytest benchmarks/bench_solve.py --benchmark-only -s

Agreement of the two is checked before anything is timed. Import, first solution with a warm cache and cold compilation
are measured in fresh processes. No time is asserted.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import meanfield as mf
from meanfield.theories.single_layer.limit import limit_point

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from independent import SingleSite, exchange

FRACTIONS = np.array([0.5, 0.25, 0.25])
NETWORK = mf.Network("sigmoid")


def targets(off):
    return np.full((3, 3), off) + (1 - off) * np.eye(3)


def sigmoid_site():
    """Sixteen panels of 24 nodes: 1e-13 for this phi, and as few as that takes, to be fair to the reference."""
    return SingleSite(NETWORK.activation, 1.0, reach=9.0, panels_per_unit=1)


def test_three_classes_against_generic_exchange(benchmark):
    single = sigmoid_site()
    y = targets(0.2)
    phi, k = NETWORK.activation, NETWORK.k
    ours = limit_point(phi, k, FRACTIONS, y, 0.0)
    assert ours.status == 0
    ratios = []
    for _ in range(2):  # interleaved: the machine may drift
        start = time.perf_counter()
        j, _ = exchange(single, FRACTIONS, y, 0.0)
        middle = time.perf_counter()
        for _ in range(200):
            limit_point(phi, k, FRACTIONS, y, 0.0)
        stop = time.perf_counter()
        assert ours.numbers["objective"] == pytest.approx(j, abs=1e-6)
        ratios.append((middle - start) / ((stop - middle) / 200))
    print(
        f"\nfrom scratch, certified: {np.median(ratios):.0f} times the generic exchange method ({middle - start:.1f} s)"
    )
    benchmark.extra_info["ratio"] = float(np.median(ratios))
    benchmark(limit_point, phi, k, FRACTIONS, y, 0.0)


def test_warm_started_sweep_against_generic_exchange(benchmark):
    single = sigmoid_site()
    off = np.linspace(0.05, 0.45, 1000)
    task = mf.class_task(fractions=FRACTIONS, off=0.2)
    diagram = mf.sweep(NETWORK, task, off=off)
    assert diagram.certified.all()
    ratios = []
    for _ in range(2):
        start = time.perf_counter()
        j, _ = exchange(single, FRACTIONS, targets(off[500]), 0.0)
        middle = time.perf_counter()
        mf.sweep(NETWORK, task, off=off)
        stop = time.perf_counter()
        assert diagram.objective[500] == pytest.approx(j, abs=1e-6)
        ratios.append((middle - start) / ((stop - middle) / off.size))
    print(
        f"\nwarm-started, certified: {np.median(ratios):.0f} times; {1e3 * (stop - middle) / off.size:.3f} ms a point"
    )
    benchmark.extra_info["ratio"] = float(np.median(ratios))
    benchmark(mf.sweep, NETWORK, task, off=off)


def test_plane_of_ten_thousand_points(benchmark):
    task = mf.class_task(fractions=FRACTIONS, off=0.2)
    axes = {"off": np.linspace(-1, 0.95, 100), "sigma_a": np.linspace(0.5, 2, 100)}
    diagram = benchmark.pedantic(mf.sweep, (NETWORK, task), axes, rounds=2)
    print(f"\n{int(diagram.certified.sum())} of {diagram.certified.size} points certified, {diagram!r}")


@pytest.mark.parametrize("n_classes", [2, 3, 4, 5, 6])
def test_cost_against_classes(benchmark, n_classes):
    rng = np.random.default_rng(n_classes)
    y = rng.uniform(-1, 1, (n_classes, 3))
    p = np.full(n_classes, 1 / n_classes)
    point = benchmark(limit_point, NETWORK.activation, 1.0, p, y, 0.0)
    assert point.status == 0


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5])
def test_cost_against_outputs(benchmark, m):
    rng = np.random.default_rng(m)
    point = benchmark(limit_point, NETWORK.activation, 1.0, np.full(4, 0.25), rng.uniform(-1, 1, (4, m)), 0.0)
    assert point.status == 0


@pytest.mark.parametrize("n_samples", [50, 200, 1000])
def test_cost_against_samples(benchmark, n_samples):
    task = mf.class_task(fractions=FRACTIONS, off=0.5, n_samples=n_samples)
    post = benchmark.pedantic(mf.solve, (NETWORK, task), {"tau": 0.02}, rounds=2)
    assert post.status == "optimal"


def test_cold_and_warm_start(tmp_path):
    """Three figures from fresh processes: import, first solution with a warm cache, cold compilation."""
    code = (
        "import time; a = time.perf_counter(); import meanfield as mf; b = time.perf_counter(); "
        "mf.solve(mf.Network('sigmoid'), mf.class_task(fractions=[.5, .25, .25], off=.5)); "
        "print(b - a, time.perf_counter() - a)"
    )
    environment = os.environ | {"MEANFIELD_CACHE_DIR": str(tmp_path)}
    names = ("cold compilation", "first solution, warm cache")
    for name in names:
        out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        loaded, solved = map(float, out.stdout.split())
        print(f"\n{name}: import {loaded:.3f} s, first solution {solved:.2f} s")
