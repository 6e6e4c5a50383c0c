"""General data: time, memory and certificate against P, N_0 and m; ratio to plain NumPy/SciPy, interleaved in one run.

    python benchmarks/bench_general.py [--large]

The reference runs the same expectation propagation in feature space, one readout at a time, with SciPy's LAPACK and
the same quadrature as array operations. CPU seconds are of all threads; "ratio" is wall clock per readout. Every case
runs in a process of its own: "MB" is what its peak memory exceeds that of a tiny problem by. A new case is one line of
`CASES`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, solve_triangular
from scipy.special import ndtr

from meanfield.activations.activation import activation
from meanfield.datasets import digits as load_digits
from meanfield.problem.features import features_from_inputs
from meanfield.theories.general_data.neuron import Neuron
from meanfield.theories.general_data.solve import solve_general

ROOT = np.sqrt(np.pi / 2)


def clusters(n_samples, n_inputs, m, off, seed=0):
    """Gaussian clusters: features (P, r), one-hot targets, labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n_samples) % m
    x = rng.normal(size=(n_samples, n_inputs)) + 0.5 * rng.normal(size=(m, n_inputs))[labels]
    x -= x.mean(axis=0)
    x /= np.sqrt(np.mean(x**2))
    return features_from_inputs(x).matrix, np.where(np.eye(m)[labels] > 0, 1.0, off), labels


