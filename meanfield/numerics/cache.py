"""Machine code on disk: one file per function and signature, read wherever it can be, written wherever that is allowed.

Numba's own cache refuses a directory that it cannot write, raises where a file is damaged or a disk is full, and keeps
an index per function that processes which compile side by side may mix up. Here every signature has a file of its own,
named by a hash, moved into place when it is complete, and with a checksum. What cannot be read is compiled again; what
cannot be written stays in memory, which is said once.

Numba tells functions of one name and signature apart by a number that it counts up from 1 in every process, and the
code of all files that a process reads is linked by these names. `numpy.sort` and `numpy.argsort` share such names: with
code of two processes that had come to the same number, `sort` was linked to `argsort` and left its array unsorted,
without an error. Every process that keeps code starts from a random number instead. For the same reason a function that
is linked into several others would have one of its copies called by all of them, whichever was loaded first, and copies
differ in last digits; `meanfield.numerics.linkage` gives every caller its own.

This leans on semi-private parts of Numba (`Dispatcher._cache`, `CompileResult._reduce`,
`FunctionIdentity._unique_ids`). Where they have changed, everything is compiled in memory.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import itertools
import os
import pickle
import re
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from numba.core.compiler_lock import global_compiler_lock

from meanfield.numerics import claims
from meanfield.numerics.inside import in_two_forms, is_asked_by_compiled_code, making_inside, read_inside, reduced
from meanfield.numerics.limits import aside
from meanfield.numerics.linkage import is_light, own_copies

if TYPE_CHECKING:
    from numba.core.base import BaseContext
    from numba.core.codegen import Codegen
    from numba.core.dispatcher import Dispatcher
    from numba.core.typing.templates import Signature

try:
    from numba.core.bytecode import FunctionIdentity
    from numba.core.caching import FunctionCache
    from numba.core.compiler import CompileResult
    from numba.core.serialize import dumps
except ImportError as error:  # another Numba
    _MISSING: str | None = f"this version of Numba lacks what the cache needs: {error}"
    FunctionCache = object
else:
    _MISSING = None if hasattr(FunctionIdentity, "_unique_ids") else "this version of Numba names functions otherwise"

__all__ = ["KernelCache", "cache_home", "count_from_anywhere", "keep_on_disk"]

_DIGEST = hashlib.sha256().digest_size
# Optimised before they are linked, too: the sampler takes 1.4 times as long otherwise, the others were not measured.
_IN_FULL = ("meanfield.sampling", "meanfield.geometry", "meanfield.theories.deep")
_ENOUGH = 1_500_000  # objects, with which a process takes half a gigabyte
_told = False
_left = 0  # objects made by compilations since the last search among them
_compiling: list[str] = []  # functions whose code is being made: callers wait for their callees


def cache_home() -> Path | None:
    """Directory for compiled code: MEANFIELD_CACHE_DIR, NUMBA_CACHE_DIR, or the user's; None without a home."""
    chosen = os.environ.get("MEANFIELD_CACHE_DIR") or os.environ.get("NUMBA_CACHE_DIR")
    try:
        if chosen:
            return Path(chosen).expanduser().absolute()
        user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return (Path(user).expanduser() / "meanfield").absolute()
    except (RuntimeError, OSError):  # no HOME and no entry for the user; a working directory that was deleted
        return None


def count_from_anywhere() -> None:
    """Let no other process, a forked one neither, give its functions the names that this one gives."""

    def restart() -> None:
        FunctionIdentity._unique_ids = itertools.count(int.from_bytes(os.urandom(7)))

    if _MISSING is None:
        restart()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=restart)


def keep_on_disk(dispatcher: Dispatcher, folder: Path | None) -> Dispatcher:
    """Let a Numba dispatcher read its machine code from `folder` and write it there, never broken off by Ctrl-C."""
    if not hasattr(dispatcher, "_cache"):  # compilation is switched off
        return dispatcher
    _compile_aside(dispatcher)
    if _MISSING is None:
        dispatcher._cache = KernelCache(dispatcher.py_func, folder)
    else:
        tell(None, _MISSING)
    return dispatcher


def _compile_aside(dispatcher: Dispatcher) -> None:
    """Let a dispatcher compile in a thread: in callbacks of LLVM Ctrl-C would be lost, and leave code half made."""
    compile_here = in_two_forms(dispatcher)
    light = not dispatcher.py_func.__module__.startswith(_IN_FULL)

    def compile_(signature: Signature) -> object:
        inside = is_asked_by_compiled_code() and not getattr(dispatcher._cache, "one_form", False)
        if global_compiler_lock.is_locked():  # by this thread, which compiles a caller
            return compile_here(signature, inside and is_light())
        with own_copies(light), _rarely_collecting():
            return aside(lambda: compile_here(signature, inside))

    dispatcher.compile = compile_


