"""Compiled code: no assignment from array to array, calls through pointers, what is said while compiling."""

import ast
import importlib
import io
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numba
import numpy as np
import pytest

import meanfield
import meanfield as mf
from meanfield.numerics import barrier, cache
from meanfield.numerics.copies import copy_matrix, copy_vector
from meanfield.numerics.jit import cache_directory, jit, jit_apart, source_hash

PACKAGE = Path(meanfield.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if re.search(r"^@jit", path.read_text(), re.MULTILINE))


def jitted(source):
    """Compiled functions of a source."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and any("jit" in ast.unparse(d) for d in node.decorator_list):
            yield node


def subscripts(function):
    """Largest number of indices with which every name, or attribute of a name, is used; 0 for arrays without."""
    found = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Subscript):
            name, index = ast.unparse(node.value), node.slice
            found[name] = max(found.get(name, 0), len(index.elts) if isinstance(index, ast.Tuple) else 1)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            made = ast.unparse(node.value)
            if re.match(r"np\.(empty|zeros|ones|full)\(\(", made) and isinstance(node.targets[0], ast.Name):
                name = node.targets[0].id
                found[name] = max(found.get(name, 0), len(node.value.args[0].elts))
    return found


def is_array(node, ranks):
    """Whether an expression is an array, as far as one sees without types."""
    if isinstance(node, ast.Subscript):
        index = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if any(isinstance(i, ast.Slice) for i in index):
            return True
        return len(index) < ranks.get(ast.unparse(node.value), 0)
    if isinstance(node, (ast.Name, ast.Attribute)):
        return ast.unparse(node) in ranks
    if isinstance(node, ast.BinOp):
        return is_array(node.left, ranks) or is_array(node.right, ranks)
    if isinstance(node, ast.UnaryOp):
        return is_array(node.operand, ranks)
    return isinstance(node, ast.Call) and ast.unparse(node.func).endswith((".copy", "np.empty", "np.zeros", "np.dot"))


def is_element(target):
    """Two or more indices without a slice, taken for an entry of a matrix (the test by types knows better)."""
    index = target.slice.elts if isinstance(target.slice, ast.Tuple) else []
    return len(index) > 1 and not any(isinstance(i, ast.Slice) for i in index)


def array_assignments(source):
    """Lines of compiled functions that assign an array to a part of an array."""
    for function in jitted(source):
        ranks = subscripts(function)
        for node in ast.walk(function):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if not isinstance(node, (ast.Assign, ast.AugAssign)):
                continue
            flat = [t for target in targets for t in getattr(target, "elts", [target])]
            if any(isinstance(t, ast.Subscript) and not is_element(t) for t in flat) and is_array(node.value, ranks):
                yield f"{function.name}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_array_is_assigned_to_a_part_of_an_array(path):
    """Numba's text for shapes that do not match costs seconds in every caller: copies are loops."""
    assert not list(array_assignments(path.read_text()))


@pytest.mark.parametrize(
    "line", ["a[:] = b", "rows[k] = a", "rows[k] = b[0]", "a[:n] = -b", "a[1:] = 2.0 * b[k] + a[2:]", "rows[k] += a"]
)
def test_such_assignments_are_seen(line):
    source = f"@jit\ndef f(a, b, rows, k, n):\n    rows[0, 0] = a[0] + b[0, 0]\n    {line}\n"
    assert len(list(array_assignments(source))) == 1
    assert not list(array_assignments(source.replace(line, "a[:] = 0.0")))
    assert not list(array_assignments(source.replace("@jit\n", "")))


def annotations(path):
    """What Numba wrote down of the types in every compiled signature of a file: (function, text)."""
    for file in (cache_directory() / source_hash(str(path))).glob("*.nbc"):
        payload = pickle.loads(file.read_bytes()[32:])[1]
        name = re.search(r"\.(\w+)-\d+", file.name)[1]
        yield from ((name, text) for text in payload if isinstance(text, str) and "label" in text)


def typed_assignments(text):
    """Assignments to a part of an array whose value is no number, from the types that Numba inferred."""
    kinds = dict(re.findall(r"^ *#   (\S+) = .*  :: (.*)$", text, re.MULTILINE))
    for target, index, value in re.findall(r"^ *#   ([^\s\[]+)\[(.*)\] = (\S+)$", text, re.MULTILINE):
        if re.match(r"(?i)array|list|(uni)?tuple", kinds[value]):
            yield f"{target}[{index}] = {value} :: {kinds[value]}"


