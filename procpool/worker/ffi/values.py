"""References and values of globals: wasmtime's C structures from Python values, and back."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import wasmtime

from ...binary import SCALARS, FuncType, nullable, with_article
from ...codec import SLOT, Codec, converted
from ...raw import RAW, c
from ..references import COLLECTED, EXTERN, FUNCTION, Reference, heap_of

#: The kinds of a `wasmtime_val_t`, wasmtime/val.h; wasmtime-py has no name for some of them.
KINDS = {"i32": 0, "i64": 1, "f32": 2, "f64": 3, "v128": 4, "funcref": 5, "externref": 6, "anyref": 7, "exnref": 8}
#: The fields of such a value for references, named as the kinds are.
_FIELDS = {FUNCTION: "funcref", EXTERN: "externref", COLLECTED: "anyref"}

#: Objects that guests hold as externrefs, of all instances of this process, by the number that stands for them.
_held: dict[int, Any] = {}
_numbers = count(1)  # 0 would be taken for null

if RAW:

    class _Anyref(c.wasmtime_anyref_t):  # type: ignore[misc]
        """One that is rooted as long as it lives here."""

        def __del__(self) -> None:
            c.wasmtime_anyref_unroot(ctypes.byref(self))

    def _forget(number: int) -> None:
        """The guest holds it no longer."""
        _held.pop(number, None)

    _released = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_forget)


def reads_slot(kind: str) -> Callable[[Any, bytes], Any]:
    """What makes a Python value of a reference in a slot.

    Raises (what is returned):
        TypeError: Python cannot hold references of this type.
    """
    heap = heap_of(kind)

    def extern(context: Any, slot: bytes) -> Any:
        if not _number(slot):
            return None
        ref = c.wasmtime_externref_t()
        c.wasmtime_externref_from_raw(context, _number(slot), ctypes.byref(ref))
        return _object(context, ref)

    def collected(context: Any, slot: bytes) -> Any:
        if not _number(slot):
            return None
        ref = _Anyref()
        c.wasmtime_anyref_from_raw(context, _number(slot), ctypes.byref(ref))
        return Reference(kind, _mark(context), ref)

    def function(context: Any, slot: bytes) -> Any:
        pointer = int.from_bytes(slot[:8], "little")
        if not pointer:
            return None
        ref = c.wasmtime_func_t()
        c.wasmtime_func_from_raw(context, pointer, ctypes.byref(ref))
        return Reference(kind, _mark(context), ref)

    def foreign(context: Any, slot: bytes) -> Any:
        raise TypeError(f"it takes {with_article(kind)}, and Python cannot hold such a reference")

    return {EXTERN: extern, COLLECTED: collected, FUNCTION: function}.get(heap or "", foreign)


def reference(context: Any, kind: str, value: Any) -> Any:
    """A Python value as wasmtime's structure for a reference of that type; None for null.

    Raises:
        TypeError: it is none; the message says what is expected.
        MemoryError: the guest has no room for it.
    """
    if value is None:
        if not nullable(kind):
            raise TypeError(f"{with_article(kind)}, which is never null")
        return None
    if heap_of(kind) == EXTERN:
        ref = c.wasmtime_externref_t()
        number = next(_numbers)
        _held[number] = value
        if not c.wasmtime_externref_new(context, number, _released, ctypes.byref(ref)):
            _held.pop(number, None)
            raise MemoryError("the guest has no room for another reference")
        return ref
    # The very same type: wasmtime does not look, and the guest would take one for the other.
    if not isinstance(value, Reference) or value.type != kind or value.store != _mark(context):
        raise TypeError(f"{with_article(kind)} that came from the same instance, or None")
    return value.raw


def slot_of(context: Any, kind: str, ref: Any) -> bytes:
    """What `reference` gave, as a slot.  Nothing may be collected before the guest has it."""
    if ref is None:
        raw = 0
    elif heap_of(kind) == EXTERN:
        raw = c.wasmtime_externref_to_raw(context, ctypes.byref(ref))
        c.wasmtime_externref_unroot(ctypes.byref(ref))
    elif heap_of(kind) == COLLECTED:
        raw = c.wasmtime_anyref_to_raw(context, ctypes.byref(ref))
    else:
        raw = c.wasmtime_func_to_raw(context, ctypes.byref(ref))
    return (raw or 0).to_bytes(SLOT, "little")


class MixedCodec:
    """Values to slots and back where there are references among them: value by value, which is slower than a `Codec`."""

    def __init__(self, what: str, kinds: Sequence[str]) -> None:
        self._kinds = kinds
        self._scalars = [Codec(what, FuncType((kind,), (kind,))) if kind in SCALARS else None for kind in kinds]
        self._references = [None if kind in SCALARS else reads_slot(kind) for kind in kinds]

    def pack(self, context: Any, values: Sequence[Any]) -> bytes:
        """As many values as there are kinds, as slots.  Nothing may be collected before the guest has them.

        Raises:
            BadArguments: a number does not fit.
            TypeError: a reference does not; the message says what is expected.
        """
        each = list(zip(self._kinds, self._scalars, values, strict=True))
        # All are rooted before the first becomes a number again: making one may collect what nothing holds.
        made = [codec.pack((value,)) if codec else reference(context, kind, value) for kind, codec, value in each]
        return b"".join(
            one if codec else slot_of(context, kind, one) for (kind, codec, _), one in zip(each, made, strict=True)
        )

    def unpack(self, context: Any, data: Any) -> list[Any]:
        """What slots hold.

        Raises:
            TypeError: Python cannot hold a reference that is there.
        """
        slots = [bytes(data[at * SLOT : (at + 1) * SLOT]) for at in range(len(self._kinds))]
        return [
            codec.unpack(slot) if codec else read(context, slot)  # type: ignore[misc]
            for codec, read, slot in zip(self._scalars, self._references, slots, strict=True)
        ]


def val(context: Any, what: str, kind: str, value: Any) -> Any:
    """A Python value as a `wasmtime_val_t`.

    Args:
        context: of the store.
        what: what it is for, for the text of an exception.
        kind: its value type.
        value: a number for i32 to f64, 16 bytes for v128; any object for an externref, otherwise a Reference or None.

    Raises:
        TypeError: it does not fit the type.
        ArgumentOutOfRange: it does not fit into the type's bits.
    """
    made = c.wasmtime_val_t()
    if kind in SCALARS:
        made.kind = KINDS[kind]
        number = converted(what, value, kind)
        if isinstance(number, bytes):
            ctypes.memmove(ctypes.addressof(made.of), number, SLOT)
        else:
            setattr(made.of, kind, number)
        return made
    heap = heap_of(kind)
    if heap is None:
        raise TypeError(f"{what} is {with_article(kind)}, and Python cannot hold such a reference")
    made.kind = KINDS[_FIELDS[heap]]
    try:
        ref = reference(context, kind, value)
    except TypeError as error:
        raise TypeError(f"{what} expects {error}") from None
    if ref is not None:
        setattr(made.of, _FIELDS[heap], ref)
    return made


def value_of(context: Any, what: str, kind: str, got: Any) -> Any:
    """The Python value of a `wasmtime_val_t` that is ours.

    Raises:
        TypeError: Python cannot hold references of this type.
    """
    if kind == "v128":
        return ctypes.string_at(ctypes.addressof(got.of), SLOT)
    if kind in SCALARS:
        return getattr(got.of, kind)
    heap = heap_of(kind)
    if heap is None:
        raise TypeError(f"{what} is {with_article(kind)}, and Python cannot hold such a reference")
    ref = getattr(got.of, _FIELDS[heap])
    if not ref.store_id:
        return None
    if heap == EXTERN:
        return _object(context, ref)
    return Reference(kind, _mark(context), (_Anyref if heap == COLLECTED else c.wasmtime_func_t).from_buffer_copy(ref))


def nulls(kind: str) -> list[Any]:
    """The nulls that may be of a reference type: one, if its name says what it refers to."""
    heap = heap_of(kind)
    made = []
    for each in [heap] if heap is not None else [FUNCTION, COLLECTED]:
        made.append(c.wasmtime_val_t())
        made[-1].kind = KINDS[_FIELDS[each]]
    return made


def release(kind: str, made: Any) -> None:
    """Root what `val` made no longer."""
    if heap_of(kind) == EXTERN and made.of.externref.store_id:
        c.wasmtime_externref_unroot(ctypes.byref(made.of.externref))


def _object(context: Any, ref: Any) -> Any:
    """The object behind an externref, which is not rooted after that.

    Raises:
        TypeError: there is none.
    """
    try:
        number = c.wasmtime_externref_data(context, ctypes.byref(ref))
        if number is None:  # made by extern.convert_any; None would be taken for null
            raise TypeError("Python cannot hold an externref that the guest has made of a reference of its own")
        return _held.get(number)
    finally:
        c.wasmtime_externref_unroot(ctypes.byref(ref))


def _number(slot: bytes) -> int:
    return int.from_bytes(slot[:4], "little")


def mark(store: wasmtime.Store) -> None:
    """Tell a store from all others there are and ever were; its address may be that of one that is gone."""
    if RAW:
        c.wasmtime_context_set_data(store._context(), next(_numbers))


def _mark(context: Any) -> int:
    number: int = c.wasmtime_context_get_data(context)
    return number
