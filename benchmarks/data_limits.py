"""Limits of data solves: by how much `max_seconds` is overrun, and how long Ctrl-C takes to end the whole process.

    MEANFIELD_DATA=FOLDER python benchmarks/data_limits.py [--seconds 3 10] [--interrupt 2 5] [--frozen] [NAME ...]

Cases are those of `data_cases.py`, each in a process of its own. "over" is wall clock beyond the limit, "gap" the
longest stretches between two looks at the clock by any thread that looks, in processor seconds of that thread, with the
lines where they begin and end. With `--frozen` it is `post.frozen` that is limited or interrupted, at a tenth more
neurons in the heaviest code than in equilibrium. Ctrl-C is compared with that of a process which has loaded the same
and sleeps.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import threading
import time
import traceback

import numpy as np
from data_cases import CASES, _raw
from interrupts import interrupted, until_interrupted


def _ready(name):
    import meanfield as mf

    phi, tau, make = CASES[name]
    network = mf.Network(phi() if callable(phi) else phi)
    for phi in {"sigmoid", network.activation}:  # compiles
        mf.solve(mf.Network(phi), _raw(np.eye(3), np.eye(3)[:, :2]), 1.0, on_failure="return", max_seconds=600.0)
    return network, make(), tau


def _work(name: str, frozen: bool):
    """What is limited: a function of the seconds (None: no limit)."""
    import meanfield as mf

    network, task, tau = _ready(name)
    if not frozen:
        return lambda seconds: mf.solve(network, task, tau, max_seconds=seconds, on_failure="return")
    post = mf.solve(network, task, tau)
    shares = np.array([code.weight for code in post.codes])
    shares[0] *= 1.1

    def solved(seconds):
        try:
            return post.frozen(shares, max_seconds=seconds)
        except mf.ConvergenceError as error:
            if error.result is None:
                raise
            return error.result

    return solved


def limited(name: str, seconds: float, frozen: bool) -> None:
    import meanfield as mf
    from meanfield.numerics import limits

    work = _work(name, frozen)
    own, gaps = threading.local(), {}
    check = limits.check_time

    def counted() -> None:
        now = time.thread_time()
        frame = sys._getframe(1)
        place = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
        if getattr(own, "last", None) is not None:
            pair = own.place, place
            gaps[pair] = max(gaps.get(pair, 0.0), now - own.last)
        own.last, own.place = now, place
        check()

    for module in list(sys.modules.values()):
        if getattr(module, "check_time", None) is check:
            module.check_time = counted
    start = time.monotonic()
    error = None
    try:
        post = work(seconds)
        status, error = post.status, post.certificate.output_error
    except mf.ConvergenceError as refused:
        status = f"refused: {refused}"
    except Exception:
        status = traceback.format_exc()
    over = time.monotonic() - start - seconds
    longest = sorted(gaps.items(), key=lambda item: -item[1])[:3]
    text = ", ".join(f"{gap:.2f} {a} -> {b}" for (a, b), gap in longest)
    claimed = "      --" if error is None else f"{error:8.1e}"
    print(f"{name:24}{seconds:7g}{over:8.2f}  {claimed}  {status!s:14} gap {text}", flush=True)


def _endless(name: str, frozen: bool, idle: bool, ready, caught) -> None:
    work = _work(name, frozen)

    def endless():
        while True:
            work(None)

    until_interrupted(endless if frozen else lambda: work(None), idle, ready, caught)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seconds", type=float, nargs="*", default=[])
    parser.add_argument("--interrupt", type=float, nargs="*", default=[])
    parser.add_argument("--frozen", action="store_true")
    options = parser.parse_args()
    names = [name for name in CASES if not options.names or any(word in name for word in options.names)]
    spawn = multiprocessing.get_context("spawn")
    print(f"{'case':24}{'limit':>7}{'over':>8}  {'claimed':>8}  status", flush=True)
    for name in names:
        for seconds in options.seconds:
            child = spawn.Process(target=limited, args=(name, seconds, options.frozen))
            child.start()
            child.join()
        for after in options.interrupt:
            times = [interrupted(_endless, (name, options.frozen, idle), after) for idle in (False, True)]
            (one, _, two), (three, _, four) = times
            print(
                f"{name:24} Ctrl-C after {after:g} s: caught after {one:.2f} s, process ended after {two:.2f} s "
                f"(a process that sleeps: {three:.2f} and {four:.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
