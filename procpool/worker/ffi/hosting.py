"""Python functions that the guest calls, on raw slots."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import wasmtime

from ...binary import FuncType
from ...codec import SLOT, Codec
from ...errors import BadArguments
from ...raw import NAMED, RAW, c, tell_why_not
from ..host import HostCalls, HostFunction
from .externs import ImportTypes
from .values import MixedCodec

if RAW:
    _pointer, _size = ctypes.c_void_p, ctypes.c_size_t
    _define = ctypes.CFUNCTYPE(
        *(_pointer, _pointer, ctypes.c_char_p, _size, ctypes.c_char_p, _size, _pointer, _pointer, _pointer, _pointer)
    )(("wasmtime_linker_define_func_unchecked", c.dll))
    _new_trap = ctypes.CFUNCTYPE(_pointer, ctypes.c_char_p, _size)(("wasmtime_trap_new", c.dll))
    _Callback = ctypes.CFUNCTYPE(_pointer, _pointer, _pointer, _pointer, _size)


def define(
    linker: wasmtime.Linker,
    types: ImportTypes,
    function: HostFunction,
    instance: Any,
    calls: HostCalls,
    declared: bool,
) -> Any:
    """Have a Python function serve an import.  What is returned must live as long as the linker and its instances.

    Args:
        types: of the imports of the module that imports it.
        function: what serves it.
        instance: what it gets first, if it wants that.
        calls: where its exceptions are kept.
        declared: whether the import's type is another than the plain one of its signature.

    Raises:
        NotImplementedError: this release of wasmtime-py does not let us.
    """
    plain = not declared and NAMED.issuperset(function.signature.params + function.signature.results)
    if not RAW:
        if not plain:
            raise NotImplementedError(f"the import {function.name} {function.signature} needs wasmtime-py's private names")
        return _define_public(linker, function, instance, calls)
    callback = _Callback((_with_references if function.references else _with_scalars)(function, instance, calls))
    where, name = (each.encode() for each in function.names)
    if plain:
        own = _wasm_type(function.signature)
        type_ = own.ptr()
    else:
        type_ = c.wasm_externtype_as_functype(types.of(*function.names))
    error = _define(
        ctypes.cast(linker.ptr(), ctypes.c_void_p),
        *(where, len(where), name, len(name)),
        ctypes.cast(type_, ctypes.c_void_p),
        ctypes.cast(callback, ctypes.c_void_p),
        *(None, None),
    )
    if error:
        raise wasmtime.WasmtimeError._from_ptr(ctypes.cast(error, ctypes.POINTER(c.wasmtime_error_t)))
    return callback


def _wasm_type(signature: FuncType) -> wasmtime.FuncType:
    params, results = ([getattr(wasmtime.ValType, t)() for t in types] for types in (signature.params, signature.results))
    return wasmtime.FuncType(params, results)


def _with_scalars(function: HostFunction, instance: Any, calls: HostCalls) -> Callable[[int, int, int, int], int | None]:
    run = function.bound(instance)
    packed = function.packed
    at, unpack = _area(function.signature).from_address, function.taken.unpack_all
    quick = function.quick_result()

    def trampoline(_env: int, caller: int, slots: int, _count: int) -> int | None:
        if calls.making:
            calls.caller = caller
        try:
            values: Any = at(slots)
            result = run(*unpack(values))
            if quick is None or type(result) is not quick[0] or not quick[1](values, result):
                data = packed(result)
                values[: len(data)] = data
        except BaseException as error:
            # The innermost one is the cause: a trap on the way out of a nested call must not replace it.
            calls.keep(error, function.name)
            return _new_trap(b"host", 4)  # type: ignore[no-any-return]
        return None

    return trampoline


def _with_references(function: HostFunction, instance: Any, calls: HostCalls) -> Callable[[int, int, int, int], int | None]:
    """The same for a function that takes or returns references, value by value, which is slower."""
    run = function.bound(instance)
    area, name = _area(function.signature), function.name
    taken, returned = MixedCodec(name, function.signature.params), MixedCodec(name, function.signature.results)

    def trampoline(_env: int, caller: int, slots: int, _count: int) -> int | None:
        if calls.making:
            calls.caller = caller
        try:
            context = c.wasmtime_caller_context(ctypes.cast(caller, ctypes.POINTER(c.wasmtime_caller_t)))
            values: Any = area.from_address(slots)
            result = run(*taken.unpack(context, values))
            try:
                data = returned.pack(context, function.values(result))
            except BadArguments as error:
                raise function.misfit(result, ", ".join(function.signature.results), error) from None
            except TypeError as error:
                raise function.misfit(result, str(error)) from None
            values[: len(data)] = data
        except BaseException as error:
            calls.keep(error, function.name)
            return _new_trap(b"host", 4)  # type: ignore[no-any-return]
        return None

    return trampoline


def _area(signature: FuncType) -> Any:
    return ctypes.c_char * (SLOT * max(len(signature.params), len(signature.results), 1))


def _define_public(linker: wasmtime.Linker, function: HostFunction, instance: Any, calls: HostCalls) -> Any:
    tell_why_not()
    run = function.bound(instance)
    back = Codec(function.name, FuncType(results=function.signature.results))

    def host(caller: wasmtime.Caller, *args: Any) -> Any:
        if calls.making:
            calls.caller = caller
        try:
            result = back.unpack(function.packed(run(*args)))
            return list(result) if isinstance(result, tuple) else result
        except BaseException as error:
            calls.keep(error, function.name)
            raise

    linker.define_func(*function.names, _wasm_type(function.signature), host, access_caller=True)
    return host
