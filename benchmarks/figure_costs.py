"""What `meanfield figures --full` costs: seconds of a processor for the first round of chains, from short ones.

    python benchmarks/figure_costs.py [figure ...] [--data FOLDER]

Chains of a few iterations tell the number of leapfrog steps; the cost of a step and of a draw of the readout is timed.
Further rounds, at most three, have the draws without the warm-up.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

import meanfield.figures.runs as runs
from meanfield.figures import FIGURES, Scale, draw
from meanfield.sampling.compiled import energy_gradient
from meanfield.sampling.sample import sample

SHORT = {"draws": 6, "thin": 1, "chains": 2}
WARMUP = {True: 60, False: 20}  # cooled from the prior, or planted


class Costs:
    """Stands in for `sample`: short chains, and what long ones would cost."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self, network, task, width, tau, *, start, draws, warmup, thin, chains, **options):
        options = options | SHORT | {"warmup": WARMUP[isinstance(start, str)], "checkpoint": None, "progress": False}
        found = sample(network, task, width, tau, start=start, **options)
        posed, x = found.problem, np.array(found.state_last[0])
        target, work, gradient = posed.target(), posed.work(), np.empty(x.size)
        gradient_seconds = timed(lambda: energy_gradient(target, x, posed.coldness, work, gradient))
        phi, rng = work.phi[-1, : posed.width], np.random.default_rng(0)
        readout_seconds = timed(lambda: posed.draw_readout(phi, posed.coldness, rng))
        steps = float(found.steps.mean())
        each = 1.15 * steps * gradient_seconds + readout_seconds
        total = chains * (warmup + draws * thin) * each
        self.seconds += total
        print(
            f"  {network.activation.name}, L = {network.depth}, {network.scaling}, N = {width}, P = {posed.n_samples}: "
            f"{steps:.0f} steps of {1e3 * gradient_seconds:.2f} ms, {1e3 * each:.0f} ms an iteration, {total:.0f} s",
            flush=True,
        )
        return found


def timed(call):
    """CPU seconds of one call."""
    call()
    begun, count = time.process_time(), 0
    while time.process_time() - begun < 0.2:
        call()
        count += 1
    return (time.process_time() - begun) / count


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figures", nargs="*", default=[name for name in FIGURES if name != "planes"])
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    runs.ROUNDS = 1
    for name in options.figures:
        runs.sample = costs = Costs()
        begun = time.process_time()
        draw(name, Scale(full=True, data=options.data))
        own = time.process_time() - begun
        print(f"{name}: chains {costs.seconds:.0f} s; this look at them, theory and drawing {own:.0f} s", flush=True)


if __name__ == "__main__":
    main()