@contextlib.contextmanager
def _rarely_collecting() -> Iterator[None]:
    """A tenth of a compilation is Python's search for circles among millions of small objects that are in use.

    What is left in the end counts as old: the search among all that is new would come at once otherwise. It comes when
    there are `_ENOUGH` of them.
    """
    global _left
    thresholds = gc.get_threshold()
    if thresholds[0] > 0:
        gc.set_threshold(max(thresholds[0], 500_000), *thresholds[1:])
    try:
        yield
    finally:
        if thresholds[0] > 0 and gc.get_freeze_count() == 0:  # else the user has put objects aside, to stay there
            _left += gc.get_count()[0]
            if _left > _ENOUGH:
                gc.collect()
                _left = 0
            gc.freeze()
            gc.unfreeze()
        gc.set_threshold(*thresholds)


def tell(folder: Path | None, reason: object) -> None:
    """Say, once per process, that compiled code is not kept."""
    global _told
    if _told:
        return
    _told = True
    where = "keep compiled code" if folder is None else f"write compiled code to {folder}"
    warnings.warn(
        f"meanfield cannot {where} ({reason}); what is not found there is compiled in memory, again in every new "
        "process, and that can take minutes. Set MEANFIELD_CACHE_DIR to a directory that can be written.",
        RuntimeWarning,
        stacklevel=2,
    )


class KernelCache(FunctionCache):
    """Compiled signatures of one function; see the module.

    Parameters
    ----------
    function : function
    folder : Path or None
        None: nothing is read or written.
    """

    def __init__(self, function: Callable[..., object], folder: Path | None) -> None:
        self._name, self._py_func = repr(function), function
        self._folder = folder
        code = function.__code__
        name = f"{Path(code.co_filename).stem}.{function.__name__}"
        self._stem = f"{name}-{code.co_firstlineno}.{sys.implementation.cache_tag}"
        self.called = False  # by compiled code through a pointer
        self.one_form = False  # for compiled code and Python
        self.enable()

    @property
    def cache_path(self) -> str:
        """Where the files are."""
        return str(self._folder)

    def flush(self) -> None:
        """Forget what is on disk; files that cannot be removed stay."""
        if self._folder is not None:
            for path in self._folder.glob(f"{self._stem}.*.nbc"):
                with contextlib.suppress(OSError):
                    path.unlink()

    def file(self, sig: Signature, codegen: Codegen) -> Path | None:
        """File of a signature on this processor."""
        if self._folder is None:
            return None
        words = repr((sig, codegen.magic_tuple(), making_inside()))
        words = re.sub(r" at 0x[0-9a-f]+", "", words)  # of functions that are arguments
        name = hashlib.sha256(words.encode()).hexdigest()[:16]
        return self._folder / f"{self._stem}.{name}.nbc"

    def load_overload(self, sig: Signature, target_context: BaseContext) -> object:
        """Machine code of a signature, or None where there is none that can be used, and has to be compiled."""
        found = self.read(sig, target_context)
        path = self.file(sig, target_context.codegen())
        if found is None and path is not None and claims.wait_for(path):
            found = self.read(sig, target_context)
        if found is None:
            if path is not None:
                claims.begin(path)
            begin_compiling(self._py_func.__name__)
        return found

    def read(self, sig: Signature, target_context: BaseContext) -> object:
        """Machine code of a signature on disk, or None."""
        target_context.refresh()
        codegen = target_context.codegen()
        path = self.file(sig, codegen)
        if not self._enabled or path is None:
            return None
        try:
            data = path.read_bytes()
        except OSError:
            return None
        if hashlib.sha256(data[_DIGEST:]).digest() != data[:_DIGEST]:
            return None  # damaged: compiled again and replaced
        try:
            key, payload = pickle.loads(data[_DIGEST:])
            if key != self._index_key(sig, codegen):
                return None
            return (read_inside if making_inside() else CompileResult._rebuild)(target_context, *payload)
        except Exception:  # written by a package whose classes have moved since
            return None

    def save_overload(self, sig: Signature, data: object) -> None:
        """Write the machine code of a signature; where that fails it stays in memory."""
        end_compiling(self._py_func.__name__)
        if not self._enabled or any(not loop.can_cache for loop in data.lifted) or data.library.has_dynamic_globals:
            return
        path = self.file(sig, data.codegen)
        if path is None:
            return tell(None, "there is no home directory")
        content = dumps((self._index_key(sig, data.codegen), reduced(data, self.called)))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, hashlib.sha256(content).digest() + content)
        except OSError as error:
            tell(path.parent, error)
        claims.end(path)


def begin_compiling(name: str) -> None:
    """Say on a terminal what is compiled, on a line that is overwritten."""
    _compiling.append(name)
    if sys.stderr is not None and sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[Kcompiling, once: {name}")
        sys.stderr.flush()


def end_compiling(name: str) -> None:
    """Take the line back when nothing waits any longer."""
    if name in _compiling:
        del _compiling[_compiling.index(name) :]
    if not _compiling and sys.stderr is not None and sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that other processes see complete or not at all."""
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex[:16]}")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise
