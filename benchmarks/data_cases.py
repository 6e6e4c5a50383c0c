"""Large or hard solves on data, each in a process of its own: status, claimed error, time and peak memory.

    MEANFIELD_DATA=FOLDER python benchmarks/data_cases.py [--seconds 600] [--no-refine] [NAME ...]

FOLDER has the IDX files of MNIST and an archive of CIFAR-10. A name picks the cases whose names contain it. "cpu" are
the processor seconds of all threads, "check" those of measurement and correction, "MB" what peak memory exceeds that
before the solve by.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import time
from pathlib import Path

import numpy as np


def _images(collection, per_class, classes, off):
    images = collection.classes(*classes) if classes else collection
    train, _ = images.split(per_class * len(images.class_names), rng=0)
    return train.task(on=1.0, off=off)


def digits(per_class, off, classes=()):
    import meanfield as mf

    return _images(mf.datasets.digits(), per_class, classes, off)


def mnist(per_class, off):
    import meanfield as mf

    return _images(mf.datasets.mnist(os.environ["MEANFIELD_DATA"], "test"), per_class, (0, 1, 2), off)


def cifar(per_class, off):
    import meanfield as mf

    images = mf.datasets.cifar10(sorted(Path(os.environ["MEANFIELD_DATA"]).glob("cifar10*"))[0]).gray()
    return _images(images, per_class, ("airplane", "automobile", "frog"), off)


def table(name):
    import sklearn.datasets

    import meanfield as mf

    table = getattr(sklearn.datasets, f"load_{name}")()
    x = (table.data - table.data.mean(axis=0)) / table.data.std(axis=0)
    return mf.data_task(x, labels=table.target, on=1.0, off=0.0)


def _raw(x, y):
    import meanfield as mf

    return mf.data_task(np.asarray(x, dtype=float), y, center=False, scale=None)


def _opposite():
    x = np.random.default_rng(0).normal(size=(15, 4))
    return _raw(np.concatenate([x, -x]), np.ones(30))


def _three_clusters():
    rng = np.random.default_rng(1)
    labels = np.arange(24) % 3
    x = rng.normal(size=(24, 40)) + 0.8 * rng.normal(size=(3, 40))[labels]
    import meanfield as mf

    return mf.data_task(x, labels=labels, on=1.0, off=0.0)


def _bump():
    import sympy

    return sympy.exp(-(sympy.Symbol("z", real=True) ** 2))


CASES = {  # name: phi, tau, task
    "two samples, tanh": ("tanh", 0.01, lambda: _raw(np.eye(2), [1.0, 0.3])),
    "two samples, exp(-z^2)": (_bump, 0.1, lambda: _raw(np.eye(2), [1.0, 0.3])),
    "15 opposite pairs, tanh": ("tanh", 0.1, _opposite),
    "15 opposite pairs, sigmoid": ("sigmoid", 0.01, _opposite),
    "iris, sigmoid": ("sigmoid", 0.01, lambda: table("iris")),
    "iris, tanh": ("tanh", 0.01, lambda: table("iris")),
    "wine, sigmoid": ("sigmoid", 0.01, lambda: table("wine")),
    "wine, tanh": ("tanh", 0.01, lambda: table("wine")),
    "digits 90, 0": ("sigmoid", 0.01, lambda: digits(30, 0.0, (0, 1, 2))),
    "digits 90, 1/2": ("sigmoid", 0.01, lambda: digits(30, 0.5, (0, 1, 2))),
    "MNIST 99, 0": ("sigmoid", 0.01, lambda: mnist(33, 0.0)),
    "MNIST 300, 0": ("sigmoid", 0.01, lambda: mnist(100, 0.0)),
    "MNIST 300, 1/2": ("sigmoid", 0.01, lambda: mnist(100, 0.5)),
    "MNIST 1000, 0": ("sigmoid", 0.01, lambda: mnist(333, 0.0)),
    "ten digits 500": ("sigmoid", 0.05, lambda: digits(50, 0.0)),
    "CIFAR 300": ("sigmoid", 0.1, lambda: cifar(100, 0.0)),
    "softplus, three clusters": ("softplus", 0.3, _three_clusters),
    "GELU, three clusters": ("gelu", 0.3, _three_clusters),
    "ReLU, digits 90, 0": ("relu", 0.01, lambda: digits(30, 0.0, (0, 1, 2))),
    "ReLU, MNIST 99, 0": ("relu", 0.05, lambda: mnist(33, 0.0)),
    "ReLU, MNIST 99, 1/2": ("relu", 0.05, lambda: mnist(33, 0.5)),
    "ReLU, MNIST 300, 0": ("relu", 0.05, lambda: mnist(100, 0.0)),
}


def run(name: str, seconds: float, refine: bool | None) -> None:
    import meanfield as mf
    from meanfield.theories.general_data.exact import examine

    phi, tau, make = CASES[name]
    task, network = make(), mf.Network(phi() if callable(phi) else phi)
    spent = [0.0]

    def timed(function):
        def inner(*args, **options):
            start = time.process_time()
            try:
                return function(*args, **options)
            finally:
                spent[0] += time.process_time() - start

        return inner

    examine.examined = timed(examine.examined)  # as `theory.py` looks it up at every solve
    mf.solve(network, _raw(np.eye(3), np.eye(3)[:, :2]), 1.0, on_failure="return", max_seconds=600.0)  # compiles
    spent[0] = 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    try:
        post = mf.solve(network, task, tau, max_seconds=seconds, refine=refine, on_failure="return")
        status, message, proof, method = post.status, post.message, post.certificate, post.solution.method
        numbers = [proof.kkt_residual, proof.output_error, proof.output_error_max, proof.output_error_se]
    except (mf.ConvergenceError, ValueError) as error:
        status, message, method, numbers = "refused", str(error), "", [None] * 4
    total = time.process_time() - start
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    text = " ".join("      --" if x is None else f"{x:8.1e}" for x in numbers)
    print(
        f"{name:26}{task.n_samples:5}{tau:6g} {status:13}{method:10}{text}{total:8.1f}{spent[0]:8.1f}{peak:7.0f}"
        + ("" if status == "optimal" else f"\n    {message}"),
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--no-refine", action="store_true")
    options = parser.parse_args()
    print(
        f"{'case':26}{'P':>5}{'tau':>6} {'status':13}{'method':10}"
        f"{'residual':>8} {'rms':>8} {'max':>8} {'+-':>8}{'cpu':>8}{'check':>8}{'MB':>7}",
        flush=True,
    )
    spawn = multiprocessing.get_context("spawn")
    for name in CASES:
        if options.names and not any(word in name for word in options.names):
            continue
        child = spawn.Process(target=run, args=(name, options.seconds, False if options.no_refine else None))
        child.start()
        child.join()


if __name__ == "__main__":
    main()
