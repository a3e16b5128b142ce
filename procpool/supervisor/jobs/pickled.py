"""Jobs whose results are Python values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ... import wire
from ...wire import values
from .call import Job

if TYPE_CHECKING:
    from ..lane import Lane, Memory


class PickledJob(Job):
    """A job that is answered by VALUE: a pickle, with what is large beside it in one of the worker's slots.

    What lies in the slot is copied where the answer is heard, so that the worker may use it again.  Unpickling may run the
    user's code, so that is done elsewhere, but for small values that name no classes.
    """

    placed = True

    def answered(self, lane: Lane, memory: Memory, status: int, payload: bytes) -> Sequence[Job]:
        if status != wire.VALUE:
            self.report(status, payload)
            return ()
        try:
            result = values.plain(payload)
        except values.NeedsCode:
            received = self.receive(lane, memory, payload)
            if received is not None:
                self.deliver(received)
        else:
            self.settle(result)
        return ()

    def receive(self, lane: Lane, memory: Memory, payload: bytes) -> values.Received | None:
        """Copy a value out of the memory that is shared with the worker.

        Returns:
            The value; None if there was no memory or descriptor for that: then the job has ended in the error.

        Raises:
            ValueError: it is malformed.
        """
        try:
            received = values.detach(payload, memory.payload_mapped)
        except (OSError, MemoryError) as error:  # of ours, and no fault of the worker's
            if values.slot_of(payload) != values.INLINE:
                lane.result_taken()
            self.fail(error)
            return None
        if received.slot != values.INLINE:
            lane.result_taken()
            memory.give_up_payload(received.slot, received.end)
        return received

    def deliver(self, received: values.Received) -> None:
        """Have a value unpickled where the user's code runs, and end with it."""
        self.post(lambda: self.load(received))

    def load(self, received: values.Received) -> None:
        """Unpickle, and end with what comes of it: whatever that raises is this job's own."""
        try:
            result = received.load()
        except BaseException as error:
            self.fail(error)
        else:
            self.settle(result)

    def settle(self, result: Any) -> None:
        """End with what the worker returned, or with what that stands for."""
        self.succeed(result)
