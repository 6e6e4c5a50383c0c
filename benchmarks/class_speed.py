"""CPU milliseconds of warm solves of class tasks, to be run interleaved with the same of another version.

    python benchmarks/class_speed.py
    PYTHONPATH=OLD python benchmarks/class_speed.py     # OLD: checkout of another version

Three classes of fractions 1/2, 1/4, 1/4 at P -> infinity; sigmoid at y_- = 1/2, ReLU at y_- = 0; a sweep of the sigmoid
over 400 values of y_-. The least of several rounds counts: the machine may be busy.
"""

from time import process_time

import numpy as np

import meanfield as mf

FRACTIONS = [0.5, 0.25, 0.25]
ROUNDS = 9


def least(work, times):
    found = []
    for _ in range(ROUNDS):
        start = process_time()
        for _ in range(times):
            work()
        found.append((process_time() - start) / times)
    return 1e3 * min(found)


def main():
    sigmoid, relu = mf.Network("sigmoid"), mf.Network("relu")
    half, zero = (mf.class_task(fractions=FRACTIONS, off=off) for off in (0.5, 0.0))
    mf.solve(sigmoid, half), mf.solve(relu, zero)
    values = np.linspace(-0.9, 0.9, 400)
    mf.sweep(sigmoid, half, off=values)
    print(
        f"{mf.__file__}: sigmoid {least(lambda: mf.solve(sigmoid, half), 60):.3f} ms, "
        f"ReLU {least(lambda: mf.solve(relu, zero), 60):.3f} ms, "
        f"sweep {least(lambda: mf.sweep(sigmoid, half, off=values), 1):.1f} ms"
    )


if __name__ == "__main__":
    main()
