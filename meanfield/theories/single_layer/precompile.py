"""Compiles what a first solve of a class task needs last, in a process beside the one that solves.

The two meet in the cache of compiled code, and the first process waits for what the second one has begun. The second
process is given types only, and ends with the first one; where there is one processor, no cache that can be written, or
MEANFIELD_PRECOMPILE=0, there is none.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from meanfield.numerics.budget import new_stop
from meanfield.numerics.claims import sharing_with
from meanfield.numerics.cumulant_table import Direct, Table
from meanfield.numerics.jit import cache_directory, compile_for, source_hash
from meanfield.theories.single_layer.compiled import sweep
from meanfield.theories.single_layer.compiled.bounds import Bounds, second_order
from meanfield.theories.single_layer.compiled.certificate import certify, weight_nullity
from meanfield.theories.single_layer.compiled.dual import active_set
from meanfield.theories.single_layer.compiled.frames import Frames
from meanfield.theories.single_layer.compiled.generated import action, stationarity
from meanfield.theories.single_layer.compiled.globalcheck import branch_and_bound, global_bound
from meanfield.theories.single_layer.compiled.kkt import kkt_newton
from meanfield.theories.single_layer.compiled.majorants import majorised, peaked
from meanfield.theories.single_layer.compiled.master import solve_master
from meanfield.theories.single_layer.compiled.relaxation import relaxed_bound
from meanfield.theories.single_layer.compiled.weights import select_weights

__all__ = [
    "SWITCH",
    "beside",
    "calls",
    "calls_of_diagrams",
    "is_compiled",
    "precompile",
    "precompile_beside",
    "precompile_diagrams",
]

SWITCH = "MEANFIELD_PRECOMPILE"  # 0: no second process
_PROGRAM = """\
import os, sys, threading
def follow():
    sys.stdin.buffer.read()  # until the other process closes it, or is gone
    os._exit(1)
