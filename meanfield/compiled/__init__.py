"""Numba-compiled kernels: arrays and NamedTuples in and out, no Python objects.

Every function here is decorated with :func:`jit`, which caches machine code on disk. Numba does not notice an edit
in a callee that lives in another file, so the cache directory is keyed by a hash of all compiled sources.
Set ``MEANFIELD_CACHE_DIR`` to choose where it lives; a directory that cannot be written means compiling in memory.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

__all__ = ["cache_directory", "jit"]

# Flags that keep NaN and infinities meaningful (fastmath=True would not).
_FLAGS = {"reassoc", "contract", "arcp"}


def _source_hash() -> str:
    digest = hashlib.sha256(numba.__version__.encode())
    package = Path(__file__).parents[1]
    for path in sorted([*(package / "compiled").rglob("*.py"), *package.glob("*/compiled.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _writable_cache() -> Path | None:
    base = os.environ.get("MEANFIELD_CACHE_DIR") or os.environ.get("NUMBA_CACHE_DIR")
    if base is None:
        home = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
        base = str(Path(home) / "meanfield")
    path = Path(base) / _source_hash()
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
    numba.config.CACHE_DIR = str(_CACHE)
    try:
        return numba.njit(cache=True, **options)(function)
    finally:
        numba.config.CACHE_DIR = previous
