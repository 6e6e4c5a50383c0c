"""Certified answers with many classes, exchangeable or all different: time, boxes, codes.

    python benchmarks/many_classes.py [--groups 12 24 100 20+12+8]
    python benchmarks/many_classes.py --groups --different 8 10 [--activations sigmoid tanh]

One-hot targets; the classes of the i-th group have a fraction proportional to 1 + i/2. `--different`: classes of random
fractions (a Dirichlet distribution, 0.3 / C at least), with one-hot targets and with random ones of 1, 3 and C outputs.
CPU time of the best of three solves; of two where classes are different, each with a limit of `--seconds`.
`--generic`: equal classes, as ratio to a generic SciPy exchange method timed in between, after both agree.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

import meanfield as mf

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from independent import SingleSite, exchange


def task_of(groups, off):
    share = np.repeat(1.0 + 0.5 * np.arange(len(groups)), groups)
    return mf.class_task(fractions=share / share.sum(), on=1.0, off=off)


def different_tasks(n_classes, seed):
    """(what, task) of classes of different fractions."""
    rng = np.random.default_rng(100 * n_classes + seed)
    share = 0.3 / n_classes + 0.7 * rng.dirichlet(np.ones(n_classes))
    fractions = share / share.sum()
    yield "one-hot, y_- = 0", mf.class_task(fractions=fractions, off=0.0)
    yield "one-hot, y_- = 1/2", mf.class_task(fractions=fractions, off=0.5)
    for m in (1, 3, n_classes):
        yield f"random, m = {m}", mf.class_task(fractions=fractions, targets=rng.uniform(-1, 1, (n_classes, m)))


def different(options):
    for name in options.activations:
        for n_classes in options.different:
            for seed in options.seeds:
                for what, task in different_tasks(n_classes, seed):
                    best = np.inf
                    for _ in range(2):
                        start = time.process_time()
                        post = mf.solve(mf.Network(name), task, on_failure="return", max_seconds=options.seconds)
                        best = min(best, time.process_time() - start)
                    c = post.certificate
                    print(
                        f"{name}, C = {n_classes}, {what}: {best:.2f} s, {c.boxes} boxes, "
                        f"residual {c.kkt_residual:.1e}, gap {c.duality_gap:.1e}, {post.status}, "
                        f"J = {post.objective:.8f}, {len(post.codes)} codes",
                        flush=True,
                    )


def generic(n_classes, rounds=2):
    """The ratio; the exchange method takes 50 s for four classes and minutes for more."""
    network, task = mf.Network("sigmoid"), task_of([n_classes], 0.0)
    single = SingleSite(network.activation, 1.0, reach=9.0, panels_per_unit=1)
    objective = mf.solve(network, task).objective
    for _ in range(rounds):
        start = time.process_time()
        j, _ = exchange(single, task.fractions, task.targets, 0.0)
        middle = time.process_time()
        assert abs(j - objective) < 1e-6
        for _ in range(100):
            mf.solve(network, task)
        ours = (time.process_time() - middle) / 100
        ratio = (middle - start) / ours
        print(f"C = {n_classes}: {1e3 * ours:.2f} ms, generic {middle - start:.1f} s, ratio {ratio:.0f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", nargs="*", default=["6", "12", "24", "100"])
    parser.add_argument("--off", nargs="+", type=float, default=[0.0, 0.5, -1.0])
    parser.add_argument("--different", nargs="*", type=int, default=[], help="numbers of classes")
    parser.add_argument("--activations", nargs="+", default=["sigmoid", "tanh", "erf"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--generic", nargs="*", type=int, default=[], help="numbers of equal classes")
    options = parser.parse_args()
    for n_classes in options.generic:
        generic(n_classes)
    different(options)
    if not options.groups:
        return
    print(f"{'groups':>10s} {'y_-':>5s} {'ms':>9s} {'boxes':>7s} {'residual':>9s} {'gap':>8s}  status, J, codes")
    for text in options.groups:
        for off in options.off:
            task = task_of([int(n) for n in text.split("+")], off)
            best = np.inf
            for _ in range(3):
                start = time.process_time()
                post = mf.solve(mf.Network("sigmoid"), task, on_failure="return")
                best = min(best, time.process_time() - start)
            c = post.certificate
            codes = ", ".join(f"{code.label}: {code.weight:.3f}" for code in post.codes[:3])
            print(
                f"{text:>10s} {off:5.2f} {1e3 * best:9.1f} {c.boxes:7d} {c.kkt_residual:9.1e} {c.duality_gap:8.1e}  "
                f"{post.status}, {post.objective:.8f}, {len(post.codes)} ({codes})",
                flush=True,
            )


if __name__ == "__main__":
    main()
