"""Deep networks of rectifiers at finite width: where the saddle with discrete outliers ends.

    python benchmarks/deep_widths.py [L,C,P ...]

Of every case (y = +-1 for two classes, one-hot for more; tau = 0.05): activations of the outliers at N = infinity, in
units of sqrt(N), the smallest N of the branch that begins there ("0" where it goes on below 1), CPU seconds. On coarse
lattices.
"""

from __future__ import annotations

import sys
import time

import meanfield as mf
from meanfield.theories.deep.relu.average import COARSE
from meanfield.theories.deep.relu.newton import newton
from meanfield.theories.deep.relu.reduction import relu_problem
from meanfield.theories.deep.relu.search.narrow import branch_end
from meanfield.theories.deep.relu.search.start import chain_start
from meanfield.theories.deep.relu.setting import BulkDiverges
from meanfield.theories.deep.relu.system import ReluSystem

CASES = ("2,2,80", "2,2,100", "2,2,200", "2,3,120", "3,2,100", "3,2,200", "3,2,400")
TAU = 0.05
CONDENSED = (0.75, 0.6, 0.9, 0.45)  # part of the targets that outliers carry, in the starts


def limit(depth, n_classes, n_samples):
    """Equations and solution at N = infinity."""
    sizes = {"targets": [1, -1]} if n_classes == 2 else {"n_classes": n_classes}
    task = mf.class_task(n_samples=n_samples, **sizes)
    problem, _, _ = relu_problem(mf.Network("relu", depth), task, TAU)
    system = ReluSystem(problem, tuple(f"{1 << c:0{n_classes}b}" for c in reversed(range(n_classes))))
    for part in CONDENSED:
        try:
            start = system.pack(chain_start(problem, system.words, part))
            x, size, _ = newton(system, start, COARSE, 1e-7, 40, lambda size: None)
        except BulkDiverges:
            continue
        if size <= 1e-6:
            return system, x
    raise SystemExit(f"no solution at N = infinity for L = {depth}, C = {n_classes}, P = {n_samples}")


def main():
    print("| L, classes, P | outliers at N = infinity | ends at N | CPU s |\n|---|---|---|---|")
    for case in sys.argv[1:] or CASES:
        begun = time.process_time()
        depth, n_classes, n_samples = map(int, case.split(","))
        system, x = limit(depth, n_classes, n_samples)
        order = system.unpack(x)
        sizes = [system.layer(order, i, COARSE).activation[0, 0] for i in range(depth)]
        end, shown = branch_end(system, x), ", ".join(f"{size:.3f}" for size in sizes)
        print(f"| {case} | {shown} | {end:.3g} | {time.process_time() - begun:.0f} |", flush=True)


if __name__ == "__main__":
    main()
