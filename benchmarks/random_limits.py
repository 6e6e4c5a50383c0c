"""Random tasks at P = infinity and the exponent 1/L: solved, and their laws of codes minimised from random starts.

    python benchmarks/random_limits.py --seed 0 --tasks 25

Two to four classes, one to three outputs, two and three layers; one-hot, normal, (nearly) equal and mixed targets. Each
line: Phi, status, the least cost of plain SciPy descents (`tests/deep_laws.py`) with its sign, and CPU seconds of both.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

import meanfield as mf

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from deep_laws import Laws


def task(rng: np.random.Generator) -> tuple[str, int, np.ndarray, np.ndarray]:
    """Activation, layers, fractions and targets."""
    depth, n_classes, m = (int(rng.integers(low, high)) for low, high in ((2, 4), (2, 5), (1, 4)))
    name = ("sigmoid", "sigmoid", "tanh", "erf")[int(rng.integers(4))]
    p, kind, shape = rng.dirichlet(np.full(n_classes, 4.0)), int(rng.integers(4)), (n_classes, m)
    if kind == 0:
        y = np.eye(n_classes)[:, :m] if n_classes <= m else rng.choice([0.0, 1.0, -1.0, 0.5], size=shape)
    elif kind == 3:
        y = np.where(rng.random(shape) < 0.5, 1.0, rng.uniform(-0.5, 0.5))
        y[-1] = y[0] + 0.05 * rng.normal(size=m)
    else:
        y = rng.normal(size=shape)
        if kind == 2:
            y[1] = y[0] * (1.0 if n_classes > 2 else 0.9)
    if np.allclose(y, y[0]):
        y[0] += 1.0
    return name, depth, p, y


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", type=int, default=25)
    given = parser.parse_args()
    for k in range(given.tasks):
        name, depth, p, y = task(np.random.default_rng((given.seed, k)))
        began = time.process_time()
        network = mf.Network(name, depth, readout_exponent=1 / depth)
        post = mf.solve(network, mf.class_task(p, targets=y), on_failure="return")
        solved = time.process_time()
        least = Laws(name, depth, p, y).least(8, np.random.default_rng(k))
        seconds = f"{solved - began:.1f} and {time.process_time() - solved:.1f} s"
        what = f"{k:3d} {name:8s} L={depth} C={len(p)} m={y.shape[1]}"
        print(f"{what} Phi {post.free_energy:12.6f} {post.status}, {-least:12.6f}, {seconds}", flush=True)


if __name__ == "__main__":
    main()
