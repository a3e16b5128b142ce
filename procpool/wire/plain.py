"""Plain data as bytes and back, for those who do not trust the other side: to read it makes nothing but what is named here.

None, bool, int, float, complex, str, bytes, bytearray; tuples, lists, dicts, sets and frozensets of these; arrays and
single numbers of numpy, but for those of objects and of structures.  Of exactly these types: what is of a class of its own
would come back as something else.

Unlike a pickle it has no program in it.  Each value begins with its kind.  Whatever is counted is compared with the bytes
there are before anything is made, so what is read takes no more memory than a fixed multiple of what came.
"""

from __future__ import annotations

import re
import struct
import sys
from array import array
from collections.abc import Callable, Sequence
from typing import Any

#: Containers within containers.
MOST_DEEP = 64
#: Items of containers in all, but for lists of numbers alone, which take no more than arrays do.
MOST_ITEMS = 1 << 24
#: Bytes in all: no frame has more.
_MOST_BYTES = 1 << 30

_U32, _I64, _F64, _2F64 = (struct.Struct(format) for format in ("<I", "<q", "<d", "<dd"))
_LARGE = struct.Struct("<IB")  # number of the buffer, kind of what it becomes
_SHAPE = struct.Struct("<BBB")  # length of the type's name, number of dimensions, whether the first is the innermost
_LEAST, _MOST = -(1 << 63), (1 << 63) - 1
_INT, _FLOAT = {int}, {float}
_LITTLE = sys.byteorder == "little"
#: numpy's names of types: order of bytes, kind, size, and the unit of a time.  No objects, and no structures.
_DTYPE = re.compile(r"[<>|][biufcSUmM][0-9]{1,6}(\[[0-9]{0,6}[a-zA-Z]{1,2}\])?")
_MOST_DIMENSIONS = 32
#: Keys that may have the same hash, on average, where there are more than `_FEW`.  Of numbers anybody can make up millions,
#: and a table of those takes a time that grows with the square.
_MOST_ALIKE, _FEW = 8, 64

Keep = Callable[[memoryview], "int | None"]


class NotPlain(TypeError):
    """Raised for a value that is not plain."""


def encode(value: Any, keep: Keep | None = None) -> bytes:
    """A value as bytes.

    Args:
        keep: asked for each run of bytes in it whether it is to travel beside: gives its number, or None if it is to stay.

    Raises:
        NotPlain: it, or something in it, is no plain data; says what.
    """
    pieces: list[bytes] = []
    writer = _Writer(pieces.append, keep)
    writer.write(value, 0)
    return b"".join(pieces)


class _Writer:
    def __init__(self, add: Callable[[bytes], None], keep: Keep | None) -> None:
        self._add = add
        self._keep = keep
        self._items = 0

    def write(self, value: Any, deep: int) -> None:
        kind = type(value)
        writer = _WRITERS.get(kind)
        if writer is not None:
            writer(self, value, deep)
        elif kind.__module__ == "numpy":
            self._numpy(value)
        else:
            raise NotPlain(f"an object of the type {kind.__qualname__} is no plain data")

    def _none(self, value: None, deep: int) -> None:
        self._add(b"N")

    def _bool(self, value: bool, deep: int) -> None:
        self._add(b"T" if value else b"F")

    def _int(self, value: int, deep: int) -> None:
        if _LEAST <= value <= _MOST:
            self._add(b"i" + _I64.pack(value))
        else:
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            self._add(b"I" + _U32.pack(_sized(len(data))) + data)

    def _float(self, value: float, deep: int) -> None:
        self._add(b"f" + _F64.pack(value))

    def _complex(self, value: complex, deep: int) -> None:
        self._add(b"c" + _2F64.pack(value.real, value.imag))

    def _str(self, value: str, deep: int) -> None:
        data = value.encode("utf-8", "surrogatepass")
        self._add(b"s" + _U32.pack(_sized(len(data))))
        self._add(data)

    def _bytes(self, value: bytes | bytearray, deep: int) -> None:
        self._run(b"b" if type(value) is bytes else b"a", memoryview(value))

    def _run(self, kind: bytes, view: memoryview) -> None:
        number = None if self._keep is None else self._keep(view)
        if number is not None:
            self._add(b"B" + _LARGE.pack(number, kind[0]))
        else:
            self._add(kind + _U32.pack(_sized(view.nbytes)))
            self._add(bytes(view))

    def _sequence(self, value: tuple[Any, ...] | list[Any], deep: int) -> None:
        if type(value) is list and len(value) > 1 and self._numbers(value):
            return
        self._container(b"t" if type(value) is tuple else b"l", value, deep)

    def _numbers(self, value: list[Any]) -> bool:
        kinds = set(map(type, value))
        if kinds == _INT and min(value) >= _LEAST and max(value) <= _MOST:
            self._run(b"q", _packed("q", value))
        elif kinds == _FLOAT:
            self._run(b"d", _packed("d", value))
        else:
            return False
        return True

    def _set(self, value: set[Any] | frozenset[Any], deep: int) -> None:
        self._container(b"S" if type(value) is set else b"Z", value, deep)

    def _container(self, kind: bytes, value: Any, deep: int) -> None:
        self._enter(len(value), deep)
        self._add(kind + _U32.pack(len(value)))
        for item in value:
            self.write(item, deep + 1)

    def _dict(self, value: dict[Any, Any], deep: int) -> None:
        self._enter(2 * len(value), deep)
        self._add(b"m" + _U32.pack(len(value)))
        for key, item in value.items():
            self.write(key, deep + 1)
            self.write(item, deep + 1)

    def _enter(self, items: int, deep: int) -> None:
        self._items += items
        if deep >= MOST_DEEP or self._items > MOST_ITEMS:
            raise NotPlain(f"it has more than {MOST_ITEMS} items, or containers more than {MOST_DEEP} deep")

    def _numpy(self, value: Any) -> None:
        numpy = sys.modules["numpy"]
        single = isinstance(value, numpy.generic)
        if not single and type(value) is not numpy.ndarray:
            raise NotPlain(f"an object of the type {type(value).__qualname__} is no plain data")
        name: str = value.dtype.str
        if not _DTYPE.fullmatch(name) or not value.dtype.itemsize or value.ndim > _MOST_DIMENSIONS:
            raise NotPlain(f"an array of the type {value.dtype} is no plain data")
        fortran = value.ndim > 1 and value.flags.f_contiguous and not value.flags.c_contiguous
        shape = (255 if single else value.ndim), fortran
        self._add(b"n" + _SHAPE.pack(len(name), *shape) + name.encode() + b"".join(map(_I64.pack, value.shape)))
        array_ = value.T if fortran else numpy.ascontiguousarray(value)
        self._run(b"a", memoryview(array_.reshape(-1).view("u1") if array_.size else b""))


