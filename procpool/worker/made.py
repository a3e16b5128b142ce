"""What each instance has of its own beside its exports: linked modules, and imported memories, tables and globals."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import wasmtime

from ..binary import GlobalType, MemoryType, TableType, simple
from ..printable import printable
from ..program import Names
from . import ffi


@dataclass
class Own:
    """What was made for one instance before it begins to run."""

    imports: dict[Names, Any] = field(default_factory=dict)  #: memories, tables and globals, by source; see `Part.source`
    linked: dict[str, wasmtime.Instance] = field(default_factory=dict)  #: instances of linked modules, by name

    def clear(self) -> None:
        """Forget it all."""
        self.imports.clear()
        self.linked.clear()


class Made(NamedTuple):
    """An import that is made for each instance."""

    names: Names  #: its source
    type: Any
    value: Any  #: what the user gave: a type to make one of, or what a global holds
    declared: Any  #: its type just as the module declares it; see `ffi.ImportTypes`


def make(store: wasmtime.Store, each: Made) -> Any:
    """A new memory, table or global for one instance to import.

    Raises:
        wasmtime.WasmtimeError: it cannot be made; says which it is.
        TypeError, ArgumentOutOfRange: the value of a global does not fit.
        NotImplementedError: this release of wasmtime-py does not let us.
    """
    try:
        return _new(store, each)
    except wasmtime.WasmtimeError as error:
        raise wasmtime.WasmtimeError(f"making the import {printable('.'.join(each.names))}: {error}") from None


def _new(store: wasmtime.Store, each: Made) -> Any:
    type_, value, name = each.type, each.value, ".".join(each.names)
    if isinstance(type_, MemoryType):
        limits = wasmtime.Limits(value.minimum, value.maximum)
        log2 = type_.page_size.bit_length() - 1
        return wasmtime.Memory(store, wasmtime.MemoryType(limits, is_64=type_.is_64, page_size_log2=log2))
    if isinstance(type_, TableType):
        if not simple(type_):
            return ffi.new_table(store, each.declared, f"the table {name}", type_.element)
        element = wasmtime.ValType.funcref() if type_.element == "funcref" else wasmtime.ValType.externref()
        return wasmtime.Table(store, wasmtime.TableType(element, wasmtime.Limits(value.minimum, value.maximum)), None)
    assert isinstance(type_, GlobalType)
    return ffi.new_global(store, each.declared, f"the global {name}", type_.content, value)
