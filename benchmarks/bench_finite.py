"""Speed at finite P, as ratio to another version of the package, both timed in turns in one run.

    python benchmarks/bench_finite.py --against FOLDER     # FOLDER holds the other version's `meanfield`

Three classes, p = (1/2, 1/4, 1/4), one-hot targets, sigmoid, tau = 0.01: from scratch and warm-started from y_- smaller
by 0.005. Agreement of t, to the sum of the certified residuals over tau, is asserted before anything is timed. Times
are those of the processor, medians over the rounds; "codes" is what asking for the codes takes beyond the solve, where
they do not come with it. `--diagram N` also sweeps N x N points over (n_samples, off) and (tau, off) with the version
at hand.

`--generic` compares with a generic method in the same run: SciPy's BFGS on J(t), whose ln Z is a sum over a lattice of
all readouts (spacing 0.8 of their standard deviation under the prior, which is exact to 1e-12) with G from a spline.

`--many` solves one-hot tasks of many exchangeable classes (sigmoid, tau = 0.02) from scratch and from y_- smaller by
0.005, in one group of equal classes and in groups of different fractions; and asks for the codes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

import numpy as np

SAMPLES = (50.0, 200.0, 700.0, 1e3, 1e4, 1e5)
OFFS = (0.0, 0.3, 0.5, 0.7)
WORKER = """
import json, sys, time
import numpy as np
import meanfield as mf

def task(n, off):
    return mf.class_task(fractions=[0.5, 0.25, 0.25], off=off, n_samples=n)

network, starts = mf.Network("sigmoid"), {}
for line in sys.stdin:
    n, off, warm = json.loads(line)
    if warm and (n, off) not in starts:
        starts[n, off] = mf.solve(network, task(n, off - 0.005), 0.01)
    asked, start = task(n, off), starts[n, off] if warm else None
    begin = time.process_time()
    post = mf.solve(network, asked, 0.01, warm_start=start)
    used = time.process_time() - begin
    post.solution.weight
    codes = time.process_time() - begin - used
    print(json.dumps([used, post.solution.t.tolist(), post.certificate.kkt_residual, codes]), flush=True)
