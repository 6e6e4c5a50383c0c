"""Calls through a pointer, so that a big callee is compiled once and not again inside every caller.

Numba links the code of a callee into its caller, and LLVM optimises it there again, at every level. Behind a barrier
the caller has a cell for the callee's address instead, empty at first. On first use a callback finds the callee (on
disk, or by compiling it) and fills the cell. No address reaches the cache of compiled code: the caller asks by name and
types.

What a function returns may be said where it is defined. Then callers need not know its body, and it is not compiled
before it is called: what a solve does not need costs it nothing.

This leans on semi-private parts of Numba (`Dispatcher.get_call_template` and `get_overload`,
`BaseContext.insert_func_defn`, the calling convention). Where they have changed, functions are linked as usual, which
costs time and nothing else.
"""

from __future__ import annotations

import _thread
import ctypes
import hashlib
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING

from meanfield.numerics.inside import asked_by_compiled_code
from meanfield.numerics.limits import aside

if TYPE_CHECKING:
    from numba.core.base import BaseContext
    from numba.core.dispatcher import Dispatcher
    from numba.core.types import Type
    from numba.core.typing.templates import Signature

try:
    import llvmlite.binding
    from llvmlite import ir
    from numba.core import cgutils
    from numba.core.serialize import dumps
    from numba.core.sigutils import normalize_signature
    from numba.core.types import unliteral
    from numba.core.typing import make_concrete_template, signature
except ImportError:  # another Numba
    AVAILABLE = False
else:
    AVAILABLE = True

__all__ = ["AVAILABLE", "behind_barrier"]

_SYMBOL = "meanfield_address_of_compiled_function"
_WORD = ctypes.c_void_p
_callees: dict[tuple[str, str], Dispatcher] = {}
_returned: dict[tuple[str, str], Type] = {}  # by those callees of which it is said


def behind_barrier(dispatcher: Dispatcher, returns: str | None = None) -> Dispatcher:
    """Let compiled callers reach a Numba dispatcher through a pointer; returns the dispatcher.

    Its own compilation, its calls from Python and its results stay what they are.

    Parameters
    ----------
    dispatcher : Dispatcher
    returns : str, optional
        The type of what it returns, in Numba's words, e.g. "Tuple((boolean, float64[:, ::1]))". Callers are compiled
        without looking at it then, and it is when one of them calls it first.
    """
    if not AVAILABLE or not hasattr(dispatcher, "get_overload"):  # another Numba, or compilation is switched off
        return dispatcher
    function = dispatcher.py_func
    name = (function.__module__, function.__qualname__)
    try:
        llvmlite.binding.add_symbol(_SYMBOL, ctypes.cast(_address_of, _WORD).value)
        context = dispatcher.targetctx
        used = (dispatcher, "get_call_template"), (dispatcher, "_compiler.fold_argument_types")
        used += (context, "insert_func_defn"), (context, "call_conv.call_function"), (context, "insert_const_bytes")
        for owner, name_in_it in used:
            attrgetter(name_in_it)(owner)
    except AttributeError:
        return dispatcher
    keys: dict[object, tuple[str, object]] = {}

    def get_overload(wanted: Signature) -> tuple[str, object]:
        arguments = tuple(normalize_signature(wanted)[0])
        if arguments not in keys:
            keys[arguments] = ("behind a barrier", (*name, arguments))
            returned = _returned.get(name) or dispatcher.overloads[arguments].signature.return_type
            lowering = _call_through_cell(returned, arguments, dumps((*name, arguments)))
            context.insert_func_defn([(lowering, keys[arguments], arguments)])
        return keys[arguments]

    _callees[name] = dispatcher
    if hasattr(dispatcher._cache, "called"):
        dispatcher._cache.called = True
    dispatcher.get_overload = get_overload
    if returns is not None:
        _, _returned[name] = normalize_signature(f"{returns}()")
        dispatcher.get_call_template = _template_of(dispatcher, _returned[name])
    return dispatcher


def _template_of(dispatcher: Dispatcher, returned: Type) -> Callable[..., object]:
    """`Dispatcher.get_call_template` of a function whose type is known, for which nothing needs to be compiled."""

    def get_call_template(arguments: Sequence[Type], keywords: dict[str, Type]) -> tuple[object, ...]:
        parameters, folded = dispatcher._compiler.fold_argument_types(arguments, keywords)
        folded = tuple(unliteral(kind) for kind in folded)  # no code of its own for every literal
        name = dispatcher.py_func.__name__
        template = make_concrete_template(name, key=name, signatures=[signature(returned, *folded)])
        return template, parameters, folded, {}

    return get_call_template


def _call_through_cell(returned: Type, kinds: Sequence[Type], request: bytes) -> Callable[..., ir.Value]:
    """Lowering of a call: the address from the cell, which is filled first where it is empty."""

    def lower(
        context: BaseContext, builder: ir.IRBuilder, signature: Signature, arguments: Sequence[ir.Value]
    ) -> ir.Value:
        module, byte_pointer, word = builder.module, ir.IntType(8).as_pointer(), ir.IntType(64)
        cell = ir.GlobalVariable(module, byte_pointer, module.get_unique_name("address_of_callee"))
        cell.linkage, cell.initializer = "internal", ir.Constant(byte_pointer, None)
        with builder.if_then(cgutils.is_null(builder, builder.load(cell)), likely=False):
            asks = ir.FunctionType(byte_pointer, [byte_pointer, word])
            ask = cgutils.get_or_insert_function(module, asks, _SYMBOL)
            text = context.insert_const_bytes(module, request, name=hashlib.sha256(request).hexdigest())
            found = builder.call(ask, [text, word(len(request))])
            with cgutils.if_unlikely(builder, cgutils.is_null(builder, found)):
                message = "a compiled function could not be loaded or compiled"
                context.call_conv.return_user_exc(builder, RuntimeError, (message,))
            builder.store(found, cell)
        kind = context.call_conv.get_function_type(returned, kinds).as_pointer()
        callee = builder.bitcast(builder.load(cell), kind)
        status, result = context.call_conv.call_function(builder, callee, returned, kinds, arguments)
        with cgutils.if_unlikely(builder, status.is_error):
            context.call_conv.return_status_propagate(builder, status)
        return result

    return lower


@ctypes.CFUNCTYPE(_WORD, _WORD, ctypes.c_size_t)
def _address_of(request: int, size: int) -> int | None:
    """Address of the compiled function that a caller asks for; None where there is none.

    There is no frame above that could take an exception. After Ctrl-C the caller, which is compiled code, gets its
    address all the same, and the signal comes again when it has gone on.
    """
    interrupted = False
    while True:
        try:
            address = aside(lambda: _find(ctypes.string_at(request, size)))
        except KeyboardInterrupt:
            interrupted = True
            continue
        except BaseException:
            traceback.print_exc()  # the caller raises
            return None
        if interrupted:
            threading.Timer(0.05, _interrupt_main).start()
        return address


def _interrupt_main() -> None:
    """Ctrl-C, also where the main thread sleeps."""
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, signal.SIGINT)
    else:
        _thread.interrupt_main()


def _find(request: bytes) -> int:
    module, function, arguments = pickle.loads(request)
    dispatcher = _callees[module, function]
    with asked_by_compiled_code():
        dispatcher.compile(arguments)
    result = dispatcher.overloads[arguments]
    found = result.signature.return_type
    said = _returned.get((module, function), found)
    if found != said:
        raise TypeError(f"{module}.{function} returns {found}, and not {said}, as is said of it.")
    return int(result.library.get_pointer_to_function(result.fndesc.llvm_func_name))
