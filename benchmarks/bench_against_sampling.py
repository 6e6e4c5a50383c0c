"""What the theory costs beside sampling the network that it is of: CPU seconds for the same accuracy.

    python benchmarks/bench_against_sampling.py [--width 100] [--draws 400]

Three classes, p = (1/2, 1/4, 1/4), P = N, tau = 0.02; sigmoid at y_- = 1/2, ReLU at 0. A sampled statistic is as well
known as its Monte-Carlo error says, which falls with the root of the time that is spent; what it takes to know it to
one per mille is divided by the time of a certified solve. Samples are of finite width and differ from the theory by
1/N: no length of chains takes that away. That both agree to this difference is asserted first.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import meanfield as mf

TAU = 0.02
LARGEST = 0.2  # relative deviation of order 1/N at N = 100: the covariance of the bulk of ReLU networks has .14
ACCURACY = 1e-3


def measure(name: str, width: int, draws: int) -> None:
    """Solve, sample, compare and print."""
    task = mf.class_task(fractions=[0.5, 0.25, 0.25], off=0.5 if name == "sigmoid" else 0.0, n_samples=width)
    network = mf.Network(name)
    mf.solve(network, task, tau=TAU)  # compiled and tabulated
    times = []
    for _ in range(5):
        begin = time.process_time()
        post = mf.solve(network, task, tau=TAU)
        times.append(time.process_time() - begin)
    solve = float(np.median(times))
    mf.sample(network, task, width, TAU, draws=2, warmup=2, rng=0, chains=1, start=post)
    begin = time.process_time()
    chains = mf.sample(network, task, width, TAU, draws=draws, warmup=draws // 2, rng=0, chains=2, start=post)
    seconds = time.process_time() - begin
    rows = [row for row in mf.compare(post, chains).tested if abs(row.theory) > 1e-3]
    for row in rows:
        off = abs(row.sample - row.theory)
        assert off < LARGEST * 100 / width * max(1.0, abs(row.theory)) + 6.0 * row.standard_error, row
    needed = [seconds * (row.standard_error / (ACCURACY * abs(row.theory))) ** 2 for row in rows]
    off = np.median([abs(row.sample / row.theory - 1.0) for row in rows])
    error = np.median([row.standard_error / abs(row.theory) for row in rows])
    print(f"{name}, N = P = {width}: solve {1e3 * solve:.1f} ms, {post.status}")
    print(f"  two chains of {draws} draws: {seconds:.1f} s, {len(rows)} statistics")
    print(f"  to {ACCURACY:g} of each: {np.median(needed):.3g} s in the median, {max(needed):.3g} s at most")
    print(f"  ratio to the solve: {np.median(needed) / solve:.3g} in the median")
    print(f"  deviation of order 1/N: {off:.2g} in the median, Monte-Carlo error {error:.2g}")


def main() -> None:
    """Sigmoid and ReLU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=100)
    parser.add_argument("--draws", type=int, default=400)
    options = parser.parse_args()
    for name in ("sigmoid", "relu"):
        measure(name, options.width, options.draws)


if __name__ == "__main__":
    main()