def digits(n_samples, off):
    """The package's digits 0, 1, 2: features, targets, labels."""
    images = load_digits()
    x = np.asarray(images.images, dtype=float).reshape(len(images.labels), -1)
    digit = np.asarray(images.labels).astype(int)
    order = np.random.default_rng(2).permutation(len(digit))
    x, digit = x[order], digit[order]
    rows = np.concatenate([np.flatnonzero(digit == c)[: n_samples // 3] for c in range(3)])
    x = x[rows] - x[rows].mean(axis=0)
    x /= np.sqrt(np.mean(x**2))
    return features_from_inputs(x).matrix, np.where(np.eye(3)[digit[rows]] > 0, 1.0, off), digit[rows]


def reference(matrix, k, tolerance):
    """log Z and E phi of the sigmoid for one k, plain NumPy/SciPy; None where it does not converge."""
    p, r = matrix.shape
    s, nu = np.zeros(p), np.zeros(p)
    x = np.arange(-12.0, 12.0, 0.33)[:, None]
    for _ in range(60):
        try:
            factor, _ = cho_factor(np.eye(r) + (matrix.T * s) @ matrix, lower=True)
        except LinAlgError:
            return None
        solved = solve_triangular(factor, matrix.T, lower=True)
        c = solved @ nu
        m, v = solved.T @ c, np.sum(solved**2, axis=0)
        cavity = v / (1 - s * v)
        if not (cavity > 0).all():
            return None
        mc = cavity * (m / v - nu)
        z = mc + np.sqrt(cavity) * x
        f = ndtr(ROOT * z)
        exponent = k * f - 0.5 * x * x
        top = exponent.max(axis=0)
        w = np.exp(exponent - top)
        total = w.sum(axis=0)
        mt = (w * z).sum(axis=0) / total
        vt = (w * (z - mt) ** 2).sum(axis=0) / total
        if max(np.abs((mt - m) / np.sqrt(v)).max(), np.abs(vt / v - 1).max()) < tolerance:
            log_zhat = top + np.log(0.33 * total / np.sqrt(2 * np.pi))
            sites = log_zhat - 0.5 * np.log(v / cavity) - 0.5 * m * m / v + 0.5 * mc * mc / cavity
            log_z = sites.sum() - np.log(np.diag(factor)).sum() + 0.5 * c @ c
            return log_z, (w * f).sum(axis=0) / total
        s += 0.8 * (1 / vt - 1 / cavity - s)
        nu += 0.8 * (mt / vt - mc / cavity - nu)
    return None


def ratio(matrix, targets, found, rounds=3, n=24):
    """Wall clock of one readout, reference over compiled, from zero sites to 1e-6; largest difference of log Z."""
    neuron = Neuron(activation("sigmoid"), matrix, found.prior)
    heavy = np.argsort(-found.weight)[:n]
    readout = found.readout[heavy]
    times = np.zeros((2, rounds))
    for i in range(rounds):
        start = time.perf_counter()
        at = neuron.evaluate(found.t, readout, None, 1e-6)
        times[0, i] = time.perf_counter() - start
        start = time.perf_counter()
        plain = [reference(matrix, found.t @ a, 1e-6) for a in readout]
        times[1, i] = time.perf_counter() - start
    log_z = at.exponent + 0.5 * np.sum(readout**2, axis=1) / found.prior
    error = max((abs(log_z[i] - row[0]) for i, row in enumerate(plain) if row is not None and at.ok[i]), default=np.nan)
    return np.median(times[1] / times[0]), error


# name, data, its arguments, further options of solve_general; the second list needs --large
CASES = [
    ("digits, y_-=0", digits, (90, 0.0), {}),
    ("digits, y_-=1/2", digits, (90, 0.5), {}),
    ("digits, y_-=0", digits, (90, 0.0), {"method": "lattice"}),
    ("digits, y_-=1/2", digits, (90, 0.5), {"method": "lattice"}),
    ("clusters", clusters, (60, 120, 3, 0.5), {}),
    ("clusters", clusters, (120, 120, 3, 0.5), {}),
    ("clusters", clusters, (60, 480, 3, 0.5), {}),
    ("clusters", clusters, (60, 120, 2, 0.0), {}),
    ("clusters", clusters, (60, 120, 4, 0.0), {}),
    ("clusters", clusters, (60, 120, 4, 0.0), {"method": "lattice"}),
    ("clusters", clusters, (60, 120, 6, 0.0), {}),
    ("clusters", clusters, (80, 120, 8, 0.0), {}),
]
LARGE = [
    ("clusters", clusters, (300, 784, 3, 0.0), {}),
    ("clusters", clusters, (1000, 784, 3, 0.0), {}),
    ("clusters", clusters, (300, 784, 3, 0.0), {"method": "lattice"}),
]
HEADER = (
    f"{'case':16} {'P':>4} {'r':>4} {'m':>2} {'wall/s':>7} {'CPU/s':>7} {'steps':>5} {'nodes':>6} {'|grad|':>8} "
    f"{'extrap.':>8} {'MB':>6} {'ratio':>6} {'dlogZ':>8}  method, status"
)


def peak():
    """Largest resident memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name, data, arguments, options):
    """A line of the table."""
    matrix, targets, labels = data(*arguments)
    sigmoid = activation("sigmoid")
    solve_general(sigmoid, np.eye(4), np.eye(2)[[0, 0, 1, 1]], 1.0, 0.1, **options)  # compiled
    before, wall, cpu = peak(), time.perf_counter(), time.process_time()
    found = solve_general(sigmoid, matrix, targets, 1.0, 0.01, labels=labels, rng=0, **options)
    wall, cpu, memory = time.perf_counter() - wall, time.process_time() - cpu, peak() - before
    speed, error = ratio(matrix, targets, found)
    return (
        f"{name:16} {len(matrix):4} {matrix.shape[1]:4} {targets.shape[1]:2} {wall:7.1f} {cpu:7.1f} "
        f"{found.iterations:5} {found.n_nodes:6} {found.residual:8.1e} {found.extrapolated_weight:8.1e} "
        f"{memory:6.1f} {speed:6.1f} {error:8.1e}  {found.method}, {found.status}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true", help="also P = 300 and 1,000")
    options = parser.parse_args()
    print(HEADER)
    for case in CASES + (LARGE if options.large else []):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
            print(fresh.submit(measure, *case).result(), flush=True)


if __name__ == "__main__":
    main()
