"""Calls of a component's exports on values that are laid out as the C API wants them."""

from __future__ import annotations

import binascii
import ctypes
import functools
from collections.abc import Callable
from typing import Any

import wasmtime
from wasmtime.component import Instance, LinkerInstance

from ...component.entry import Entry
from ...raw import c
from ..host import HostCalls

#: ``wasmtime_component_val_t``: its kind, and from the second word on what it holds.
_WORDS = 4
_STRING = 12

_pointer, _size = ctypes.c_void_p, ctypes.c_size_t
_call = ctypes.CFUNCTYPE(_pointer, _pointer, _pointer, _pointer, _size, _pointer, _size)(
    ("wasmtime_component_func_call", c.dll)
)
_CHARS = ctypes.POINTER(ctypes.c_ubyte)
_NO_FINALIZER = ctypes.CFUNCTYPE(None, _pointer)()
_delete = ctypes.CFUNCTYPE(None, _pointer)(("wasmtime_component_val_delete", c.dll))

if ctypes.sizeof(c.wasmtime_component_val_t) != 8 * _WORDS:
    raise ImportError(f"this release of wasmtime-py has values of components of another size than {8 * _WORDS} bytes")


class ComponentFunction:
    """An export ready to be called, as a `Function` of a core module is: write ``params``, call ``run``, read ``results``.

    Args:
        store: of the instance.
        instance: that has it.
        entry: which export, and what it takes and returns.
        calls: where exceptions of host functions are kept.
    """

    def __init__(self, store: wasmtime.Store, instance: Instance, entry: Entry, calls: HostCalls) -> None:
        func = instance.get_func(store, entry.export)
        assert func is not None  # our wrapper exports it
        takes = (_STRING,) if entry.image else entry.params
        self._text = entry.image
        self._values = (ctypes.c_uint64 * (_WORDS * max(len(takes), 1)))()
        words = memoryview(self._values).cast("B").cast("Q")
        for at, kind in enumerate(takes):
            words[_WORDS * at] = kind
        self._words: Any = words[1 : _WORDS * len(takes) : _WORDS]
        self._data = b""  # behind the address among the values
        returns = int(self._text or entry.result is not None)
        self._result = (ctypes.c_uint64 * _WORDS)()
        self._returned = memoryview(self._result).cast("B")
        self._calls = calls
        self._alive = store, instance, func
        self._call: Callable[[], int | None] = functools.partial(
            _call,
            ctypes.cast(ctypes.pointer(func._func), _pointer),
            ctypes.cast(store._context(), _pointer),
            ctypes.c_void_p(ctypes.addressof(self._values)),
            _size(len(takes)),
            ctypes.c_void_p(ctypes.addressof(self._result) if returns else None),
            _size(returns),
        )
        self.results: bytes = b""  #: of the last call
        self._scalar = slice(8, 16) if returns else slice(0)
        #: takes the arguments, whole
        self.params: ComponentFunction = self

    def __setitem__(self, whole: slice, payload: bytes) -> None:
        if not self._text:
            if payload:
                self._words[:] = memoryview(payload).cast("Q")
            return
        data = self._data = binascii.hexlify(payload)
        values = self._values
        values[1] = len(data)
        values[2] = ctypes.cast(ctypes.c_char_p(data), _pointer).value or 0

    def run(self) -> None:
        """Call it.

        Raises:
            wasmtime.WasmtimeError: the call failed.
            Whatever a host function raised that it called.
        """
        error = self._call()
        if error is not None:
            cause = self._calls.take()
            failure = wasmtime.WasmtimeError._from_ptr(ctypes.cast(error, ctypes.POINTER(c.wasmtime_error_t)))
            raise cause or failure
        if not self._text:
            self.results = self._returned[self._scalar].tobytes()
            return
        result = self._result
        try:
            data = ctypes.string_at(result[2], result[1])
        finally:
            _delete(ctypes.addressof(result))
        self.results = binascii.unhexlify(data)


def define(where: LinkerInstance, name: str, call: Callable[[bytes], bytes | None]) -> Any:
    """Have a Python function serve an import.  What is returned must live as long as the linker and its instances.

    Args:
        where: the root of the linker.
        call: the image of its arguments -> that of its result; None if the guest is to trap.

    Raises:
        wasmtime.WasmtimeError: it cannot be defined.
    """

    def trampoline(_data: int, _context: Any, _type: Any, args: Any, _nargs: int, results: Any, _nresults: int) -> int:
        given = args[0].of.string
        image = call(binascii.unhexlify(ctypes.string_at(given.data, given.size)))
        if image is None:
            return ctypes.cast(c.wasmtime_error_new(b"host"), _pointer).value or 0
        data = binascii.hexlify(image)
        c.wasm_byte_vec_new(ctypes.byref(results[0].of.string), len(data), ctypes.cast(ctypes.c_char_p(data), _CHARS))
        results[0].kind = _STRING
        return 0

    callback = c.wasmtime_component_func_callback_t(trampoline)
    _add(where, name, callback)
    return callback


def _trap(*_: Any) -> int:
    return ctypes.cast(c.wasmtime_error_new(b"host"), _pointer).value or 0


_NEVER_CALLED = c.wasmtime_component_func_callback_t(_trap)


def define_unused(where: LinkerInstance, name: str) -> None:
    """Define an import that is never called, of whatever type.

    Raises:
        wasmtime.WasmtimeError: it cannot be defined.
    """
    _add(where, name, _NEVER_CALLED)


def _add(where: LinkerInstance, name: str, callback: Any) -> None:
    encoded = name.encode()
    error = c.wasmtime_component_linker_instance_add_func(
        *(where.ptr(), ctypes.create_string_buffer(encoded), len(encoded), callback, None), _NO_FINALIZER
    )
    if error:
        raise wasmtime.WasmtimeError._from_ptr(error)
