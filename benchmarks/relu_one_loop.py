"""Two hidden layers of rectifiers at finite width: saddle, saddle + term of order 1/N, and sampled networks.

    python benchmarks/relu_one_loop.py                          # table of all widths, 30 CPU s
    python benchmarks/relu_one_loop.py --widths 800

Two classes, y = +-1, P = 100, tau = 0.05. Samples: one annealed or planted HMC chain each, three at N = 800, with the
readouts integrated out and autocorrelation-corrected errors.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import meanfield as mf

NAMES = ("K1 within", "K1 between", "d1", "K2 within", "K2 between", "d2", "t", "<a^2>")
# Value and error by width; at N = 800 those of the longest chain, then of the annealed and of the planted one.
SAMPLES = {
    400: [((0.2928, 2), (0.1739, 1), (0.3625, 1), (1.6943, 17), (0.3074, 23), (0.1743, 3), (0.1453, 1), (1.5177, 7))],
    800: [
        ((0.2921, 1), (0.1741, 1), (0.3633, 1), (1.6804, 12), (0.2934, 12), (0.1735, 2), (0.1440, 1), (1.5177, 5)),
        (None, None, None, (1.6791, 31), (0.2950, 14), (0.1742, 3), (0.1443, 2), (1.5207, 16)),
        (None, None, None, (1.6834, 31), (0.3007, 26), (0.1747, 4), (0.1445, 2), (1.5220, 16)),
    ],
    1600: [((0.2906, 3), (0.1744, 1), (0.3645, 2), (1.6637, 15), (0.2830, 13), (0.1735, 3), (0.1441, 1), (1.5243, 10))],
    3200: [((0.2908, 2), (0.1744, 1), (0.3644, 1), (1.6609, 8), (0.2757, 11), (0.1731, 2), (0.1433, 1), (1.5197, 6))],
}


def values(found: mf.FiniteWidth, t: float) -> np.ndarray:
    """In the order of NAMES."""
    rows = [(found.kernel[i][0, 0], found.kernel[i][0, 1], found.d[i, 0]) for i in range(2)]
    return np.array([*rows[0], *rows[1], t, found.second_readout])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[400, 800, 1600, 3200])
    network, task = mf.Network("relu", 2), mf.class_task(targets=[1, -1], n_samples=100)
    limit = mf.solve(network, task, 0.05)
    for width in parser.parse_args().widths:
        post = mf.solve(network, task, 0.05, width=width, warm_start=limit)
        start = time.process_time()
        loop = post.one_loop()
        seconds = time.process_time() - start
        t = float(post.order_parameters["t"][0, 0])
        saddle, both = values(loop.limit, t), values(loop.at(width), t + loop.t[0, 0] / width)
        print(f"N = {width}, {seconds:.1f} CPU s, {loop!r}")
        for i, name in enumerate(NAMES):
            text = f"  {name:<11} {saddle[i]:9.5f} {both[i]:9.5f}  "
            for chain in SAMPLES.get(width, []):
                if chain[i] is not None:
                    value, error = chain[i][0], chain[i][1] * 1e-4
                    text += f" {value:.4f}({error:.4f}) z = {(value - both[i]) / error:5.1f}"
            print(text)
        kernel, d = loop.at(width).kernel[1], loop.at(width).d[1]
        left = (0.1 * (50.0 * (kernel[0, 0] - kernel[0, 1]) + d[0]) + 0.05) * both[6] - 1.0
        print(f"  (s lambda + tau) t - 1 = {left:.5f}, (P - 2) / (N y.t) = {98.0 / (width * 100.0 * both[6]):.5f}")


if __name__ == "__main__":
    main()
