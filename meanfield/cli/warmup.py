"""`meanfield warmup`: compile everything once, side by side in processes."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed

__all__ = ["add_parser", "run"]

_CLASSES = "import meanfield as mf; task = mf.class_task(fractions=[0.5, 0.25, 0.25], off=0.5)\n"
_DATA = """\
import numpy as np, meanfield as mf
inputs = np.random.default_rng(0).standard_normal((8, 6))
task = mf.data_task(inputs, labels=[0, 1] * 4)
"""
# What is compiled together -> a program that needs it. The second one has what a first solve needs last, the others
# what only some tasks need: unbounded phi, codes far out, many different classes.
FIRST = {
    "class tasks": _CLASSES + "mf.solve(mf.Network('sigmoid'), task)",
    "global check": "from meanfield.theories.single_layer.precompile import precompile; precompile()",
    "unbounded activations": _CLASSES + "for phi in ('relu', 'gelu'): mf.solve(mf.Network(phi), task)",
    "many classes": "import meanfield as mf\n"
    "mf.solve(mf.Network('sigmoid'), mf.class_task(fractions=[k / 28 for k in range(1, 8)], off=0.2))",
}
OTHERS = {
    "finite P": _CLASSES
    + "for n in (100, 10_000): mf.solve(mf.Network('sigmoid'), task.with_(n_samples=n), tau=0.1).codes",
    "data": _DATA + "mf.solve(mf.Network('sigmoid'), task, tau=0.3, on_failure='return')",
    "data, unbounded": _DATA + "mf.solve(mf.Network('relu'), task, tau=0.3, on_failure='return')",
    "lazy kernels": _DATA + "mf.solve(mf.Network('tanh', scaling='lazy'), task, tau=0.3)",
    "deep networks": "import meanfield as mf\n"
    "mf.solve(mf.Network('sigmoid', depth=3), mf.class_task(targets=[1, -1], n_samples=40), tau=0.1)",
    "deep rectifiers": "import meanfield as mf\n"
    "mf.solve(mf.Network('relu', depth=2), mf.class_task(targets=[1, -1], n_samples=100), tau=0.05)",
    "sampling": "import meanfield as mf\n"
    "mf.sample(mf.Network('sigmoid'), mf.class_task(n_classes=2, n_samples=10), 10, 0.1, draws=2, warmup=2, chains=1)",
    "geometry": "import numpy as np, meanfield as mf\n"
    "mf.geometry.capacity(list(np.random.default_rng(0).standard_normal((4, 5, 20))), n_probes=200, seed=0)",
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """The subcommand."""
    parser = commands.add_parser(
        "warmup", help="compile once, in processes side by side, so that first calls do not have to",
        description="Compile what class tasks need; with --all finite P, data, deep networks, sampling, geometry, too.",
    )  # fmt: skip
    parser.add_argument("--all", action="store_true", help="everything, not only what class tasks need")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes side by side; default: 2")
    return parser


def run(options: argparse.Namespace) -> int:
    """Compile; a line for every part. Returns the exit status: 1 if a part failed."""
    if options.workers < 1:
        raise ValueError(f"--workers must be at least 1, got {options.workers}.")
    from meanfield.numerics.jit import cache_directory

    if cache_directory() is None:
        raise ValueError("there is no directory for compiled code; set MEANFIELD_CACHE_DIR to one.")
    parts = {**FIRST, **(OTHERS if options.all else {})}
    start, failed = time.monotonic(), 0
    with ThreadPoolExecutor(options.workers) as pool:
        running = {pool.submit(_compile, program): name for name, program in parts.items()}
        for done, future in enumerate(as_completed(running), start=1):
            error = future.result()
            failed += error is not None
            said = "compiled" if error is None else f"failed: {error}"
            print(f"[{done}/{len(parts)}] {running[future]} {said} ({time.monotonic() - start:.0f} s)", flush=True)
    print(f"compiled code is in {cache_directory()}")
    return int(failed > 0)


def _compile(program: str) -> str | None:
    """Run a program in a process of its own; the last line of its complaint, if it has one."""
    environment = {**os.environ, "MEANFIELD_PRECOMPILE": "0"}  # the parts are side by side already
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no reason given"])[-1]
