"""A WASI command, as the supervisor sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ... import wire
from ...errors import CallTimeout, OutputLimit, RunFailed, WasmTrap
from ...wasi import CompletedRun, Spec
from ...wire import values
from .call import Job
from .lines import LineSplitter
from .pickled import PickledJob

if TYPE_CHECKING:
    from ..lane import Lane, Memory
    from .shipped import FunctionsSent

Lines = Callable[[str], object]


class CommandRun(PickledJob):
    """One run of a command.

    When its time is up it is not failed at once: the worker first tells what has been printed by then, which takes it
    well below a millisecond, as the thread that does so does not run the guest.

    What it ends in is plain data, whomever its pool trusts; only an exception of a host function's may be a pickle.
    """

    plain = True

    def __init__(
        self, spec: Spec, text: bool, check: bool, lines: dict[int, Lines], limit: float | None, context: bytes
    ) -> None:
        super().__init__(spec.args[0] if spec.args else "the command", b"", limit=limit)
        self._args = spec.args
        self._most = spec.max_output
        self._spec: Spec | None = spec
        self._text = text
        self._check = check
        self._lines = lines
        self._splitters = {stream: LineSplitter() for stream in lines}
        self._heard = dict.fromkeys(lines, 0)  # bytes
        self._context = context
        self._late = False
        self._in_turn: Callable[[Callable[[], object]], None] | None = None  # runs line functions, one after the other

    def place(self, memory: Memory, buffer: int, functions: FunctionsSent, results_taken: int) -> bytes:
        assert self._spec is not None
        payload = self._context + values.dump((self._spec, results_taken & 0xFFFFFFFF)).inline()
        return wire.JOB.pack(len(payload), 0, wire.RUN, wire.HAS_CONTEXT if self._context else 0) + payload

    def overdue(self) -> None:
        self._late = True

    def output(self, payload: bytes) -> None:
        stream = payload[0]
        if stream == wire.ALL_OUTPUT:
            printed = self._printed(payload[1:])
            if self._late:
                self.post(lambda: self._fail_late(*printed))
        elif stream in self._lines:
            self._heard[stream] += len(payload) - 1
            if self._heard[stream] > self._most:
                raise ValueError(f"{self.name} cannot have printed {self._heard[stream]} bytes")
            lines = self._splitters[stream].feed(payload[1:])
            if lines and not self.expired:
                self._hand_over(stream, lines)
        elif not self.expired:
            raise ValueError(f"output of the unknown stream {stream}")

    def _hand_over(self, stream: int, lines: list[str]) -> None:
        """Have the user's function see some lines, behind those it has yet to see."""

        def show() -> None:
            try:
                for line in lines:
                    if self.expired:
                        return
                    self._lines[stream](line)
            except BaseException as error:  # the run ends with it, and the guest is stopped
                if self.fail(error) and self.owner is not None:
                    self.owner.cancelled(self, False)

        if self._in_turn is None:
            self._in_turn = self.post if self.owner is None else self.owner.strand()
        self._in_turn(show)

    def answered(self, lane: Lane, memory: Memory, status: int, payload: bytes) -> Sequence[Job]:
        if status == wire.INTERRUPTED and self._late:
            printed = self._printed(payload)
            self.post(lambda: self._fail_late(*printed))
            return ()
        if self._in_turn is None:
            return super().answered(lane, memory, status, payload)
        # It ends after its last line was seen.
        if status == wire.VALUE:
            received = self.receive(lane, memory, payload)
            if received is not None:
                self._in_turn(lambda: self.load(received, lane))
        elif status != wire.INTERRUPTED or not self.expired:
            told = wire.report_of(status, payload, self.name, self.pickled)
            self._in_turn(lambda: self.fail(wire.loaded(told)))
        return ()

    def checked(self, result: Any) -> Any:
        code, trap, excess, stdout, stderr = _five(result)
        if type(code) not in (int, type(None)) or excess not in (None, "stdout", "stderr"):
            raise ValueError(f"a command that ended with {code!r:.80}, and {excess!r:.80} was too much")
        self._check_printed(stdout, stderr)
        if trap is not None:
            told = wire.report_of(wire.TRAP, trap, "_start", False) if type(trap) is bytes else None
            if not isinstance(told, WasmTrap):
                raise ValueError(f"a trap that is {trap!r:.80}")
        elif code is None and excess is None:
            raise ValueError("a command that has not ended")
        return result

    def _printed(self, payload: bytes) -> tuple[bytes | None, bytes | None]:
        """What it had printed by the time it was interrupted."""
        if not payload:  # it has not begun
            return None, None
        printed = wire.decode(payload)
        if type(printed) is not tuple or len(printed) != 2:
            raise ValueError(f"output that is {printed!r:.80}")
        self._check_printed(*printed)
        return printed

    def _check_printed(self, *printed: Any) -> None:
        for each in printed:
            if each is not None and (type(each) is not bytes or len(each) > self._most):
                raise ValueError(f"output that is {each!r:.80}")

    def crashed(self, lane: Lane, memory: Memory, crash: Exception) -> tuple[bool, Sequence[Job]]:
        if self._late:
            lane.calls_done(1)
            self._fail_late(None, None)
            return False, ()
        return super().crashed(lane, memory, crash)

    def _fail_late(self, stdout: bytes | None, stderr: bytes | None) -> None:
        error = CallTimeout(f"{self.name} ran longer than {self.timeout_text()} and was stopped")
        error.stdout, error.stderr = self._shown(stdout), self._shown(stderr)
        self.fail(error)

    def settle(self, result: tuple[Any, ...]) -> None:
        _, _, excess, *_ = result
        if excess is None:  # or the last line is cut off
            for stream, splitter in self._splitters.items():
                rest = splitter.rest()
                if rest:
                    self._hand_over(stream, [rest])
        if self._in_turn is None:
            self._conclude(result)
        else:
            self._in_turn(lambda: self._conclude(result))

    def _conclude(self, result: tuple[Any, ...]) -> None:
        try:
            completed = self._completed(result)
        except BaseException as error:
            self.fail(error)
        else:
            self.succeed(completed)

    def _completed(self, result: tuple[Any, ...]) -> CompletedRun:
        code, trap, excess, stdout, stderr = result
        out, err = self._shown(stdout), self._shown(stderr)
        if excess is not None:
            raise OutputLimit(f"the command printed more than {self._most} bytes to {excess} and was stopped", out, err)
        if trap is not None:
            error = wire.report_of(wire.TRAP, trap, "_start", False)
            assert isinstance(error, WasmTrap)
            error.stdout, error.stderr = out, err
            raise error
        if code and self._check:
            raise RunFailed(self._args, code, out, err)
        return CompletedRun(self._args, code, out, err)

    def _let_go(self) -> None:
        super()._let_go()
        self._spec = None

    def _shown(self, printed: Any) -> Any:
        return printed.decode(errors="replace") if self._text and isinstance(printed, bytes) else printed


def _five(result: Any) -> tuple[Any, ...]:
    if type(result) is not tuple or len(result) != 5:
        raise ValueError(f"a command that ended in {result!r:.80}")
    return result
