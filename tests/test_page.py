"""Calls by the page: each change of turn, in one thread, between the two sides as they are."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import wasmtime
from conftest import DEADLINE

from procpool import wire
from procpool.binary import FuncType
from procpool.codec import SLOT, Codec
from procpool.engine import loading_engine
from procpool.mapped import memory_over
from procpool.raw import RAW, Slots
from procpool.supervisor.channel import REFUSED, Channel
from procpool.supervisor.jobs.call import Export
from procpool.wire import page
from procpool.worker import ffi, server
from procpool.worker.arena import Arena
from procpool.worker.attendant import CALLS_BY_PYTHON, Attendant
from procpool.worker.holder import Function
from procpool.worker.traffic import Running

pytestmark = [pytest.mark.fast, pytest.mark.skipif(not RAW, reason="there are no pages with wasmtime's public API")]

GUEST = """
(module
  (import "test" "meanwhile" (func $meanwhile))
  (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
  (func (export "swap") (param i64 f64) (result f64 i64) (local.get 1) (local.get 0))
  (func (export "slowly") (result i32) (call $meanwhile) (i32.const 7))
  (func (export "trap") (call $meanwhile) unreachable))
"""
TYPES = {
    "add": FuncType(("i32", "i32"), ("i32",)),
    "swap": FuncType(("i64", "f64"), ("f64", "i64")),
    "slowly": FuncType((), ("i32",)),
    "trap": FuncType((), ()),
}
EXPORTS = {name: Export(index, Codec(name, type_)) for index, (name, type_) in enumerate(TYPES.items())}


class Sides:
    """A caller's channel and a worker's attendant over one page, with an instance beside."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("page")
        os.ftruncate(self.fd, wire.ARENA_BYTES)
        self.arena = Arena(self.fd, 0)
        self.channel = Channel(lambda store: memory_over(store, self.fd, 0, wire.ARENA_HEAD))
        self.replies, self.replies_fd = os.pipe()
        self.meanwhile: Callable[[], Any] = lambda: None  # runs in the middle of a call
        self.by_python: list[tuple[int, int, int]] = []
        self.answer = wire.reply(wire.VALUE, b"by Python")
        self.discarded = 0
        self.board = memoryview(bytearray(8 * wire.BOARD_ROW)).cast("Q")
        engine = loading_engine()
        store = self.store = wasmtime.Store(engine)
        store.set_epoch_deadline(1)
        between = wasmtime.Func(store, wasmtime.FuncType([], []), lambda: self.meanwhile() and None)
        self.instance = wasmtime.Instance(store, wasmtime.Module(engine, GUEST), [between])
        self.servers, self.slots = server.Servers(engine), Slots(1)
        self.served = tuple(range(len(TYPES)))
        self.attendant = Attendant(
            self,  # type: ignore[arg-type]  # what it asks of the holder of an instance is below
            Running(engine),
            self.board,
            self.arena,
            self.replies_fd,
            self._by_python,
            lambda export: export < len(TYPES),
        )
        self.calls = SimpleNamespace(failed=False, take=lambda: None)

    def server(self) -> Function | None:
        return self._linked(self.served) if self.served else None

    def waiter(self) -> Function:
        return self._linked(())

    def settle(self) -> None:
        """Nothing is to be done to this instance after a call."""

    def serve(self, export: int) -> None:
        self.served = (*self.served, export)

    def discard(self) -> None:
        self.discarded += 1
        self.store.set_epoch_deadline(1)  # as that of a new instance

    def _linked(self, served: tuple[int, ...]) -> Function:
        types = dict(zip(served, (list(TYPES.values())[index] for index in served), strict=True))
        exports = self.instance.exports(self.store)
        functions = [exports[list(TYPES)[index]] for index in served]
        linked = self.servers.link(self.store, self.arena.head(self.store), types, functions)  # type: ignore[arg-type]
        run = ffi.bind(self.store, linked, "serve", server.SIGNATURE, self.slots, self.calls)  # type: ignore[arg-type]
        return Function(self.slots.bytes[:SLOT], run, self.slots.bytes[:SLOT])

    def _by_python(self, number: int, export: int, kind: int, flags: int, payload: bytes) -> bytes:
        self.by_python.append((number, export, kind))
        return self.answer

    def awake(self) -> None:
        """As if the worker waited in the page, and somebody looked at it between two of its looks."""
        self.channel.turn[0] = page.AWAKE

    def post(self, name: str, *args: Any) -> int:
        export = EXPORTS[name]
        return self.channel.call(export.frame(wire.CALL, export.pack(args), b""))

    def work(self, answered: bool = False) -> int:
        """The worker goes on, and looks until it gives up; why it comes back from wasm, once."""
        return self.attendant._serve(5, answered)

    def values(self, name: str) -> tuple[int, Any]:
        """Status and results of the reply in the page."""
        _, status, _, *values = EXPORTS[name].read(self.channel.head, page.REPLY_FRAME)
        return status, tuple(values)

    def piped(self) -> bytes:
        os.set_blocking(self.replies, False)
        try:
            return os.read(self.replies, 65536)
        except BlockingIOError:
            return b""

    @property
    def turn(self) -> int:
        return self.channel.turn[0]

    def close(self) -> None:
        for fd in (self.fd, self.replies, self.replies_fd):
            os.close(fd)


@pytest.fixture
def sides() -> Iterator[Sides]:
    made = Sides()
    yield made
    made.close()


def test_a_call_to_a_worker_that_sleeps_is_not_posted(sides: Sides) -> None:
    assert sides.post("add", 1, 2) == REFUSED
    assert sides.turn == page.ASLEEP


def test_a_posted_call_is_made_by_wasm(sides: Sides) -> None:
    for name, args, results in (("add", (40, 2), (42,)), ("swap", (-(2**63), 1.5), (1.5, -(2**63)))):
        sides.awake()
        assert sides.post(name, *args) == page.POSTED
        assert sides.work() == server.GAVE_UP
        assert sides.turn == page.ASLEEP
        assert sides.values(name) == (wire.OK, results)
        assert not sides.channel.reply()[page.NUMBERED]
    assert sides.by_python == [] and sides.piped() == b""


def test_a_call_that_was_taken_back_never_begins(sides: Sides) -> None:
    begun = []
    sides.meanwhile = lambda: begun.append(1)
    sides.awake()
    assert sides.post("slowly") == page.POSTED
    assert sides.channel.ring() == REFUSED
    assert sides.work() == server.GAVE_UP
    assert begun == [] and sides.turn == page.ASLEEP


def test_whose_caller_sleeps_meanwhile_is_answered_by_the_pipe(sides: Sides) -> None:
    turns = []
    sides.meanwhile = lambda: turns.append((sides.turn, sides.channel.ring()))
    sides.awake()
    sides.post("slowly")
    assert sides.attendant.attend(5, answered=False) == 6, "both sides count what the pipe has answered"
    assert turns == [(page.TAKEN, page.RUNG)]
    reply = sides.piped()
    assert wire.REPLY.unpack_from(reply) == (SLOT, wire.OK)
    assert struct.unpack_from("<i", reply, wire.REPLY.size) == (7,)
    assert sides.turn == page.RUNG, "or a caller that has not seen RUNG yet would take it for an answer in the page"
    sides.channel.settle()
    assert sides.turn == page.ASLEEP


@pytest.mark.parametrize("leaves", [False, True])
def test_a_trap_is_answered_as_by_python(sides: Sides, leaves: bool) -> None:
    if leaves:
        sides.meanwhile = sides.channel.ring
    sides.awake()
    sides.post("trap")
    assert sides.attendant.attend(5, answered=False) == 6
    assert sides.discarded == 1
    if leaves:
        assert wire.REPLY.unpack_from(sides.piped())[1] == wire.TRAP
    else:
        assert sides.channel.reply()[4] == wire.TRAP
        assert sides.channel.reply()[page.NUMBERED]
        assert sides.piped() == b""


def test_what_is_no_plain_call_is_python_s(sides: Sides) -> None:
    for frame in (
        wire.JOB.pack(3, 0, wire.ACCESS, 0) + b"abc",
        wire.JOB.pack(2 * SLOT, 0, wire.CALL, wire.LEASED) + bytes(2 * SLOT),
        wire.JOB.pack(0, 99, wire.CALL, 0),
    ):
        sides.awake()
        assert sides.channel.call(frame) == page.POSTED
        before = len(sides.by_python)
        assert sides.attendant.attend(5, answered=False) == 6
        assert len(sides.by_python) == before + 1
        assert sides.channel.reply() == wire.reply(wire.VALUE, b"by Python")[:5] + b"\1" + sides.answer[6:]
        assert sides.channel.reply()[page.NUMBERED]


def test_an_export_that_is_called_often_becomes_wasm_s(sides: Sides) -> None:
    sides.served = ()
    for n in range(CALLS_BY_PYTHON + 3):
        sides.awake()
        sides.post("add", n, 1)
        sides.attendant.attend(n, answered=False)
    assert len(sides.by_python) == CALLS_BY_PYTHON
    assert sides.values("add") == (wire.OK, (CALLS_BY_PYTHON + 3,))


def test_a_call_that_came_by_the_pipe_is_answered_in_the_page(sides: Sides) -> None:
    sides.channel.announce(0)
    assert sides.turn == page.TAKEN
    assert sides.attendant.put(sides.answer)
    assert sides.attendant.attend(5) == 5, "it was counted when it came"
    assert sides.turn == page.ASLEEP
    assert sides.channel.reply()[page.NUMBERED]
    assert sides.piped() == b""


def test_unless_its_caller_sleeps_before_the_answer_is_there(sides: Sides) -> None:
    sides.channel.announce(0)
    assert sides.channel.ring() == page.RUNG
    assert not sides.attendant.put(sides.answer)
    assert sides.turn == page.RUNG


def test_or_before_it_is_handed_over(sides: Sides) -> None:
    sides.channel.announce(0)
    assert sides.attendant.put(sides.answer)
    assert sides.channel.ring() == page.RUNG
    assert sides.attendant.attend(5) == 5
    assert sides.piped()[:4] == sides.answer[:4]
    sides.channel.settle()
    assert sides.turn == page.ASLEEP


@pytest.mark.parametrize("by_wasm", [False, True])
def test_a_job_that_is_to_be_stopped_before_it_is_read_is_not_taken_for_one_of_the_page(
    sides: Sides, by_wasm: bool
) -> None:
    """The worker has gone to sleep, and its caller has sent the next job by the pipe and left already."""
    running = sides.attendant._running
    if not by_wasm:
        sides.served = ()
    linked = sides._linked

    def link(served: tuple[int, ...]) -> Function:
        function = linked(served)

        def run() -> None:
            function.run()
            sides.channel.announce(0)
            assert sides.channel.ring() == page.RUNG
            running.interrupt(5, 0, True, lambda: None)

        return function._replace(run=run)

    sides._linked = link  # type: ignore[method-assign]
    sides.channel.announce(0)
    assert sides.attendant.put(sides.answer)
    assert sides.attendant.attend(5) == 5, "it has not begun"
    assert sides.piped() == b""


def test_a_call_that_is_interrupted_is_stopped_whichever_way_it_is_answered(sides: Sides) -> None:
    for rings in (False, True):

        def interrupt() -> None:
            if rings:  # noqa: B023
                sides.channel.ring()
            sides.attendant._running.interrupt(5, 0, True, lambda: None)

        sides.meanwhile = interrupt
        sides.awake()
        sides.post("slowly")
        assert sides.attendant.attend(5, answered=False) == 6
        reply = sides.piped() if rings else sides.channel.reply()
        assert reply[4] == wire.INTERRUPTED
        sides.channel.settle()


@pytest.mark.parametrize("turn", range(5))
def test_the_next_worker_begins_with_a_new_page(sides: Sides, turn: int) -> None:
    """Its row of the arenas' file may be that of one that died."""
    sides.channel.turn[0] = turn
    assert Channel(lambda store: memory_over(store, sides.fd, 0, wire.ARENA_HEAD)).turn[0] == page.ASLEEP


def test_an_answer_that_does_not_fit_goes_by_the_pipe(sides: Sides) -> None:
    sides.answer = wire.reply(wire.VALUE, bytes(page.REPLY_BYTES))
    sides.awake()
    sides.channel.call(wire.JOB.pack(0, 0, wire.ACCESS, 0))
    assert sides.attendant.attend(5, answered=False) == 6
    assert sides.channel.ring() == page.RUNG, "which is how its caller hears of it"
    assert sides.piped() == sides.answer


def test_a_frame_that_does_not_fit_is_not_posted(sides: Sides) -> None:
    sides.awake()
    assert sides.channel.call(bytes(page.CALL_BYTES + 1)) == REFUSED
    assert sides.turn == page.AWAKE


def test_a_word_in_the_pipe_sends_the_worker_there(sides: Sides) -> None:
    struct.pack_into("<I", sides.channel.head, page.LINGER, 2**32 - 1)  # it would hardly give up by itself
    sides.awake()
    sides.channel.turn[0] = page.ASLEEP
    assert sides.work() == server.GAVE_UP


def test_a_page_that_a_worker_has_scribbled_on_holds_up_nobody(sides: Sides) -> None:
    for nonsense in (5, 99, 2**32 - 1):
        sides.channel.turn[0] = nonsense
        assert sides.post("add", 1, 2) == REFUSED
        assert sides.channel.wait(10**6) == nonsense
        assert sides.channel.ring() == nonsense
        sides.channel.settle()
        struct.pack_into("<I", sides.channel.head, page.REPLY_FRAME, 2**32 - 1)
        assert len(sides.channel.reply()) == page.REPLY_BYTES


def test_a_turn_is_written_in_one_step(sides: Sides) -> None:
    """A caller who looks meanwhile, without the GIL, sees the one or the other, and nothing between."""
    rounds = 10_000
    meet = threading.Barrier(2, timeout=DEADLINE)
    seen: set[int] = set()

    def look() -> None:
        for _ in range(rounds):
            meet.wait()
            seen.add(sides.channel.wait(1e9))
            meet.wait()

    looking = threading.Thread(target=look)
    looking.start()
    for _ in range(rounds):
        sides.channel.turn[0] = page.TAKEN
        meet.wait()
        assert not sides.attendant.put(bytes(page.REPLY_BYTES + 1)), "it does not fit"
        meet.wait()
    looking.join(DEADLINE)
    assert seen == {page.RUNG}
