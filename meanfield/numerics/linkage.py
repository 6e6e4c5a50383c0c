"""Compiled code that calls its own copies of what is linked into it.

Numba links callees into their callers with weak symbols. A caller of a callee that was not inlined then finds it by
name, in whichever library of the process has been loaded first, and the copies differ in last digits: each was
optimised within its caller. So results would depend on what was compiled or read before. Here copies become internal
to a library before it is translated; what others link stays as it was.

This leans on semi-private parts of Numba (`CPUCodeLibrary._finalize_final_module`, `_final_module`, `_shared_module`).
Where they have changed, symbols stay weak.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numba.core.codegen import CPUCodeLibrary

try:
    from llvmlite.binding import Linkage
    from numba.core.codegen import CPUCodeLibrary as _Library

    _finalize = _Library._finalize_final_module
except (ImportError, AttributeError):  # another Numba
    _AVAILABLE = False
else:
    _AVAILABLE = True

__all__ = ["own_copies"]

_users = 0  # compilations that want it; other users of Numba get what they are used to


@contextlib.contextmanager
def own_copies() -> Iterator[None]:
    """While this lasts, libraries that are finished keep copies of what is linked into them for themselves."""
    global _users
    _users += 1
    try:
        yield
    finally:
        _users -= 1


def _finish(library: CPUCodeLibrary) -> None:
    if _users and getattr(library, "_shared_module", 0) is None:
        _keep_copies_inside(library)
    _finalize(library)


def _keep_copies_inside(library: CPUCodeLibrary) -> None:
    """What others link is set aside as it is (`CPUCodeLibrary._get_module_for_linking`), then symbols are internal."""
    module = library._final_module
    shared, exported = module.clone(), 0
    for function in shared.functions:
        if not function.is_declaration and function.linkage == Linkage.external:
            function.linkage = Linkage.linkonce_odr
            exported += 1
    if not exported:
        return
    library._shared_module = shared
    for function in module.functions:
        if not function.is_declaration and function.linkage == Linkage.linkonce_odr:
            function.linkage = Linkage.internal


if _AVAILABLE:
    # Numba has no hook between linking and translation: the method is replaced.
    _Library._finalize_final_module = _finish  # type: ignore[method-assign]
