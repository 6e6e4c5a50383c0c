"""Random class tasks of deep networks at finite P: how many are certified, how fast, and whether that is true.

    python benchmarks/random_deep.py --tasks 90 --seconds 75 --check 3

Sigmoid, tanh, erf, logistic, hard sigmoid, hard tanh, step, linear and ReLU in turn, two layers (three of every fifth
tasks) or three, two or three classes, fractions equal or random, one-hot targets with random y_- (m = C) or m = 1 ... 3
targets in [-1, 1], P log-uniform in [50, 1e6] (of ReLU in [150, 1e4]), tau in [1e-3, 1], both readout exponents,
sigma_a in {0.7, 1, 1.5}, sigma_w in {0.8, 1, 1.25}.

Every task is solved in a process of its own, which ends after `--seconds` of processor time. It is certified, raises
ConvergenceError ("no solution") or ValueError ("refused") in words, raises something else ("OTHER": a fault), or is
stopped. Every `--check`-th certified answer (not of ReLU, whose neurons condense) is integrated again with nothing of
the solver (`tests/deep_oracles.py`): wrong is an equation violated by more than six standard errors and 1e-6, twice.
`--part I N` runs the I-th of N parts, `--only` some numbers, `--kinds` some activations.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from children import in_child

import meanfield as mf

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from deep_oracles import deep_residual

KINDS = ("sigmoid", "tanh", "erf", "logistic", "hard_sigmoid", "hard_tanh", "step", "linear", "relu")
SURE = 6.0  # standard errors


def random_problem(seed, number, kinds=KINDS, samples=(50, 1e6), taus=(1e-3, 1.0)):
    """Network, task and tau of a number, P and tau log-uniform in these ranges (P of ReLU in its own)."""
    rng = np.random.default_rng([seed, number])
    name = kinds[number % len(kinds)]
    depth, n_classes = int(rng.choice([2, 2, 2, 3, 3])), int(rng.choice([2, 3]))
    if rng.random() < 0.5:
        off = float(np.round(rng.uniform(-1, 0.8), 2))
        targets = np.where(np.eye(n_classes, dtype=bool), 1.0, off)
    else:
        targets = rng.uniform(-1, 1, (n_classes, int(rng.integers(1, 4))))
    fractions = np.full(n_classes, 1.0 / n_classes)
    if rng.random() < 0.5:
        fractions = 0.3 / n_classes + 0.7 * rng.dirichlet(np.full(n_classes, 4.0))
    exponent = float(rng.choice([1.0, 1.0 / depth]))
    network = mf.Network(
        name, depth, sigma_a=rng.choice([0.7, 1.0, 1.5]), sigma_w=rng.choice([0.8, 1.0, 1.25]),
        readout_exponent=exponent,
    )  # fmt: skip
    low, high = (150, 1e4) if name == "relu" else samples
    n_samples = float(np.round(low * (high / low) ** rng.random()))
    task = mf.class_task(fractions=fractions / fractions.sum(), targets=targets, n_samples=n_samples)
    return network, task, float(10 ** rng.uniform(*np.log10(taus)))


def words(network, task, tau):
    """The problem in one line."""
    name, exponent = network.activation.name, "1" if network.beta == 1.0 else "1/L"
    return (
        f"{name:12s} L {network.depth} C {task.n_classes} m {task.n_outputs} P {task.n_samples:<7g} tau {tau:.2g} "
        f"beta {exponent} sigma {network.sigma_a:g} {network.sigma_w:g}"
    )


def solved(problem, seconds):
    """(outcome, text, CPU seconds, solution) of a process that ends after so many seconds."""
    return in_child(lambda: outcome_of(problem), seconds) or ("stopped", "", seconds, None)


def outcome_of(problem):
    """The same, without a limit."""
    outcome, text, took, post = attempt(problem)
    return outcome, text, took, None if post is None or problem[0].activation.name == "relu" else post.solution


def attempt(problem):
    """(outcome, text, CPU seconds, posterior) of a solve; the posterior is None where there is no answer."""
    start, post = time.process_time(), None
    try:
        post = mf.solve(*problem, progress=False)
        proof = post.certificate
        outcome, text = "certified", f"residual {proof.residual:.0e}; " + "; ".join(post.solution.notes)
    except mf.ConvergenceError as error:
        outcome, text = "no solution", str(error)
    except ValueError as error:
        outcome, text = "refused", str(error)
    except Exception as error:  # counted as a fault, whatever it is
        outcome, text = "OTHER", f"{type(error).__name__}: {error}"
    return outcome, text, time.process_time() - start, post


def integrated_again(network, task, tau, solution, seed):
    """Violations, their errors, the effective share of the points, and whether they are too large.

    Of eight scramblings one of fifty equations is beyond six estimated errors in some per cent of all tasks (Student's
    t); what is, is judged by 24 others, of which it is in one of 10^4.
    """
    for options in ({}, {"scramblings": 24}):
        found, error, share = deep_residual(network, task, tau, solution, seed + len(options) * 1000, **options)
        wrong = bool((np.abs(found) > SURE * error + 1e-6).any())
        if not wrong:
            break
    return found, error, share, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=90)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=75.0, help="of processor time, after which a task is stopped")
    parser.add_argument("--check", type=int, default=3, help="integrate every so many-th certified answer again")
    parser.add_argument("--part", nargs=2, type=int, default=(1, 1), metavar=("I", "N"), help="the I-th of N parts")
    parser.add_argument("--only", type=int, nargs="+", help="numbers of tasks")
    parser.add_argument("--kinds", nargs="+", help="names of activations")
    options = parser.parse_args()
    count, times, worst, checked = Counter(), [], 0.0, 0
    by_kind = {name: Counter() for name in KINDS}
    loaded = set()
    for number in options.only or range(options.tasks):
        if options.only is None and number * options.part[1] // options.tasks != options.part[0] - 1:
            continue
        network, task, tau = random_problem(options.seed, number)
        name = network.activation.name
        if options.kinds and name not in options.kinds:
            continue
        if (rectifier := name == "relu") not in loaded:  # compiled code, once for all processes
            easy = mf.class_task(targets=[1, -1], n_samples=100)
            mf.solve(mf.Network("relu" if rectifier else "sigmoid", 2), easy, 0.5)
            loaded.add(rectifier)
        outcome, text, took, solution = solved((network, task, tau), options.seconds)
        count[outcome] += 1
        by_kind[name][outcome] += 1
        truth = ""
        if outcome == "certified":
            times.append(took)
            checkable = not rectifier and solution is not None and options.check
            if checkable and (options.only or count["certified"] % options.check == 0):
                found, error, share, wrong = integrated_again(network, task, tau, solution, number)
                checked += 1
                count["wrong"] += int(wrong)
                worst = max(worst, float(np.abs(found).max()))
                truth = (
                    f" {'WRONG' if wrong else 'true'}: {np.abs(found).max():.1e} +- {error.max():.1e} "
                    f"(of {share:.0%} of the points)"
                )
        print(f"{number:4d} {words(network, task, tau)} {took:.2f} s {outcome}{truth} {text}", flush=True)
    print(dict(count))
    for name, found in by_kind.items():
        if found:
            print(f"{name}: {dict(found)}")
    if times:
        print(f"CPU s: median {np.median(times):.2f}, 90 % {np.quantile(times, 0.9):.1f}, most {max(times):.1f}")
    print(f"{checked} integrated again, largest violation {worst:.1e}")


if __name__ == "__main__":
    main()
