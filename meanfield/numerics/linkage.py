"""LLVM's work on compiled code: in full for what is called, as little as possible for what is only linked.

Numba optimises every function as if it were called, translates it to machine code, and links its optimised form into
every caller, where LLVM optimises it again. Here a library is simplified for linking, and optimised and translated only
when its address or its machine code is asked for.

Numba links callees into their callers with weak symbols. A caller of a callee that was not inlined then finds it by
name, in whichever library of the process has been loaded first, and the copies differ in last digits: each was
optimised within its caller. So results would depend on what was compiled or read before. Here copies become internal
to a library before it is optimised; what others link stays as it was.

This leans on semi-private parts of Numba (`CPUCodeLibrary._optimize_functions`, `_optimize_final_module`,
`_finalize_final_module`, `JITCodeLibrary.get_pointer_to_function` and what they call). Where they have changed, Numba
does what it always does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from numba.core.compiler_lock import global_compiler_lock

try:
    from llvmlite.binding import Linkage, ModulePassManager, create_new_module_pass_manager
    from numba.core.codegen import JITCodeLibrary as _Library
    from numba.core.codegen import JITCPUCodegen as _Codegen
    from numba.core.environment import lookup_environment

    _finalize = _Library._finalize_final_module
    _optimize = _Library._optimize_final_module
    _simplify = _Library._optimize_functions
    _address = _Library.get_pointer_to_function
    _machine_code = _Library._get_compiled_object
    _used = (
        _Library._finalize_dynamic_globals, _Codegen._pass_builder, ModulePassManager.add_sroa_pass,
        ModulePassManager.add_simplify_cfg_pass, ModulePassManager.add_instruction_combine_pass,
    )  # fmt: skip
except (ImportError, AttributeError):  # another Numba
    AVAILABLE = False
else:
    AVAILABLE = True

__all__ = ["AVAILABLE", "is_light", "own_copies"]

_light = 0  # compilations whose parts are simplified only
_users = 0  # compilations that want it; other users of Numba get what they are used to
_RECURSION = ".numba.unresolved$"  # beginning of symbols that stand for functions which call themselves
_ENVIRONMENT = "_ZN08NumbaEnv"


@contextlib.contextmanager
def own_copies(light: bool = True) -> Iterator[None]:
    """While this lasts, libraries keep copies of what is linked into them inside, and wait with their translation.

    Where it is not made `light`, functions are optimised and translated at every level, as Numba does.
    """
    global _users, _light
    _users, _light = _users + 1, _light + light
    try:
        yield
    finally:
        _users, _light = _users - 1, _light - light


def is_light() -> bool:
    """Whether what is compiled now is optimised and translated only if it is asked for."""
    return _light > 0


def _simplify_functions(library: Any, module: Any) -> None:
    """Before linking: variables out of memory, blocks joined. All passes come again when everything is linked."""
    if not _light:
        return _simplify(library, module)
    module.data_layout = library._codegen._data_layout
    builder = library._codegen._pass_builder(opt=0)
    passes = create_new_module_pass_manager()
    passes.add_sroa_pass()
    passes.add_simplify_cfg_pass()
    passes.add_instruction_combine_pass()
    passes.add_simplify_cfg_pass()
    passes.run(module, builder)


def _optimize_linked(library: Any) -> None:
    """What Numba does with every module waits until it is known that the module is translated."""
    if not _light:
        return _optimize(library)


def _finish(library: Any) -> None:
    """What is read from disk as machine code is ready; everything else waits until it is asked for."""
    if not _users or library._shared_module is not None:
        return _finalize(library)
    library._finalize_dynamic_globals()
    library._finalized = library._waits = True
    if not _light:
        _translate(library, optimized=True)
    elif any(variable.name.startswith(_RECURSION) for variable in library._final_module.global_variables):
        _translate(library)


def _translate(library: Any, optimized: bool = False) -> None:
    """The second half, once: all optimisations, and machine code."""
    if not getattr(library, "_waits", False):
        return
    library._waits = False
    _keep_copies_inside(library)
    if not optimized:
        _optimize(library)
    library._dynamic_globals.clear()  # found again
    _finalize(library)
    for variable in library._final_module.global_variables:
        if variable.name.startswith(_ENVIRONMENT):  # of callees: nobody else gives it to the engine
            environment = lookup_environment(variable.name)
            if environment is not None:
                library._codegen.set_env(variable.name, environment)


def _keep_copies_inside(library: Any) -> None:
    """What others link is set aside as it is (`CPUCodeLibrary._get_module_for_linking`), then symbols are internal."""
    module = library._final_module
    library._shared_module = shared = module.clone()
    for function in shared.functions:
        if not function.is_declaration and function.linkage == Linkage.external:
            function.linkage = Linkage.linkonce_odr
    for function in module.functions:
        if not function.is_declaration and function.linkage == Linkage.linkonce_odr:
            function.linkage = Linkage.internal


def _address_of(library: Any, name: str) -> int:
    with global_compiler_lock:
        library._ensure_finalized()
        _translate(library)
        return _address(library, name)


def _translated(library: Any) -> bytes:
    with global_compiler_lock:
        _translate(library)
        return _machine_code(library)


if AVAILABLE:
    # Numba has no hooks between these steps: the methods are replaced, which is what mypy is told to let pass.
    _Library._optimize_functions = _simplify_functions  # type: ignore[method-assign]
    _Library._optimize_final_module = _optimize_linked  # type: ignore[method-assign]
    _Library._finalize_final_module = _finish  # type: ignore[method-assign]
    _Library.get_pointer_to_function = _address_of  # type: ignore[method-assign]
    _Library._get_compiled_object = _translated  # type: ignore[method-assign]
