"""Numba-compiled kernels: arrays and NamedTuples in and out, no Python objects.

Every function here is decorated with :func:`jit`, which caches machine code on disk. Numba does not notice an edit
in a callee that lives in another file, so each file's code is kept under a hash of that file and of all files of
this package that it imports.
Set ``MEANFIELD_CACHE_DIR`` to choose where it lives; a directory that cannot be written means compiling in memory.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

__all__ = ["cache_directory", "jit"]

# Flags that keep NaN and infinities meaningful (fastmath=True would not).
_FLAGS = {"reassoc", "contract", "arcp"}

_PACKAGE = Path(__file__).parents[1]
_IMPORT = re.compile(r"^from meanfield\.([\w.]+) import", re.MULTILINE)


@functools.cache
def _source_hash(file: str) -> str:
    """Hash of a source file and of the files of this package it imports, directly or not."""
    found, waiting = {__file__: Path(__file__).read_bytes()}, [Path(file)]
    while waiting:
        path = waiting.pop()
        if str(path) in found:
            continue
        found[str(path)] = path.read_bytes()
        for name in _IMPORT.findall(found[str(path)].decode()):
            module = _PACKAGE.joinpath(*name.split("."))
            waiting.append(module / "__init__.py" if module.is_dir() else module.with_suffix(".py"))
    digest = hashlib.sha256(numba.__version__.encode())
    for name in sorted(found):
        digest.update(found[name])
    return digest.hexdigest()[:16]


def _writable_cache() -> Path | None:
    base = os.environ.get("MEANFIELD_CACHE_DIR") or os.environ.get("NUMBA_CACHE_DIR")
    if base is None:
        home = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
        base = str(Path(home) / "meanfield")
    path = Path(base)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        warnings.warn(
            f"meanfield cannot write its cache of compiled code ({error}); compiling in memory, which costs a few "
            "seconds in every new process. Set MEANFIELD_CACHE_DIR to a writable directory.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return path


_CACHE = None if numba.config.DISABLE_JIT else _writable_cache()


def cache_directory() -> Path | None:
    """Directory that holds the compiled code, or None where it is kept in memory."""
    return _CACHE


def jit(function: Callable[..., Any]) -> Any:
    """Compile `function` lazily with Numba, without Python objects, releasing the GIL, cached where possible."""
    options: dict[str, Any] = {"error_model": "numpy", "nogil": True, "fastmath": _FLAGS}
    if _CACHE is None:
        return numba.njit(**options)(function)
    previous = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(_CACHE / _source_hash(function.__code__.co_filename))
    try:
        return numba.njit(cache=True, **options)(function)
    finally:
        numba.config.CACHE_DIR = previous
