"""One gradient of the sampler against NumPy + SciPy and JAX (float64), timed interleaved in one process.

    OMP_NUM_THREADS=1 pytest benchmarks/bench_sampling.py --benchmark-only -s

P = 100, N_0 = 100, N = 1000, m = 3, sigmoid, one hidden layer: energy and gradient by all weights. Agreement is checked
before anything is timed. JAX runs on one core, like the others, and is skipped where it is not installed. No time is
asserted.
"""

from __future__ import annotations

import math
import os
import time

import numpy as np
import pytest

# Before JAX is loaded: one core.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import scipy.special

import meanfield as mf
from meanfield.sampling.compiled import energy_gradient
from meanfield.sampling.diagnostics import ess_bulk
from meanfield.sampling.problem import problem

N, P, N_INPUTS, M, TAU = 1000, 100, 100, 3, 0.05


def posed():
    rng = np.random.default_rng(0)
    task = mf.data_task(rng.standard_normal((P, N_INPUTS)), labels=np.arange(P) % M)
    return problem(mf.Network("sigmoid"), task, N, TAU)


def ours(found):
    target, work, gradient = found.target(), found.work(), np.empty(found.n_weights)

    def run(x):
        return energy_gradient(target, x, found.coldness, work, gradient), gradient

    return run


def numpy_scipy(found):
    """The same in array operations, temporaries reused where NumPy allows it."""
    features, y, q = np.ascontiguousarray(found.features), np.ascontiguousarray(found.targets.T), found.readout_std / N
    features_t = np.ascontiguousarray(features.T)
    split, gradient = N * features.shape[1], np.empty(found.n_weights)

    def run(x):
        readout = x[split:].reshape(M, N)
        z = x[:split].reshape(N, -1) @ features_t
        phi = scipy.special.erfc((-0.5 * math.sqrt(math.pi)) * z)
        phi *= 0.5
        np.multiply(z, z, out=z)
        z *= -0.25 * math.pi
        slope = np.exp(z, out=z)
        slope *= 0.5
        residual = q * (readout @ phi) - y
        pull = (found.coldness * q) * residual
        slope *= readout.T @ pull
        np.matmul(slope, features, out=gradient[:split].reshape(N, -1))
        np.matmul(pull, phi.T, out=gradient[split:].reshape(M, N))
        np.add(gradient, x, out=gradient)
        return 0.5 * found.coldness * np.vdot(residual, residual) + 0.5 * (x @ x), gradient

    return run


def jax_float64(found):
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    jax.config.update("jax_enable_x64", True)
    jnp = jax.numpy
    features_t, y, q = jnp.asarray(found.features.T), jnp.asarray(found.targets.T), found.readout_std / N
    split = N * found.features.shape[1]

    def energy(x):
        phi = 0.5 * jax.scipy.special.erfc((-0.5 * math.sqrt(math.pi)) * (x[:split].reshape(N, -1) @ features_t))
        residual = q * (x[split:].reshape(M, N) @ phi) - y
        return 0.5 * found.coldness * jnp.sum(residual**2) + 0.5 * jnp.sum(x * x)

    compiled = jax.jit(jax.value_and_grad(energy))

    def run(x):
        value, gradient = compiled(x)
        return value, gradient.block_until_ready()

    return run


RIVALS = {"NumPy + SciPy": numpy_scipy, "JAX float64": jax_float64}


@pytest.mark.parametrize("name", RIVALS)
def test_gradient_against(benchmark, name):
    found = posed()
    x = np.random.default_rng(1).standard_normal(found.n_weights)
    own, rival = ours(found), RIVALS[name](found)
    value, gradient = own(x)
    other, theirs = rival(x)
    assert value == pytest.approx(float(other), rel=1e-12)
    np.testing.assert_allclose(gradient, np.asarray(theirs), rtol=1e-9, atol=1e-9)
    times = np.empty((60, 2))
    for row in times:  # interleaved: the machine may drift
        for column, run in enumerate((own, rival)):
            start = time.perf_counter()
            run(x)
            row[column] = time.perf_counter() - start
    best, middle = times.min(axis=0) * 1e3, np.median(times, axis=0) * 1e3
    print(
        f"\n{name}: {middle[1]:.2f} ms (best {best[1]:.2f}), here {middle[0]:.2f} ms (best {best[0]:.2f}): "
        f"{middle[1] / middle[0]:.2f} times as fast"
    )
    benchmark.extra_info["ratio"] = float(middle[1] / middle[0])
    benchmark(own, x)


@pytest.mark.parametrize(("depth", "width"), [(1, 100), (1, 200), (2, 100), (3, 100)])
def test_cost_of_a_gradient(benchmark, depth, width):
    """Orthogonal inputs, P = N: preactivations instead of first-layer weights."""
    task = mf.class_task(fractions=[0.5, 0.25, 0.25], off=0.5, n_samples=width)
    found = problem(mf.Network("sigmoid", depth=depth), task, width, TAU)
    benchmark(ours(found), np.random.default_rng(1).standard_normal(found.n_weights))


def test_effective_samples_per_second(benchmark):
    task = mf.class_task(fractions=[0.5, 0.25, 0.25], off=0.5, n_samples=100)
    network = mf.Network("sigmoid")
    start = time.perf_counter()
    chains = benchmark.pedantic(
        mf.sample, (network, task, 100, TAU), {"draws": 600, "warmup": 300, "rng": 0, "chains": 2}, rounds=1
    )
    seconds = (time.perf_counter() - start) * 600 / 900
    for name in ("mean a^2", "energy", "K1 class 1, class 2", "residual class 1, output 1"):
        print(f"\n{name}: {ess_bulk(chains.functionals()[name]) / seconds:.0f} effective samples a second", end="")
    print()
