"""Solutions on data against the exact theory: claimed and actual error, over tasks with known or independent answers.

    python benchmarks/data_check.py [NAME ...]

"exact" is a closed form by symmetry, or quadrature, or Newton's method on 400,000 points: of the prior where enough of
them count, else of a mixture that has followed t from 0 with random numbers of its own; rms of the outputs.
"approximate" is expectation propagation alone with its measured error, "answer" what `solve` returns; +- is the claimed
standard error.

The second line of a task is about 20 new inputs: what expectation propagation is off by, what the corrected solution is
off by ("answer", or the one that `prediction_error` finds for an answer that needed no correction), the standard error
that `prediction_error` claims, and that of the reference.
"""

from __future__ import annotations

import itertools
import sys
import time

import numpy as np

import meanfield as mf
from meanfield.theories.general_data.exact.particles import particle_solution
from meanfield.theories.general_data.exact.predictor import ParticlePredictor
from meanfield.theories.general_data.exact.proposal import prior_mixture
from meanfield.theories.general_data.exact.quadrature import nodes
from meanfield.theories.general_data.exact.sample import Dual
from meanfield.theories.general_data.exact.unaided import approach, blank

NEW = 20
POINTS, FEWEST, ACCURATE = 400_000, 300, 5e-4  # of the reference; effective ones and standard error that it needs


def cube(n):
    return np.array(list(itertools.product((-1.0, 1.0), repeat=n)))


def tasks():
    """name, phi, sigma_w, tau, X, y, exact outputs or None."""
    pair = np.array([[1.0, 1.0], [-1.0, -1.0]])
    for phi, sigma_w in (("sigmoid", 1.0), ("sigmoid", 3.0), ("step", 1.0)):
        yield f"pair {phi} {sigma_w:g}", phi, sigma_w, 0.1, pair, np.ones(2), 1 / 1.4
    for phi, tau in itertools.product(("tanh", "erf"), (0.1, 0.5)):
        yield f"pair {phi} tau {tau:g}", phi, 1.0, tau, pair, np.ones(2), 0.0
    for n in (2, 3, 4, 5):
        x = cube(n)
        exact = 0.5 / 1.4
        yield f"parity of 2, n = {n}", "sigmoid", 1.0, 0.1, x, (1 + x[:, 0] * x[:, 1]) / 2, exact
        yield f"parity, n = {n}", "sigmoid", 1.0, 0.1, x, (1 + x.prod(axis=1)) / 2, exact if n % 2 == 0 else None
        yield f"majority, n = {n}", "sigmoid", 1.0, 0.1, x, (x.sum(axis=1) > 0) * 1.0, None
    x = cube(3)
    yield "and, n = 3", "sigmoid", 1.0, 0.1, x, (x.sum(axis=1) == 3) * 1.0, None
    yield "and, n = 3, step", "step", 1.0, 0.1, x, (x.sum(axis=1) == 3) * 1.0, None
    yield "parity, n = 3, step", "step", 1.0, 0.1, x, (1 + x[:, 0] * x[:, 1]) / 2, 0.5 / 1.4
    yield "two, tanh", "tanh", 1.0, 0.1, np.eye(2), np.array([1.0, 0.3]), None
    yield "three, tanh", "tanh", 2.0, 0.1, np.eye(3), np.array([1.0, 0.3, -0.5]), None
    rng = np.random.default_rng(0)
    x = rng.normal(size=(15, 4))
    yield "15 opposite pairs", "sigmoid", 1.0, 0.1, np.concatenate([x, -x]), np.ones(30), 1 / 1.4
    for phi in ("sigmoid", "step"):
        x = rng.normal(size=(5, 4))
        y = np.tile(np.arange(5) % 2 * 1.0, 2)
        yield f"repeated, {phi}", phi, 1.0, 0.1, np.concatenate([x, x]), y, None
        near = np.concatenate([x, x + 0.02 * rng.normal(size=x.shape)])
        yield f"nearly repeated, {phi}", phi, 1.0, 0.1, near, 1.0 - y, None
    for p, n in ((8, 3), (8, 6), (13, 5), (13, 10), (21, 10), (30, 6)):
        yield f"random labels {p}, {n}", "sigmoid", 1.0, 0.1, rng.normal(size=(p, n)), rng.integers(0, 2, p) * 1.0, None


def _rms(x):
    return float(np.sqrt(np.mean(np.square(x))))


