"""Does what a `Convention` says: puts bytes and text into a guest's memory, and gets those that come back.

It works on an `Instance` in a worker.

What was allocated for a call is given back after it, by who the convention says.  If the guest itself fails, nothing is:
its instance is thrown away, and its allocator may be in any state.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from .binary import SCALARS, FuncType
from .checks import shown
from .codec import converted
from .conventions import Convention
from .errors import BadArguments, GuestError, ProcpoolError, WasmTrap

if TYPE_CHECKING:
    from .bytes_function import BytesCall
    from .worker.instance import Instance

_WORD = struct.Struct("<I")
#: A number for an address, whatever its sign.
_ADDRESS = 0xFFFFFFFF
#: Of AssemblyScript: the classes of its library that every module has.
_ARRAY_BUFFER, _STRING = 1, 2
#: What the type information says of a Uint8Array: a view of a buffer; no outgoing pointers; elements of 1 byte, unsigned.
_VIEW, _VIEW_OF_BYTES, _VIEW_MASK = 1 << 0, 1 << 0 | 1 << 6, 1 << 0 | 0b11111 << 6 | 0b11 << 11
#: Its header: the buffer, the start of its bytes, how many there are.
_VIEW_HEADER = struct.Struct("<III")
#: Before an object: its class, and its size in bytes.
_OBJECT_HEADER = struct.Struct("<II")
#: The most that a call may have on a guest's stack, in bytes; Emscripten's has 64 KiB unless it was told otherwise.
_MOST_ON_STACK = 16384


def run(instance: Instance, call: BytesCall, args: Sequence[Any]) -> Any:
    """Call the export.

    Raises:
        As `BytesFunction` does.
    """
    return _Crossing(instance, call).run(args)


class _Crossing:
    """One call: what it has allocated, and is to give back."""

    def __init__(self, instance: Instance, call: BytesCall) -> None:
        self._instance = instance
        self._call = call
        self._by: Convention = call.convention
        #: to be called when the export has returned, the last first, as suits the simplest allocators
        self._undo: list[Callable[[], Any]] = []
        #: likewise, should the export never be called: what it would have owned
        self._handed: list[Callable[[], Any]] = []
        self._failed = False  #: the guest itself
        self._on_stack = 0  #: bytes
        self._owed: set[int] = set()  #: the blocks that are given back anyway

    def run(self, args: Sequence[Any]) -> Any:
        call = self._call
        block = call.returns == "pointer"
        prepared = self._prepared(args, block)  # whatever is wrong with them, nothing has been allocated
        passed: list[Any] = []
        try:
            if self._by.frame is not None:
                self._keep_stack(self._by.frame)
            if block:
                passed.append(self._block(self._by.block))
            for put, arg in prepared:
                passed += put(arg)
            if isinstance(call.returns, int):
                passed.append(self._allocate(call.returns, "caller"))
            returned = self._enter(call.export, *passed)
            self._handed.clear()  # it is the export's now
            result = self._lifted(returned, passed)
        except Exception:
            if not self._failed:
                self._undo += self._handed
                self._give_back()
            raise
        self._give_back()
        return result

    def _enter(self, export: str, *args: Any) -> Any:
        """Call an export with numbers."""
        self._failed = True
        returned = self._instance.call(export, *args)
        self._failed = False
        return returned

    # -- into the guest ------------------------------------------------------------------------------------------------

    def _prepared(self, args: Sequence[Any], block: bool) -> list[tuple[Callable[[Any], tuple[Any, ...]], Any]]:
        """The arguments, checked and as bytes, each with what puts it into the guest.

        Raises:
            BadArguments: there are not as many as parameters, a number does not fit, or a text cannot be had in the
                convention's encoding.
            ValueError: a text has a NUL, and would end there.
        """
        call, params = self._call, self._call.signature.params
        at, prepared = int(block), []
        for position, arg in enumerate(args):
            kind = params[at] if at < len(params) else None
            # A reference may be to any object, text and bytes included, or null.
            put, value, width = self._put(position, arg) if kind is None or kind in SCALARS else (_as_it_is, arg, 1)
            if put is _as_it_is and kind in SCALARS:
                value = converted(f"{call.export}: argument {position}", value, kind)
            prepared.append((put, value))
            at += width
        given = at + isinstance(call.returns, int)
        if given != len(params):
            raise BadArguments(self._miscounted(len(args), given, block))
        return prepared

    def _put(self, position: int, arg: Any) -> tuple[Callable[[Any], tuple[Any, ...]], Any, int]:
        """What puts an argument into the guest; what to give to that; and how many parameters it takes."""
        by = self._by
        if arg is None:
            width = 2 if by.text == "sized" else 1
            return lambda _: (0,) * width, None, width
        if not isinstance(arg, str):
            if not _is_bytes(arg):
                return _as_it_is, arg, 1
            view = memoryview(arg)
            if "O" in view.format:  # addresses in this process: no use to the guest, and none of its business
                raise BadArguments(f"{self._call.export}: an array of Python objects has no bytes to give")
            data: Any = view.cast("B") if view.nbytes and view.c_contiguous else view.tobytes()
            return (self._object, data, 1) if by.text == "object" else (self._sized_block, data, 2)
        try:
            data = arg.encode(by.encoding, _surrogates(by.encoding))
        except UnicodeEncodeError as error:
            half = "is half of one, and " if "\ud800" <= arg[error.start] <= "\udfff" else ""
            raise BadArguments(
                f"{self._call.export}: argument {position} is {shown(arg)}, whose character {error.start} {half}"
                f"cannot be had in {by.encoding}; replace it, or give bytes (text.encode(errors=...))"
            ) from None
        if by.text == "object":
            return lambda data: (self._new(data, _STRING),), data, 1
        if by.text == "sized":
            return self._sized_block, data, 2
        if 0 in data:
            raise ValueError(
                f"{self._call.export}: the text {shown(arg)} has a NUL, where it would end by the convention {by.name!r}"
            )
        return lambda data: (self._placed(data),), data + b"\0", 1

    def _miscounted(self, count: int, given: int, block: bool) -> str:
        call, by = self._call, self._by
        goes = {
            "sized": "bytes and text are two, address and length",
            "terminated": "text is one, and bytes are two, address and length",
            "object": "bytes and text are one",
        }[by.text]
        less = len(call.signature.params) - given
        hint = "; the first may be a block for the result: say result=" if by.fallible and less == 1 and not block else ""
        return (
            f"{call.export}{call.signature} takes {len(call.signature.params)} values, and the {count} arguments given are"
            f" {given}{', with the block for the result' if block else ''}: by the convention {by.name!r}, {goes}{hint}"
        )

    def _sized_block(self, data: bytes | memoryview) -> tuple[int, int]:
        return self._placed(data), len(data)

    def _placed(self, data: bytes | memoryview) -> int:
        address = self._allocate(len(data), self._by.arguments)
        self._write(address, data)
        return address

    def _allocate(self, size: int, owner: str) -> int:
        by = self._by
        if by.frame is not None:
            self._on_stack += size
            if self._on_stack > _MOST_ON_STACK:
                raise MemoryError(
                    f"{self._on_stack} bytes may not fit on the guest's stack, and it exports no malloc; build it with one"
                )
        address = self._ask("alloc", by.alloc, size, by.align)
        if not address and size:
            raise MemoryError(f"{by.alloc}({size}) returned 0: the guest has no memory left")
        if owner == "caller":
            self._owed.add(address)
            self._undo.append(lambda: self._free(address, size))
        else:
            self._handed.append(lambda: self._free(address, size))
        return address

    def _block(self, size: int) -> int:
        """The block for the result.  It is cleared, as not every export writes all of it."""
        stack = self._by.stack
        if stack is None:
            address = self._allocate(size, "caller")
        else:
            address = self._enter(stack, -size) & _ADDRESS
            self._undo.append(lambda: self._enter(stack, size))
        self._write(address, bytes(size))
        return address

    def _keep_stack(self, frame: tuple[str, str, str]) -> None:
        save, _, restore = frame
        pointer = self._enter(save)
        self._undo.append(lambda: self._enter(restore, pointer))

    def _new(self, data: bytes | memoryview, kind: int) -> int:
        """An object of AssemblyScript's, not to be collected before it is given back."""
        by = self._by
        address = self._ask("alloc", by.alloc, len(data), kind)
        if by.pin is not None:
            self._enter(by.pin, address)
            self._undo.append(lambda: self._free(address, len(data)))
        self._write(address, data)
        return address

    def _object(self, data: bytes | memoryview) -> tuple[int]:
        buffer = self._new(data, _ARRAY_BUFFER)
        kind = self._class_of_views() if self._by.buffers == "Uint8Array" else None
        return (buffer if kind is None else self._new(_VIEW_HEADER.pack(buffer, buffer, len(data)), kind),)

    def _class_of_views(self) -> int | None:
        """The class of Uint8Array; None if the module has none."""
        start = self._instance.globals[self._by.classes] & _ADDRESS
        (count,) = _WORD.unpack(self._read(start, 4))
        flags = struct.unpack(f"<{count}I", self._read(start + 4, 4 * count))
        return next((kind for kind, flag in enumerate(flags) if flag & _VIEW_MASK == _VIEW_OF_BYTES), None)

    # -- out of the guest ----------------------------------------------------------------------------------------------

    def _lifted(self, returned: Any, passed: Sequence[Any]) -> Any:
        returns, words = self._call.returns, returned
        if returns is None:
            return returned
        if isinstance(returns, int):
            return self._made(self._read(passed[-1], returns))
        if returns == "object":
            return self._made(self._object_at(returned & _ADDRESS))
        if returns == "string":
            return self._made(self._terminated(returned & _ADDRESS))
        if returns == "packed":
            words = (returned >> 32 & _ADDRESS, returned & _ADDRESS)
        elif returns == "pointer":
            words = struct.unpack(f"<{self._by.block // 4}i", self._read(passed[0], self._by.block))
        return self._worth(words)

    def _worth(self, words: tuple[int, ...]) -> Any:
        """What words stand for: a number, or address and length; then, perhaps, an error, and whether there is one."""
        size = 1 if self._call.result is int else 2
        if self._by.fallible and len(words) >= size + 2 and words[size + 1]:
            raise GuestError(self._call.export, self._error(words[size] & _ADDRESS))
        if size == 1:
            return words[0]
        address, length = (word & _ADDRESS for word in words[:2])
        if not address and self._by.optional:
            return None
        data = self._read(address, length)
        if self._by.results == "caller" and address not in self._owed:  # an export may return the block it was given
            self._undo.append(lambda: self._free(address, length))
        return self._made(data)

    def _made(self, data: bytes | None) -> Any:
        if data is None or self._call.result is not str:
            return data
        encoding = self._by.encoding
        try:
            return data.decode(encoding, _surrogates(encoding))
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{self._call.export} returned {shown(data)}, which is no text: {error}; result=bytes gives it"
            ) from None

    def _terminated(self, address: int) -> bytes | None:
        if not address:
            return None
        memory = self._memory()
        end = address
        while end < len(memory):  # by pieces, as a memory may be of gigabytes
            found = bytes(memory[end : end + 4096]).find(0)
            if found >= 0:
                return bytes(memory[address : end + found])
            end += 4096
        raise ValueError(f"{self._call.export} returned text at {address} that does not end within its memory")

    def _object_at(self, address: int) -> bytes | None:
        """The bytes of a string, a buffer, or a view of one.

        Raises:
            ValueError: it is another object.
        """
        if not address:
            return None
        kind, size = _OBJECT_HEADER.unpack(self._read(address - 8, 8))
        if (kind == _STRING) != (self._call.result is str):
            other = "a string" if kind == _STRING else f"an object of class {kind}"
            raise ValueError(
                f"{self._call.export} returned {other}; result={'str' if kind == _STRING else 'bytes'} would fit"
            )
        if kind in (_ARRAY_BUFFER, _STRING):
            return self._read(address, size)
        start = (self._instance.globals[self._by.classes] & _ADDRESS) + 4 + 4 * kind
        (flags,) = _WORD.unpack(self._read(start, 4))
        if not flags & _VIEW:
            raise ValueError(
                f"{self._call.export} returned an object of class {kind}, which is no string, buffer or view of one"
            )
        _, start, size = _VIEW_HEADER.unpack(self._read(address, _VIEW_HEADER.size))
        return self._read(start, size)

    def _error(self, index: int) -> Any:
        """The error value that the guest knows by a number."""
        if self._by.errors is None:
            return index
        table, release = self._by.errors
        value = self._instance.element(table, index)
        self._enter(release, index)
        return value

    # -- both ----------------------------------------------------------------------------------------------------------

    def _memory(self) -> Any:
        return self._instance.memory_named(self._by.memory)

    def _read(self, address: int, size: int) -> bytes:
        memory, start = self._memory(), address & _ADDRESS
        if start + size > len(memory):
            raise ValueError(
                f"{self._call.export} returned {size} bytes at {start}, beyond its memory of {len(memory)}; is returns="
                f"{self._call.returns!r} what it does, and {self._by.name!r} the convention it follows?"
            )
        return bytes(memory[start : start + size])

    def _write(self, address: int, data: bytes | memoryview) -> None:
        memory = self._memory()
        if address + len(data) > len(memory):
            raise ValueError(
                f"{self._by.alloc} returned {address} for {len(data)} bytes, beyond its memory of {len(memory)}; is"
                f" {self._by.name!r} the convention it follows?"
            )
        memory[address : address + len(data)] = data

    def _ask(self, keyword: str, export: str, *args: int) -> int:
        """Call the function of that keyword, with as many of the arguments as it takes."""
        signature = self._instance.types.get(export)
        if not isinstance(signature, FuncType):
            raise self._by.lacking(keyword, export, self._instance.types)
        passed = args[: len(signature.params)]
        try:
            returned: int | None = self._enter(export, *passed)
        except WasmTrap as trap:  # it is the user's export that was called, and another that has failed
            trap.message = f"{export}({', '.join(map(str, passed))}): {trap.message}"
            trap.args, trap.export = (trap.message,), self._call.export
            raise
        return (returned or 0) & _ADDRESS

    def _free(self, address: int, size: int) -> None:
        free = self._by.free
        if free is not None and address:
            self._ask("free", free, address, size, self._by.align)

    def _give_back(self) -> None:
        try:
            while self._undo:
                self._undo.pop()()
            if self._by.collect is not None:
                self._enter(self._by.collect)
        except Exception as error:
            if isinstance(error, ProcpoolError) and not isinstance(error, WasmTrap):
                raise  # it says itself what to do
            raise ValueError(
                f"what was allocated for {self._call.export} could not be given back: {error}\nIs {self._by.name!r} the"
                f" convention it follows, and {self._by.free!r} what frees?"
            ) from error


def _surrogates(encoding: str) -> Literal["surrogatepass", "strict"]:
    """What becomes of lone surrogates, halves of a character: UTF-16 as programs use it knows them, nothing else does."""
    return "surrogatepass" if codecs.lookup(encoding).name.startswith("utf-16") else "strict"


def _as_it_is(arg: Any) -> tuple[Any, ...]:
    return (arg,)


def _is_bytes(arg: Any) -> bool:
    """Whether it has bytes; numbers, numpy's among them, have none."""
    if isinstance(arg, (int, float)):
        return False
    try:
        return memoryview(arg).ndim > 0
    except TypeError:
        return False
