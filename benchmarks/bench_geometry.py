"""Speed of the capacity estimators: ``pytest benchmarks/bench_geometry.py``.

The reference is the formulation that earlier codes use: one dense quadratic program per probe for an interior-point
solver. Both sides get the same points, probes and dichotomies, and must give the same capacity.
"""

import time
import tracemalloc

import numpy as np
import pytest

from meanfield.geometry import capacity, glue, replica_capacity, simulated_capacity, spherical_manifolds
from meanfield.geometry.problem import cone_problem, solve_problem


def spheres(P=10, M=50, N=1000, D=40):
    return spherical_manifolds(P, N, M, D, 1.0, seed=1)


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    glue(spherical_manifolds(2, 20, 5, 2, 1.0, seed=0), n_probes=50, seed=0)


def interior_point_distances(solved):
    """``min |v - t|^2`` subject to ``y x . v >= 0``, probe by probe, in coordinates of the span."""
    cvxopt = pytest.importorskip("cvxopt", reason="the interior-point reference needs cvxopt (an optional test extra)")
    cvxopt.solvers.options.update(show_progress=False, abstol=1e-10, reltol=1e-10, feastol=1e-10)
    problem = solved.problem
    rank = problem.rank
    identity = cvxopt.matrix(np.eye(rank))
    bounds = cvxopt.matrix(np.zeros(len(problem.rows)))
    distances = []
    for probe, labels in zip(solved.probes, solved.labels):
        signs = np.repeat(labels, problem.clouds.sizes)
        constraints = cvxopt.matrix(-signs[:, None] * problem.rows)
        program = cvxopt.solvers.qp(identity, cvxopt.matrix(-probe), constraints, bounds)
        distances.append(np.sum((np.array(program["x"]).ravel() - probe) ** 2))
    return np.array(distances)


@pytest.mark.parametrize("n_probes", [200])
def test_against_interior_point(benchmark, n_probes):
    """P = 10, M = 50, N = 1000 (rank 500): complete analysis here against the quadratic programs alone there."""
    rng = np.random.default_rng(0)
    clouds = rng.standard_normal((10, 50, 1000)) + rng.standard_normal((10, 1, 1000))
    result = benchmark.pedantic(glue, (clouds,), {"n_probes": n_probes, "seed": 0}, rounds=5, warmup_rounds=1)
    solved = solve_problem(
        cone_problem(clouds, center=False, allow_overlap=False),
        labels="balanced",
        n_probes=n_probes,
        probes=None,
        threads=1,
        seed=0,
    )
    start = time.perf_counter()
    distances = interior_point_distances(solved)
    reference = time.perf_counter() - start
    worst = float(np.max(np.abs(distances / solved.distance - 1.0)))
    assert 10 / distances.mean() == pytest.approx(result.capacity, rel=1e-6)
    assert worst < 1e-5
    start = time.perf_counter()
    for _ in range(5):
        solve_problem(solved.problem, labels="balanced", n_probes=n_probes, probes=None, threads=1, seed=0)
    projections = (time.perf_counter() - start) / 5
    benchmark.extra_info.update(
        interior_point_seconds=round(reference, 2),
        ratio_whole_analysis=round(reference / benchmark.stats.stats.median, 1),
        ratio_projections=round(reference / projections, 1),
        projection_ms_per_probe=round(1e3 * projections / n_probes, 3),
        worst_relative_difference=worst,
    )
    print("\n" + ", ".join(f"{key} {value:.4g}" for key, value in benchmark.extra_info.items()))


@pytest.mark.parametrize("M", [25, 50, 100, 200, 400])
def test_cost_against_points(benchmark, M):
    benchmark.pedantic(capacity, (spheres(M=M),), {"n_probes": 100, "seed": 0}, rounds=3)


@pytest.mark.parametrize("N", [100, 300, 1000, 3000])
def test_cost_against_neurons(benchmark, N):
    benchmark.pedantic(capacity, (spheres(N=N),), {"n_probes": 100, "seed": 0}, rounds=3)


@pytest.mark.parametrize("P", [5, 10, 20, 40, 80])
def test_cost_against_manifolds(benchmark, P):
    benchmark.pedantic(capacity, (spheres(P=P, M=20, D=10),), {"n_probes": 100, "seed": 0}, rounds=3)


@pytest.mark.parametrize("P", [10, 80])
def test_descriptors(benchmark, P):
    benchmark.pedantic(glue, (spheres(P=P, M=20, D=10),), {"n_probes": 100, "seed": 0}, rounds=3)


def test_replica(benchmark):
    options = {"n_probes": 300, "remove_correlations": False, "seed": 0}
    benchmark.pedantic(replica_capacity, (spheres(),), options, rounds=5)


def test_simulation(benchmark):
    benchmark.pedantic(simulated_capacity, (spheres(),), {"n_draws": 20, "seed": 0}, rounds=2)


def test_ten_thousand_points(benchmark):
    """Working sets keep the memory far below the 800 MB of a Gram matrix."""
    clouds = spheres(M=1000, N=500)
    benchmark.pedantic(capacity, (clouds,), {"n_probes": 50, "seed": 0}, rounds=2)
    tracemalloc.start()
    capacity(clouds, n_probes=50, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    benchmark.extra_info["peak_megabytes"] = round(peak / 1e6)
    print(f"\npeak memory {peak / 1e6:.0f} MB for {clouds.nbytes / 1e6:.0f} MB of points")
    assert peak < 0.5 * 8 * 10_000**2