def reference(network, task, tau, new):
    """Exact outputs (P, 1) and their standard error, NaN where the reference is of no use; the same of new inputs."""
    shape = network.activation
    problem = blank(shape, task.features(network.sigma_w).matrix, task.targets, 1.0, tau)
    dual = Dual(task.targets, problem.prior, tau)
    t = np.zeros(task.targets.shape)
    sample = nodes(shape, problem.features, problem.prior, t + 1.0 / tau / len(t) ** 0.5)
    if sample is None:
        sample = prior_mixture(problem.features.shape[1]).sample(problem, POINTS, np.random.default_rng(7))
    t, _, _ = dual.minimise(sample, t)
    shift, at = dual.shift(sample, t)
    error = _rms(shift.error)
    if sample.random and (at.effective < FEWEST or error > ACCURATE):
        found = approach(problem, None, np.random.default_rng(7))
        if found is None:
            return task.targets, np.nan, None, None
        sampler, t = found
        sampler.fit(t, POINTS // 20)
        sample = sampler.mixture.sample(problem, POINTS, sampler.rng)
        t, _, _ = dual.minimise(sample, t)
        shift, at = dual.shift(sample, t)
        error = _rms(shift.error)
    usable = not sample.random or at.effective >= FEWEST
    solution = particle_solution(problem, sample, at, t, np.zeros(len(at.share), dtype=int), 0)
    predictor = ParticlePredictor(network, task, tau, solution, ("code",))
    inputs = task.transform(new)
    return task.targets - tau * t, error if usable else np.nan, predictor.mean(inputs), predictor.noise(inputs)


def on_new_inputs(rough, post, new, exact, error):
    """What EP and the corrected solution are off by, claimed standard error, and whether that covers it (rms)."""
    off = rough.predict(new) - exact
    measured = post.prediction_error(new)
    known = post.predict(new) - measured.difference - exact
    se = _rms(measured.standard_error)
    covered = _rms(known) <= 4 * np.hypot(se, _rms(error)) + 1e-6
    return _rms(off), _rms(known), se, covered


def main() -> None:
    wanted = sys.argv[1:]
    print(
        f"{'task':24}{'approximate: actual':>20}{'claimed':>9}  {'answer: actual':>15}{'claimed':>9}{'+-':>9}"
        f"{'ref +-':>9}  status, s"
    )
    bad, missed, squares = 0, 0, []
    for name, phi, sigma_w, tau, x, y, exact in tasks():
        if wanted and not any(word in name for word in wanted):
            continue
        task = mf.data_task(x, y, center=False, scale=None)
        network = mf.Network(phi, sigma_w=sigma_w)
        error, new = 0.0, np.random.default_rng(1).normal(size=(NEW, x.shape[1]))
        if exact is None:
            exact, error, there, noise = reference(network, task, tau, new)
        else:
            there, noise = exact, 0.0
        rough = mf.solve(network, task, tau, refine=False, on_failure="return")
        start = time.perf_counter()
        post = mf.solve(network, task, tau, on_failure="return")
        seconds = time.perf_counter() - start
        off = [float(np.sqrt(np.mean((p.predictions - exact) ** 2))) for p in (rough, post)]
        first, last = rough.certificate, post.certificate
        claimed = np.nan if first.output_error is None else first.output_error
        se = last.output_error_se if last.output_error_se is not None else np.nan
        final = last.output_error if last.output_error is not None else np.nan
        covered = not off[1] > final + 4 * np.hypot(se, error) + 1e-6
        verdict = (
            "  not tested: too few points of the reference count"
            if np.isnan(error)
            else ""
            if covered
            else "  NOT COVERED"
        )
        bad += not covered and post.certified
        print(
            f"{name:24}{off[0]:20.5f}{claimed:9.5f}  {off[1]:15.5f}{final:9.5f}{se:9.5f}{error:9.5f}  "
            f"{post.status} {seconds:.1f}{verdict}",
            flush=True,
        )
        if not np.isnan(error):
            first, second, se, covered = on_new_inputs(rough, post, new, there, noise)
            missed += not covered
            squares.append((first**2, second**2))
            print(
                f"{'    new inputs':24}{first:20.5f}{'':9}  {second:15.5f}{'':9}{se:9.5f}{_rms(noise):9.5f}"
                + ("" if covered else "  NOT COVERED"),
                flush=True,
            )
    rms = np.sqrt(np.mean(squares, axis=0))
    print(f"new inputs: {missed} beyond their claimed error; over all tasks {rms[0]:.5f}, corrected {rms[1]:.5f}")
    print(f"{bad} certified answers beyond their claimed error")


if __name__ == "__main__":
    main()
