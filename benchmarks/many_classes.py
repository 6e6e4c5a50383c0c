"""Certified answers with many exchangeable classes: time, boxes, orbits of codes.

    python benchmarks/many_classes.py [--groups 12 24 100 20+12+8]

One-hot targets; the classes of the i-th group have a fraction proportional to 1 + i/2. CPU time of the best of three
solves.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import meanfield as mf


def task_of(groups, off):
    share = np.repeat(1.0 + 0.5 * np.arange(len(groups)), groups)
    return mf.class_task(fractions=share / share.sum(), on=1.0, off=off)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", nargs="+", default=["6", "12", "24", "100"])
    parser.add_argument("--off", nargs="+", type=float, default=[0.0, 0.5, -1.0])
    options = parser.parse_args()
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
