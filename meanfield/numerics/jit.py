"""Numba-compiled kernels: arrays and NamedTuples in and out, no Python objects.

Every function here is decorated with :func:`jit`, which caches machine code on disk. Numba does not notice an edit
in a callee that lives in another file, so each file's code is kept under a hash of that file and of all files of
this package that it imports.
Set ``MEANFIELD_CACHE_DIR`` to choose where it lives. A directory that can only be read is used; what is missing there
is compiled in memory (:mod:`meanfield.numerics.cache`).
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numba
from numba import types

from meanfield.numerics.barrier import behind_barrier
from meanfield.numerics.cache import cache_home, count_from_anywhere, keep_on_disk
from meanfield.numerics.inside import asked_by_compiled_code

__all__ = ["cache_directory", "compile_for", "jit", "jit_apart", "source_hash"]

# Flags that keep NaN and infinities meaningful (fastmath=True would not).
_FLAGS = {"reassoc", "contract", "arcp"}

_PACKAGE = Path(__file__).parents[1]
_IMPORT = re.compile(r"^from meanfield\.([\w.]+) import", re.MULTILINE)


@functools.cache
def source_hash(file: str) -> str:
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


_CACHE = None if numba.config.DISABLE_JIT else cache_home()
count_from_anywhere()


def cache_directory() -> Path | None:
    """Directory that holds the compiled code; None where there is no home for it, or no compiler."""
    return _CACHE


def jit(function: Callable[..., object]) -> Any:
    """Compile `function` lazily with Numba, without Python objects, releasing the GIL, cached where possible."""
    compiled = numba.njit(error_model="numpy", nogil=True, fastmath=_FLAGS)(function)
    source = function.__code__.co_filename
    if not Path(source).is_file():  # typed in: nothing tells one version from the next
        return compiled
    _ignore_literals(compiled)
    return keep_on_disk(compiled, None if _CACHE is None else _CACHE / source_hash(source))


def _ignore_literals(dispatcher: Any) -> None:
    """Let compiled callers that pass a literal share the code of those that pass a variable.

    Numba compiles a function once more for every literal integer or truth value, also for one that a variable only
    starts from.
    """
    if not hasattr(dispatcher, "get_call_template"):  # compilation is switched off
        return
    template_of = dispatcher.get_call_template

    def get_call_template(arguments: Any, keywords: Any) -> Any:
        plain = {name: types.unliteral(kind) for name, kind in keywords.items()}
        with asked_by_compiled_code():
            return template_of([types.unliteral(kind) for kind in arguments], plain)

    dispatcher.get_call_template = get_call_template


def jit_apart(function: Any = None, *, returns: str | None = None, from_python: bool = False) -> Any:
    """`jit` for big functions: callers call through a pointer instead of compiling it again.

    With `returns`, the type of what it returns in Numba's words, it is not compiled before it is called. What Python
    calls as well, `from_python`, has one form for both.
    """
    if function is None:
        return functools.partial(jit_apart, returns=returns, from_python=from_python)
    compiled = jit(function)
    if from_python and hasattr(compiled, "_cache"):
        compiled._cache.one_form = True
    return behind_barrier(compiled, returns)


def compile_for(function: Any, *arguments: Any, from_python: bool = False) -> None:
    """Compile a function for arguments of these types, or read it where that has been done; it is not called."""
    if hasattr(function, "compile"):  # else compilation is switched off
        with nullcontext() if from_python else asked_by_compiled_code():
            function.compile(tuple(numba.typeof(argument) for argument in arguments))
