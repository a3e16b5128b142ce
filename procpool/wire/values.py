"""Python values on their way between the processes: a pickle or plain data, and beside it what is large.

What a worker sends is a pickle where its pool trusts workers (options.Trust), and plain data otherwise; both sides know
which, and nothing in the bytes says so.  What a worker gets is always a pickle: it trusts the parent.

Buffers of LARGE bytes or more are not put through the pipe, which costs several copies and a system call per 64 KiB, but
into a slot of shared memory (wire.PAYLOAD_BYTES).  Pickle protocol 5 does so for numpy arrays and their like at any depth;
``bytes``, ``bytearray`` and ``memoryview`` are taken where they stand as an argument or a result, or as an item of a result
that is a tuple, list or dict: the pickle module offers no hook that would find them deeper without slowing down the rest.

A value is received in two steps.  `detach` copies it out of what is shared and checks all bounds; no user code runs.
`Received.load` unpickles, which may run any code of the user's, and raise anything.  `plain` is one step, for those who may
run none: it gives what consists of numbers, strings and the like, and refuses the rest.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import pickletools
import struct
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from .. import pickler
from .layout import PAYLOAD_BYTES
from .plain import decode, encode

#: From this size on, a buffer goes out of band.  Measured: at 64 KiB both ways take the same time (docs/rationale.md).
LARGE = 64 << 10
_ALIGN = 64
_MOST_ITEMS = 64  # a result with more items is not searched for large ones

#: Types without anything large, or anything that only cloudpickle can pickle: it is ten times slower.
_SMALL = frozenset({int, float, bool, str, complex, type(None)})

_HEAD = struct.Struct("<BxxxIQ")  # slot, number of buffers, length of the pickle
_BUFFER = struct.Struct("<QQB")  # offset, length, whether it may be written
#: in place of a slot's number: the buffers follow the pickle
INLINE = 255
ARGUMENTS = range(0, 2)  #: the slots in which arguments may lie
RESULTS = range(2, 4)  #: and results
_ANY = range(0, 4)

#: Pickles beyond this many bytes are left alone by `plain`: they would take a thread too long that keeps time.
PLAIN = 4096
# The opcodes that name something to import (c, i, \x93) or an entry of copyreg's registry (\x82 to \x84).  A pickle without
# these bytes, wherever they may stand, names nothing, and so builds nothing but what has an opcode of its own.
_NAMING = b"ci\x82\x83\x84\x93"
_BY_NUMBER = b"\x82\x83\x84"


class Dumped(NamedTuple):
    """A value ready to travel."""

    body: bytes  #: a pickle, or plain data
    buffers: list[tuple[memoryview, bool]]  #: large parts, and whether what they become may be written

    @property
    def size(self) -> int:
        """Bytes of a slot that the large parts take."""
        return sum(-(-view.nbytes // _ALIGN) * _ALIGN for view, _ in self.buffers) if self.buffers else 0

    def place(self, slot: int, area: memoryview, at: int = 0) -> bytes:
        """Write the large parts to ``area`` from ``at``; the payload to send."""
        entries = []
        for view, writable in self.buffers:
            area[at : at + view.nbytes] = view
            entries.append(_BUFFER.pack(at, view.nbytes, writable))
            at += -(-view.nbytes // _ALIGN) * _ALIGN
        return b"".join([_HEAD.pack(slot, len(entries), len(self.body)), *entries, self.body])

    def inline(self) -> bytes:
        """The payload to send when there is no slot, or nothing to put there."""
        if not self.buffers:
            return _HEAD.pack(INLINE, 0, len(self.body)) + self.body
        area = bytearray(self.size)
        return self.place(INLINE, memoryview(area)) + area


class _Large:
    """Stands for a bytes-like object in a pickle, and becomes one of the same type."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __reduce_ex__(self, protocol: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        kind = type(self._value)
        if kind is memoryview:
            # Read-only, so that it comes as bytes of its own.
            return _view, (pickle.PickleBuffer(self._value.toreadonly()),)
        return (_own if kind is bytearray else kind), (pickle.PickleBuffer(self._value),)


