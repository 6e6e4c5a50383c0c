"""Deep networks: theory against sampled networks of several widths, extrapolated to infinite width.

    python benchmarks/deep_samples.py FOLDER [case ...] [--sample]

Chains are kept in FOLDER and found there again; with --sample nothing else is done. Chains are cooled from the prior,
nothing of the theory is used; the theory is then taken at the fractions of codes that each chain froze into.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import meanfield as mf

BINARY = mf.class_task(targets=[1, -1], n_samples=100)


def unequal(off):
    """Classes of 50, 25 and 25 samples, one-hot targets."""
    return mf.class_task([0.5, 0.25, 0.25], off=off, n_samples=100)


# name: network, task, tau, widths, fractions
CASES = {
    "L2-C2": (mf.Network("sigmoid", 2), BINARY, 0.01, (100, 200, 400), "sampled"),
    "L3-C2": (mf.Network("sigmoid", 3), BINARY, 0.01, (100, 200), "sampled"),
    "L2-C3-y0": (mf.Network("sigmoid", 2), unequal(0.0), 0.005, (100, 200), "sampled"),
    "L2-C3-y-0.5": (mf.Network("sigmoid", 2), unequal(-0.5), 0.005, (100, 200), "sampled"),
    "L2-C3-y0.5": (mf.Network("sigmoid", 2), unequal(0.5), 0.005, (100, 200), "sampled"),
    "L3-C3-y0": (mf.Network("sigmoid", 3), unequal(0.0), 0.005, (100, 200), "sampled"),
    "L2-C2-half": (mf.Network("sigmoid", 2, readout_exponent=1 / 2), BINARY, 0.05, (100, 200), "equilibrium"),
    "L3-C2-third": (mf.Network("sigmoid", 3, readout_exponent=1 / 3), BINARY, 0.05, (100, 200), "equilibrium"),
    "L2-C3-half": (
        mf.Network("sigmoid", 2, readout_exponent=1 / 2), mf.class_task(n_classes=3, n_samples=99), 0.05, (100, 200),
        "sampled",
    ),
}  # fmt: skip
OPTIONS = {"draws": 600, "warmup": 2000, "thin": 4, "chains": 2, "target_acceptance": 0.85}


def sampled(name, width, folder):
    """Chains of a case at a width, from the folder if they are there."""
    network, task, tau, *_ = CASES[name]
    path = folder / f"{name}-N{width}.npz"
    if path.exists():
        return mf.load(path)
    start = time.time()
    chains = mf.sample(network, task, width, tau, rng=width, progress=False, **OPTIONS)
    chains.save(path)
    print(f"{name}, N = {width}: {time.time() - start:.0f} s, {chains}", flush=True)
    return chains


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--sample", action="store_true")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    runs = [(name, width) for name in given.cases for width in CASES[name][3]]
    for name, width in sorted(runs, key=lambda run: run[1]):
        sampled(name, width, given.folder)


if __name__ == "__main__":
    main()