"""


class Worker:
    """A process with one version of the package."""

    def __init__(self, folder: str | None) -> None:
        environment = dict(os.environ)
        if folder is not None:
            environment["PYTHONPATH"] = folder
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", WORKER],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *job):
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def compare(folder: str, rounds: int) -> None:
    here, there = Worker(None), Worker(folder)
    print("P        y_-  start     ms here  codes  ms there  ratio  difference of t")
    for n in SAMPLES:
        for off in OFFS:
            for warm in (False, True):
                one, other = here(n, off, warm), there(n, off, warm)  # what is compiled is compiled here
                difference = np.abs(np.array(one[1]) - np.array(other[1])).max()
                assert difference <= (one[2] + other[2] + 1e-12) / 0.01, difference
                runs = [(here(n, off, warm), there(n, off, warm)) for _ in range(rounds)]
                times = np.array([[mine[0], other[0], mine[3]] for mine, other in runs])
                a, b, codes = np.median(times, axis=0)
                ratio = np.median(times[:, 1] / times[:, 0])
                kind = "warm" if warm else "scratch"
                print(
                    f"{n:<8g} {off:3g}  {kind:8s} {1e3 * a:8.1f} {1e3 * codes:6.1f} {1e3 * b:9.1f} {ratio:6.1f}  "
                    f"{difference:.0e}",
                    flush=True,
                )


def diagrams(size: int, low: float, high: float) -> None:
    import meanfield as mf

    network, off = mf.Network("sigmoid"), np.linspace(low, high, size)
    task = mf.class_task(fractions=[0.5, 0.25, 0.25], off=0.5, n_samples=200.0)
    mf.solve(network, task, 0.01)
    for name, axis in (("n_samples", np.geomspace(50, 1e5, size)), ("tau", np.geomspace(1e-3, 1, size))):
        begin = time.process_time()
        diagram = mf.sweep(network, task, **({"tau": 0.01} | {name: axis, "off": off}))
        used = time.process_time() - begin
        print(
            f"{size} x {size} over ({name}, off): {used:.1f} s, {1e3 * used / size**2:.1f} ms a point, "
            f"{int(diagram.certified.sum())} of {size**2} certified, "
            f"largest residual {np.nanmax(diagram.kkt_residual[diagram.certified]):.0e}",
            flush=True,
        )


def generic_solution(task, tau: float, reach: float = 3.2):
    """t (C, m) by BFGS from the targets, and J."""
    from scipy.interpolate import CubicSpline
    from scipy.optimize import minimize

    import meanfield as mf

    p, y, n = np.asarray(task.fractions), task.targets, task.n_samples
    step = 0.8 / np.sqrt(n)
    line = step * np.arange(-int(reach / step), int(reach / step) + 1)
    a = np.stack(np.meshgrid(*[line] * y.shape[1], indexing="ij"), axis=-1).reshape(-1, y.shape[1])
    prior = -0.5 * n * (a**2).sum(axis=1) + y.shape[1] * np.log(step * np.sqrt(0.5 * n / np.pi))
    x, w = np.polynomial.legendre.leggauss(300)
    x, w = 12.0 * x, 12.0 * w * np.exp(-72.0 * x**2) / np.sqrt(2.0 * np.pi)
    kappa = np.linspace(-80.0, 80.0, 4001)
    exponent = kappa[:, None] * mf.activation("sigmoid")(x)
    top = exponent.max(axis=1)
    spline = CubicSpline(kappa, top + np.log(np.exp(exponent - top[:, None]) @ w))
    slope = spline.derivative()

    def objective(flat):
        t = flat.reshape(y.shape)
        fields = a @ t.T
        log_weight = prior + n * spline(fields) @ p
        highest = log_weight.max()
        weight = np.exp(log_weight - highest)
        total = weight.sum()
        mean = (slope(fields) * (weight / total)[:, None]).T @ a
        value = -(p @ (t * y).sum(axis=1)) + 0.5 * tau * p @ (t**2).sum(axis=1)
        return value + (highest + np.log(total)) / n, (p[:, None] * (mean + tau * t - y)).ravel()

    found = minimize(objective, y.ravel(), jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 500})
    return found.x.reshape(y.shape), float(found.fun)


def generic(rounds: int) -> None:
    import meanfield as mf

    network = mf.Network("sigmoid")
    print("P      y_-  ms scratch   warm  generic s  ratios          |t - t'|  |J - J'|  residual")
    for n in (50.0, 100.0):
        for off in (0.0, 0.5):
            before, task = (mf.class_task(fractions=[0.5, 0.25, 0.25], off=y, n_samples=n) for y in (off - 0.005, off))
            start = mf.solve(network, before, 0.01)
            post = mf.solve(network, task, 0.01)
            t, value = generic_solution(task, 0.01)
            apart, lower = np.abs(t - post.solution.t).max(), abs(value - post.objective)
            assert apart < 1e-4, apart
            assert lower < 1e-8, lower
            times = []
            for _ in range(rounds):
                marks = [time.process_time()]
                mf.solve(network, task, 0.01)
                marks.append(time.process_time())
                mf.solve(network, task, 0.01, warm_start=start)
                marks.append(time.process_time())
                generic_solution(task, 0.01)
                times.append(np.diff([*marks, time.process_time()]))
            one, warm, other = np.median(times, axis=0)
            print(
                f"{n:<6g} {off:3g}  {1e3 * one:10.1f} {1e3 * warm:6.1f} {other:10.2f}  {other / one:.0f}, "
                f"{other / warm:.0f}  {apart:.0e}  {lower:.0e}  {post.certificate.kkt_residual:.0e}",
                flush=True,
            )


MANY = ((5,), (6,), (8,), (10,), (12,), (20,), (4, 2), (5, 5), (1, 6), (4, 3, 3), (10, 5, 5))
MANY_SAMPLES = (20.0, 50.0, 100.0, 1e3, 1e4, 1e5)


def many() -> None:
    import meanfield as mf

    network = mf.Network("sigmoid")
    print("classes   y_-   P       residual  error    ms scratch  warm  codes")
    for groups in MANY:
        fractions = np.concatenate([np.full(n, 1.0 + 0.5 * i) for i, n in enumerate(groups)])
        for off in (-0.1, 0.0, 0.5) if len(groups) == 1 else (-0.1, 0.3):
            for n in MANY_SAMPLES if len(groups) == 1 else MANY_SAMPLES[:-1]:
                tasks = [
                    mf.class_task(fractions=fractions / fractions.sum(), off=y, n_samples=n) for y in (off - 0.005, off)
                ]
                try:
                    start = mf.solve(network, tasks[0], 0.02, max_seconds=120.0)  # compiles, too
                    begin = time.process_time()
                    post = mf.solve(network, tasks[1], 0.02, max_seconds=120.0)
                    scratch = time.process_time() - begin
                    warm = mf.solve(network, tasks[1], 0.02, warm_start=start, max_seconds=120.0)
                    used = time.process_time() - begin - scratch
                except mf.ConvergenceError as error:
                    print(f"{groups!s:9s} {off:4g}  {n:<7g} {str(error)[:90]}", flush=True)
                    continue
                bound = post.certificate.kkt_residual + warm.certificate.kkt_residual
                assert np.abs(post.solution.t - warm.solution.t).max() <= bound / 0.02 + 1e-9
                begin = time.process_time()
                count = len(post.codes)
                codes = time.process_time() - begin
                print(
                    f"{groups!s:9s} {off:4g}  {n:<7g} {post.certificate.kkt_residual:.0e}     "
                    f"{post.certificate.bound_gap:.0e}  {1e3 * scratch:9.0f} {1e3 * used:6.0f}  "
                    f"{1e3 * codes:.0f} ({count})",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--diagram", type=int, default=0)
    parser.add_argument("--off", nargs=2, type=float, default=(-0.4, 0.8), help="range of y_- in the diagrams")
    parser.add_argument("--many", action="store_true", help="many exchangeable classes")
    parser.add_argument("--generic", action="store_true", help="against SciPy's BFGS on a lattice of readouts")
    options = parser.parse_args()
    if options.generic:
        generic(min(options.rounds, 3))
    if options.many:
        many()
    if options.against:
        compare(options.against, options.rounds)
    if options.diagram:
        diagrams(options.diagram, *options.off)


if __name__ == "__main__":
    main()