def test_no_array_is_assigned_to_a_part_of_an_array_by_types():
    """The same by Numba's own types, of everything that solving, sampling and projecting compiles."""
    task, generator = mf.class_task(fractions=[0.5, 0.25, 0.25], off=0.5), np.random.default_rng(0)
    data = mf.data_task(generator.normal(size=(8, 6)), labels=[0, 1] * 4)
    mf.solve(mf.Network("sigmoid"), task)
    for at_p in (task, mf.class_task(fractions=[0.5, 0.3, 0.2], targets=[[1.0, 0.0], [-0.3, 0.5], [0.4, 1.0]])):
        mf.solve(mf.Network("sigmoid"), at_p.with_(n_samples=100), tau=0.02)  # with one class integrated out, and none
    for phi in ("sigmoid", "relu"):
        mf.solve(mf.Network(phi), data, tau=0.3, on_failure="return")
    mf.solve(mf.Network("tanh", scaling="lazy"), data, tau=0.3)
    mf.sample(mf.Network("sigmoid"), mf.class_task(n_classes=2, n_samples=10), 10, 0.1, draws=2, warmup=2, chains=1)
    seen = set()
    for path in FILES:
        for name, text in annotations(path):
            seen.add(name)
            assert not list(typed_assignments(text)), f"{path.name}: {name}"
    assert {"sweep_points", "kkt_newton", "global_bound", "evaluate", "moments", "trajectory", "fill_table"} <= seen
    assert "product_sums" in seen


@jit
def _by_assignment(rows, a):
    rows[0] = a
    return rows[0, 0]


def test_assignments_are_seen_by_types():
    rows = np.zeros((2, 3))
    assert _by_assignment(rows, np.ones(3)) == 1.0
    found = [
        line for name, text in annotations(__file__) if name == "_by_assignment" for line in typed_assignments(text)
    ]
    assert found
    assert all("array" in line for line in found)


def test_copies():
    vector, matrix = np.zeros(4), np.zeros((3, 3))
    copy_vector(vector, np.arange(3.0))
    copy_matrix(matrix, np.arange(4).reshape(2, 2))
    np.testing.assert_array_equal(vector, [0, 1, 2, 0])
    np.testing.assert_array_equal(matrix, [[0, 1, 0], [2, 3, 0], [0, 0, 0]])


# ---- barriers ----------------------------------------------------------------------------------


@jit_apart
def _far_sum(pair, x):
    if pair[0].shape[0] == 0:
        raise ValueError("nothing to add")
    return np.sum(pair[0]) * x, pair[1].copy()


@jit_apart
def _far_difference(pair, x):
    total, copy = _far_sum(pair, x)
    return total - x, copy


@jit
def _near(pair, x):
    one, first = _far_sum(pair, x)
    two, second = _far_difference(pair, x)
    return one, two, first + second


def test_calls_through_pointers_do_what_linked_ones_do():
    pair = (np.arange(4.0), np.ones((2, 3)))
    for x in (2.0, 3):  # of two signatures
        one, two, total = _near(pair, x)
        assert (one, two) == (6.0 * x, 5.0 * x)
        np.testing.assert_array_equal(total, 2 * np.ones((2, 3)))
    assert len(_near.signatures) == 2


def test_errors_come_through():
    with pytest.raises(ValueError, match="nothing to add"):
        _near((np.empty(0), np.ones((1, 1))), 1.0)


def test_callers_do_not_contain_what_they_call():
    _near._cache.flush()  # what comes from a file cannot be inspected
    _near((np.arange(4.0), np.ones((2, 3))), 2.0)
    text = _near.inspect_llvm(_near.signatures[0])
    assert barrier._SYMBOL in text
    assert not re.search(r"define .*_far_sum", text)


def test_cached_callers_find_what_they_call(tmp_path):
    """In another process, where nothing is compiled."""
    (tmp_path / "apart.py").write_text(
        "import numpy as np\nfrom meanfield.numerics.jit import jit, jit_apart\n"
        "@jit_apart\ndef callee(x):\n    return np.sum(x)\n"
        "@jit\ndef caller(x):\n    return callee(x) + callee(x[:1])\n"
    )
    program = (
        "import numpy as np, apart; print(apart.caller(np.arange(3.0)), sum(apart.caller.stats.cache_hits.values()))"
    )
    paths = os.pathsep.join([str(tmp_path), *(p for p in sys.path if p)])
    environment = {**os.environ, "PYTHONPATH": paths, "MEANFIELD_CACHE_DIR": str(tmp_path / "cache")}
    said = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
        for _ in range(2)
    ]
    assert [done.stdout.split() for done in said] == [["3.0", "0"], ["3.0", "1"]]


@jit_apart(returns="Tuple((float64, float64[::1]))")
def _late(x, twice):
    return (2.0 if twice else 1.0) * np.sum(x), x.copy()


@jit
def _seldom(x, wanted):
    total = 0.0
    if wanted:
        total, copy = _late(x, True)
        total += _late(copy, False)[0]
    return total


def test_what_says_what_it_returns_is_compiled_when_it_is_called():
    """And once for all literals."""
    for function in (_late, _seldom):
        function._cache.flush()
    x = np.arange(3.0)
    assert _seldom(x, False) == 0.0
    assert not _late.signatures
    assert _seldom(x, True) == 9.0
    assert len(_late.signatures) == 1


