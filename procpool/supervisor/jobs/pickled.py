"""Jobs whose results are Python values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ... import wire
from ...wire import values
from ..worker import Worker
from .call import Job


def _no_slot(number: int, size: int) -> memoryview:
    raise AssertionError(f"nothing was to lie in slot {number}")


class PickledJob(Job):
    """A job that is answered by VALUE: a pickle, with what is large beside it in one of the worker's slots."""

    success = wire.VALUE

    _slot: Callable[[int, int], memoryview] = staticmethod(_no_slot)  #: where what lies beside the pickle is found

    def __init__(self, name: str, frame: bytes, timeout: float | None) -> None:
        super().__init__(name, frame, timeout=timeout)
        del self.read  # for the method: a bound one kept here would make a cycle of every job

    def value(self, result: Any) -> Any:
        """What the caller gets for what the worker returned.

        Raises:
            What the caller gets instead.
        """
        return result

    def answered(self, worker: Worker, status: int, payload: bytes) -> list[Job]:
        slot, end = values.placed(payload) if status == wire.VALUE else (values.INLINE, 0)
        if slot == values.INLINE:
            return super().answered(worker, status, payload)
        self._slot = worker.payload_mapped
        left = super().answered(worker, status, payload)
        del self._slot  # it refers to the worker
        worker.results_taken += 1
        worker.give_up_payload(slot, end)
        return left

    def read(self, payload: bytes) -> Any:
        return self.value(values.load(payload, self._slot))
