"""What the first class task compiles on an empty cache, function by function, and what it takes as a whole.

    python benchmarks/first_solve.py                # three classes, sigmoid, y_- = 1/2
    python benchmarks/first_solve.py --show 200     # the whole table
    python benchmarks/first_solve.py --table 0      # no table: only the solve as a whole
    python benchmarks/first_solve.py --others       # the first solves of data, at finite P, and the sampler instead

The table: CPU seconds of one process, the callees' not counted. "types" is inference and what precedes it, "IR" the
writing of LLVM's code, "LLVM" its optimisation and translation; "n" counts the signatures of a function. Then the solve
without Numba's events: alone, and with the second process that `precompile.beside` starts where there are two
processors. `--others`: alone. Every run is a fresh process, with a cache of its own that is thrown away.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict

LLVM, IR, TYPES = "LLVM", "IR", "types"


class Times:
    """CPU seconds by function and kind of work; what is nested is not counted to what it is nested in."""

    def __init__(self):
        self.seconds = defaultdict(lambda: defaultdict(float))
        self.compiled = defaultdict(int)
        self.stack, self.since = [("outside", "")], time.process_time()

    def tick(self):
        now = time.process_time()
        name, kind = self.stack[-1]
        self.seconds[name][kind] += now - self.since
        self.since = now

    def begin(self, name, kind):
        self.tick()
        self.stack.append((name, kind))

    def end(self):
        self.tick()
        self.stack.pop()


def listen(times):
    """Let Numba tell what it does."""
    from numba.core import event
    from numba.core.codegen import CPUCodeLibrary

    class Compilations(event.Listener):
        def on_start(self, happening):
            function = happening.data["dispatcher"].py_func
            name = f"{function.__module__.removeprefix('meanfield.').split('.')[-1]}.{function.__name__}"
            times.compiled[name] += 1
            times.begin(name, TYPES)

        def on_end(self, happening):
            times.end()

    class Passes(event.Listener):
        def on_start(self, happening):
            times.begin(times.stack[-1][0], IR if "lowering" in happening.data["name"] else TYPES)

        def on_end(self, happening):
            times.end()

    event.register("numba:compile", Compilations())
    event.register("numba:run_pass", Passes())

    def as_llvm(method):
        def timed(*arguments, **options):
            times.begin(times.stack[-1][0], LLVM)
            try:
                return method(*arguments, **options)
            finally:
                times.end()

        return timed

    for name in ("finalize", "_optimize_functions", "add_ir_module"):
        setattr(CPUCodeLibrary, name, as_llvm(getattr(CPUCodeLibrary, name)))
    listen_to_translation(times)


def listen_to_translation(times):
    """What is translated late, when its machine code is asked for, is counted to the function of that name."""
    from meanfield.numerics import linkage

    translate = linkage._translate

    def timed(library, optimized=False):
        function = library.name
        names = [name for name in times.compiled if name.rpartition(".")[2] == function]
        times.begin(names[0] if names else function, LLVM)
        try:
            return translate(library, optimized)
        finally:
            times.end()

    linkage._translate = timed


def measure(show):
    """Solve, in this process, and print the table."""
    start = time.process_time()
    import meanfield as mf

    imported = time.process_time()
    times = Times()
    listen(times)
    prepared = time.process_time()
    times.since = prepared
    mf.solve(mf.Network("sigmoid"), mf.class_task(fractions=[0.5, 0.25, 0.25], off=0.5))
    times.tick()
    end = time.process_time()
    outside = times.seconds.pop("outside")
    rows = sorted(times.seconds.items(), key=lambda row: -sum(row[1].values()))
    print(f"{'function':<40}{'n':>4}{TYPES:>8}{IR:>8}{LLVM:>8}{'all':>8}")
    for name, kinds in rows[:show]:
        figures = "".join(f"{kinds[kind]:>8.2f}" for kind in (TYPES, IR, LLVM))
        print(f"{name:<40}{times.compiled[name]:>4}{figures}{sum(kinds.values()):>8.2f}")
    totals = [sum(kinds[kind] for _, kinds in rows) for kind in (TYPES, IR, LLVM)]
    figures = "".join(f"{total:>8.2f}" for total in totals)
    print(f"{f'all {len(rows)} functions':<40}{sum(times.compiled.values()):>4}{figures}{sum(totals):>8.2f}")
    print(
        f"import {imported - start:.1f} s and of Numba's events {prepared - imported:.1f} s, not compilation "
        f"{sum(outside.values()):.1f} s, first solve {end - prepared:.1f} s"
    )


PLAIN = """\
import meanfield as mf
mf.solve(mf.Network("sigmoid"), mf.class_task(fractions=[0.5, 0.25, 0.25], off=0.5))
"""


_DATA = """\
import numpy as np, meanfield as mf
X, labels = np.random.default_rng(0).normal(size=(8, 6)), np.arange(8) % 2
"""
OTHERS = {
    "finite P": """\
import meanfield as mf
mf.solve(mf.Network("sigmoid"), mf.class_task(fractions=[0.5, 0.25, 0.25], off=0.5, n_samples=200), tau=0.01)
""",
    "data, 8 samples, sigmoid": _DATA
    + """\
mf.solve(mf.Network("sigmoid"), mf.data_task(X, labels=labels), tau=0.1, on_failure="return")
""",
    "data, 8 samples, ReLU": _DATA
    + """\
mf.solve(mf.Network("relu"), mf.data_task(X, labels=labels), tau=0.3, on_failure="return")
""",
    "sampler": """\
import meanfield as mf
task = mf.class_task(n_classes=3, n_samples=30)
mf.sample(mf.Network("sigmoid"), task, 30, 0.1, draws=2, warmup=2, chains=1)
""",
}


def fresh(command, title, beside):
    """Run a program on an empty cache; says what it took, its children included."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "MEANFIELD_CACHE_DIR": folder, "MEANFIELD_PRECOMPILE": "1" if beside else "0"}
        start = os.times()
        subprocess.run([sys.executable, *command], env=environment, check=True)
        end = os.times()
        cpu = end.children_user + end.children_system - start.children_user - start.children_system
        files = [os.path.getsize(os.path.join(home, name)) for home, _, names in os.walk(folder) for name in names]
    print(
        f"{title}: {cpu:.1f} CPU s, {end.elapsed - start.elapsed:.1f} s of wall clock; {len(files)} files, "
        f"{sum(files) / 1e6:.1f} MB",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", type=int, default=60, help="rows of the table")
    parser.add_argument("--table", type=int, default=1, help="0: none")
    parser.add_argument("--others", action="store_true", help="data, finite P and the sampler instead")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        measure(options.show)
        return
    if options.others:
        for name, program in OTHERS.items():
            fresh(["-c", program], name, beside=False)
        return
    if options.table:
        fresh([__file__, "--here", "--show", str(options.show)], "with the table", beside=False)
    fresh(["-c", PLAIN], "alone", beside=False)
    fresh(["-c", PLAIN], "with a second process", beside=True)


if __name__ == "__main__":
    main()