def _view(buffer: Any) -> memoryview:
    return memoryview(bytes(buffer))  # of bytes, this is no copy


def _own(buffer: Any) -> bytearray:
    return buffer if type(buffer) is bytearray else bytearray(buffer)


def _marked(value: Any) -> Any:
    kind = type(value)
    if kind is bytes or kind is bytearray:
        return _Large(value) if len(value) >= LARGE else value
    if kind is memoryview:  # these do not pickle at all by themselves
        return _Large(value if value.c_contiguous else memoryview(bytes(value)))
    return value


def dump(value: Any) -> Dumped:
    """Pickle a value.

    Raises:
        Whatever pickling it raises.
    """
    kind = type(value)
    if kind in _SMALL or (kind is tuple and _SMALL.issuperset(map(type, value))):
        return Dumped(pickle.dumps(value, 5), [])
    if kind in (tuple, list) and len(value) <= _MOST_ITEMS:
        value = kind([_marked(item) for item in value])
    elif kind is dict and len(value) <= _MOST_ITEMS:
        value = {key: _marked(item) for key, item in value.items()}
    else:
        value = _marked(value)
    buffers: list[tuple[memoryview, bool]] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < LARGE:
            return True
        buffers.append((view, not view.readonly))
        return False

    data: bytes = pickler.dumps(value, keep)
    return Dumped(data, buffers)


def dump_plain(value: Any) -> Dumped:
    """A value as plain data.

    Raises:
        plain.NotPlain: it is none.
    """
    buffers: list[tuple[memoryview, bool]] = []

    def keep(view: memoryview) -> int | None:
        if view.nbytes < LARGE:
            return None
        buffers.append((view, not view.readonly))
        return len(buffers) - 1

    return Dumped(encode(value, keep), buffers)


class NeedsCode(Exception):
    """Raised for a value that cannot be loaded without running code that it names."""


class Received:
    """A value that has arrived, and refers to nothing shared any more.  To be loaded once."""

    __slots__ = ("_body", "_buffers", "_pickled", "end", "slot")

    def __init__(
        self, body: bytes | memoryview, buffers: list[bytes | bytearray], slot: int, end: int, pickled: bool
    ) -> None:
        self._body = body
        self._buffers = buffers
        self._pickled = pickled
        self.slot: int = slot  #: where its large parts lay; INLINE if it took none of the sender's slots
        self.end: int = end  #: how many bytes of that slot they reached into; 0 for INLINE

    def load(self) -> Any:
        """The value.  What was copied on arrival is used as it is: large parts are not copied again.

        Raises:
            Whatever unpickling it raises; of user code, that may be any BaseException.
            ValueError: it is to be plain data, and is none; no code of anybody's has run.
        """
        return pickle.loads(self._body, buffers=self._buffers) if self._pickled else decode(self._body, self._buffers)

    def dumped(self) -> Dumped:
        """The value as `dump` made it, to be sent on without being loaded."""
        views = [(memoryview(buffer), isinstance(buffer, bytearray)) for buffer in self._buffers]
        return Dumped(bytes(self._body), views)


def plain(payload: bytes) -> Any:
    """What arrived, if it is small (`PLAIN`) and names nothing: None, numbers, strings, bytes, and containers of them.

    Raises:
        NeedsCode: it is not, or is malformed; only `detach` and `Received.load` can tell what it is.
        struct.error: it is shorter than a head.
    """
    _, count, size = _HEAD.unpack_from(payload)
    if count or size > PLAIN:
        raise NeedsCode
    return loads_plain(payload[_HEAD.size : _HEAD.size + size])