def _packed(kind: str, value: list[Any]) -> memoryview:
    numbers = array(kind, value)
    if not _LITTLE:
        numbers.byteswap()
    return memoryview(numbers).cast("B")


def _sized(size: int) -> int:
    if size > _MOST_BYTES:
        raise NotPlain(f"it has {size} bytes in one piece")
    return size


_WRITERS: dict[type, Callable[[_Writer, Any, int], None]] = {
    type(None): _Writer._none,
    bool: _Writer._bool,
    int: _Writer._int,
    float: _Writer._float,
    complex: _Writer._complex,
    str: _Writer._str,
    bytes: _Writer._bytes,
    bytearray: _Writer._bytes,
    tuple: _Writer._sequence,
    list: _Writer._sequence,
    dict: _Writer._dict,
    set: _Writer._set,
    frozenset: _Writer._set,
}


def decode(data: bytes | memoryview, buffers: Sequence[bytes | bytearray] = ()) -> Any:
    """The value of some bytes.  Runs no code of anybody's, whatever they are.

    Args:
        buffers: what travelled beside, by number; may become a part of the value.

    Raises:
        ValueError: `encode` makes no such bytes.
        MemoryError: there is no memory for it.
    """
    reader = _Reader(data, buffers)
    try:
        value = reader.read(0)
    except (struct.error, IndexError, TypeError, KeyError, OverflowError) as error:
        raise ValueError(f"no plain data: {error}") from None
    if reader.at != len(data):
        raise ValueError(f"plain data that ends at {reader.at} of {len(data)} bytes")
    return value


