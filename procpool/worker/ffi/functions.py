"""Calls of exports on raw slots."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import wasmtime

from ...binary import FuncType
from ...codec import Codec
from ...errors import BadArguments
from ...raw import NAMED, RAW, Slots, c, invoker, tell_why_not
from ..host import HostCalls
from .exceptions import Exceptions
from .externs import find
from .values import MixedCodec


def bind(
    store: wasmtime.Store,
    instance: wasmtime.Instance,
    name: str,
    signature: FuncType,
    slots: Slots,
    calls: HostCalls,
    exceptions: Exceptions | None = None,
) -> Callable[[], None]:
    """A callable that calls the export with the arguments in ``slots`` and leaves its results there.

    What ends the call has an attribute ``thrown``, if ``exceptions`` found that it was one of the guest's.

    Raises (the callable):
        wasmtime.Trap, wasmtime.WasmtimeError: the call failed.
        Whatever a host function raised that it called.
    """
    if not RAW:
        return _bind_public(store, instance, name, signature, slots, calls)
    func = find(store, instance, name)
    trap = ctypes.c_void_p()
    invoke = invoker(store, func, slots, max(len(signature.params), len(signature.results)), trap)

    # The default arguments keep the memory behind the raw addresses alive as long as the callable.
    def run(invoke: Any = invoke, trap: Any = trap, _alive: Any = (func, store, slots)) -> None:
        error = invoke()
        if error is not None:
            cause = calls.take()
            failure = wasmtime.WasmtimeError._from_ptr(ctypes.cast(error, ctypes.POINTER(c.wasmtime_error_t)))
            raise cause or failure
        if trap:
            cause = calls.take()
            pointer = ctypes.cast(trap.value, ctypes.POINTER(c.wasm_trap_t))
            trap.value = None
            raised = wasmtime.Trap._from_ptr(pointer)
            if exceptions is not None:
                exceptions.mark(raised)
            raise cause or raised

    return run


def call_with_references(
    store: wasmtime.Store,
    instance: wasmtime.Instance,
    name: str,
    signature: FuncType,
    args: Sequence[Any],
    calls: HostCalls,
    exceptions: Exceptions | None,
) -> Any:
    """Call an export that takes or returns references; its results, as `Codec.unpack` gives them.

    Raises:
        BadArguments: an argument does not fit, or there are more or fewer.
        NotImplementedError: this release of wasmtime-py does not let us.
        Whatever `bind` raises.
    """
    if not RAW:
        raise NotImplementedError(f"{name}{signature} needs wasmtime-py's private names")
    if len(args) != len(signature.params):
        raise BadArguments(f"{name}{signature} takes {len(signature.params)} arguments, got {len(args)}")
    slots, context = Slots(max(len(signature.params), len(signature.results))), store._context()
    run = bind(store, instance, name, signature, slots, calls, exceptions)
    try:
        packed = MixedCodec(name, signature.params).pack(context, args)
    except TypeError as error:
        raise BadArguments(f"{name}{signature} expects {error}") from None
    slots.bytes[: len(packed)] = packed
    run()
    results = MixedCodec(name, signature.results).unpack(context, slots.bytes)
    return results[0] if len(results) == 1 else tuple(results) or None


def _bind_public(
    store: wasmtime.Store,
    instance: wasmtime.Instance,
    name: str,
    signature: FuncType,
    slots: Slots,
    calls: HostCalls,
) -> Callable[[], None]:
    tell_why_not()
    if not NAMED.issuperset(signature.params + signature.results):
        raise NotImplementedError(f"{name}: wasmtime's public Python API cannot pass v128 values")
    func = find(store, instance, name)
    params = Codec(name, FuncType(results=signature.params))
    results = Codec(name, FuncType(params=signature.results))

    def run() -> None:
        try:
            values = func(store, *params.unpack_all(slots.bytes))
        except BaseException as error:
            cause = calls.take()
            if cause is None or cause is error:
                raise
            raise cause from None
        if len(signature.results) == 1:
            values = (values,)
        packed = results.pack(tuple(values or ()))
        slots.bytes[: len(packed)] = packed

    return run