def loads_plain(data: bytes) -> Any:
    """Unpickle what names nothing.  No code runs but the pickle module's own, whatever ``data`` is.

    Raises:
        NeedsCode: it names a class or a function, or is no pickle.
    """
    try:
        if len(data.translate(None, _NAMING)) == len(data):
            return pickle.loads(data)
        # Such a byte may well be a letter or a number.  What it names, `_Plain` refuses; but entries of the registry are
        # not asked for by name once they are known.
        if not copyreg._extension_registry or not _names_by_number(data):  # type: ignore[attr-defined]
            return _Plain(io.BytesIO(data)).load()
    except Exception:  # also what is wrong with it: that is for `load` to find
        pass
    raise NeedsCode


def _names_by_number(data: bytes) -> bool:
    return len(data.translate(None, _BY_NUMBER)) != len(data) and any(
        opcode.code.encode("latin-1") in _BY_NUMBER for opcode, _, _ in pickletools.genops(data)
    )


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise NeedsCode


def slot_of(payload: bytes) -> int:
    """In which slot a value that arrived has its buffers; INLINE if in none."""
    number: int = _HEAD.unpack_from(payload)[0]
    return number


def detach(
    payload: bytes,
    slot: Callable[[int, int], memoryview],
    *,
    pickled: bool,
    slots: range = RESULTS,
    at: int = 0,
) -> Received:
    """Copy what arrived out of the shared memory.  Runs no user code.

    Args:
        payload: of the frame, kept as long as the pickle in it is large and not loaded.
        slot: gives the memory of a slot, by its number and the bytes needed of it.
        pickled: it is a pickle from a side that is trusted; else it is plain data, or refused when it is loaded.
        slots: the numbers it may be asked for.
        at: where in the payload the value begins; it goes on to the end.

    Raises:
        ValueError: no sender of ours would describe a value like this.
        MemoryError: there is no memory for the copy.
    """
    start = at + _HEAD.size
    whole = len(payload)
    if whole < start:
        raise ValueError(f"a value of {whole - at} bytes, which is less than its head")
    number, count, size = _HEAD.unpack_from(payload, at)
    first = start + count * _BUFFER.size
    stop = first + size
    if stop > whole:
        raise ValueError(f"a value of {count} buffers and {size} bytes in a payload of {whole - at}")
    data = payload[first:stop] if size < LARGE else memoryview(payload)[first:stop]
    if not count:
        return Received(data, [], INLINE, 0, pickled)
    entries = [_BUFFER.unpack_from(payload, start + n * _BUFFER.size) for n in range(count)]
    end = 0
    for offset, length, _ in entries:
        if offset < end:  # overlapping, a few could claim any amount of memory
            raise ValueError(f"a buffer at {offset}, where another ends at {end}")
        end = offset + length
    if number == INLINE:
        room, area = whole - stop, memoryview(payload)[stop:]
    elif number in slots:
        room = PAYLOAD_BYTES
    else:
        raise ValueError(f"a value in slot {number}, which is none of {slots}")
    if end > room:
        raise ValueError(f"a buffer that ends at {end}, beyond the {room} bytes there are")
    if number != INLINE:
        area = slot(number, end)
    buffers = [
        bytearray(area[offset : offset + length]) if writable else bytes(area[offset : offset + length])
        for offset, length, writable in entries
    ]
    return Received(data, buffers, number, 0 if number == INLINE else end, pickled)


def load(payload: bytes, slot: Callable[[int, int], memoryview], *, slots: range = _ANY, at: int = 0) -> Any:
    """`detach` and `Received.load` in one, of a pickle, for those who may run user code where they are.

    Raises:
        ValueError: no sender of ours would describe a value like this.
        Whatever unpickling it raises.
    """
    return detach(payload, slot, pickled=True, slots=slots, at=at).load()


def placed(payload: bytes) -> tuple[int, int]:
    """The slot of a payload, and the end of what lies there; (INLINE, 0) if nothing does."""
    if payload[0] == INLINE:
        return INLINE, 0
    number, count, _ = _HEAD.unpack_from(payload)
    offset, length, _ = _BUFFER.unpack_from(payload, _HEAD.size + (count - 1) * _BUFFER.size)
    return number, offset + length