class _Reader:
    def __init__(self, data: bytes | memoryview, buffers: Sequence[bytes | bytearray]) -> None:
        self._data = data
        self._buffers = buffers
        self._items = 0
        self.at = 0

    def read(self, deep: int) -> Any:
        kind = self._data[self.at]
        self.at += 1
        return _READERS[kind](self, deep)

    def _bytes(self) -> bytes:
        (size,) = _U32.unpack_from(self._data, self.at)
        start = self.at + 4
        if size > len(self._data) - start:
            raise ValueError(f"{size} bytes of which there are {len(self._data) - start}")
        self.at = start + size
        return bytes(self._data[start : self.at])

    def _number(self, form: struct.Struct) -> Any:
        values = form.unpack_from(self._data, self.at)
        self.at += form.size
        return values[0] if len(values) == 1 else complex(*values)

    def _large(self, deep: int) -> Any:
        number, kind = _LARGE.unpack_from(self._data, self.at)
        self.at += _LARGE.size
        return _OF_BYTES[kind](self._buffers[number])

    def _run(self) -> bytes | bytearray:
        """The bytes of an array."""
        kind = self._data[self.at]
        self.at += 1
        if kind == ord("B"):
            made = self._large(0)
        elif kind == ord("a"):
            made = bytearray(self._bytes())
        else:
            raise ValueError("an array without bytes")
        return made if type(made) is bytearray else bytearray(made)

    def _container(self, deep: int, make: Callable[[list[Any]], Any], each: int = 1) -> Any:
        (count,) = _U32.unpack_from(self._data, self.at)
        self.at += 4
        self._items += count * each
        if deep >= MOST_DEEP or self._items > MOST_ITEMS or count * each > len(self._data) - self.at:
            raise ValueError(f"a container of {count} items, {deep} deep, in {len(self._data)} bytes")
        read = self.read
        return make([read(deep + 1) for _ in range(count * each)])

    def _numpy(self, deep: int) -> Any:
        length, dimensions, fortran = _SHAPE.unpack_from(self._data, self.at)
        self.at += _SHAPE.size
        name = bytes(self._data[self.at : self.at + length]).decode("ascii")
        self.at += length
        single = dimensions == 255
        if not _DTYPE.fullmatch(name) or (dimensions > _MOST_DIMENSIONS and not single):
            raise ValueError(f"an array of the type {name!r} with {dimensions} dimensions")
        shape = tuple(self._number(_I64) for _ in range(0 if single else dimensions))
        data = self._run()
        import numpy

        dtype = numpy.dtype(name)
        size = 1
        for extent in shape:
            size *= extent
        if any(extent < 0 for extent in shape) or not dtype.itemsize or size * dtype.itemsize != len(data):
            raise ValueError(f"an array of the shape {shape} in {len(data)} bytes")
        if dtype.kind == "U" and data and int(numpy.frombuffer(data, dtype.byteorder + "u4").max()) > sys.maxunicode:
            raise ValueError("an array of characters that there are not")
        if single:
            return numpy.frombuffer(data, dtype)[0]
        flat = numpy.frombuffer(data, dtype) if data else numpy.empty(0, dtype)
        return flat.reshape(shape, order="F" if fortran else "C")


def _numbers(kind: str) -> Callable[[bytes | bytearray], list[Any]]:
    def read(data: bytes | bytearray) -> list[Any]:
        numbers = array(kind)
        numbers.frombytes(data)
        if not _LITTLE:
            numbers.byteswap()
        return numbers.tolist()

    return read


def _hashed(keys: list[Any]) -> list[Any]:
    if len(keys) > _FEW and len(set(map(hash, keys))) * _MOST_ALIKE < len(keys):
        raise ValueError(f"{len(keys)} keys with the same few hashes")
    return keys


def _set(items: list[Any]) -> set[Any]:
    return set(_hashed(items))


def _frozenset(items: list[Any]) -> frozenset[Any]:
    return frozenset(_hashed(items))


def _mapping(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(_hashed(items[::2]), items[1::2], strict=True))


_OF_BYTES: dict[int, Callable[[bytes | bytearray], Any]] = {
    ord("b"): lambda data: data if type(data) is bytes else bytes(data),
    ord("a"): lambda data: data if type(data) is bytearray else bytearray(data),
    ord("q"): _numbers("q"),
    ord("d"): _numbers("d"),
}
_READERS: dict[int, Callable[[_Reader, int], Any]] = {
    ord("N"): lambda reader, deep: None,
    ord("T"): lambda reader, deep: True,
    ord("F"): lambda reader, deep: False,
    ord("i"): lambda reader, deep: reader._number(_I64),
    ord("I"): lambda reader, deep: int.from_bytes(reader._bytes(), "little", signed=True),
    ord("f"): lambda reader, deep: reader._number(_F64),
    ord("c"): lambda reader, deep: reader._number(_2F64),
    ord("s"): lambda reader, deep: reader._bytes().decode("utf-8", "surrogatepass"),
    ord("b"): lambda reader, deep: reader._bytes(),
    ord("a"): lambda reader, deep: bytearray(reader._bytes()),
    ord("q"): lambda reader, deep: _OF_BYTES[ord("q")](reader._bytes()),
    ord("d"): lambda reader, deep: _OF_BYTES[ord("d")](reader._bytes()),
    ord("B"): _Reader._large,
    ord("t"): lambda reader, deep: reader._container(deep, tuple),
    ord("l"): lambda reader, deep: reader._container(deep, list),
    ord("S"): lambda reader, deep: reader._container(deep, _set),
    ord("Z"): lambda reader, deep: reader._container(deep, _frozenset),
    ord("m"): lambda reader, deep: reader._container(deep, _mapping, 2),
    ord("n"): _Reader._numpy,
}
