"""Every use of wasmtime-py's private names, and the public API as the fall-back for each.

A call through wasmtime-py's ``Func`` re-reads the function's type and boxes every value (14-18 us for ``add``);
``wasmtime_func_call_unchecked`` on prepared slots takes 0.3-0.6 us (docs/rationale.md).  If a wasmtime release moves
one of the names used here, `RAW` is false and the public API does the same work more slowly.  Setting
``PROCPOOL_PUBLIC_API`` in the environment forces that, to rule this file out when something looks wrong.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from typing import Any

import wasmtime

from ..binary import FuncType
from ..codec import SLOT, Codec

_call: Any = None
RAW = False
if not os.environ.get("PROCPOOL_PUBLIC_API"):
    try:
        from wasmtime import _ffi as _wasmtime

        _call = ctypes.CFUNCTYPE(
            ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p
        )(("wasmtime_func_call_unchecked", _wasmtime.dll))
        _export_get = _wasmtime.wasmtime_instance_export_get
        _probed = (
            _wasmtime.wasmtime_extern_t,
            _wasmtime.wasm_trap_t,
            _wasmtime.wasmtime_error_t,
            wasmtime.Trap._from_ptr,
            wasmtime.WasmtimeError._from_ptr,
            wasmtime.Store._context,
            wasmtime.Func._from_raw,
            _wasmtime.wasmtime_func_t,
        )
        RAW = ctypes.sizeof(_wasmtime.wasmtime_val_raw_t) == SLOT
    except (ImportError, AttributeError):  # a wasmtime release that moved something
        pass


class Slots:
    """A reusable block of raw values: arguments go in, results come out at the same place."""

    def __init__(self, count: int) -> None:
        self._memory = (ctypes.c_uint64 * (2 * max(count, 1)))()
        self.address = ctypes.addressof(self._memory)
        self.bytes = memoryview(self._memory).cast("B")


def bind(
    store: wasmtime.Store, instance: wasmtime.Instance, name: str, signature: FuncType, slots: Slots
) -> Callable[[], None]:
    """A callable that calls the export with the arguments in ``slots`` and leaves its results there.

    Looks up just this one export: ``Instance.exports`` wraps all of them, which takes milliseconds for a large module.

    Raises (the callable):
        wasmtime.Trap, wasmtime.WasmtimeError: the call failed.
    """
    return (_bind_raw if RAW else _bind_public)(store, instance, name, signature, slots)


def export(store: wasmtime.Store, instance: wasmtime.Instance, name: str) -> wasmtime.Func:
    """The exported function, as wasmtime-py's object."""
    if not RAW:
        func = instance.exports(store)[name]
        assert isinstance(func, wasmtime.Func)
        return func
    encoded = name.encode()
    extern = _wasmtime.wasmtime_extern_t()
    where = (store._context(), ctypes.byref(instance._instance))
    if not _export_get(*where, ctypes.create_string_buffer(encoded), len(encoded), ctypes.byref(extern)):
        raise LookupError(f"the instance has no export {name!r}")
    # A copy: the union it lies in is freed with `extern`.
    return wasmtime.Func._from_raw(_wasmtime.wasmtime_func_t.from_buffer_copy(extern.of.func))


def _bind_raw(
    store: wasmtime.Store, instance: wasmtime.Instance, name: str, signature: FuncType, slots: Slots
) -> Callable[[], None]:
    func = export(store, instance, name)._func
    trap = ctypes.c_void_p()
    invoke = functools.partial(
        _call,
        ctypes.cast(store._context(), ctypes.c_void_p),
        ctypes.c_void_p(ctypes.addressof(func)),
        ctypes.c_void_p(slots.address),
        ctypes.c_size_t(max(len(signature.params), len(signature.results))),
        ctypes.c_void_p(ctypes.addressof(trap)),
    )

    # The default arguments keep the memory behind the raw addresses alive as long as the callable.
    def run(invoke: Any = invoke, trap: Any = trap, _alive: Any = (func, store, slots)) -> None:
        error = invoke()
        if error is not None:
            raise wasmtime.WasmtimeError._from_ptr(ctypes.cast(error, ctypes.POINTER(_wasmtime.wasmtime_error_t)))
        if trap:
            pointer = ctypes.cast(trap.value, ctypes.POINTER(_wasmtime.wasm_trap_t))
            trap.value = None
            raise wasmtime.Trap._from_ptr(pointer)

    return run


def _bind_public(
    store: wasmtime.Store, instance: wasmtime.Instance, name: str, signature: FuncType, slots: Slots
) -> Callable[[], None]:
    if "v128" in signature.params + signature.results:
        raise NotImplementedError(f"{name}: wasmtime's public Python API cannot pass v128 values")
    func = export(store, instance, name)
    params = Codec(name, FuncType(results=signature.params))
    results = Codec(name, FuncType(params=signature.results))

    def run() -> None:
        args = params.unpack(slots.bytes)
        if len(signature.params) != 1:
            args = args or ()
            values = func(store, *args)
        else:
            values = func(store, args)
        if len(signature.results) == 1:
            values = (values,)
        packed = results.pack(tuple(values or ()))
        slots.bytes[: len(packed)] = packed

    return run
