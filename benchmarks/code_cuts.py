"""Weights of overlapping codes at finite P: exchange of equal classes, and a grid whose points are followed one by one.

    python benchmarks/code_cuts.py [--grid]

Three classes, fractions 1/2, 1/4, 1/4, sigmoid. First the largest difference of the weights of two codes that the
exchange of the last two classes maps onto each other, over six values of y_-. With --grid (minutes): every point of a
cubic grid follows a <- sum_c p_c G'(a.t_c) t_c to its code; the largest difference to the weights of `solve`.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.interpolate import CubicSpline

import meanfield as mf
from meanfield.activations.cumulant import cumulant

NETWORK = mf.Network("sigmoid")
OFFS = (-0.6, -0.2, 0.0, 0.2, 0.5, 0.8)


def task(n_samples, off):
    return mf.class_task(fractions=[0.5, 0.25, 0.25], off=off, n_samples=n_samples)


def weights(post):
    """By pattern."""
    found = {}
    for code in post.codes:
        found[code.pattern] = found.get(code.pattern, 0.0) + code.weight
    return found


def asymmetry(n_samples, tau):
    worst = 0.0
    for off in OFFS:
        found = weights(mf.solve(NETWORK, task(n_samples, off), tau))
        worst = max(worst, *(abs(w - found.get(c[0] + c[2] + c[1], 0.0)) for c, w in found.items()))
    return worst


def on_grid(n_samples, tau, off, spacing=0.25):
    """Largest difference of a weight from sums over a grid of this spacing, in units of P^(-1/2)."""
    post = mf.solve(NETWORK, task(n_samples, off), tau)
    t, p = post.solution.t, np.array([0.5, 0.25, 0.25])
    kappa = np.linspace(-60.0, 60.0, 6001)
    g0, g1, _ = cumulant(NETWORK.activation, NETWORK.k).direct(kappa)
    g, slope = CubicSpline(kappa, g0), CubicSpline(kappa, g1)
    axis = np.arange(-3.2, 3.2, spacing / np.sqrt(n_samples))
    a = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    h = np.concatenate([g(part @ t.T) @ p - 0.5 * np.sum(part**2, axis=1) for part in np.array_split(a, 40)])
    kept = n_samples * (h - h.max()) > -20.0
    a, mass = a[kept], np.exp(n_samples * (h[kept] - h.max()))
    for _ in range(5000):
        step = (slope(a @ t.T) * p) @ t - a
        a = a + step
        if np.abs(step).max() < 1e-7:
            break
    places, code = np.unique(np.round(a, 2), axis=0, return_inverse=True)
    share = np.bincount(code.ravel(), mass / mass.sum(), len(places))
    patterns = ["".join("1" if f > 0.5 else "0" for f in slope(place @ t.T)) for place in places]
    found = weights(post)
    sums = {c: sum(s for s, name in zip(share, patterns, strict=True) if name == c) for c in found}
    return max(abs(found[c] - sums[c]) for c in found), len(a)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", action="store_true")
    options = parser.parse_args()
    taus = (0.01, 0.05, 0.1, 0.2)
    print("| P | " + " | ".join(f"tau = {tau}" for tau in taus) + " |")
    for n_samples in (50, 100, 200, 500):
        row = " | ".join(f"{asymmetry(n_samples, tau):.0e}" for tau in taus)
        print(f"| {n_samples} | {row} |", flush=True)
    if options.grid:
        for case in ((100, 0.1, 0.0), (50, 0.05, 0.5), (100, 0.2, -0.6)):
            error, count = on_grid(*case)
            print(f"P = {case[0]}, tau = {case[1]}, y_- = {case[2]}: {error:.0e} from {count:,} points", flush=True)


if __name__ == "__main__":
    main()
