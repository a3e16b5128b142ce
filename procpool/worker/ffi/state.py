"""What globals and tables hold, bit by bit: for snapshots."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import wasmtime

from ...binary import SCALARS
from ...codec import SLOT
from ...raw import RAW, c
from .values import KINDS, nulls, val

if RAW:
    _Callback = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    _new_func: Any = ctypes.CFUNCTYPE(None, *(ctypes.c_void_p,) * 6)(("wasmtime_func_new_unchecked", c.dll))


class Unkeepable(Exception):
    """Raised for a value that exists in one instance only; says what it is."""


class Functions:
    """The functions of an instance that references may be of, each by its number.

    Args:
        tables: that hold them all; they are numbered through.
    """

    def __init__(self, store: wasmtime.Store, tables: Sequence[wasmtime.Table]) -> None:
        self._store = store
        self._tables = [(table, table.size(store)) for table in tables]
        self._numbers: dict[int, int] | None = None

    def number(self, held: Any) -> int | None:
        """Which of them a reference is of; None for null.

        Raises:
            Unkeepable: it is of something else.
        """
        if held.kind == KINDS["externref"]:
            if not held.of.externref.store_id:
                return None
            c.wasmtime_externref_unroot(ctypes.byref(held.of.externref))
            raise Unkeepable("a reference to something outside of wasm (externref)")
        if not held.of.funcref.store_id:
            return None
        found = self._known().get(self._address(held))
        if found is None:
            raise Unkeepable("a function that is not the module's own")
        return found

    def value(self, type_: str, number: int | None) -> Any:
        """A reference, as wasmtime's structure.

        Raises:
            IndexError: there is no function of that number.
        """
        if number is None:
            return nulls(type_)[0]
        held, at = c.wasmtime_val_t(), number
        for table, size in self._tables:
            if 0 <= at < size:
                c.wasmtime_table_get(self._store._context(), ctypes.byref(table._table), at, ctypes.byref(held))
                return held
            at -= size
        raise IndexError(f"there is no function of the number {number}")

    def _known(self) -> dict[int, int]:
        if self._numbers is None:
            count = sum(size for _, size in self._tables)
            self._numbers = {self._address(self.value("funcref", number)): number for number in range(count)}
        return self._numbers

    def _address(self, held: Any) -> int:
        """Of the function, which it has as long as its store."""
        address: int = c.wasmtime_func_to_raw(self._store._context(), ctypes.byref(held.of.funcref))
        return address


def get_bits(store: wasmtime.Store, found: wasmtime.Global, type_: str, functions: Functions) -> int | None:
    """What a global holds: its bits, or the number of a function, None for null.

    Raises:
        Unkeepable: it exists in this instance only.
    """
    held = c.wasmtime_val_t()
    c.wasmtime_global_get(store._context(), ctypes.byref(found._global), ctypes.byref(held))
    if type_ not in SCALARS:
        return functions.number(held)
    size = {"i32": 4, "f32": 4, "v128": SLOT}.get(type_, 8)
    return int.from_bytes(ctypes.string_at(ctypes.addressof(held.of), size), "little")


def set_bits(store: wasmtime.Store, found: wasmtime.Global, type_: str, value: int | None, functions: Functions) -> None:
    """Set a global to what `get_bits` gave.

    Raises:
        IndexError, ValueError, OverflowError: there is no such value.
        wasmtime.WasmtimeError: the global is of another type.
    """
    if type_ in SCALARS:
        if value is None:
            raise ValueError(f"a global of the type {type_} is never null")
        held = c.wasmtime_val_t()
        held.kind = KINDS[type_]
        ctypes.memmove(ctypes.addressof(held.of), value.to_bytes(SLOT, "little"), SLOT)
    else:
        held = functions.value(type_, value)
    error = c.wasmtime_global_set(store._context(), ctypes.byref(found._global), ctypes.byref(held))
    if error:
        raise wasmtime.WasmtimeError._from_ptr(error)


def elements(store: wasmtime.Store, table: wasmtime.Table, functions: Functions) -> list[int | None]:
    """The functions that a table holds, by number.

    Raises:
        Unkeepable: it holds something else; says at which index.
    """
    held, found = c.wasmtime_val_t(), []
    for at in range(table.size(store)):
        c.wasmtime_table_get(store._context(), ctypes.byref(table._table), at, ctypes.byref(held))
        try:
            found.append(functions.number(held))
        except Unkeepable as error:
            raise Unkeepable(f"{error}, at index {at}") from None
    return found


def set_element(
    store: wasmtime.Store, table: wasmtime.Table, type_: str, at: int, number: int | None, functions: Functions
) -> None:
    """Set one element of a table.

    Raises:
        IndexError: there is no such function, or no such element.
    """
    value = functions.value(type_, number)
    error = c.wasmtime_table_set(store._context(), ctypes.byref(table._table), at, ctypes.byref(value))
    if error:
        raise IndexError(str(wasmtime.WasmtimeError._from_ptr(error)))


def grow_table(store: wasmtime.Store, table: wasmtime.Table, type_: str, size: int) -> None:
    """Have a table be that long; what is new is null.

    Raises:
        MemoryError: the limit on tables does not allow that.
    """
    before = ctypes.c_uint64()
    null = val(store._context(), "a table", type_, None)
    error = c.wasmtime_table_grow(
        store._context(), ctypes.byref(table._table), size - table.size(store), ctypes.byref(null), ctypes.byref(before)
    )
    if error:
        raise MemoryError(str(wasmtime.WasmtimeError._from_ptr(error)))


def host_check(store: wasmtime.Store, check: Callable[[], bool]) -> tuple[wasmtime.Func, Any]:
    """A function for wasm of ours, ``() -> i32``, that asks Python something; and what must live as long as it.

    What ``check`` raises counts as no.
    """

    def trampoline(_env: int, _caller: int, slots: int, _count: int) -> None:
        answer = False
        with contextlib.suppress(BaseException):  # which cannot pass through wasm
            answer = check()
        ctypes.c_uint32.from_address(slots).value = answer

    callback = _Callback(trampoline)
    type_ = wasmtime.FuncType([], [wasmtime.ValType.i32()])
    made = c.wasmtime_func_t()
    _new_func(
        ctypes.cast(store._context(), ctypes.c_void_p),
        ctypes.cast(type_.ptr(), ctypes.c_void_p),
        ctypes.cast(callback, ctypes.c_void_p),
        *(None, None),
        ctypes.addressof(made),
    )
    return wasmtime.Func._from_raw(made), callback
