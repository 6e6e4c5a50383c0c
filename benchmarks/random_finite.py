"""Random class tasks at finite P: how many are certified, how fast, and whether the certificates are true.

    python benchmarks/random_finite.py --tasks 220 --seed 0

All built-in activations in turn, C <= 6 classes, m <= 6 outputs, P in [10, 1e5], tau in [1e-3, 1], one-hot targets with
random y_- or targets in [-1, 1], random or equal fractions, sigma_a in [0.5, 2], sigma_w in [0.7, 1.5].

Every certified answer is integrated again with nothing of the solver (`tests/finite_oracles.py`: G by quadrature in z;
by turns, until one of them reaches 1e-7: a cubic lattice in ellipsoids around the codes, a lattice per code along its
own axes, the cubic lattice in wider ellipsoids, Sobol points in Student-t clouds around the codes). Wrong is a residual
that is larger than the certified one by more than five errors and 1e-7: the error is the change with the size of the
ellipsoids and the shift of the lattice, for Sobol points a standard error over independent scramblings. Ascents from
1,000 random readouts look for codes that are not listed; wrong is one within 16 of the ln of the highest density.
Times are those of the processor.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np

import meanfield as mf
from meanfield.activations.builtin import names
from meanfield.posterior.certificate import ConvergenceError

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from finite_oracles import (
    ball_residual,
    ball_size,
    cloud_residual,
    cloud_size,
    in_the_span,
    lattice_residual,
    student_residual,
    unlisted_height,
)

# Half axes of the ellipsoids whose nodes are summed over, in standard deviations, and the number of nodes up to which
# they are taken: a second of processor time for a million.
BALLS = ((16.0, 1e6), (11.0, 3e6), (9.0, 1e7), (7.5, 3e7), (6.5, 3e7))
CLOUDS = ((4.5, 3e7), (5.5, 5e7))
WIDE = ((16.0, 5e7), (21.0, 1e8))
ENOUGH = 1e-7
KINDS = [name for name in names() if name != "linear"]


def random_problem(seed, number):
    rng = np.random.default_rng([seed, number])
    n_classes, m = int(rng.integers(2, 7)), int(rng.integers(1, 7))
    if rng.random() < 0.5:
        off = float(np.round(rng.uniform(-1, 0.8), 2))
        m, targets = n_classes, np.where(np.eye(n_classes, dtype=bool), 1.0, off)
    else:
        targets = rng.uniform(-1, 1, (n_classes, m))
    fractions = np.full(n_classes, 1.0 / n_classes)
    if rng.random() < 0.5:
        fractions = 0.3 / n_classes + 0.7 * rng.dirichlet(np.full(n_classes, 4.0))
    sigma_a, sigma_w = rng.choice([0.5, 1.0, 2.0]), rng.choice([0.7, 1.0, 1.5])
    network = mf.Network(KINDS[number % len(KINDS)], sigma_a=sigma_a, sigma_w=sigma_w)
    n_samples = float(np.round(10 ** rng.uniform(1, 5)))
    n_samples = max(n_samples, float(np.ceil(fractions.sum() / fractions.min())))  # a class has a sample
    task = mf.class_task(fractions=fractions / fractions.sum(), targets=targets, n_samples=n_samples)
    return network, task, float(10 ** rng.uniform(-3, 0))


def verified(network, task, tau, solution):
    """Largest residual and its error, independently: the most accurate of what is tried."""
    if in_the_span(task, solution)[0].shape[1] <= 2:
        return lattice_residual(network, task, tau, solution), 0.0
    tried = []
    for attempt in attempts(network, task, tau, solution):
        tried.append(attempt())
        if tried[-1][1] <= ENOUGH:
            break
    return min(tried, key=lambda pair: pair[1])


def attempts(network, task, tau, solution):
    """Integrations within the number of nodes they may have."""
    given = network, task, tau, solution
    balls = [radius for radius, largest in BALLS if ball_size(network, task, solution, radius) < largest]
    for radius in balls[:1]:
        yield partial(ball_residual, *given, (radius - 1.0, radius))
    for radius, largest in CLOUDS:
        if cloud_size(task, solution, radius) < largest:
            yield partial(cloud_residual, *given, (radius - 0.5, radius))
    for radius, largest in WIDE:
        if ball_size(network, task, solution, radius) < largest:
            yield partial(ball_residual, *given, (radius - 1.0, radius))
    yield partial(student_residual, *given, 14)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=220)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="+", help="numbers of tasks, instead of --first and --tasks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0, help="limit of one solve, of the clock")
    parser.add_argument("--only-missed", action="store_true", help="look for missed codes, integrate nothing")
    options = parser.parse_args()
    count, times, errors, excess = Counter(), [], [], []
    for number in options.only or range(options.first, options.first + options.tasks):
        network, task, tau = random_problem(options.seed, number)
        what = (
            f"{number:4d} {network.activation.name:12s} C {task.n_classes} m {task.n_outputs} P {task.n_samples:g} "
            f"tau {tau:.2g} sigma {network.sigma_a:g} {network.sigma_w:g}"
        )
        start = time.process_time()
        try:
            post = mf.solve(network, task, tau, max_seconds=options.seconds)
        except ConvergenceError as error:
            count["raised"] += 1
            count["raised at the time limit"] += "max_seconds" in str(error)
            print(f"{what} {time.process_time() - start:.2f} s raised: {error}", flush=True)
            continue
        times.append(time.process_time() - start)
        count["optimal"] += 1
        residual, error = np.nan, np.nan
        if not options.only_missed:
            residual, error = verified(network, task, tau, post.solution)
        over = residual - post.certificate.kkt_residual
        missed = unlisted_height(network, task, post.solution)
        wrong = over > 5.0 * error + 1e-7 or missed > -16.0
        count["wrong"] += int(wrong)
        errors.append(error)
        excess.append(over)
        print(
            f"{what} {times[-1]:.2f} s {'WRONG' if wrong else 'ok'} certified {post.certificate.kkt_residual:.1e}, "
            f"found {residual:.1e} +- {error:.1e}" + ("" if missed < -36.0 else f", unlisted maximum at {missed:.1f}"),
            flush=True,
        )
    print(dict(count))
    print(f"seconds: median {np.median(times):.3f}, 90 % {np.quantile(times, 0.9):.2f}, most {max(times):.1f}")
    errors, excess = np.array(errors), np.array(excess)
    for limit in (1e-7, 1e-5, 1e-3, np.inf):
        print(
            f"verified to {limit:g}: {np.sum(errors <= limit)}, "
            f"largest residual beyond the certified one {excess[errors <= limit].max(initial=-1.0):.1e}"
        )


if __name__ == "__main__":
    main()
