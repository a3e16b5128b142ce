"""Imports of which each instance gets one of its own: memories, tables and globals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import wasmtime

from ..binary import GlobalType, MemoryType, TableType


class Made(NamedTuple):
    """Such an import."""

    module: str
    name: str
    type: Any
    value: Any  #: what the user gave: a type to make one of, or a number


def instantiate_with(
    linker: wasmtime.Linker, made: Sequence[Made], module: wasmtime.Module, store: wasmtime.Store
) -> wasmtime.Instance:
    """An instance with new ones.  The linker must allow shadowing."""
    for each in made:
        linker.define(store, each.module, each.name, _new(store, each.type, each.value))
    return linker.instantiate(store, module)


def _new(store: wasmtime.Store, type_: Any, value: Any) -> Any:
    """A new memory, table or global for one instance to import."""
    if isinstance(value, MemoryType):
        return wasmtime.Memory(store, wasmtime.MemoryType(wasmtime.Limits(value.minimum, value.maximum)))
    if isinstance(value, TableType):
        element = wasmtime.ValType.funcref() if value.element == "funcref" else wasmtime.ValType.externref()
        return wasmtime.Table(store, wasmtime.TableType(element, wasmtime.Limits(value.minimum, value.maximum)), None)
    assert isinstance(type_, GlobalType)
    content = getattr(wasmtime.ValType, type_.content)()
    number = getattr(wasmtime.Val, type_.content)(value)
    return wasmtime.Global(store, wasmtime.GlobalType(content, type_.mutable), number)
