"""Python values on their way between the processes: a pickle, and beside it what is large.

Buffers of LARGE bytes or more are not put through the pipe, which costs several copies and a system call per 64 KiB, but
into a slot of shared memory (wire.PAYLOAD_BYTES).  Pickle protocol 5 does so for numpy arrays and their like at any depth;
``bytes``, ``bytearray`` and ``memoryview`` are taken where they stand as an argument or a result, or as an item of a result
that is a tuple, list or dict: the pickle module offers no hook that would find them deeper without slowing down the rest.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import cloudpickle

#: From this size on, a buffer goes out of band.  Measured: at 64 KiB both ways take the same time (docs/rationale.md).
LARGE = 64 << 10
_ALIGN = 64
_MOST_ITEMS = 64  # a result with more items is not searched for large ones

#: Types without anything large, or anything that only cloudpickle can pickle: it is ten times slower.
_SMALL = frozenset({int, float, bool, str, complex, type(None)})

_HEAD = struct.Struct("<BxxxIQ")  # slot, number of buffers, length of the pickle
_BUFFER = struct.Struct("<QQB")  # offset, length, whether the receiver must copy it
#: in place of a slot's number: the buffers follow the pickle
INLINE = 255


class Dumped(NamedTuple):
    """A value ready to travel."""

    pickle: bytes
    buffers: list[tuple[memoryview, bool]]  #: large parts, and whether they must be copied on arrival

    @property
    def size(self) -> int:
        """Bytes of a slot that the large parts take."""
        return sum(-(-view.nbytes // _ALIGN) * _ALIGN for view, _ in self.buffers)

    def place(self, slot: int, area: memoryview, at: int = 0) -> bytes:
        """Write the large parts to ``area`` from ``at``; the payload to send."""
        entries = []
        for view, copy in self.buffers:
            area[at : at + view.nbytes] = view
            entries.append(_BUFFER.pack(at, view.nbytes, copy))
            at += -(-view.nbytes // _ALIGN) * _ALIGN
        return b"".join([_HEAD.pack(slot, len(entries), len(self.pickle)), *entries, self.pickle])

    def inline(self) -> bytes:
        """The payload to send when there is no slot, or nothing to put there."""
        if not self.buffers:
            return _HEAD.pack(INLINE, 0, len(self.pickle)) + self.pickle
        area = bytearray(self.size)
        return self.place(INLINE, memoryview(area)) + area


class _Large:
    """Stands for a bytes-like object in a pickle, and becomes one of the same type."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __reduce_ex__(self, protocol: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        kind = type(self._value)
        return (_view if kind is memoryview else kind), (pickle.PickleBuffer(self._value),)


def _view(buffer: Any) -> memoryview:
    return memoryview(bytes(buffer))


def _marked(value: Any) -> Any:
    kind = type(value)
    if kind is bytes or kind is bytearray:
        return _Large(value) if len(value) >= LARGE else value
    if kind is memoryview:  # these do not pickle at all by themselves
        return _Large(value if value.contiguous else memoryview(bytes(value)))
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
        # What `_Large` stands for is copied by the type it becomes.  An array would be a window on memory that the next
        # job overwrites.
        buffers.append((view, not isinstance(view.obj, (bytes, bytearray, memoryview))))
        return False

    data: bytes = cloudpickle.dumps(value, protocol=5, buffer_callback=keep)
    return Dumped(data, buffers)


def load(payload: bytes | memoryview, slot: Callable[[int, int], memoryview]) -> Any:
    """The value of a payload.  ``slot`` gives the memory of a slot by number and bytes needed.

    Raises:
        Whatever unpickling it raises.
    """
    number, count, size = _HEAD.unpack_from(payload)
    at = _HEAD.size
    if not count:
        return pickle.loads(memoryview(payload)[at : at + size])
    entries = [_BUFFER.unpack_from(payload, at + n * _BUFFER.size) for n in range(count)]
    at += count * _BUFFER.size
    if number == INLINE:
        area = memoryview(payload)[at + size :]
    else:
        area = slot(number, max(offset + length for offset, length, _ in entries))
    views = [area[offset : offset + length] for offset, length, _ in entries]
    buffers = [bytearray(view) if copy else view for view, (_, _, copy) in zip(views, entries, strict=True)]
    return pickle.loads(memoryview(payload)[at : at + size], buffers=buffers)


def placed(payload: bytes) -> tuple[int, int]:
    """The slot of a payload, and the end of what lies there; (INLINE, 0) if nothing does."""
    if payload[0] == INLINE:
        return INLINE, 0
    number, count, _ = _HEAD.unpack_from(payload)
    offset, length, _ = _BUFFER.unpack_from(payload, _HEAD.size + (count - 1) * _BUFFER.size)
    return number, offset + length
