"""Jobs whose results are Python values."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ... import wire
from ...wire import values
from .call import Job

if TYPE_CHECKING:
    from ..lane import Lane, Memory


class PickledJob(Job):
    """A job that is answered by VALUE: a value, with what is large beside it in one of the worker's slots.

    What lies in the slot is copied where the answer is heard, so that the worker may use it again.  Unpickling may run the
    user's code, so that is done elsewhere, but for small values that name no classes.  Plain data runs no code, and is read
    elsewhere if it is large.
    """

    placed = True
    plain = False  #: its value is plain data, whatever exceptions are

    def answered(self, lane: Lane, memory: Memory, status: int, payload: bytes) -> Sequence[Job]:
        if status != wire.VALUE:
            self.report(status, payload)
            return ()
        pickled = self.pickled and not self.plain
        if pickled:
            with contextlib.suppress(values.NeedsCode):
                self.settle(values.plain(payload))
                return ()
        received = self.receive(lane, memory, payload)
        if received is None:
            return ()
        if pickled or len(payload) > values.PLAIN or received.end > values.PLAIN:
            self.deliver(lambda: self.load(received, lane))
        else:
            self.settle(self.checked(received.load()))
        return ()

    def receive(self, lane: Lane, memory: Memory, payload: bytes) -> values.Received | None:
        """Copy a value out of the memory that is shared with the worker.

        Returns:
            The value; None if there was no memory or descriptor for that: then the job has ended in the error.

        Raises:
            ValueError: it is malformed.
        """
        try:
            received = values.detach(payload, memory.payload_mapped, pickled=self.pickled and not self.plain)
        except (OSError, MemoryError) as error:  # of ours, and no fault of the worker's
            if values.slot_of(payload) != values.INLINE:
                lane.result_taken()
            self.fail(error)
            return None
        if received.slot != values.INLINE:
            lane.result_taken()
            memory.give_up_payload(received.slot, received.end)
        return received

    def deliver(self, load: Callable[[], None]) -> None:
        """Have a value loaded where the user's code runs."""
        self.post(load)

    def load(self, received: values.Received, lane: Lane) -> None:
        """Load a value, and end with what comes of it: what unpickling raises is this job's own."""
        try:
            result = self.checked(received.load())
        except BaseException as error:
            if isinstance(error, ValueError) and (self.plain or not self.pickled):
                self.refuse(lane, error)
            else:
                self.fail(error)
        else:
            self.settle(result)

    def checked(self, result: Any) -> Any:
        """What the worker returned, if it may be that.

        Raises:
            ValueError: no sound worker returns it.
        """
        return result

    def settle(self, result: Any) -> None:
        """End with what the worker returned, or with what that stands for."""
        self.succeed(result)
