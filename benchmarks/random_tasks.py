"""Random tasks over all built-in activations: how many are certified, how fast, and whether a generic method agrees.

    python benchmarks/random_tasks.py --tasks 1000 --check 100
    python benchmarks/random_tasks.py --tasks 520 --extended
    PYTHONPATH=OLD python benchmarks/random_tasks.py --tasks 208 --extended --apart   # OLD: checkout of another version

C <= 5 classes, m <= 5 outputs, targets in [-2, 2], fractions >= 0.05, sigma_a in [0.3, 3], tau in {0, 0.05}. A task
that is not certified raises in `meanfield.solve`; here it is counted, after at most `--seconds`. `--extended` adds
activations given by a formula, and draws sigma_a of every fourth task log-uniformly from [0.3, 1000]. `--verify` looks
for better readouts than those of certified tasks from random starts. `--apart` solves every task in a process of its
own, which ends after `--seconds` of CPU time: for versions without time limits, and for comparisons on a busy
machine; `--part` solves some of the same tasks, `--numbers` single ones. `--check` compares the objective of
certified tasks with the exchange method of tests/independent.py (SciPy's SLSQP and L-BFGS-B: seconds to minutes a task;
for GELU it misses the far maxima of h and ends below the value that the primal problem proves).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import sympy as sp
from children import in_child

import meanfield as mf

try:
    from meanfield.activations.builtin import names
except ImportError:  # the version with one folder of modules
    from meanfield.activations import names

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from independent import SingleSite, exchange, stationarity

Z = sp.Symbol("z", real=True)
HALF = sp.Rational(1, 2)
FORMULAS = {
    "elu": sp.Piecewise((Z, Z > 0), (sp.exp(Z) - 1, True)),
    "silu": Z / (1 + sp.exp(-Z)),
    "mish": Z * sp.tanh(sp.log(1 + sp.exp(Z))),
    "hardswish": sp.Piecewise((0, Z < -3), (Z, Z > 3), (Z * (Z + 3) / 6, True)),
    "softshrink": sp.Piecewise((Z - HALF, Z > HALF), (Z + HALF, Z < -HALF), (0, True)),
    "hardshrink": sp.Piecewise((Z, Z > HALF), (Z, Z < -HALF), (0, True)),
    "tanhshrink": Z - sp.tanh(Z),
    "sqrt|z|": sp.sqrt(sp.Abs(Z)),
    "log(1+z^2)": sp.log(1 + Z**2),
    "asinh": sp.asinh(Z),
    "sin": sp.sin(Z),
    "exp(-z^2)": sp.exp(-(Z**2)),
    "z tanh z": Z * sp.tanh(Z),
    "jump": sp.Piecewise((1, Z > 1), (0, True)),
}


def activation(name):
    return mf.Activation(FORMULAS[name], Z, name=name) if name in FORMULAS else mf.activation(name)


def random_problem(rng, name, largest=5, widest=3.0):
    n_classes, m = rng.integers(2, largest + 1), rng.integers(1, largest + 1)
    fractions = 0.05 + (1 - 0.05 * n_classes) * rng.dirichlet(np.ones(n_classes))
    task = mf.class_task(fractions=fractions / fractions.sum(), targets=rng.uniform(-2, 2, (n_classes, m)))
    sigma_a = rng.uniform(0.3, 3.0)
    if widest > 3.0:
        sigma_a = 0.3 * (widest / 0.3) ** ((sigma_a - 0.3) / 2.7)
    network = mf.Network(activation(name), sigma_a=sigma_a)
    return network, task, float(rng.choice([0.0, 0.05]))


def verified(post, rng, restarts=24, steps=150):
    """What an independent look finds: (residual of stationarity, excess of the best readout over the level).

    Own quadrature; readouts from random starts, up to twice as far as the codes, climb by a <- sum_c p_c G'(a.t_c) t_c,
    which raises h in every step.
    """
    network, task, s = post.network, post.task, post.solution
    phi, sigma_a, t = network.activation, network.sigma_a, post.solution.t
    far = max([np.abs(s.readout).max(), *(np.abs(o.readout).max() for o in post.outliers)])
    a = rng.normal(size=(restarts, task.n_outputs)) * far * rng.uniform(0.0, 2.0, (restarts, 1))
    kappa = max(np.abs(a @ t.T).max(), np.abs(s.readout @ t.T).max())
    growth = np.sqrt(max(phi.growth))
    grading = 4.0 ** -np.arange(1, 25)  # phi may have a root singularity at a kink
    edges = [x for kink in phi.kinks for x in (kink, *(kink + grading), *(kink - grading))]
    site = SingleSite(phi, network.k, edges, reach=15.0 + 1.2 * growth * kappa, panels_per_unit=1)
    residual = stationarity(site, task, s, post.tau, sigma_a, network.k, phi.growth)
    best = -np.inf
    for _ in range(steps):
        value, mean, _ = site(a @ t.T)
        h = value @ task.fractions - 0.5 * (a**2).sum(axis=1) / sigma_a**2
        best = max(best, h.max())
        step = sigma_a**2 * (task.fractions * mean) @ t
        a = np.where((np.abs(step @ t.T).max(axis=1) < 1.2 * kappa)[:, None], step, a)  # outliers run away
    return residual, best - s.level


def generic_objective(network, task, tau):
    phi, sigma_a = network.activation, network.sigma_a
    reach = 12.0 if phi.bounded else 40.0
    site = SingleSite(phi, network.k, phi.kinks, reach=reach, panels_per_unit=1)
    return exchange(site, task.fractions, task.targets / sigma_a, tau / sigma_a**2, phi.growth)[0]


def solved(problem, seconds, apart):
    """What is reached in so many seconds."""
    if not apart:
        return mf.solve(*problem, on_failure="return", max_seconds=seconds)
    if problem[0].activation.name not in _LOADED:  # compiled code, by the parent and once to the disk
        easy = mf.class_task(n_classes=2)
        child_result(lambda: mf.solve(mf.Network(problem[0].activation), easy, on_failure="return"), 120.0)
        for name in () if _LOADED else ("sigmoid", "relu"):
            mf.solve(mf.Network(name), easy)
        _LOADED.add(problem[0].activation.name)
    return child_result(lambda: mf.solve(*problem, on_failure="return"), seconds)


_LOADED = set()


def _told(solve):
    """Status and certificate, or what went wrong."""
    try:
        post = solve()
    except Exception as error:  # every failure is counted
        return f"{type(error).__name__}: {error}", None
    return str(post.status), vars(post.certificate)


def child_result(solve, seconds):
    """Status and certificate from a child process that ends after so many seconds, whatever it does."""
    status, proof = in_child(lambda: _told(solve), seconds) or ("stopped", None)
    nothing = dict.fromkeys(("kkt_residual", "duality_gap", "bound_gap", "boxes"), np.nan)
    return SimpleNamespace(status=status, certificate=SimpleNamespace(**(proof or nothing)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--check", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verify", type=int, default=0, help="so many certified tasks, by random restarts")
    parser.add_argument("--seconds", type=float, default=10.0, help="after which a task is given up")
    parser.add_argument("--apart", action="store_true", help="every task in a process of its own, seconds of CPU time")
    parser.add_argument("--part", nargs=2, type=int, default=(1, 1), metavar=("I", "N"), help="the I-th of N parts")
    parser.add_argument("--extended", action="store_true", help="more activations, sigma_a up to 1000")
    parser.add_argument("--only", nargs="+", help="names of activations")
    parser.add_argument("--numbers", nargs="+", type=int, help="solve these of the tasks alone")
    parser.add_argument("--failures", action="store_true", help="print the number and message of what is not certified")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    kinds = options.only or [*names(), *(FORMULAS if options.extended else ())]
    rows = {name: [] for name in kinds}
    checked, worst_residual, worst_excess = 0, 0.0, -np.inf
    for i in range(options.tasks):
        name = kinds[i % len(kinds)]
        wide = options.extended and (i // len(kinds)) % 4 == 3
        problem = random_problem(rng, name, widest=1000.0 if wide else 3.0)
        if i * options.part[1] // options.tasks != options.part[0] - 1:
            continue
        if options.numbers is not None and i not in options.numbers:
            continue
        start, clock = time.process_time(), time.perf_counter()
        post = solved(problem, options.seconds, options.apart)
        clock = time.perf_counter() - clock
        seconds = clock if options.apart else time.process_time() - start  # a child's time is not seen here
        if options.failures and (post.status != "optimal" or seconds > 10.0):
            network, task, tau = problem
            print(
                f"{i} {name}: C, m = {task.n_classes}, {task.n_outputs}, sigma_a = {network.sigma_a:.3g}, tau = {tau}, "
                f"{seconds:.1f} s ({clock:.1f} of a clock): {post.status}, "
                f"residual {post.certificate.kkt_residual:.1e}, gap {post.certificate.duality_gap:.1e}, "
                f"bound_gap {post.certificate.bound_gap:.1e}, {post.certificate.boxes:.0f} boxes",
                flush=True,
            )
        if checked < options.verify and post.status == "optimal" and name != "linear":
            residual, excess = verified(post, np.random.default_rng(i))
            scale = 1.0 + abs(post.solution.level)
            scale_y = max(1.0, np.abs(post.solution.t).max(), np.abs(post.solution.readout).max())
            checked += 1
            worst_residual, worst_excess = max(worst_residual, residual / scale_y), max(worst_excess, excess / scale)
            if residual > 1e-8 * scale_y or excess > 1e-8 * scale:
                print(f"{i} {name}: WRONG, residual {residual:.1e}, a readout {excess:.1e} above the level", flush=True)
        rows[name].append((post.status == "optimal", seconds, post.certificate))
    print(f"{'activation':13s} tasks certified  median ms   max ms  residual      gap")
    for name, found in rows.items():
        seconds = np.array([row[1] for row in found[1:] or found])
        if not found:
            continue
        good = [row[2] for row in found if row[0]]
        residual = max((c.kkt_residual for c in good), default=np.nan)
        gap = max((c.duality_gap for c in good), default=np.nan)
        print(
            f"{name:13s} {len(found):5d} {len(good):9d} {1e3 * np.median(seconds):10.2f} {1e3 * seconds.max():8.1f} "
            f"{residual:9.1e} {gap:8.1e}"
        )
    certified = sum(row[0] for found in rows.values() for row in found)
    print(f"{certified} of {sum(map(len, rows.values()))} certified")
    if checked:
        print(f"{checked} verified: largest residual {worst_residual:.1e}, largest excess {worst_excess:.1e}")
    worst = 0.0
    for i in range(options.check):
        name = kinds[i % len(kinds)]
        problem = random_problem(rng, name, largest=3)
        post = mf.solve(*problem, on_failure="return")
        if post.status != "optimal" or name == "linear":
            continue
        start = time.perf_counter()
        difference = generic_objective(*problem) - post.objective
        worst = max(worst, abs(difference))
        print(f"{name:13s} generic J - J = {difference:+.1e}   ({time.perf_counter() - start:.1f} s)", flush=True)
    if options.check:
        print(f"largest difference {worst:.1e}")


if __name__ == "__main__":
    main()
