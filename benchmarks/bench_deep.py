"""Deep networks: the solver against finite differences with a generic root finder, and its cost against P.

``python benchmarks/bench_deep.py [PART ...]`` prints CPU times of one core; parts are the functions below, such as
``sizes`` for the cost against P. Both sides solve the same equations by the same
quadrature from the same start; that they agree is asserted first.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
from scipy.optimize import root

import meanfield as mf
from meanfield.theories.deep.layers.rules import FINE
from meanfield.theories.deep.newton import newton
from meanfield.theories.deep.readout import readout_minimum
from meanfield.theories.deep.reduction import problem_of
from meanfield.theories.deep.search.coding import coding_branch
from meanfield.theories.deep.solve import solve_deep
from meanfield.theories.deep.system import System

BINARY = mf.class_task(targets=[1, -1], n_samples=100)
THREE = mf.class_task([0.5, 0.25, 0.25], n_samples=200)
ONE_HOT = mf.class_task(n_classes=3, n_samples=99)


def sigmoid(depth: int) -> mf.Network:
    return mf.Network("sigmoid", depth)


def timed(function: Any, *arguments: Any, **options: Any) -> tuple[float, Any]:
    start = time.process_time()
    found = function(*arguments, **options)
    return time.process_time() - start, found


def prototype(system: System, x: Any, unit: Any) -> Any:
    """scipy.optimize.root on F(x) - x, Jacobian by its finite differences, nodes brought up to date at every call."""

    def residual(y: Any) -> Any:
        moved = y * unit
        return system.residual(moved, system.evaluate(moved)) * system.scales(moved) / unit

    found = root(residual, x / unit, method="hybr", options={"eps": 1e-6, "xtol": 1e-9, "maxfev": 400})
    return found.x * unit, float(np.abs(found.fun).max()), found.nfev


def compare() -> None:
    """Newton with the exact Hessian against the prototype, from the solution at the coarse quadrature, moved by 3 %."""
    print("exact Hessian against finite differences and scipy.optimize.root, fine quadrature, from a start 3 % away")
    for name, network, task, tau in (
        ("C = 2, L = 2", sigmoid(2), BINARY, 0.01),
        ("C = 2, L = 3", sigmoid(3), BINARY, 0.01),
        ("C = 3, L = 2", sigmoid(2), ONE_HOT, 0.05),
    ):
        problem, _ = problem_of(network, task, tau)
        _, found = coding_branch(problem, 1e-10)
        system = System(problem, FINE)
        order = system.unpack(found.x * (1.0 + 0.03 * np.cos(np.arange(len(found.x)))))
        start = system.pack(readout_minimum(system, order)[0])
        own, again = timed(newton, System(problem, FINE), start, 1e-9)
        other, (x, residual, calls) = timed(prototype, System(problem, FINE), start, system.scales(found.x))
        assert np.abs((x - again.x) / system.scales(again.x)).max() < 1e-6, (name, residual)
        print(f"{name}: {own:.2f} s, {again.steps} steps; {other:.2f} s, {calls} evaluations; {other / own:.1f} times")


def solutions() -> None:
    """Certified solutions from scratch, second-order check included, with and without the search for a rival."""
    print("from scratch, certified, second order included; and with the uncoded branch")
    for name, network, task, tau in (
        ("C = 2, L = 2", sigmoid(2), BINARY, 0.01),
        ("C = 2, L = 3", sigmoid(3), BINARY, 0.01),
        ("C = 3, L = 2, 1/2 1/4 1/4", sigmoid(2), THREE, 0.005),
        ("C = 3, L = 3, 1/2 1/4 1/4", sigmoid(3), THREE, 0.005),
        ("C = 3, L = 3, equal", sigmoid(3), ONE_HOT, 0.05),
    ):
        alone, found = timed(solve_deep, network, task, tau, competitors=False)
        both, _ = timed(solve_deep, network, task, tau)
        proof = found.certificate
        curvature = f"{proof.inner_curvature:.1e}, {proof.outer_curvature:.1e}"
        print(f"{name}: {alone:.2f} s, {both:.2f} s; residual {proof.residual:.0e}; curvature {curvature}")


def sizes() -> None:
    """Cost against P: the smallest of five interleaved runs, and what the dearest costs in units of the cheapest."""
    print("cost against P, C = 2, tau = 0.01, without rivals: CPU s (residual, error of the order parameters)")
    samples = (1e2, 1e3, 1e4, 1e5, 1e6)
    for depth in (2, 3):
        for size in samples:
            _one(depth, size)
        seconds, proof = dict.fromkeys(samples, float("inf")), {}
        for _ in range(5):
            for size in samples:
                took, post = timed(_one, depth, size)
                seconds[size], proof[size] = min(seconds[size], took), post.certificate
        print(
            f"L = {depth}: "
            + ", ".join(
                f"{size:.0e}: {seconds[size]:.3f} ({proof[size].residual:.0e}, {proof[size].order_error:.0e})"
                for size in samples
            )
        )
        print(f"L = {depth}: dearest over cheapest {max(seconds.values()) / min(seconds.values()):.2f}")
        for size in (1e7, 2e7, 1e8):
            start = time.process_time()
            try:
                found = _one(depth, size).certificate
                text = f"residual {found.residual:.0e}, error {found.order_error:.0e}"
            except mf.ConvergenceError as error:
                text = str(error)
            print(f"L = {depth}: {size:.0e}: {time.process_time() - start:.1f} s, {text}")


def _one(depth: int, samples: float) -> Any:
    return solve_deep(sigmoid(depth), BINARY.with_(n_samples=samples), 0.01, competitors=False, second=False)


def searches() -> None:
    """The branch without codes: how long it takes to know, deep below its end, between both ends, and above."""
    print("search for the branch without codes, on top of the solution")
    for name, network, task, taus in (
        ("C = 2, L = 2", sigmoid(2), BINARY, (0.01, 0.25, 0.4)),
        ("C = 2, L = 3", sigmoid(3), BINARY, (0.01,)),
        ("C = 3, L = 2", sigmoid(2), ONE_HOT, (0.05, 0.09)),
        ("C = 3, L = 2, 1/2 1/4 1/4", sigmoid(2), THREE, (0.005, 0.12)),
        ("C = 3, L = 3", sigmoid(3), ONE_HOT, (0.02, 0.05)),
    ):
        for tau in taus:
            alone, _ = timed(solve_deep, network, task, tau, competitors=False, second=False)
            both, post = timed(solve_deep, network, task, tau, second=False)
            print(f"{name}, tau = {tau}: {alone:.2f} s, {both:.2f} s; {'; '.join(post.notes)}")


def folds() -> None:
    """Where the branch without codes ends."""
    print("end of the branch without codes: tau, Phi, residual, eigenvalue there and 3 % before and behind")
    for name, network, task in (
        ("C = 2, L = 2, P = 100", sigmoid(2), BINARY),
        ("C = 2, L = 3, P = 100", sigmoid(3), BINARY),
        ("C = 2, L = 2, P = 1000", sigmoid(2), BINARY.with_(n_samples=1000)),
        ("C = 3, L = 2, P = 99", sigmoid(2), ONE_HOT),
    ):
        seconds, end = timed(solve_deep(network, task, 0.05, competitors=False, second=False).uncoded_end)
        print(
            f"{name}: {end.tau:.7f}, {end.free_energy:.5f}, {end.residual:.0e}, {end.eigenvalue:.0e}, "
            f"{end.before:.3f}, {end.behind:.3f} in {seconds:.1f} s"
        )


def rectifiers() -> None:
    """Rectifiers: certified solutions from scratch, N = infinity and a finite width."""
    print("rectifiers, tau = 0.05")
    relu = mf.Network("relu", 2)
    for name, network, task, options in (
        ("C = 2, L = 2", relu, BINARY, {}),
        ("C = 2, L = 2, N = 400", relu, BINARY, {"width": 400}),
        ("C = 2, L = 3", mf.Network("relu", 3), BINARY, {}),
        ("C = 3, L = 2, P = 120", relu, mf.class_task(n_classes=3, n_samples=120), {}),
    ):
        seconds, post = timed(mf.solve, network, task, 0.05, **options)
        print(f"{name}: {seconds:.1f} s, Phi = {post.free_energy:.9g}, residual {post.certificate.residual:.0e}")


if __name__ == "__main__":
    solve_deep(sigmoid(2), BINARY, 0.02)  # compiles
    if len(sys.argv) < 2 or "rectifiers" in sys.argv[1:]:
        mf.solve(mf.Network("relu", 2), BINARY, 0.1)
    parts = (compare, solutions, sizes, searches, folds, rectifiers)
    for part in parts:
        if len(sys.argv) < 2 or part.__name__ in sys.argv[1:]:
            part()
