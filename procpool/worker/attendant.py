"""What a thread of a worker does while calls come by the page: it waits there, and answers there."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable

from .. import cores, wire
from ..errors import GuestError
from ..wire import page
from . import server
from .arena import Arena
from .failures import failure
from .holder import Function, InstanceHolder
from .traffic import Running, write_all

#: An export that Python has called so often here is then called by wasm: making a server takes some milliseconds.
CALLS_BY_PYTHON = 16
#: The most exports that one server calls.
MOST_EXPORTS = 32

_ANSWERED = (b"\0\0\0\0", b"\1\0\0\0")
_TURN, _LINGER, _CALLER, _OWED = (at // 4 for at in (page.TURN, page.LINGER, page.CALLER, page.OWED))


class Attendant:
    """The worker's side of a page; see wire/page.py for the rules.

    Args:
        answer: makes the call of a frame, and its reply: number of the job, export, kind, flags, payload.
        plain: whether an export may be called without Python knowing.
        lingers: it stays awake for the next call, as long as it is told to.
        pickled: exceptions go back as pickles.
    """

    def __init__(
        self,
        instances: InstanceHolder,
        running: Running,
        board: memoryview,
        arena: Arena,
        replies_fd: int,
        answer: Callable[[int, int, int, int, bytes], bytes],
        plain: Callable[[int], bool],
        lingers: bool = True,
        pickled: bool = False,
    ) -> None:
        self._instances = instances
        self._running = running
        self._board = board
        self._arena = arena
        self._replies_fd = replies_fd
        self._answer = answer
        self._plain = plain
        self._lingers = lingers
        self._pickled = pickled
        self._calls: Counter[int] = Counter()  # by Python, of exports that wasm may call
        self._waiter: Function | None = None
        self._serves = True  # wasm may be given exports to call

    def put(self, answer: bytes) -> bool:
        """Put an answer into the page, for `attend` to hand over; false if its caller waits at the pipe, or must go there.

        The job counts among those that have numbers.
        """
        head = self._arena.page
        if self._arena.cells[_TURN] == page.TAKEN and len(answer) <= page.REPLY_BYTES:
            at = page.REPLY_FRAME
            head[at : at + len(answer)] = answer
            head[at + page.NUMBERED] = 1
            return True
        # If it is still the turn for that, the caller sees this and comes to the pipe.
        self._arena.cells[_TURN] = page.RUNG
        return False

    def send(self, answer: bytes) -> None:
        """Answer by the pipe, to a caller that has waited awake in vain.

        Perhaps it did so on this very core, where we could not run.  The system keeps those together who wake each other.
        """
        write_all(self._replies_fd, answer)
        caller = self._arena.cells[_CALLER]
        if caller:
            cores.leave(caller - 1)

    def attend(self, begun: int, answered: bool = True) -> int:
        """Take the calls that come by the page until there are no more for a while.

        Args:
            begun: the number of the next job.
            answered: an answer lies in the page, to be handed over first.

        Returns:
            That number, afterwards.
        """
        if not self._lingers:
            self._arena.cells[_LINGER] = 0
        if not self._waits():
            self._arena.cells[_TURN] = page.RUNG
            self.send(self._reply())
            return begun
        while True:
            try:
                why = self._serve(begun, answered)
            except BaseException as error:
                answer = self._failed(error)
            else:
                if why == server.GAVE_UP:
                    return begun
                if why == server.STALE:
                    self._instances.discard()
                    answered = False
                    continue
                if why != server.FOR_PYTHON:
                    begun += why == server.RUNG
                    self._board[wire.BEGUN] = begun
                    self.send(self._reply())
                    if why == server.RUNG:  # wasm has made the call, and left the rest to us
                        self._instances.settle()
                    return begun
                answer = self._by_python(begun)
            answered = answer is not None
            if answer is not None:
                begun += 1
                self._board[wire.BEGUN] = begun  # at the latest: what is behind has not begun
                if not self.put(answer):
                    self.send(answer)
                    return begun

    def _serve(self, begun: int, answered: bool) -> int:
        """Wait in wasm; why it has come back.

        Raises:
            Whatever an export's call ended in.
        """
        serving = self._server()
        if serving is None:
            assert self._waiter is not None
            return self._run(self._waiter, answered)
        self._running.begin(begun)
        self._arena.cells[_OWED] = answered
        try:
            return self._run(serving, answered)
        finally:
            if not self._running.finish(begun):
                self._instances.discard()
                # If no call was made, the job of that number lies in the pipe, and its caller will say again that it is to
                # be stopped.
                if self._arena.cells[_OWED]:
                    raise _Stopped

    @staticmethod
    def _run(function: Function, answered: bool) -> int:
        function.params[:4] = _ANSWERED[answered]
        function.run()
        return function.results[0]

    def _waits(self) -> bool:
        """Whether we can wait in wasm at all: there may be no addresses left for it, and then answers go by the pipe."""
        if self._waiter is None:
            with contextlib.suppress(Exception):
                self._waiter = self._instances.waiter()
        return self._waiter is not None

    def _server(self) -> Function | None:
        try:
            return self._instances.server()
        except Exception:  # likewise; and an answer may lie in the page, which has nothing to do with it
            self._serves = False
            self._instances.serve_none()
            return None

    def _reply(self) -> bytes:
        size, _ = wire.REPLY.unpack_from(self._arena.page, page.REPLY_FRAME)
        return bytes(self._arena.page[page.REPLY_FRAME : page.REPLY_FRAME + wire.REPLY.size + size])

    def _failed(self, error: BaseException) -> bytes | None:
        """The answer for a call that wasm has made; None if it has made none."""
        if self._instances.calls.failed or not isinstance(error, GuestError):
            self._instances.discard()
        if not self._arena.cells[_OWED]:
            return None
        return wire.reply(wire.INTERRUPTED) if isinstance(error, _Stopped) else failure(error, pickled=self._pickled)

    def _by_python(self, begun: int) -> bytes:
        head = self._arena.page
        size, export, kind, flags = wire.JOB.unpack_from(head, page.CALL_FRAME)
        start = page.CALL_FRAME + wire.JOB.size
        if self._serves and kind == wire.CALL and not flags and self._plain(export):
            self._calls[export] += 1
            served = self._instances.served
            if self._calls[export] >= CALLS_BY_PYTHON and export not in served and len(served) < MOST_EXPORTS:
                self._instances.serve(export)
        return self._answer(begun, export, kind, flags, bytes(head[start : start + size]))


class _Stopped(Exception):
    """The call was interrupted, as its caller wanted."""
