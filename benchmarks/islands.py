"""How often an island between all points of a raster is found, and what looking for islands costs.

``python benchmarks/islands.py [--planes 60]``. For odd phi and one output no neuron responds inside an ellipse in the
plane of two targets (phases/THEORY.md, "Known limits"): random tasks and rasters, none of whose points is inside.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import meanfield as mf
from meanfield.activations.cumulant import cumulant
from meanfield.phases.islands import hidden_islands


def trial(rng: np.random.Generator) -> tuple[float, bool, float] | None:
    """Width of the ellipse in cells, whether it is found, CPU seconds of the search; None if a point is inside."""
    network = mf.Network(str(rng.choice(["tanh", "erf"])), sigma_a=float(rng.uniform(0.5, 1.5)))
    p, tau = rng.dirichlet(np.full(3, 4.0)), float(rng.uniform(0.05, 0.4))
    second = float(cumulant(network.activation, network.k).direct(np.zeros(1))[2][0])
    level = tau**2 / (network.sigma_a**2 * second)
    last = float(rng.uniform(0.0, 0.99)) * np.sqrt(level / p[2])
    half = np.sqrt((level - p[2] * last**2) / p[:2])
    n = int(rng.integers(6, 16))
    axes = [np.linspace(-1.0, 1.0, n) + rng.uniform(-0.5, 0.5) * 2.0 / (n - 1) for _ in range(2)]
    radius = np.hypot(axes[0][:, None] / half[0], axes[1] / half[1])
    if radius.min() < 1.0:
        return None
    task = mf.class_task(fractions=p, targets=[0.5, 0.4, last])
    plane = mf.sweep(network, task, tau, progress=False, target_1=axes[0], target_2=axes[1])
    begin = time.process_time()
    found = False
    for leg in hidden_islands(plane):
        ends = [{**leg.fixed, leg.name: float(value)} for value in leg.axes[leg.name]]
        inside = [np.hypot(end["target_1"] / half[0], end["target_2"] / half[1]) < 1.0 for end in ends]
        found = found or inside[0] != inside[1]
    return float(half.max() * (n - 1)), found, time.process_time() - begin


def main() -> None:
    """One line per class of sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--planes", type=int, default=60)
    options = parser.parse_args()
    rng, trials = np.random.default_rng(0), []
    while len(trials) < options.planes:
        done = trial(rng)
        trials += [done] if done is not None else []
    width, found, seconds = (np.array(column) for column in zip(*trials, strict=True))
    for low, high in ((0.0, 0.1), (0.1, 0.3), (0.3, 1.0), (1.0, np.inf)):
        these = (width >= low) & (width < high)
        print(f"{low:g} to {high:g} cells wide: {int(found[these].sum())} of {int(these.sum())} found")
    print(f"CPU seconds of a search: median {np.median(seconds):.3f}, most {seconds.max():.3f}")


if __name__ == "__main__":
    main()