def test_functions_return_what_is_said_of_them(capfd):
    @jit_apart(returns="int64")
    def callee(x):
        return x + 0.5

    @jit
    def caller(x):
        return callee(x)

    caller.compile("int64(int64)")
    with pytest.raises(RuntimeError, match="could not be loaded"):
        caller(1)
    assert "returns float64, and not int64, as is said of it" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("module", "names"),
    {
        "code_path": ("code_path", "flood", "_descend", "_settle"),
        "code_program": ("interior", "solve_programme", "_frame"),
        "basic_codes": ("basic_codes", "_reduced"),
        "moving_cuts": ("moving_cuts", "_maxima", "_metric"),
        "cones": ("solve_cones", "_solution", "_faces", "_ridges"),
        "joint_newton": ("joint_newton", "_scaled", "_turned"),
        "relaxation": ("relaxed_bound", "sign_products"),
        "outlier": ("worst_directions",),
        "bounds": ("growth_bound", "confined_radius"),
        "sweep": ("_with_readout",),
        "kkt": ("direction_step", "follow_direction", "_add_directions"),
        "weights": ("select_weights", "feasible_weights"),
    }.items(),
)
def test_solvers_that_few_tasks_need_are_compiled_when_they_are_called(module, names):
    """A first solve would compile all of them, where only one of them did not say what it returns."""
    home = f"meanfield.theories.single_layer.compiled.{module}"
    importlib.import_module(home)
    assert [name for name in names if (home, name) not in barrier._returned] == []


def test_a_callee_that_cannot_be_had_is_an_error(monkeypatch, capfd):
    @jit_apart
    def callee(x):
        return x + 1

    @jit
    def caller(x):
        return callee(x)

    caller.compile("float64(float64)")
    name = (callee.py_func.__module__, callee.py_func.__qualname__)
    monkeypatch.delitem(barrier._callees, name)
    with pytest.raises(RuntimeError, match="could not be loaded"):
        caller(1.0)
    assert "KeyError" in capfd.readouterr().err


def test_an_interrupt_while_a_callee_is_looked_for_comes_later(monkeypatch):
    """Ctrl-C in a callback would be lost, and the caller get no address."""
    monkeypatch.setattr(barrier, "_find", _Pressing(barrier._find))

    @jit_apart
    def callee(x):
        return x + 3

    @jit
    def caller(x):
        return callee(x)

    assert caller(1.0) == 4.0
    with pytest.raises(KeyboardInterrupt):
        time.sleep(60.0)
    assert barrier._find.pressed


class _Pressing:
    """A function during whose first call Ctrl-C is pressed."""

    def __init__(self, function):
        self.function, self.pressed, self.thread = function, False, None

    def __call__(self, *arguments):
        if not self.pressed:
            self.pressed, self.thread = True, threading.current_thread()
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        return self.function(*arguments)


def test_compiling_is_not_broken_off(monkeypatch):
    """Ctrl-C reaches the caller at once and the compiler never: half made code raised AssertionError."""

    @jit
    def slow(x):
        return x + 1

    looked_for = _Pressing(lambda *_: None)
    monkeypatch.setattr(slow._cache, "load_overload", looked_for)
    with pytest.raises(KeyboardInterrupt):
        slow(1.0)
    assert looked_for.thread is not threading.main_thread()
    assert slow(1.0) == 2.0
    assert len(slow.signatures) == 1


def test_compiled_functions_may_be_called_by_those_of_others():
    """Who compiles a caller holds the lock that the compiler needs."""

    @jit
    def ours(x):
        return x + 1

    @numba.njit
    def theirs(x):
        return ours(x)

    assert theirs(1.0) == 2.0


def test_another_numba_links_as_usual(monkeypatch):
    monkeypatch.setattr(barrier, "AVAILABLE", False)

    @jit_apart
    def callee(x):
        return x + 1

    assert "get_overload" not in vars(callee)
    assert callee(1) == 2


# ---- what is said ------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_compiling_is_announced_on_terminals_only(monkeypatch):
    for stream, said in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)

        @jit
        def inner(x):
            return x + 1

        @jit
        def outer(x, inner=inner):
            return inner(x)

        inner._cache.flush()  # of an earlier run
        assert inner(1) == 2
        assert ("compiling, once: inner" in stream.getvalue()) is said
        assert stream.getvalue().endswith("\x1b[K") is said
        assert not cache._compiling


def test_modules_with_compiled_code_are_found():
    names = {path.stem for path in FILES}
    assert {"sweep", "ep", "kernel", "linalg", "cumulant_table"} <= names
    assert importlib.import_module("meanfield.numerics.linalg").cholesky.py_func.__name__ == "cholesky"
