"""Deep networks of rectifiers: the saddle at the width of sampled networks against these networks.

    python benchmarks/deep_relu_samples.py FOLDER [case ...] [--sample]

Chains are cooled from the prior (nothing of the theory is used), kept in FOLDER and found there again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

import meanfield as mf

CASES = {
    "L3-C2-N200": (mf.Network("relu", 3), mf.class_task(targets=[1, -1], n_samples=100), 0.05, 200),
    "L3-C2-N400": (mf.Network("relu", 3), mf.class_task(targets=[1, -1], n_samples=100), 0.05, 400),
    "L2-C3-N200": (mf.Network("relu", 2), mf.class_task(n_classes=3, n_samples=120), 0.05, 200),
    "L2-C3-N400": (mf.Network("relu", 2), mf.class_task(n_classes=3, n_samples=120), 0.05, 400),
}
OPTIONS = {"draws": 300, "thin": 1, "chains": 2, "target_acceptance": 0.85, "warmup": 300}


def chains_of(name, folder):
    """Chains of a case, from the folder or sampled."""
    network, task, tau, width = CASES[name]
    path = folder / f"{name}.npz"
    if path.exists():
        return mf.load(path)
    begun = time.time()
    chains = mf.sample(network, task, width, tau, rng=11, progress=False, **OPTIONS)
    chains.save(path)
    print(f"{name}: sampled in {time.time() - begun:.0f} s", flush=True)
    return chains
