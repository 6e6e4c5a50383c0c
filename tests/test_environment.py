"""Hostile surroundings: an unwritable cache, no compiler, warnings as errors, an interrupted sweep."""

import os
import subprocess
import sys

import numpy as np
import pytest

import meanfield as mf
from meanfield.numerics.jit import cache_directory


def run(code, *flags, **environment):
    return subprocess.run(
        [sys.executable, *flags, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_unwritable_cache_means_compiling_in_memory(tmp_path):
    """A file stands where the directory should be: unlike permissions, that stops root as well."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    (tmp_path / "own.py").write_text("def one(x):\n    return x + 1.0\n\ndef two(x):\n    return x + 2.0\n")
    code = f"""
import sys
import warnings
sys.path.append({str(tmp_path)!r})
import own
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from meanfield.numerics.jit import jit
    typed_in = jit(lambda x: x + 3.0)
    typed_in(1.0)
    assert not caught, caught
    print(jit(own.one)(1.0), jit(own.two)(1.0))
assert [w.category for w in caught] == [RuntimeWarning], caught
assert "MEANFIELD_CACHE_DIR" in str(caught[0].message)
"""
    done = run(code, MEANFIELD_CACHE_DIR=str(blocked / "cache"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "2.0 3.0"


def test_without_the_compiler():
    code = """
import meanfield as mf
post = mf.solve(mf.Network("step"), mf.class_task(fractions=[.5, .5], targets=[1, -1]), tau=0.1)
print(f"{post.objective:.12f}")
"""
    done = run(code, NUMBA_DISABLE_JIT="1")
    assert done.returncode == 0, done.stderr
    task = mf.class_task(fractions=[0.5, 0.5], targets=[1, -1])
    assert float(done.stdout) == pytest.approx(mf.solve(mf.Network("step"), task, tau=0.1).objective, abs=1e-11)


def test_warnings_as_errors():
    code = """
import meanfield as mf
post = mf.solve(mf.Network("relu"), mf.class_task(fractions=[.5, .25, .25], off=0.))
post.table(), post.kernel(), post.sample_neurons(20, rng=0)
"""
    done = run(code, "-W", "error", MEANFIELD_CACHE_DIR=str(cache_directory()))
    assert done.returncode == 0, done.stderr


def test_a_sweep_on_an_executor_gives_the_same(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    network, task = mf.Network("sigmoid"), mf.class_task(fractions=[0.5, 0.25, 0.25], off=0.2)
    axes = {"off": np.linspace(0.3, 0.6, 5), "sigma_a": np.linspace(0.8, 1.2, 4)}
    with ThreadPoolExecutor(2) as executor:
        parallel = mf.sweep(network, task, executor=executor, **axes)
    serial = mf.sweep(network, task, **axes)
    assert parallel.objective == pytest.approx(serial.objective, abs=1e-12)
    assert parallel.phase_labels == serial.phase_labels
