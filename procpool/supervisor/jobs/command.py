"""A WASI command, as the supervisor sees it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

from ... import wire
from ...errors import CallTimeout, RunFailed, WasmTrap
from ...wasi import CompletedRun, Spec
from ...wire import values
from ..worker import Worker
from .call import Job
from .pickled import PickledJob

Lines = Callable[[str], object]


class CommandRun(PickledJob):
    """One run of a command.

    When its time is up it is not failed at once: the worker first tells what has been printed by then, which takes it
    well below a millisecond, as the thread that does so does not run the guest.
    """

    def __init__(
        self, spec: Spec, text: bool, check: bool, lines: dict[int, Lines], timeout: float | None, context: bytes
    ) -> None:
        super().__init__(spec.args[0] if spec.args else "the command", b"", timeout)
        self._spec = spec
        self._text = text
        self._check = check
        self._lines = lines
        self._begun: dict[int, bytes] = {}  # lines that have no end yet
        self._context = context
        self._late = False

    def place(self, worker: Worker) -> bytes:
        payload = self._context + values.dump((self._spec, worker.results_taken & 0xFFFFFFFF)).inline()
        return wire.JOB.pack(len(payload), 0, wire.RUN, wire.HAS_CONTEXT if self._context else 0) + payload

    def timed_out(self) -> None:
        self._late = True

    def output(self, payload: bytes) -> None:
        stream = payload[0]
        if stream == wire.ALL_OUTPUT:
            if self._late:
                self._fail_late(*pickle.loads(payload[1:]))
        elif stream in self._lines:
            *whole, rest = (self._begun.get(stream, b"") + payload[1:]).split(b"\n")
            self._begun[stream] = rest
            for line in whole:
                self._lines[stream](line.decode(errors="replace"))
        elif not self.expired:
            raise ValueError(f"output of the unknown stream {stream}")

    def answered(self, worker: Worker, status: int, payload: bytes) -> list[Job]:
        if status == wire.INTERRUPTED and self._late:
            worker.failed += 1
            self._fail_late(*pickle.loads(payload))
            return []
        return super().answered(worker, status, payload)

    def crashed(self, worker: Worker) -> list[Job]:
        if self._late:
            worker.failed += 1
            self._fail_late(None, None)
            return []
        return super().crashed(worker)

    def _fail_late(self, stdout: bytes | None, stderr: bytes | None) -> None:
        error = CallTimeout(f"{self.name} ran longer than {self.timeout} s and was stopped")
        error.stdout, error.stderr = self._shown(stdout), self._shown(stderr)
        self.fail(error)

    def value(self, result: tuple[Any, ...]) -> CompletedRun:
        code, trap, stdout, stderr = result
        for stream, rest in self._begun.items():
            if rest:
                self._lines[stream](rest.decode(errors="replace"))
        out, err = self._shown(stdout), self._shown(stderr)
        if trap is not None:
            error = wire.error_from_reply(wire.TRAP, trap, "_start")
            assert isinstance(error, WasmTrap)
            error.stdout, error.stderr = out, err
            raise error
        if code and self._check:
            raise RunFailed(self._spec.args, code, out, err)
        return CompletedRun(self._spec.args, code, out, err)

    def _shown(self, printed: bytes | None) -> Any:
        return printed.decode(errors="replace") if self._text and printed is not None else printed
