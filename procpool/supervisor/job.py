"""What a caller asked for, as the supervisor sees it."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from .. import wire
from ..codec import Codec


class Export:
    """An exported function: how to pack a job for it and unpack its reply.

    The frame headers are constant per export, so they are packed once.
    """

    def __init__(self, index: int, codec: Codec) -> None:
        self.name = codec.export
        self.codec = codec
        self.pack = codec.pack
        size = len(codec.signature.params) * 16
        self.call_header = wire.JOB.pack(size, index, wire.CALL)
        self.submit_header = wire.JOB.pack(size, index, wire.SUBMIT)

    def result(self, status: int, payload: bytes) -> Any:
        """The value a reply stands for.

        Raises:
            The exception it stands for.
        """
        if status == wire.OK:
            return self.codec.unpack(payload)
        raise wire.error_from_reply(status, payload, self.name)


class Job(Future[Any]):
    """A submitted call: the future that the caller holds, and the frame that goes to a worker."""

    def __init__(self, export: Export, frame: bytes, timeout: float | None = None) -> None:
        super().__init__()
        self.export = export
        self.frame = frame
        self.timeout = timeout  #: seconds it may run, from when a worker turns to it
        #: nobody waits for it any more: stop it as soon as it runs, and drop what comes of it
        self.expired = False

    def settle(self, status: int, payload: bytes) -> bool:
        """Give the caller what the worker replied; whether it was a success."""
        if self.expired:
            return False
        if status == wire.OK:
            self.set_result(self.export.codec.unpack(payload))
            return True
        self.set_exception(wire.error_from_reply(status, payload, self.export.name))
        return False

    def fail(self, error: BaseException) -> None:
        """End it with an exception, unless it has ended."""
        if not self.expired:
            self.expired = True
            self.set_exception(error)
