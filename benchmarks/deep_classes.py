"""Deep networks on four classes of different targets: cost, certificate, random tasks.

python benchmarks/deep_classes.py                  # two layers: three tasks with classes of .4, .3, .2, .1
python benchmarks/deep_classes.py layers 3 "m = 1"  # one of them on three layers
python benchmarks/deep_classes.py random 4         # random fractions and targets
python benchmarks/deep_classes.py five             # five classes, two layers
python benchmarks/deep_classes.py alike            # four to ten exchangeable classes
"""

from __future__ import annotations

import itertools
import sys
import time

import numpy as np

import meanfield as mf
from meanfield.posterior.certificate import ConvergenceError
from meanfield.theories.deep.solve import solve_deep

_NETWORK = mf.Network("sigmoid", depth=2)
_TASKS = {
    "m = 1": [[1.0], [-0.4], [-1.0], [0.3]],
    "m = 2": [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.3], [0.2, -0.8]],
    "one-hot": np.eye(4).tolist(),
}


_FIVE = {
    "m = 1": [[1.0], [-0.4], [-0.8], [0.3], [0.7]],
    "m = 2": [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.3], [0.2, -0.8], [0.6, 0.7]],
    "one-hot": np.eye(5).tolist(),
}
_ALIKE = [
    (4, 2, 100, 1.0), (4, 3, 100, 1.0), (4, 3, 1000, 1.0), (4, 2, 10_000, 1.0), (5, 2, 100, 1.0),
    (8, 3, 160, 1.0 / 3.0), (10, 2, 200, 1.0), (10, 3, 200, 1.0),
]  # fmt: skip


def report(
    name: str, task: mf.ClassTask, tau: float, competitors: bool, depth: int = 2, network: mf.Network | None = None
) -> None:
    """One line."""
    start = time.process_time()
    try:
        post = solve_deep(network or _NETWORK.with_(depth=depth), task, tau, competitors=competitors)
    except ConvergenceError as error:
        print(f"{name:28} {time.process_time() - start:6.1f} CPU s  {error}", flush=True)
        return
    proof = post.certificate
    print(
        f"{name:28} {time.process_time() - start:6.1f} CPU s  {post.status}  Phi = {post.free_energy:.9g}  residual "
        f"{proof.residual:.0e}  order_error {proof.order_error:.0e}  curvatures {proof.inner_curvature:.0e} "
        f"{proof.outer_curvature:.0e}  " + ", ".join(f"{c.label} {c.weight:.3f}" for c in post.codes[:4]),
        *(part for part in proof.searched if competitors),
        sep="\n  ",
        flush=True,
    )


def main() -> None:
    if sys.argv[1:2] == ["random"]:
        for seed in range(int(sys.argv[2])):
            rng = np.random.default_rng(seed)
            m = 1 + seed % 2
            task = mf.class_task(rng.dirichlet(np.full(4, 4.0)), targets=rng.normal(size=(4, m)), n_samples=120)
            report(f"random {seed}, m = {m}, P = 120", task, 0.1, False)
        return
    if sys.argv[1:2] == ["five"]:
        for phi, (name, targets), samples in itertools.product(("sigmoid", "tanh"), _FIVE.items(), (100, 1000)):
            fractions = [0.2] * 5 if name == "one-hot" else [0.3, 0.25, 0.2, 0.15, 0.1]
            task = mf.class_task(fractions, targets=targets, n_samples=samples)
            report(f"five, {phi}, {name}, P = {samples}", task, 0.1, False, network=mf.Network(phi, depth=2))
        return
    if sys.argv[1:2] == ["alike"]:
        for count, depth, samples, beta in _ALIKE:
            network = _NETWORK.with_(depth=depth, readout_exponent=beta)
            name = f"{count} one-hot, L = {depth}, P = {samples}"
            report(name, mf.class_task(n_classes=count, n_samples=samples), 0.1, False, network=network)
        return
    layered = sys.argv[1:2] == ["layers"]
    depth = int(sys.argv[2]) if layered else 2
    for name, targets in _TASKS.items():
        if sys.argv[3:] and name not in sys.argv[3:]:
            continue
        task = mf.class_task([0.4, 0.3, 0.2, 0.1], targets=targets, n_samples=150)
        report(f"{name}, L = {depth}, P = 150", task, 0.1, True, depth)


if __name__ == "__main__":
    main()