threading.Thread(target=follow, daemon=True).start()
from meanfield.theories.single_layer.precompile import precompile_beside
precompile_beside(int(sys.argv[1]), diagrams=bool(int(sys.argv[2])))
"""
_asked = False


def is_compiled() -> bool:
    """Whether the loop over tasks has been compiled, or cannot be kept."""
    home = cache_directory()
    if home is None or sweep.__file__ is None:
        return True
    return any((home / source_hash(sweep.__file__)).glob("sweep.sweep_points-*.nbc"))


def calls() -> list[tuple[Any, tuple[Any, ...]]]:
    """The big functions of a first solve, and arguments of the types they are called with.

    The longest, in the order in which they are called: the one that solves has the small ones between them.
    """
    x, rows, matrix, index = np.zeros(2), np.zeros((2, 2)), np.zeros((2, 2)), 1
    cube, s = np.zeros((2, 2, 2)), 1.0
    table = Table(cube, x, x, s, s, s, s, index, s, s, s, x, new_stop())
    bounds = Bounds(*[matrix] * 6)
    direct = Direct(x, x, x, x, x, x, matrix, matrix, x, matrix, matrix, index, s, s, s, s, s)
    codes = rows, x, rows, x  # readouts and weights, directions and weights
    search = rows, x, np.zeros(1, np.int64)
    return [
        (solve_master, (table, x, rows, s, s, rows, rows, x, rows, matrix, s, rows, x, s)),
        (kkt_newton, (table, x, rows, s, rows, *codes, index)),
        (branch_and_bound, (table, bounds, x, rows, s, rows, s, s, s, index, s, True, x)),
        (second_order, (table, bounds, x, rows, matrix, s, x, x, x, x, x, s, x, matrix, matrix, matrix)),
        (certify, (direct, s, s, x, rows, s, rows, *codes)),
        (weight_nullity, (table, x, rows, rows, rows)),
        (global_bound, (table, bounds, x, rows, s, rows, s, s, s, index, s, x)),
        (peaked, (table, bounds, x, rows, x, x, x, x, x, s, s, x, x, matrix, x)),
        (active_set, (table, x, rows, s, s, s, rows, *codes, search)),
    ]


def calls_of_diagrams() -> list[tuple[Any, tuple[Any, ...], bool]]:
    """The same of what a sweep and its transitions need besides, and whether Python calls it."""
    x, rows, cube, s = np.zeros(2), np.zeros((2, 2)), np.zeros((2, 2, 2)), 1.0
    table, bounds = next(arguments[:2] for function, arguments in calls() if function is branch_and_bound)
    where = True, True, s, cube, np.zeros(2, bool), x, rows, rows  # sides of readouts, products from zero
    frames = Frames(np.zeros((2, 2), np.int64), cube, cube, x, x)
    box = x, x, x, x  # ends of its sides, and of kappa
    scratch = cube, np.zeros(2, bool), x, rows, rows
    return [
        (action.action_fields4, (table, x, rows, x, x, x, x, x, x), True),
        (
            majorised,
            (table, bounds, x, rows, s, frames, rows, rows, x, *box, True, True, s, *scratch),
            False,
        ),
        (relaxed_bound, (table, bounds, x, rows, rows, x, x, x, x, x, *where), False),
        (select_weights, (table, x, rows, rows, x), False),
        (stationarity.mean_activations, (x, x, rows, x, rows, rows), True),
        (stationarity.cubic_along, (x, x, rows, x, x, x, rows, x, x), True),
        (stationarity.curvature_along, (x, x, rows, x, x, x, cube, rows), True),
        (stationarity.minus_hessian, (x, rows, rows), True),
        (stationarity.linear_part, (x, rows, s, rows), True),
        (stationarity.neuron_change, (rows, rows, x, rows, rows, x, x, rows, rows, rows, x, rows), True),
        (stationarity.output_by_weights, (rows, x, rows, cube), True),
        (stationarity.output_by_readouts, (rows, rows, rows, rows, x, x, np.zeros((2, 2, 2, 2))), True),
        (stationarity.neuron_jacobian, (rows, rows, x, rows, rows, x, np.zeros((2, 2, 2, 2)), cube, cube, cube), True),
        (stationarity.order_residual, (rows, s, rows, rows), True),
        (stationarity.neuron_residual, (rows, x, rows, rows, x, rows, rows), True),
    ]


def precompile() -> None:
    """Compile the big functions, or read them where that has been done."""
    for function, arguments in calls():
        compile_for(function, *arguments)


def precompile_diagrams() -> None:
    """Compile what sweeps and transitions need besides."""
    for function, arguments, from_python in calls_of_diagrams():
        compile_for(function, *arguments, from_python=from_python)


def precompile_beside(number: int, diagrams: bool) -> None:
    """The work of a process beside the one of that number, with which it ends."""
    with sharing_with(number, lambda: None):
        precompile()
        if diagrams:
            precompile_diagrams()


@contextmanager
def beside(diagrams: bool = False) -> Iterator[None]:
    """While this process compiles what it needs first, another one compiles a part that it needs last.

    Once in a process, and not where that has been compiled already. Where `diagrams` are to be made, the other process
    goes on with what sweeps and transitions need.
    """
    global _asked
    helper = None if _asked or not _helps() else _start(diagrams)
    _asked = True
    if helper is None:
        yield
        return
    try:
        with sharing_with(helper.pid, helper.poll):
            yield
    finally:
        helper.terminate()
        helper.communicate()


def _helps() -> bool:
    """Whether a second process can be started, and its work be found by this one."""
    if os.environ.get(SWITCH) == "0" or multiprocessing.parent_process() is not None or is_compiled():
        return False
    python = Path(sys.executable or "-").name.lower().startswith("python") and not getattr(sys, "frozen", False)
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    folder = cache_directory()
    while folder is not None and not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return python and processors > 1 and folder is not None and os.access(folder, os.W_OK)


def _start(diagrams: bool) -> subprocess.Popen[bytes] | None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with suppress(OSError):
        return subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(os.getpid()), str(int(diagrams))], env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )  # fmt: skip
    return None
