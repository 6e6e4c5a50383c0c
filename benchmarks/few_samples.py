"""Deep networks at few samples: does any of many starts lead to a solution of larger Phi than the one reported?

    python benchmarks/few_samples.py --tasks 60

Tasks as those of `random_deep.py`, without linear networks and rectifiers, at P log-uniform in [10, 1000] and tau in
[.01, 1]. Every task is solved, and solutions are looked for
from all but the first of the starts that the solver knows for codes (`coarse_starts`); then, in random order until
`--search` seconds are spent, by warm starts from twice and half the tau and from 1.5 times and 2/3 of the samples, and
from those of `DeepPosterior.rivals`: the branch without codes, sets of one and two orbits of codes, random kernels.

A miss is a certified answer beside which one of them has a larger Phi by more than 1e-6 of it, its equations holding
to 1e-4 by an independent quadrature.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

import numpy as np
from children import in_child
from random_deep import attempt, random_problem, words

import meanfield as mf
from meanfield.theories.deep.layers.rules import NotCovered
from meanfield.theories.deep.reduction import problem_of
from meanfield.theories.deep.search.coding import coarse_starts
from meanfield.theories.deep.search.rivals import rival_starts, solution_from
from meanfield.theories.deep.solve import solve_deep

KINDS = ("sigmoid", "tanh", "erf", "logistic", "hard_sigmoid", "hard_tanh", "step")
NEAR = ("tau * 2", "tau * 0.5", "P * 1.5", "P * 0.6667")
LARGER = 1e-6  # relative difference of Phi
FAILED = (NotCovered, ValueError, ArithmeticError, np.linalg.LinAlgError, mf.ConvergenceError)


def random_few(seed, number):
    return random_problem(seed, number, KINDS, samples=(10, 1e3), taus=(1e-2, 1.0))


def ends(network, task, tau, seed, starts):
    """Names of starts, and Phi of the solutions that they lead to (None: to none), one after the other."""
    problem, _ = problem_of(network, task, tau)
    rng = np.random.default_rng(seed)
    known = [(f"start {k + 1}", start) for k, start in enumerate(coarse_starts(problem))]
    others = [*((near, None) for near in NEAR), *rival_starts(problem, starts, rng)]
    rng.shuffle(others)
    for name, start in (*known[1:], *others):
        if start is None:
            yield name, neighbour(network, task, tau, name)
            continue
        try:
            reached = solution_from(problem, start)
        except FAILED:
            reached = None
        yield name, None if reached is None else reached[0].free_energy(reached[1].x, reached[1].averages)


def neighbour(network, task, tau, near):
    """Phi of what the solution at another tau or number of samples leads to; None if to none."""
    name, factor = near.split(" * ")
    there = (
        (task, tau * float(factor)) if name == "tau" else (task.with_(n_samples=float(factor) * task.n_samples), tau)
    )
    try:
        start = solve_deep(network, *there, second=False, competitors=False)
        post = solve_deep(network, task, tau, warm_start=start, second=False, competitors=False)
    except FAILED:
        return None
    return post.free_energy if post.certified else None


def looked_at(problem, options):
    """(outcome, text, CPU seconds of the solve and of the search, names and Phi of larger ones)."""
    began = time.process_time()
    outcome, text, took, post = attempt(problem)
    if post is None:
        return outcome, text, took, 0.0, []
    least = post.free_energy + LARGER * max(1.0, abs(post.free_energy))
    found, tried = {}, 0
    for name, phi in ends(*problem, options.seed, options.starts):
        tried += 1
        if phi is not None:
            found[name] = phi
        if time.process_time() - began - took > options.search:
            break
    larger = [(name, phi) for name, phi in found.items() if phi > least]
    others = len({f"{phi:.5g}" for phi in found.values()} | {f"{post.free_energy:.5g}"})
    text = f"Phi {post.free_energy:.8g}; {tried} starts, {len(found)} solutions, {others} Phi"
    return "missed" if larger else "largest", text, took, time.process_time() - began - took, larger


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--starts", type=int, default=8, help="random kernels")
    parser.add_argument("--seconds", type=float, default=120.0, help="of processor time, after which a task is stopped")
    parser.add_argument("--search", type=float, default=12.0, help="of processor time, after which no start is begun")
    parser.add_argument("--only", type=int, nargs="+", help="numbers of tasks")
    options = parser.parse_args()
    mf.solve(mf.Network("sigmoid", 2), mf.class_task(targets=[1, -1], n_samples=100), 0.5)  # compiles
    count, times = Counter(), []
    for number in options.only or range(options.tasks):
        problem = random_few(options.seed, number)
        found = in_child(lambda problem=problem: looked_at(problem, options), options.seconds)
        outcome, text, took, search, larger = found or ("stopped", "", options.seconds, 0.0, [])
        count[outcome] += 1
        times.append(took)
        print(f"{number:4d} {words(*problem)} {took:.2f} + {search:.1f} s {outcome} {text}", flush=True)
        for name, phi in larger:
            print(f"       {name}: {phi:.8g}", flush=True)
    print(dict(count), f"CPU s of the solves: {sum(times):.1f}, median {np.median(times):.2f}")


if __name__ == "__main__":
    main()
