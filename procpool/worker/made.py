"""Imports of which each instance gets one of its own: memories, tables and globals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import wasmtime

from ..binary import GlobalType, MemoryType, TableType
from . import ffi

#: the imports that were made for one instance, by module and name
Own = dict[tuple[str, str], Any]


class Made(NamedTuple):
    """Such an import."""

    module: str
    name: str
    type: Any
    value: Any  #: what the user gave: a type to make one of, or what a global holds
    declared: Any  #: its type just as the module declares it; see `ffi.ImportTypes`


def instantiate_with(
    linker: wasmtime.Linker, made: Sequence[Made], module: wasmtime.Module, store: wasmtime.Store, own: Own
) -> wasmtime.Instance:
    """An instance with new ones, which are put into ``own`` by their two names before it begins to run.

    The linker must allow shadowing.
    """
    for each in made:
        new = own[each.module, each.name] = _new(store, each)
        linker.define(store, each.module, each.name, new)
    return linker.instantiate(store, module)


def _new(store: wasmtime.Store, each: Made) -> Any:
    """A new memory, table or global for one instance to import."""
    type_, value = each.type, each.value
    if isinstance(type_, MemoryType):
        limits = wasmtime.Limits(value.minimum, value.maximum)
        return wasmtime.Memory(store, wasmtime.MemoryType(limits, is_64=type_.is_64))
    if isinstance(type_, TableType):
        if type_.element not in ("funcref", "externref"):
            return ffi.new_table(store, each.declared, f"the table {each.module}.{each.name}", type_.element)
        element = wasmtime.ValType.funcref() if type_.element == "funcref" else wasmtime.ValType.externref()
        return wasmtime.Table(store, wasmtime.TableType(element, wasmtime.Limits(value.minimum, value.maximum)), None)
    assert isinstance(type_, GlobalType)
    return ffi.new_global(store, each.declared, f"the global {each.module}.{each.name}", type_.content, value)
