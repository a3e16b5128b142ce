"""Exports that take and return bytes by pointer and length, called as if they took and returned bytes.

There is no one convention for this.  The three common ones are told apart by ``returns``:

* ``returns=n``, a number: the export's last parameter is the address of an output buffer of n bytes.
* ``"packed"``: the export returns one i64, the address in its upper and the length in its lower 32 bits.
* ``"pair"``: the export returns two i32s, address and length (a multi-value result).
* ``"pointer"``: the export's first parameter is the address of 8 bytes, where it stores address and length (what C, and
  Rust on wasm32, make of a struct result).
* ``None``: what the export returns is returned as it is.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Literal

from .checks import is_int, shown

#: How an export returns bytes; see the module's documentation.
Returns = int | Literal["packed", "pair", "pointer"] | None

_PAIR = struct.Struct("<II")
_CONVENTIONS = ("packed", "pair", "pointer")


@dataclass(frozen=True)
class BytesFunction:
    """A callable for ``pool.submit`` and ``pool.map``: bytes-like arguments are copied into the guest's memory.

    Each becomes two arguments of the export, address and length; numbers stay as they are.

    Args:
        export: the export to call.
        returns: how it returns bytes, see the module's documentation.
        alloc: the export that allocates: takes a size, or a size and an alignment, and returns an address.
        free: the export that frees: takes an address, or an address and a size, or both and an alignment; None to free
            nothing.  Arguments are freed, and so is a result that the export has allocated itself.
        memory: the exported memory.
        align: the alignment to ask for, in bytes, where ``alloc`` takes one.

    Raises:
        ValueError: ``returns`` is none of the conventions.
    """

    export: str
    returns: Returns = None
    alloc: str = "alloc"
    free: str | None = "free"
    memory: str = "memory"
    align: int = 8

    def __post_init__(self) -> None:
        known = isinstance(self.returns, str) and self.returns in _CONVENTIONS
        if self.returns is not None and not known and not is_int(self.returns, 0):
            choice = ", ".join(map(repr, _CONVENTIONS))
            raise ValueError(f"returns must be {choice}, a number of bytes, or None; got {shown(self.returns)}")

    def __str__(self) -> str:
        return self.export

    def __call__(self, instance: Any, *args: Any) -> Any:
        """Run in a worker, beside an instance.

        Raises:
            MemoryError: the guest's allocator returned 0.
            Whatever calling the export raises.
        """
        blocks: list[tuple[int, int]] = []
        passed: list[Any] = []
        if self.returns == "pointer":
            passed.append(self._allocate(instance, _PAIR.size, blocks))
        for arg in args:
            if isinstance(arg, (bytes, bytearray, memoryview)):
                view = memoryview(arg).cast("B")
                address = self._allocate(instance, view.nbytes, blocks)
                instance.memory_named(self.memory)[address : address + view.nbytes] = view
                passed += (address, view.nbytes)
            else:
                passed.append(arg)
        if isinstance(self.returns, int):
            passed.append(self._allocate(instance, self.returns, blocks))
        result = self._bytes_of(instance, instance.call(self.export, *passed), passed, blocks)
        for address, size in reversed(blocks):  # as a stack, which suits the simplest allocators
            self._release(instance, address, size)
        return result

    def _bytes_of(self, instance: Any, result: Any, passed: list[Any], blocks: list[tuple[int, int]]) -> Any:
        if self.returns is None:
            return result
        if isinstance(self.returns, int):
            address, size = passed[-1] & 0xFFFFFFFF, self.returns
        else:
            if self.returns == "packed":
                address, size = (result >> 32) & 0xFFFFFFFF, result & 0xFFFFFFFF
            elif self.returns == "pair":
                address, size = (value & 0xFFFFFFFF for value in result)
            else:
                address, size = _PAIR.unpack_from(instance.memory_named(self.memory), passed[0] & 0xFFFFFFFF)
            blocks.append((address, size))
        memory = instance.memory_named(self.memory)
        if address + size > len(memory):
            raise ValueError(
                f"{self.export} returned {size} bytes at {address}, beyond its memory of {len(memory)}; is returns="
                f"{self.returns!r} the convention it follows?"
            )
        return bytes(memory[address : address + size])

    def _allocate(self, instance: Any, size: int, blocks: list[tuple[int, int]]) -> int:
        arguments = (size, self.align)[: instance.arity(self.alloc)]
        address: int = instance.call(self.alloc, *arguments) & 0xFFFFFFFF
        if not address and size:
            raise MemoryError(f"{self.alloc}({size}) returned 0: the guest has no memory left")
        blocks.append((address, size))
        return address

    def _release(self, instance: Any, address: int, size: int) -> None:
        if self.free is not None and address:
            instance.call(self.free, *(address, size, self.align)[: instance.arity(self.free)])
