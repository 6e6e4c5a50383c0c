"""Deep networks with a user's activation: is the answer certified and true, in words, or stopped?

    python benchmarks/own_activations.py --seconds 60 --check

Activations as a newcomer writes them, two and three layers, targets (1, -1), (1, -.5), (1, 0, 0) and (1, 0, -1) (other
ones with `--targets`: "eye2", "eye3" are one-hot),
P = 100 at tau = .05 and P = 1e4 at tau = .01, default readout exponent, equal classes. Every task is solved in a
process of its own, which ends after `--seconds` of processor time; outcomes are those of `random_deep.py`. With
`--check` certified answers of bounded phi are integrated again by Sobol points (`tests/deep_oracles.py`), those of
unbounded phi, two layers and two classes, on plain grids (`tests/unbounded_oracles.py`: wrong from 1e-4 on).
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import sympy as sp
from random_deep import SURE, solved

import meanfield as mf

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from deep_oracles import deep_residual
from unbounded_oracles import two_class_violations

z = sp.Symbol("z", real=True)
FORMULAS = {
    "softsign": z / (1 + sp.Abs(z)),
    "atan": 2 / sp.pi * sp.atan(z),
    "isru": z / sp.sqrt(1 + z**2),
    "sin": sp.sin(z),
    "bump": sp.exp(-(z**2)),
    "bump(z-.5)": sp.exp(-((z - sp.Rational(1, 2)) ** 2)),
    "wave": z * sp.exp(-(z**2) / 2),
    "sin(2z)": sp.sin(2 * z),
    "lorentz": 1 / (1 + z**2),
    "sigmoid+.3": 1 / (1 + sp.exp(-z)) + sp.Rational(3, 10),
    "-sigmoid": -1 / (1 + sp.exp(-2 * z)),
    "3tanh": 3 * sp.tanh(z),
    "tanh(z-1)": sp.tanh(z - 1),
    "ripple": sp.tanh(z) + sp.tanh(20 * z) / 20,
    "gelu": z * (1 + sp.erf(z / sp.sqrt(2))) / 2,
    "silu": z / (1 + sp.exp(-z)),
    "elu": sp.Piecewise((z, z > 0), (sp.exp(z) - 1, True)),
    "softplus": sp.log(1 + sp.exp(z)),
    "leaky": sp.Max(z, z / 5),
    "leaky.1": sp.Max(z, z / 10),
    "leaky.3": sp.Max(z, 3 * z / 10),
    "mish": z * sp.tanh(sp.log(1 + sp.exp(z))),
    "hardswish": z * sp.Min(sp.Max(z + 3, 0), 6) / 6,
    "square": z**2,
    "abs": sp.Abs(z),
    "shrink": sp.Max(z - 1, 0) - sp.Max(-z - 1, 0),
    "affine": 2 * z + 1,
}
TARGETS = {
    "+-": (1, -1), "1,-.5": (1, -0.5), "100": (1, 0, 0), "10-1": (1, 0, -1), "1,.3": (1, 0.3), "10": (1, 0),
    "eye2": np.eye(2), "eye3": np.eye(3),
}  # fmt: skip
USUAL = list(TARGETS)[:4]
SIZES = ((100, 0.05), (10_000, 0.01))
_SAME = 1e-4  # of plain grids


def truth_of(network, task, tau, solution, post):
    """What independent integration says, in words."""
    if network.activation.bounded or network.activation.parts == "gaussian":
        found, error, share = deep_residual(network, task, tau, solution, 0, power=12)
        wrong = (np.abs(found) - SURE * error).max() > 1e-6
        return f"{'WRONG' if wrong else 'true'} {np.abs(found).max():.0e} +- {error.max():.0e} ({share:.0%})"
    if network.depth == 2 and task.n_classes == 2:
        worst = max(two_class_violations(network.activation, post).values())
        return f"{'WRONG' if worst > _SAME else 'true'} {worst:.0e}"
    return "not integrated"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of processor time, after which a task is stopped")
    parser.add_argument("--check", action="store_true", help="integrate certified answers again")
    parser.add_argument("--kinds", nargs="+", default=list(FORMULAS), choices=list(FORMULAS))
    parser.add_argument("--depths", nargs="+", type=int, default=[2, 3])
    parser.add_argument("--targets", nargs="+", default=USUAL, choices=list(TARGETS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[0, 1], help="0: P = 100; 1: P = 1e4")
    options = parser.parse_args()
    easy = mf.class_task(targets=[1, -1], n_samples=100)
    for name in ("sigmoid", "relu"):  # compiled code, once for all processes
        mf.solve(mf.Network(name, 2), easy, 0.5)
    count = Counter()
    for name in options.kinds:
        try:
            phi = mf.Activation(FORMULAS[name], z, name=name)
        except ValueError as error:
            print(f"{name:10s} not an activation: {error}", flush=True)
            continue
        for depth in options.depths:
            for size in options.sizes:
                for targets in options.targets:
                    n_samples, tau = SIZES[size]
                    network = mf.Network(phi, depth)
                    task = mf.class_task(targets=TARGETS[targets], n_samples=n_samples)
                    outcome, text, took, solution = solved((network, task, tau), options.seconds)
                    count[outcome] += 1
                    truth = ""
                    if outcome == "certified" and options.check:
                        post = mf.solve(network, task, tau) if not phi.bounded else None
                        truth = truth_of(network, task, tau, solution, post)
                        count[truth.split()[0]] += 1
                    print(
                        f"{name:10s} L {depth} {targets:5s} P {n_samples:<5d} {took:5.1f} s {outcome} {truth} {text}",
                        flush=True,
                    )
    print(dict(count))


if __name__ == "__main__":
    main()
