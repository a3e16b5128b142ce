"""What an instance exports and imports beside functions."""

from __future__ import annotations

import ctypes
from functools import cached_property
from typing import Any

import wasmtime

from ...binary import with_article
from ...codec import converted
from ...raw import NAMED, RAW, c
from .values import nulls, release, val, value_of

if RAW:
    from wasmtime._extern import wrap_extern as _wrap_extern

    _export_get = c.wasmtime_instance_export_get
    _caller_export_get = c.wasmtime_caller_export_get


def find(store: wasmtime.Store, instance: wasmtime.Instance, name: str) -> Any:
    """An export of an instance, as wasmtime-py's object; None if there is none of that name.

    Looks up just this one: ``Instance.exports`` wraps all of them, which takes milliseconds for a large module.
    """
    if not RAW:
        return instance.exports(store).get(name)
    encoded = name.encode()
    extern = c.wasmtime_extern_t()
    where = (store._context(), ctypes.byref(instance._instance))
    if not _export_get(*where, ctypes.create_string_buffer(encoded), len(encoded), ctypes.byref(extern)):
        return None
    return _wrap_extern(extern)


class ImportTypes:
    """The types of a module's imports just as it declares them.

    Looked through once, when the first is asked for: wasmtime-py makes an object for each import each time, and a module
    that was linked dynamically has thousands.
    """

    def __init__(self, module: wasmtime.Module) -> None:
        self._module = module

    @cached_property
    def _all(self) -> dict[tuple[str, str | None], wasmtime.ImportType]:
        return {(each.module, each.name): each for each in self._module.imports}

    def of(self, where: str, name: str) -> Any:
        """What `new_global`, `new_table` and `define` take for a type.  Valid as long as this object."""
        found = self._all[where, name]
        return c.wasm_importtype_type(found.ptr()) if RAW else found


def new_global(store: wasmtime.Store, type_: Any, what: str, content: str, value: Any) -> Any:
    """A global to serve an import of a module.

    Args:
        store: that it is for.
        type_: of the import, from `ImportTypes`.
        what: it is, for the text of an exception.
        content: its value type.
        value: what it holds; see `val`.

    Raises:
        TypeError, ArgumentOutOfRange: the value does not fit.
        NotImplementedError: this release of wasmtime-py does not let us.
    """
    if not RAW:
        _check_public(what, content)
        assert isinstance(type_.type, wasmtime.GlobalType)
        return wasmtime.Global(store, type_.type, converted(what, value, content))
    initial = val(store._context(), what, content, value)
    made = c.wasmtime_global_t()
    error = c.wasmtime_global_new(
        store._context(), c.wasm_externtype_as_globaltype(type_), ctypes.byref(initial), ctypes.byref(made)
    )
    release(content, initial)
    if error:
        raise wasmtime.WasmtimeError._from_ptr(error)
    return wasmtime.Global._from_raw(made)


def get_global(store: wasmtime.Store, found: wasmtime.Global, what: str, content: str) -> Any:
    """What a global holds: a number; 16 bytes for a v128; an object, a Reference or None for a reference.

    Raises:
        TypeError: Python cannot hold references of this type.
        NotImplementedError: this release of wasmtime-py does not let us.
    """
    if not RAW:
        _check_public(what, content)
        return found.value(store)
    held = c.wasmtime_val_t()
    c.wasmtime_global_get(store._context(), ctypes.byref(found._global), ctypes.byref(held))
    return value_of(store._context(), what, content, held)


def set_global(store: wasmtime.Store, found: wasmtime.Global, what: str, content: str, value: Any) -> None:
    """Set it.

    Raises:
        TypeError, ArgumentOutOfRange: the value does not fit; see `val`.
        wasmtime.WasmtimeError: the global cannot change.
        NotImplementedError: this release of wasmtime-py does not let us.
    """
    if not RAW:
        _check_public(what, content)
        found.set_value(store, converted(what, value, content))
        return
    new = val(store._context(), what, content, value)
    error = c.wasmtime_global_set(store._context(), ctypes.byref(found._global), ctypes.byref(new))
    release(content, new)
    if error:
        raise wasmtime.WasmtimeError._from_ptr(error)


def _check_public(what: str, content: str) -> None:
    if content not in NAMED:
        raise NotImplementedError(f"{what} is {with_article(content)}, which needs wasmtime-py's private names")


def new_table(store: wasmtime.Store, type_: Any, what: str, element: str) -> Any:
    """A table of nulls to serve an import of a module, of the very type of the import; arguments as for `new_global`.

    Raises:
        NotImplementedError: this release of wasmtime-py does not let us.
        wasmtime.WasmtimeError: there is no room for it, or its elements cannot be null.
    """
    if not RAW:
        raise NotImplementedError(f"{what} of {element} needs wasmtime-py's private names")
    made = c.wasmtime_table_t()
    error: Any = None
    for null in nulls(element):  # which of them is one for a type of the module's own, wasmtime knows
        table_type = c.wasm_externtype_as_tabletype(type_)
        error = c.wasmtime_table_new(store._context(), table_type, ctypes.byref(null), ctypes.byref(made))
        if not error:
            return wasmtime.Table._from_raw(made)
    raise wasmtime.WasmtimeError._from_ptr(error)


def get_element(store: wasmtime.Store, table: wasmtime.Table, what: str, element: str, index: int) -> Any:
    """What a table holds at an index; see `get_global`.

    Raises:
        LookupError: it is not that long.
        TypeError: Python cannot hold references of this type.
        NotImplementedError: this release of wasmtime-py does not let us.
    """
    if not RAW:
        raise NotImplementedError(f"{what} of {element} needs wasmtime-py's private names")
    held = c.wasmtime_val_t()
    # Of a larger number wasmtime would take the last 64 bits.
    if not 0 <= index < 1 << 64 or not c.wasmtime_table_get(
        store._context(), ctypes.byref(table._table), index, ctypes.byref(held)
    ):
        raise LookupError(f"{what} has no element {index}")
    return value_of(store._context(), what, element, held)


def append_element(store: wasmtime.Store, table: wasmtime.Table, what: str, element: str, value: Any) -> int:
    """Grow a table by one element; its index.

    Raises:
        TypeError: the value does not fit; see `val`.
        MemoryError: the table's maximum, or the limit on tables, does not allow that.
        NotImplementedError: this release of wasmtime-py does not let us.
    """
    if not RAW:
        raise NotImplementedError(f"{what} of {element} needs wasmtime-py's private names")
    before = ctypes.c_uint64()
    made = val(store._context(), what, element, value)
    error = c.wasmtime_table_grow(store._context(), ctypes.byref(table._table), 1, ctypes.byref(made), ctypes.byref(before))
    release(element, made)
    if error:
        raise MemoryError(f"cannot grow {what}: {wasmtime.WasmtimeError._from_ptr(error)}")
    return before.value


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
    item = c.wasmtime_extern_t()
    item.kind = ctypes.c_ubyte(4)  # WASMTIME_EXTERN_SHAREDMEMORY in wasmtime/extern.h
    item.of.sharedmemory = memory.ptr()
    where = [text for part in (module.encode(), name.encode()) for text in (ctypes.create_string_buffer(part), len(part))]
    define_item: Any = c.wasmtime_linker_define
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
    extern = c.wasmtime_extern_t()
    encoded = name.encode()
    where = ctypes.cast(caller, ctypes.POINTER(c.wasmtime_caller_t))
    found = _caller_export_get(where, ctypes.create_string_buffer(encoded), len(encoded), ctypes.byref(extern))
    return _wrap_extern(extern) if found else None
