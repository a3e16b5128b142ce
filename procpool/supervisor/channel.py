"""The parent's end of a page: a call that wakes nobody, while its worker is awake; see wire/page.py."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

import wasmtime

from .. import cores, wire
from ..raw import Slots, invoker
from ..wire import page

#: What `post` and `wait` give instead of a turn: the worker was asleep, and nothing was posted.
REFUSED = 16
#: How long `post` waits, in nanoseconds: a hot call is over by then.  Other threads of Python's wait as long.
SHORT_NS = 3_000
_FOR_EVER = 1 << 62  # ticks of the epoch
#: How often the spin is timed, and over how many looks.
_TIMINGS, _LOOKS = 5, 4096
#: Turns that may change between two looks: from POSTED to TAKEN to AWAKE to ASLEEP.
_RETRIES = 4

_TEXT = f"""
(module $procpool_caller
  (import "arena" "head" (memory {wire.ARENA_HEAD // 65536} {wire.ARENA_HEAD // 65536}))
  (func $wait (export "wait") (param $looks i32) (result i32)
    (local $turn i32)
    (loop $look
      (local.set $turn (i32.atomic.load (i32.const {page.TURN})))
      (if (i32.or (i32.eq (local.get $turn) (i32.const {page.POSTED})) (i32.eq (local.get $turn) (i32.const {page.TAKEN})))
        (then (br_if $look (local.tee $looks (i32.sub (local.get $looks) (i32.const 1)))))))
    (local.get $turn))
  (func (export "post") (param $looks i32) (result i32)
    (if (i32.ne (i32.const {page.AWAKE})
                (i32.atomic.rmw.cmpxchg (i32.const {page.TURN}) (i32.const {page.AWAKE}) (i32.const {page.POSTED})))
      (then (return (i32.const {REFUSED}))))
    (call $wait (local.get $looks)))
  (func (export "swap") (param $change i32) (result i32)
    (i32.atomic.rmw.cmpxchg (i32.const {page.TURN})
      (i32.shr_u (local.get $change) (i32.const 8)) (i32.and (local.get $change) (i32.const 255)))))
"""


@functools.cache
def _compiled() -> tuple[wasmtime.Engine, wasmtime.Module]:
    """The parent's module, compiled when it is first needed."""
    config = wasmtime.Config()
    config.parallel_compilation = False  # the threads would stay
    config.wasm_threads = True
    config.epoch_interruption = True  # not for us: so that a look takes as long here as in the worker, who counts them too
    config.memory_reservation = wire.ARENA_HEAD  # not gigabytes of addresses for each page
    config.memory_guard_size = 0
    engine = wasmtime.Engine(config)
    return engine, wasmtime.Module(engine, _TEXT)


class _Caller:
    """An instance of that module, and its functions: each takes and returns a number."""

    def __init__(self, memory: Callable[[wasmtime.Store], wasmtime.Memory]) -> None:
        engine, module = _compiled()
        store = self._store = wasmtime.Store(engine)
        store.set_epoch_deadline(_FOR_EVER)
        made = memory(store)
        instance = wasmtime.Instance(store, module, [made])
        self._slots = Slots(1)
        self._trap = ctypes.c_void_p()
        exports = self._exports = instance.exports(store)  # behind the raw addresses
        #: the memory, for Python; not by way of a mapping of Python's, which would keep a descriptor open as long as a view
        self.head: memoryview = _view(made, store)
        self.cell: memoryview = self._slots.bytes.cast("I")  #: its first element goes in, and comes out
        self.post = self._function(exports["post"], hold_gil=True)
        self.wait = self._function(exports["wait"])
        self.swap = self._function(exports["swap"], hold_gil=True)

    def _function(self, func: Any, hold_gil: bool = False) -> Callable[[], int | None]:
        return invoker(self._store, func, self._slots, 1, self._trap, hold_gil)


def _view(memory: wasmtime.Memory, store: wasmtime.Store) -> memoryview:
    cells = (ctypes.c_uint8 * memory.data_len(store)).from_address(ctypes.addressof(memory.data_ptr(store).contents))
    cells._store = store  # type: ignore[attr-defined]  # which unmaps them at its end
    return memoryview(cells).cast("B")


@functools.cache
def look_ns() -> float:
    """Nanoseconds that one look takes, measured on this machine: the least of some times, for others may be interrupted."""
    caller = _Caller(lambda store: wasmtime.Memory(store, wasmtime.MemoryType(wasmtime.Limits(1, 1))))
    caller.cell[0] = page.ASLEEP << 8 | page.TAKEN
    caller.swap()
    times = []
    for _ in range(_TIMINGS):
        start = perf_counter_ns()
        caller.cell[0] = _LOOKS
        caller.wait()
        times.append(perf_counter_ns() - start)
    return min(times) / _LOOKS


class Channel:
    """For the holder of a worker.

    Args:
        memory: what maps the head of the worker's arena over a linear memory.

    Raises:
        OSError: it cannot be mapped.
    """

    def __init__(self, memory: Callable[[wasmtime.Store], wasmtime.Memory]) -> None:
        self._caller = _Caller(memory)
        self.head: memoryview = self._caller.head  #: the page and what lies around it
        head = self.head
        self.turn: memoryview = head[page.TURN : page.TURN + 4].cast("I")  #: its one element says whose it is
        self._linger = head[page.LINGER : page.LINGER + 4].cast("I")
        self._core = head[page.CALLER : page.CALLER + 4].cast("I")
        self.turn[0] = page.ASLEEP  # another worker may have had this page before
        self._cell = self._caller.cell
        self._post = self._caller.post
        self._short = max(1, int(SHORT_NS / look_ns()))

    def call(self, frame: bytes) -> int:
        """Post a call if the worker is awake, and wait a moment: REFUSED, or whose turn it is then."""
        if self.turn[0] != page.AWAKE or len(frame) > page.CALL_BYTES:
            return REFUSED
        self.head[page.CALL_FRAME : page.CALL_FRAME + len(frame)] = frame
        return self.post()

    def post(self) -> int:
        """The same, of what lies in the page."""
        cell = self._cell
        cell[0] = self._short
        self._post()
        return cell[0]

    def wait(self, nanoseconds: float) -> int:
        """Wait longer, with other threads running: whose turn it is then."""
        self._cell[0] = max(1, int(nanoseconds / look_ns()))
        self._caller.wait()
        return self._cell[0]

    def announce(self, linger_ns: float) -> None:
        """Before a HOT call is sent by the pipe: it is to be answered here, and then the worker is to stay so long."""
        self._linger[0] = int(linger_ns / look_ns())
        self._core[0] = cores.current() + 1
        self.turn[0] = page.TAKEN

    def swap(self, before: int, after: int) -> bool:
        """Change the turn if it is still that; whether it was."""
        self._cell[0] = before << 8 | after
        self._caller.swap()
        return self._cell[0] == before

    def ring(self) -> int:
        """Wait here no longer: RUNG, to go to the pipe; REFUSED, for nothing had begun; or as `wait`, if it is over."""
        for _ in range(_RETRIES):
            if self.swap(page.TAKEN, page.RUNG):
                return page.RUNG
            if self.swap(page.POSTED, page.ASLEEP):
                return REFUSED
            if self._cell[0] not in (page.TAKEN, page.POSTED):
                return self._cell[0]
        return page.RUNG  # no sound worker changes it so often; nothing will come by the pipe, and that has its deadline

    def reply(self) -> bytes:
        """What the worker has answered, head and all."""
        at = page.REPLY_FRAME + wire.REPLY.size
        head = bytes(self.head[page.REPLY_FRAME : at])  # once: what is looked at is what is handed on
        size = min(wire.REPLY.unpack(head)[0], page.REPLY_BYTES - wire.REPLY.size)
        return head + bytes(self.head[at : at + size])

    def settle(self) -> None:
        """The answer has come by the pipe, or none will, for the job was taken back."""
        if self.turn[0] == page.RUNG:
            self.turn[0] = page.ASLEEP
