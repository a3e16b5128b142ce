"""Every use of wasmtime-py's private names, and the public API as the fall-back for each.

A call through wasmtime-py's ``Func`` re-reads the function's type and boxes every value (14-18 us for ``add``);
``wasmtime_func_call_unchecked`` on prepared slots takes 0.3-0.6 us (docs/rationale.md).  Likewise for functions that the
guest calls: 6.2 us through ``Linker.define_func``, 0.4 us on raw slots.  If a wasmtime release moves
one of the names used here, `RAW` is false and the public API does the same work more slowly; each worker says so once, in
the log.  Setting ``PROCPOOL_PUBLIC_API`` in the environment forces that, to rule this file out when something looks wrong.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import operator
import os
from collections.abc import Callable
from typing import Any

import wasmtime

from ..binary import FuncType
from ..codec import SLOT, Codec
from .host import HostCalls, HostFunction

logger: logging.Logger = logging.getLogger("procpool")

#: What is used here of wasmtime-py beside its public names.
_PRIVATE_NAMES = (
    "_extern.wrap_extern",
    "_ffi.dll.wasmtime_func_call_unchecked",
    "_ffi.dll.wasmtime_linker_define_func_unchecked",
    "_ffi.dll.wasmtime_trap_new",
    "_ffi.wasm_trap_t",
    "_ffi.wasmtime_caller_export_get",
    "_ffi.wasmtime_caller_t",
    "_ffi.wasmtime_error_t",
    "_ffi.wasmtime_extern_t",
    "_ffi.wasmtime_func_t",
    "_ffi.wasmtime_instance_export_get",
    "_ffi.wasmtime_linker_define",
    "_ffi.wasmtime_val_raw_t",
    "Func._from_raw",
    "Store._context",
    "Trap._from_ptr",
    "WasmtimeError._from_ptr",
)


def _reason_against_raw() -> str | None:
    """Why the private names cannot be used; None if they can."""
    if os.environ.get("PROCPOOL_PUBLIC_API"):
        return "PROCPOOL_PUBLIC_API is set"
    missing = []
    for name in _PRIVATE_NAMES:
        try:
            operator.attrgetter(name)(wasmtime)
        except AttributeError:
            missing.append(f"wasmtime.{name}")
    if missing:
        return f"this release of wasmtime-py lacks {', '.join(missing)}"
    if ctypes.sizeof(wasmtime._ffi.wasmtime_val_raw_t) != SLOT:
        return f"this release of wasmtime-py has values of another size than {SLOT} bytes"
    return None


_why_not = _reason_against_raw()
RAW = _why_not is None
_untold = [] if _why_not is None else [_why_not]  # emptied by whoever tells it; workers are forked with it full
if RAW:
    from wasmtime import _ffi as _wasmtime
    from wasmtime._extern import wrap_extern as _wrap_extern

    _call: Any = ctypes.CFUNCTYPE(
        ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p
    )(("wasmtime_func_call_unchecked", _wasmtime.dll))
    _pointer, _size = ctypes.c_void_p, ctypes.c_size_t
    _define = ctypes.CFUNCTYPE(
        *(_pointer, _pointer, ctypes.c_char_p, _size, ctypes.c_char_p, _size, _pointer, _pointer, _pointer, _pointer)
    )(("wasmtime_linker_define_func_unchecked", _wasmtime.dll))
    _new_trap = ctypes.CFUNCTYPE(_pointer, ctypes.c_char_p, _size)(("wasmtime_trap_new", _wasmtime.dll))
    _Callback = ctypes.CFUNCTYPE(_pointer, _pointer, _pointer, _pointer, _size)
    _export_get = _wasmtime.wasmtime_instance_export_get
    _caller_export_get = _wasmtime.wasmtime_caller_export_get


def _tell_why_not() -> None:
    """Say once in this process that the public API is used, and why."""
    try:
        why = _untold.pop()
    except IndexError:
        return
    logger.warning("procpool: calls take some 15 us more each, by wasmtime's public API: %s", why)


class Slots:
    """A reusable block of raw values: arguments go in, results come out at the same place."""

    def __init__(self, count: int) -> None:
        self._memory = (ctypes.c_uint64 * (2 * max(count, 1)))()
        self.address: int = ctypes.addressof(self._memory)
        self.bytes: memoryview = memoryview(self._memory).cast("B")


def bind(
    store: wasmtime.Store,
    instance: wasmtime.Instance,
    name: str,
    signature: FuncType,
    slots: Slots,
    calls: HostCalls,
) -> Callable[[], None]:
    """A callable that calls the export with the arguments in ``slots`` and leaves its results there.

    Looks up just this one export: ``Instance.exports`` wraps all of them, which takes milliseconds for a large module.

    Raises (the callable):
        wasmtime.Trap, wasmtime.WasmtimeError: the call failed.
        Whatever a host function raised that it called.
    """
    return (_bind_raw if RAW else _bind_public)(store, instance, name, signature, slots, calls)


def define(linker: wasmtime.Linker, function: HostFunction, instance: Any, calls: HostCalls) -> Any:
    """Have a Python function serve an import.  What is returned must live as long as the linker and its instances."""
    return (_define_raw if RAW else _define_public)(linker, function, instance, calls)


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


def define_shared_memory(
    linker: wasmtime.Linker, store: wasmtime.Store, module: str, name: str, memory: wasmtime.SharedMemory
) -> None:
    """Have a shared memory serve an import.  wasmtime-py's own conversion of one is broken (50.0.1).

    Raises:
        NotImplementedError: this release of wasmtime-py does not let us.
        wasmtime.WasmtimeError: the linker refuses it.
    """
    if not RAW:
        raise NotImplementedError("modules with shared memories need wasmtime-py's private names")
    item = _wasmtime.wasmtime_extern_t()
    item.kind = ctypes.c_ubyte(4)  # WASMTIME_EXTERN_SHAREDMEMORY in wasmtime/extern.h
    item.of.sharedmemory = memory.ptr()
    where = [text for part in (module.encode(), name.encode()) for text in (ctypes.create_string_buffer(part), len(part))]
    define_item: Any = _wasmtime.wasmtime_linker_define
    error = define_item(linker.ptr(), store._context(), *where, ctypes.byref(item))
    if error:
        raise wasmtime.WasmtimeError._from_ptr(error)


def view(pointer: Any, size: int) -> memoryview:
    """``size`` bytes of guest memory from what ``data_ptr`` of a memory gives, without a copy."""
    address = ctypes.cast(pointer, ctypes.c_void_p).value
    if not size or address is None:
        return memoryview(bytearray())
    return memoryview((ctypes.c_ubyte * size).from_address(address)).cast("B")


def caller_export(caller: Any, name: str) -> Any:
    """An export of the instance that is being made and has called a host function; None if it has no such export."""
    if caller is None:
        return None
    if isinstance(caller, wasmtime.Caller):
        return caller.get(name)
    extern = _wasmtime.wasmtime_extern_t()
    encoded = name.encode()
    where = ctypes.cast(caller, ctypes.POINTER(_wasmtime.wasmtime_caller_t))
    found = _caller_export_get(where, ctypes.create_string_buffer(encoded), len(encoded), ctypes.byref(extern))
    return _wrap_extern(extern) if found else None


def _wasm_type(signature: FuncType) -> wasmtime.FuncType:
    params, results = ([getattr(wasmtime.ValType, t)() for t in types] for types in (signature.params, signature.results))
    return wasmtime.FuncType(params, results)


def _define_raw(linker: wasmtime.Linker, function: HostFunction, instance: Any, calls: HostCalls) -> Any:
    run = function.bound(instance)
    packed = function.packed
    area = ctypes.c_char * (SLOT * max(len(function.signature.params), len(function.signature.results), 1))
    at, unpack = area.from_address, function.taken.unpack_all
    quick = function.quick_result()

    def trampoline(_env: int, _caller: int, slots: int, _count: int) -> int | None:
        if calls.making:
            calls.caller = _caller
        try:
            values: Any = at(slots)
            result = run(*unpack(values))
            if quick is None or type(result) is not quick[0] or not quick[1](values, result):
                data = packed(result)
                values[: len(data)] = data
        except BaseException as error:
            # The innermost one is the cause: a trap on the way out of a nested call must not replace it.
            calls.keep(error)
            return _new_trap(b"host", 4)  # type: ignore[no-any-return]
        return None

    callback = _Callback(trampoline)
    module, name = function.module.encode(), function.name.encode()
    type_ = _wasm_type(function.signature)
    error = _define(
        ctypes.cast(linker.ptr(), ctypes.c_void_p),
        *(module, len(module), name, len(name)),
        ctypes.cast(type_.ptr(), ctypes.c_void_p),
        ctypes.cast(callback, ctypes.c_void_p),
        *(None, None),
    )
    if error:
        raise wasmtime.WasmtimeError._from_ptr(ctypes.cast(error, ctypes.POINTER(_wasmtime.wasmtime_error_t)))
    return callback


def _define_public(linker: wasmtime.Linker, function: HostFunction, instance: Any, calls: HostCalls) -> Any:
    _tell_why_not()
    run = function.bound(instance)
    back = Codec(function.name, FuncType(results=function.signature.results))

    def host(caller: wasmtime.Caller, *args: Any) -> Any:
        if calls.making:
            calls.caller = caller
        try:
            result = back.unpack(function.packed(run(*args)))
            return list(result) if isinstance(result, tuple) else result
        except BaseException as error:
            calls.keep(error)
            raise

    linker.define_func(function.module, function.name, _wasm_type(function.signature), host, access_caller=True)
    return host


def _bind_raw(
    store: wasmtime.Store,
    instance: wasmtime.Instance,
    name: str,
    signature: FuncType,
    slots: Slots,
    calls: HostCalls,
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
            cause = calls.take()
            failure = wasmtime.WasmtimeError._from_ptr(ctypes.cast(error, ctypes.POINTER(_wasmtime.wasmtime_error_t)))
            raise cause or failure
        if trap:
            cause = calls.take()
            pointer = ctypes.cast(trap.value, ctypes.POINTER(_wasmtime.wasm_trap_t))
            trap.value = None
            raised = wasmtime.Trap._from_ptr(pointer)
            raise cause or raised

    return run


def _bind_public(
    store: wasmtime.Store,
    instance: wasmtime.Instance,
    name: str,
    signature: FuncType,
    slots: Slots,
    calls: HostCalls,
) -> Callable[[], None]:
    _tell_why_not()
    if "v128" in signature.params + signature.results:
        raise NotImplementedError(f"{name}: wasmtime's public Python API cannot pass v128 values")
    func = export(store, instance, name)
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
