"""Exceptions of the guest's that nothing there has caught, and where the guest was when it failed."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import wasmtime

from ...binary import SCALARS
from ...codec import SLOT
from ...raw import RAW, c
from .values import KINDS

#: Before what wasmtime says of a trap.
TRAP = "wasm trap: "
_NAMES = {kind: name for name, kind in KINDS.items()}


def backtrace(error: wasmtime.Trap | wasmtime.WasmtimeError) -> Sequence[wasmtime.Frame]:
    """Where in wasm it happened, innermost first."""
    if isinstance(error, wasmtime.Trap):
        return error.frames
    if not RAW:
        return ()
    found = wasmtime._trap.FrameList(error)
    c.wasmtime_error_wasm_trace(error.ptr(), ctypes.byref(found.vec))
    return [wasmtime.Frame._from_ptr(found.vec.data[at], found) for at in range(found.vec.size)]


@functools.cache
def _codes() -> dict[str, wasmtime.TrapCode]:
    """The codes of traps by what wasmtime says of them."""
    if not RAW:
        return {}
    return {wasmtime.Trap._from_ptr(c.wasmtime_trap_new_code(code.value)).message: code for code in wasmtime.TrapCode}


def trap_code(text: str) -> wasmtime.TrapCode | None:
    """The code of a trap by its text: that of a component arrives as an error, which has no other."""
    return _codes().get(text) if text.startswith(TRAP) else None


class Thrown(NamedTuple):
    """What was thrown."""

    tag: str | None  #: the name that the module exports its tag under
    payload: tuple[int | float | bytes | str, ...]  #: a reference as the name of its type


class Exceptions:
    """Takes the exception that ended a call out of its store.

    Args:
        store: that of the calls.
        tags: what finds those that have a name, by it.  None do in a start function, as there is no instance yet.
    """

    def __init__(
        self, store: wasmtime.Store, tags: Mapping[str, Callable[[], wasmtime.Tag]] = MappingProxyType({})
    ) -> None:
        self._store = store
        self._tags = tags

    def take(self) -> Thrown | None:
        """The exception, if there is one."""
        if not RAW:
            return None
        context, thrown = self._store._context(), c.wasmtime_exnref_t()
        if not c.wasmtime_context_take_exception(context, ctypes.byref(thrown)):
            return None
        try:
            count = c.wasmtime_exnref_field_count(context, ctypes.byref(thrown))
            return Thrown(self._tag(context, thrown), tuple(_field(context, thrown, at) for at in range(count)))
        finally:
            c.wasmtime_exnref_unroot(ctypes.byref(thrown))

    def mark(self, error: BaseException) -> None:
        """Have what ended a call say so in an attribute ``thrown``, if that is an exception of the guest's."""
        thrown = self.take()
        if thrown is not None:
            error.thrown = thrown  # type: ignore[attr-defined]

    def _tag(self, context: Any, thrown: Any) -> str | None:
        tag = c.wasmtime_tag_t()
        c.wasmtime_exnref_tag(context, ctypes.byref(thrown), ctypes.byref(tag))
        for name, find in self._tags.items():
            if c.wasmtime_tag_eq(context, ctypes.byref(find()._tag), ctypes.byref(tag)):
                return name
        return None


def _field(context: Any, thrown: Any, at: int) -> int | float | bytes | str:
    held = c.wasmtime_val_t()
    c.wasmtime_exnref_field(context, ctypes.byref(thrown), at, ctypes.byref(held))
    name = _NAMES.get(held.kind, "reference")
    if name == "v128":
        return ctypes.string_at(ctypes.addressof(held.of), SLOT)
    if name in SCALARS:
        return getattr(held.of, name)  # type: ignore[no-any-return]
    c.wasmtime_val_unroot(ctypes.byref(held))
    return name
