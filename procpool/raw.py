"""wasmtime-py's private names: whether this release has them, and a call on raw slots.

What is done with them for a guest is in worker/ffi; the parent only calls functions of our own (supervisor/channel.py).
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

from .binary import SCALARS
from .codec import SLOT

logger: logging.Logger = logging.getLogger("procpool")

#: The value types that wasmtime-py has a name for, and so all that its public API can do.
NAMED = SCALARS - {"v128"}
#: What is used here of wasmtime-py beside its public names.
_PRIVATE_NAMES = (
    "Func._from_raw",
    "Global._from_raw",
    "Store._context",
    "Table._from_raw",
    "Trap._from_ptr",
    "WasmtimeError._from_ptr",
    "_extern.wrap_extern",
    "_ffi.dll.wasmtime_func_call_unchecked",
    "_ffi.dll.wasmtime_linker_define_func_unchecked",
    "_ffi.dll.wasmtime_trap_new",
    "_ffi.wasm_externtype_as_functype",
    "_ffi.wasm_externtype_as_globaltype",
    "_ffi.wasm_externtype_as_tabletype",
    "_ffi.wasm_importtype_type",
    "_ffi.wasm_trap_t",
    "_ffi.wasmtime_anyref_from_raw",
    "_ffi.wasmtime_anyref_t",
    "_ffi.wasmtime_anyref_to_raw",
    "_ffi.wasmtime_anyref_unroot",
    "_ffi.wasmtime_caller_context",
    "_ffi.wasmtime_caller_export_get",
    "_ffi.wasmtime_caller_t",
    "_ffi.wasmtime_error_t",
    "_ffi.wasmtime_error_wasm_trace",
    "_trap.FrameList",
    "Frame._from_ptr",
    "_ffi.wasmtime_extern_t",
    "_ffi.wasmtime_context_get_data",
    "_ffi.wasmtime_context_set_data",
    "_ffi.wasmtime_externref_data",
    "_ffi.wasmtime_externref_from_raw",
    "_ffi.wasmtime_externref_new",
    "_ffi.wasmtime_externref_t",
    "_ffi.wasmtime_externref_to_raw",
    "_ffi.wasmtime_externref_unroot",
    "_ffi.wasmtime_func_from_raw",
    "_ffi.wasmtime_func_new_unchecked",
    "_ffi.wasmtime_func_t",
    "_ffi.wasmtime_func_to_raw",
    "_ffi.wasmtime_global_get",
    "_ffi.wasmtime_global_new",
    "_ffi.wasmtime_global_set",
    "_ffi.wasmtime_global_t",
    "_ffi.wasmtime_instance_export_get",
    "_ffi.wasmtime_linker_define",
    "_ffi.wasmtime_table_get",
    "_ffi.wasmtime_table_grow",
    "_ffi.wasmtime_table_new",
    "_ffi.wasmtime_table_set",
    "_ffi.wasmtime_table_t",
    "_ffi.wasmtime_val_raw_t",
    "_ffi.wasmtime_context_take_exception",
    "_ffi.wasmtime_trap_new_code",
    "_ffi.wasmtime_exnref_t",
    "_ffi.wasmtime_exnref_tag",
    "_ffi.wasmtime_exnref_field",
    "_ffi.wasmtime_exnref_field_count",
    "_ffi.wasmtime_exnref_unroot",
    "_ffi.wasmtime_tag_t",
    "_ffi.wasmtime_tag_eq",
    "_ffi.wasmtime_val_unroot",
    "_ffi.wasmtime_val_t",
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
RAW = _why_not is None  #: they are all there, and may be used
_untold = [] if _why_not is None else [_why_not]  # emptied by whoever tells it; workers are forked with it full

c: Any = getattr(wasmtime, "_ffi", None)  #: wasmtime's C functions and structures


def tell_why_not() -> None:
    """Say once in this process that the public API is used, and why."""
    try:
        why = _untold.pop()
    except IndexError:
        return
    logger.warning("procpool: calls take some 15 us more each, by wasmtime's public API: %s", why)


if RAW:
    _SIGNATURE = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p
    _call: Any = ctypes.CFUNCTYPE(*_SIGNATURE)(("wasmtime_func_call_unchecked", c.dll))
    _call_holding_gil: Any = ctypes.PYFUNCTYPE(*_SIGNATURE)(("wasmtime_func_call_unchecked", c.dll))


class Slots:
    """A reusable block of raw values: arguments go in, results come out at the same place."""

    def __init__(self, count: int) -> None:
        self._memory = (ctypes.c_uint64 * (2 * max(count, 1)))()
        self.address: int = ctypes.addressof(self._memory)
        self.bytes: memoryview = memoryview(self._memory).cast("B")


def invoker(
    store: wasmtime.Store, func: wasmtime.Func, slots: Slots, count: int, trap: Any, hold_gil: bool = False
) -> Callable[[], int | None]:
    """What calls a function on those slots, ``count`` of which its arguments and its results need at most.

    It returns the address of an error, or None; a trap is left in ``trap``, a c_void_p.  All that is given must outlive it.

    Args:
        hold_gil: no other thread of Python's may run meanwhile; for what takes a few microseconds at most.
    """
    return functools.partial(
        _call_holding_gil if hold_gil else _call,
        ctypes.cast(store._context(), ctypes.c_void_p),
        ctypes.c_void_p(ctypes.addressof(func._func)),
        ctypes.c_void_p(slots.address),
        ctypes.c_size_t(count),
        ctypes.c_void_p(ctypes.addressof(trap)),
    )
