"""This worker's slots of shared memory for large arguments and results."""

from __future__ import annotations

from .. import wire
from ..mapped import shared_memory
from ..wire import values

_FIRST_RESULT = 2  # slots 0 and 1 are for arguments
_RESULTS = 2


class Payloads:
    """That part of the file, from ``offset`` on.  ``limit`` is the size of a slot in bytes; 0 if there are none."""

    def __init__(self, fd: int, offset: int, limit: int) -> None:
        self._fd = fd
        self._offset = offset
        self._limit = limit
        self._mapped: dict[int, memoryview] = {}
        self._placed = 0  # results put into slots so far

    def slot(self, number: int, size: int) -> memoryview:
        """A slot's memory, at least its first ``size`` bytes."""
        mapped = self._mapped.get(number)
        if mapped is None or len(mapped) < size:
            at = self._offset + number * wire.PAYLOAD_BYTES
            mapped = self._mapped[number] = shared_memory(self._fd, at, wire.payload_reach(size))
        return mapped

    def result(self, value: object, taken: int) -> bytes:
        """The payload of a result.  ``taken`` is how many large results the parent has copied out of their slots.

        If it has not come round to that yet, the result goes the slow way: nobody waits.
        """
        dumped = values.dump(value)
        size = dumped.size
        if not size or size > self._limit or self._placed - taken >= _RESULTS:
            return dumped.inline()
        number = _FIRST_RESULT + self._placed % _RESULTS
        self._placed += 1
        return dumped.place(number, self.slot(number, size))
