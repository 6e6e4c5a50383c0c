"""Functions in the form that compiled callers need: without what only calls from Python need.

Numba makes three functions of each: its code, a wrapper that takes Python's objects and one that takes those of C, and
translates all of them to machine code at once. What a compiled caller links needs no wrapper and no machine code of its
own; what it calls through a pointer needs no wrapper. This form, *inside*, is made where a compiled caller asks; where
Python asks, now or later, the function is compiled as a whole. On disk each form has its own file.

This leans on semi-private parts of Numba (`Dispatcher.get_call_template` and `add_overload`,
`_FunctionCompiler._customize_flags`, `CompileResult`). Where they have changed, functions are made as a whole, which
costs time and nothing else.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from meanfield.numerics import linkage

try:
    from numba.core.compiler import CompileResult, compile_result
    from numba.core.compiler import Flags as _Flags
    from numba.core.dispatcher import Dispatcher as _Dispatcher
    from numba.core.dispatcher import _FunctionCompiler  # type: ignore[attr-defined]  # private, but there
    from numba.core.sigutils import normalize_signature

    _template_of = _Dispatcher.get_call_template
    _used = (
        _Flags.no_compile, _Flags.no_cpython_wrapper, _Flags.no_cfunc_wrapper, _Flags.options, _Flags.values,
        _Flags()._values, _Dispatcher.add_overload, _FunctionCompiler._customize_flags, CompileResult._reduce,
        CompileResult._find_referenced_environments,
    )  # fmt: skip
except (ImportError, AttributeError):  # another Numba
    _AVAILABLE = False
else:
    _AVAILABLE = linkage.AVAILABLE  # who translates late also tells the engine what callees need

__all__ = [
    "asked_by_compiled_code",
    "in_two_forms",
    "is_asked_by_compiled_code",
    "making_inside",
    "read_inside",
    "reduced",
]


class Inside:
    """In place of a function's entry point for Python; Numba finds the code by it."""


class _State(threading.local):
    asked = False  # what is compiled next is asked for by compiled code
    inside = False  # the form of what is compiled now
    compiling = False


_state = _State()


@contextlib.contextmanager
def asked_by_compiled_code() -> Iterator[None]:
    """What is compiled next is called by compiled code."""
    before, _state.asked = _state.asked, True
    try:
        yield
    finally:
        _state.asked = before


def is_asked_by_compiled_code() -> bool:
    """Whether compiled code asks for what is to be compiled; not said of what that needs in turn."""
    asked, _state.asked = _state.asked, False
    return asked


def making_inside() -> bool:
    """Whether what is compiled or read now is the form for compiled callers."""
    return _state.inside


def in_two_forms(dispatcher: Any) -> Callable[[Any, bool], object]:
    """Let a dispatcher have either form; returns what compiles, given a signature and whether compiled code asks."""
    compile_ = dispatcher.compile
    if not _AVAILABLE:
        return lambda signature, inside: compile_(signature)
    compiler, add = dispatcher._compiler, dispatcher.add_overload
    make, customize = compiler.compile, compiler._customize_flags

    def customize_flags(flags: Any) -> Any:
        flags = customize(flags)
        flags.no_cfunc_wrapper = True
        if _state.inside:
            flags.no_compile = flags.no_cpython_wrapper = True
        return flags

    def make_form(arguments: Any, returned: Any) -> Any:
        result = make(arguments, returned)
        if _state.inside:
            result = result._replace(entry_point=Inside())
            dispatcher.targetctx.insert_user_function(result.entry_point, result.fndesc, [result.library])
        return result

    def add_overload(result: Any) -> None:
        if isinstance(result.entry_point, Inside):  # not for calls from Python
            dispatcher.overloads[tuple(result.signature.args)] = result
        else:
            add(result)

    def compile_form(signature: Any, inside: bool) -> object:
        before = _state.inside, _state.compiling
        _state.inside, _state.compiling = inside, True
        try:
            arguments = tuple(normalize_signature(signature)[0])
            known = dispatcher.overloads.get(arguments)
            if not inside and known is not None and isinstance(known.entry_point, Inside):
                del dispatcher.overloads[arguments]  # callers that have it keep it
            return compile_(signature)
        finally:
            _state.inside, _state.compiling = before

    compiler._customize_flags, compiler.compile, dispatcher.add_overload = customize_flags, make_form, add_overload
    return compile_form


def reduced(result: Any, called: bool) -> tuple[Any, ...]:
    """What is kept of a function on disk: machine code only if it is `called`, through a pointer or from Python."""
    if not isinstance(result.entry_point, Inside):
        return tuple(result._reduce())
    library, description = result.library, result.fndesc
    library._ensure_finalized()
    if called:
        kept = library.serialize_using_object_code()
    else:
        kept = library.name, "bitcode", library._get_module_for_linking().as_bitcode()
    description.typemap = description.calltypes = None  # as in `CompileResult._reduce`
    environments, types = tuple(result._find_referenced_environments()), str(result.type_annotation)
    return kept, description, result.environment, result.signature, types, result.reload_init, environments


def read_inside(
    context: Any, kept: Any, description: Any, environment: Any, signature: Any, types: Any, reload_init: Any,
    environments: Any,
) -> Any:  # fmt: skip
    """The form for compiled callers, from what `reduced` says of it."""
    for function in reload_init:
        function()
    library = context.codegen().unserialize_library(kept)
    if kept[1] == "object":
        for one in environments:
            library.codegen.set_env(one.env_name, one)
    return compile_result(
        target_context=context,
        typing_context=context.typing_context,
        library=library,
        environment=environment,
        entry_point=Inside(),
        fndesc=description,
        type_annotation=types,
        signature=signature,
        objectmode=False,
        lifted=(),
        reload_init=reload_init,
        referenced_envs=environments,
    )


def _get_call_template(dispatcher: Any, arguments: Any, keywords: Any) -> Any:
    """In place of `Dispatcher.get_call_template`: what Numba brings along is only linked, too."""
    if _state.compiling and "compile" not in vars(dispatcher) and dispatcher.py_func.__module__.startswith("numba."):
        compile_form = in_two_forms(dispatcher)
        dispatcher.compile = lambda signature: compile_form(signature, is_asked_by_compiled_code())
    if "compile" not in vars(dispatcher):
        return _template_of(dispatcher, arguments, keywords)
    with asked_by_compiled_code():
        return _template_of(dispatcher, arguments, keywords)


def _values(flags: Any) -> dict[str, Any]:
    """In place of `TargetConfig.values`: what all compiled functions are looked up by, without a call for each flag."""
    return {**_DEFAULTS, **flags._values}


if _AVAILABLE:
    # Numba lets neither be chosen: the methods are replaced, which is what mypy is told to let pass.
    _DEFAULTS = {name: option.default for name, option in _Flags.options.items()}
    _Flags.values = _values  # type: ignore[method-assign]
    _Dispatcher.get_call_template = _get_call_template  # type: ignore[method-assign, assignment]
