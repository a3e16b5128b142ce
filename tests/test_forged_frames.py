"""Frames that no worker of ours sends, by a worker that has been taken over: nothing runs, nobody waits for ever.

Most are sent by *forgers*: threads of the tests that hold a worker's ends of everything a worker has, so that a round takes
a millisecond.  PROCPOOL_FORGED says how many frames there are to be.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import pickle
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from attacker import same, say, say_at_start
from conftest import DEADLINE, KERNELS, MISBEHAVE, eventually, worker_pids
from hypothesis import given, settings
from hypothesis import strategies as st

from procpool import ProcessWasmPool, ProcpoolError, RemoteError, wire
from procpool.mapped import shared_memory
from procpool.supervisor import launch
from procpool.wire import page, plain, values

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forgers use what Linux has")

FORGED = int(os.environ.get("PROCPOOL_FORGED", "4000"))
#: No process has it: the kernel gives out less.
NOBODY = (1 << 22) + 7

ran: list[str] = []


def run_here(what: str) -> None:
    """What an attacker wants to run."""
    ran.append(what)


class Canary:
    """Leaves a mark where it is unpickled."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __reduce__(self) -> Any:
        return run_here, (self.what,)


@pytest.fixture(autouse=True)
def nothing_runs() -> Iterator[None]:
    ran.clear()
    yield
    assert ran == []


# -- what is forged ----------------------------------------------------------------------------------------------------

CANARY = pickle.dumps(Canary("unpickled"))
_HEAD, _BUFFER, _TEXTS = struct.Struct("<BxxxIQ"), struct.Struct("<QQB"), struct.Struct("<II")
_NUMBERS = (0, 1, 2, 3, 7, 255, 256, 4095, 65536, (1 << 31) - 1, (1 << 32) - 1, 1 << 48, (1 << 64) - 1)
#: Of answers and of announcements, and some of neither.
STATUSES = (*range(8), *range(63, 73), 99, 255)


def _record() -> bytes:
    return wire.record_to_bytes(logging.LogRecord("forged", 30, "x.py", 1, "hello", (), None))


class Forge:
    """Payloads, most of them nearly right."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._record = _record()

    def number(self, most: int = (1 << 64) - 1) -> int:
        return min(self.random.choice((*_NUMBERS, self.random.getrandbits(64))), most)

    def noise(self) -> bytes:
        return self.random.randbytes(self.random.choice((0, 1, 3, 4, 8, 16, 40, 300)))

    def value(self) -> bytes:
        """As `values` describes one."""
        body = self.random.choice(
            (CANARY, plain.encode((0, None, None, b"out", None)), plain.encode([1, "a"]), self.noise())
        )
        if self.random.random() < 0.5:
            return _HEAD.pack(values.INLINE, 0, len(body)) + body
        count = self.number(3)
        entries = [_BUFFER.pack(self.number(), self.number(), self.number(255)) for _ in range(count)]
        return _HEAD.pack(self.number(255), count, len(body)) + b"".join(entries) + body

    def exception(self) -> bytes:
        known = plain.encode((self.random.choice(("builtins.OSError", "builtins.exec", "os.system", "")), ("true",)))
        body = self.random.choice((CANARY, known, self.noise(), b""))
        text, note = self.noise(), self.noise()
        sizes = (len(text), len(note)) if self.random.random() < 0.8 else (self.number((1 << 32) - 1), 1)
        return _TEXTS.pack(*sizes) + text + note + body

    def json(self) -> bytes:
        return self.random.choice(
            (b'["m", null, [], null]', b"[7, null]", b"[" * 5000, b'["m",[],[[1,2,3]],[1,2]]', b"1e999")
        )

    def failed_item(self) -> bytes:
        status = self.random.choice(STATUSES)
        details = self.random.choice((self.exception, self.json, self.noise))()
        return wire.FAILED_ITEM.pack(self.number(60), status) + details

    def log(self) -> bytes:
        state = plain.decode(self._record)
        field = self.random.choice(sorted(state))
        state[field] = self.random.choice((None, 1, -1, math.nan, math.inf, "x" * 500, [1], {"a": 1}, 1 << 70))
        return self.random.choice((self._record, plain.encode(state), CANARY, plain.encode({1: 2})))

    def output(self) -> bytes:
        return bytes((self.number(255),)) + self.random.choice(
            (CANARY, plain.encode((b"", None)), b"a line\n", self.noise())
        )

    def payload(self) -> bytes:
        forged: bytes = self.random.choice(
            (
                *(self.noise, self.value, self.exception, self.json, self.failed_item, self.log, self.output),
                lambda: CANARY,
                lambda: b"\1" + self.exception(),
                lambda: bytes((self.random.choice(STATUSES),)) + self.exception(),
                lambda: wire.COUNT.pack(self.number()),
                lambda: wire.BATCH_DONE.pack(self.number((1 << 32) - 1), self.number()),
                lambda: struct.pack("<i12x", self.number((1 << 31) - 1)),
            )
        )()
        if forged and self.random.random() < 0.15:
            at = self.random.randrange(len(forged))
            forged = forged[:at] + self.random.choice((b"", b"\xff", self.noise())) + forged[at + 1 :]
        return forged

    def suited(self) -> tuple[int, bytes]:
        """A status, and a payload of the sort that goes with it."""
        sorts: dict[int, Callable[[], bytes]] = {
            wire.OK: lambda: self.random.choice((struct.pack("<i12x", 5), wire.BATCH_DONE.pack(self.number(50), 7), b"")),
            wire.TRAP: self.json,
            wire.EXIT: self.json,
            wire.VALUE: self.value,
            wire.RAISED: self.exception,
            wire.KEPT: self.exception,
            wire.INTERRUPTED: lambda: self.random.choice((b"", CANARY)),
            wire.READY: lambda: b"",
            wire.UNFIT: lambda: bytes((wire.RAISED,)) + self.exception(),
            wire.PASSED: lambda: wire.COUNT.pack(self.number(600)),
            wire.ITEM: self.failed_item,
            wire.LOG: self.log,
            wire.OUTPUT: self.output,
            wire.PRINTED: self.output,
        }
        status = self.random.choice(list(sorts))
        return status, sorts[status]()

    def frame(self) -> bytes:
        if self.random.random() < 0.05:
            return self.noise()
        status, payload = self.random.choice(STATUSES), self.payload()
        if self.random.random() < 0.7:
            status, payload = self.suited()
        size = len(payload) if self.random.random() < 0.95 else self.number((1 << 32) - 1)
        return wire.REPLY.pack(size, status) + payload


# -- one step at a time ------------------------------------------------------------------------------------------------

_PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.frozensets(st.integers() | st.text())
        | st.sets(st.integers() | st.text())
    ),
    max_leaves=20,
)


@given(_PLAIN)
def test_plain_data_comes_back_as_it_was(value: Any) -> None:
    back = plain.decode(plain.encode(value))
    assert back == value and type(back) is type(value)


@settings(max_examples=500)
@given(_PLAIN, st.data())
def test_any_bytes_are_plain_data_or_refused(value: Any, data: st.DataObject) -> None:
    forged = bytearray(plain.encode(value))
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(forged)))
        forged[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=6))
    with contextlib.suppress(ValueError):
        plain.decode(bytes(forged))


@pytest.mark.parametrize(
    "forged",
    {
        "nothing": b"",
        "a long text": b"s" + struct.pack("<I", 1 << 30),
        "a long list": b"l" + struct.pack("<I", (1 << 32) - 1),
        "lists in lists": (b"l" + struct.pack("<I", 1)) * 10_000,
        "arrays in arrays": b"n\3\0\0<i4" * 10_000,
        "a large array": b"n\3\2\0<i4" + struct.pack("<qq", 1 << 40, 1 << 40) + b"a\0\0\0\0",
        "an array of objects": b"n\2\0\0|Oa\0\0\0\0",
        "a structure": b"n\5\0\0i4,f4a\0\0\0\0",
        "a buffer that is not there": b"B\5\0\0\0b",
        "a key that cannot be one": b"m\1\0\0\0l\0\0\0\0N",
        "more": b"NN",
    }.items(),
    ids=lambda item: item[0],
)
def test_what_is_no_plain_data_is_refused(forged: tuple[str, bytes]) -> None:
    with pytest.raises(ValueError):
        plain.decode(forged[1])


def test_what_is_no_plain_data_is_not_made_so() -> None:
    numpy = pytest.importorskip("numpy")
    deep: Any = []
    for _ in range(100):
        deep = [deep]
    for value in (
        object(),
        Canary(""),
        numpy.array([object()]),
        numpy.zeros(2, "i4,f4"),
        [{1: {2: len}}],
        True.__class__,
        deep,
    ):
        with pytest.raises(plain.NotPlain):
            plain.encode(value)
    for array in (
        numpy.arange(6).reshape(2, 3),
        numpy.zeros((0, 3)),
        numpy.float32(2.5),
        numpy.asfortranarray(numpy.eye(3)),
    ):
        back = plain.decode(plain.encode(array))
        assert type(back) is type(array) and back.dtype == array.dtype and numpy.array_equal(back, array)


def test_each_step_takes_or_refuses_what_is_forged() -> None:
    """What the parent does with a payload, without a worker: many more of them than below."""
    forge = Forge(1)
    area = memoryview(bytearray(1 << 16))
    for _ in range(5 * FORGED):
        status, payload = forge.random.choice(STATUSES), forge.payload()
        with contextlib.suppress(ValueError, struct.error):
            wire.loaded(wire.report_of(status, payload, "f", False))
        with contextlib.suppress(ValueError, struct.error, MemoryError):
            values.detach(payload, lambda slot, size: area[:size], pickled=False).load()
        with contextlib.suppress(ValueError):
            wire.record_from_bytes(payload).getMessage()


# -- forgers -----------------------------------------------------------------------------------------------------------


class Forger:
    """Holds a worker's ends, and uses them for evil: says that it is ready, waits for a job, and then says anything."""

    def __init__(self, crowd: Crowd, id: int, fds: Sequence[int]) -> None:
        self.crowd, self.id, self.forge = crowd, id, crowd.forge
        self.memory, self.jobs, self.replies, control = map(os.dup, fds)
        self.control = socket.socket(fileno=control)
        self.thread = threading.Thread(target=self.live, daemon=True)
        self.thread.start()

    def live(self) -> None:
        with contextlib.suppress(OSError):
            self.control.sendall(wire.reply(wire.READY))
            poll = select.poll()
            poll.register(self.jobs, select.POLLIN)
            poll.register(self.control, select.POLLIN)
            while not any(fd == self.jobs and event & select.POLLIN for fd, event in poll.poll()):
                if not self.control.recv(4096):
                    raise BrokenPipeError
            job = os.read(self.jobs, 65536)
            if not job:
                raise BrokenPipeError
            self.attack(job)
        self.die()

    def attack(self, job: bytes) -> None:
        random = self.forge.random
        self.scribble()
        for _ in range(random.choice((1, 1, 2, 3, 8))):
            self.crowd.frames += 1
            frame = self.forge.frame()
            if job[8] in (wire.CALL, wire.ACCESS) and random.random() < 0.8:
                os.write(self.replies, frame)
            else:
                self.control.sendall(frame)
        self.scribble()

    def scribble(self) -> None:
        """Write all over what is shared, and try to cut it off."""
        random = self.forge.random
        if random.random() < 0.3:
            with contextlib.suppress(OSError):
                os.ftruncate(self.memory, random.choice((0, 4096, 1 << 50)))
            board = shared_memory(self.memory, 0, 4096).cast("Q")
            for cell in range(wire.BOARD_ROW):
                board[cell] = self.forge.number()
            head = shared_memory(self.memory, wire.arena_at(0), wire.ARENA_HEAD)
            for at in (0, wire.CELLS, page.TURN, page.LINGER, page.OWED, page.REPLY_FRAME, page.REPLY_FRAME + 4):
                struct.pack_into("<I", head, at, self.forge.number((1 << 32) - 1))

    def die(self) -> None:
        os.close(self.jobs)
        os.close(self.replies)
        os.close(self.memory)
        self.control.close()
        self.crowd.tell(wire.EXITED, self.id, -9)


class Crowd:
    """A launcher of forgers."""

    seed = 0

    def __init__(self, inheritance: launch.Inheritance) -> None:
        self.forge = Forge(Crowd.seed)
        self.frames = 0
        self.forgers: list[Forger] = []
        self.events, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.events.setblocking(False)
        Crowd.last = self

    last: Crowd

    def tell(self, event: int, id: int, number: int) -> None:
        with contextlib.suppress(OSError):
            self._theirs.send(wire.LAUNCH_EVENT.pack(event, id, number))

    def launch(self, id: int, slot: int, fds: Sequence[int]) -> None:
        self.tell(wire.LAUNCHED, id, NOBODY)
        self.forgers = [each for each in self.forgers if each.thread.is_alive()]
        self.forgers.append(Forger(self, id, fds))

    def close(self) -> None:
        for forger in self.forgers:
            with contextlib.suppress(OSError):
                forger.control.shutdown(socket.SHUT_RDWR)
            forger.thread.join(DEADLINE)
        self.forsake()

    def forsake(self) -> None:
        self.events.close()
        self._theirs.close()


@pytest.fixture
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def _lease(pool: ProcessWasmPool) -> Any:
    with pool.instance(DEADLINE) as lease:
        return lease.call("add", 1, 2, timeout=DEADLINE)


#: What is asked of a worker; and what sort of thing that ends in.
ASKED: dict[str, tuple[Callable[[ProcessWasmPool], Any], type | tuple[type, ...]]] = {
    "call": (lambda pool: pool.call("add", 1, 2, timeout=DEADLINE), int),
    "submit": (lambda pool: pool.submit("add", 1, 2).result(DEADLINE), int),
    "several": (lambda pool: [job.exception(DEADLINE) for job in [pool.submit("add", 1, n) for n in range(5)]], list),
    "map": (lambda pool: list(pool.map("add", range(50), range(50), timeout=DEADLINE)), list),
    "items": (lambda pool: list(pool.map("add", range(9), range(9), timeout=DEADLINE, return_exceptions=True)), list),
    "callable": (lambda pool: pool.submit(same, [1, "a"]).result(DEADLINE), object),
    "lease": (_lease, int),
}


def test_forgers_cannot_harm_the_program(monkeypatch: pytest.MonkeyPatch, quiet: None, nothing_left: None) -> None:
    monkeypatch.setitem(launch.LAUNCHERS, "forkserver", Crowd)
    seed, frames = int(os.environ.get("PROCPOOL_FORGED_SEED", "1")), 0
    while frames < FORGED:
        Crowd.seed = seed
        with ProcessWasmPool(KERNELS, workers=2, trust="nothing", kill_grace=0.05) as pool:
            asks = random.Random(seed)
            for _ in range(500):
                name = asks.choice(list(ASKED))
                ask, kinds = ASKED[name]
                try:
                    answer = ask(pool)
                except (ProcpoolError, OSError, ValueError, TypeError, LookupError) as error:
                    assert "still" not in str(error) and not isinstance(error, TimeoutError), (seed, name, error)
                else:
                    assert isinstance(answer, kinds), (seed, name, answer)
                if Crowd.last.frames + frames >= FORGED:
                    break
            pool.terminate()
        frames += Crowd.last.frames
        seed += 1
    assert frames >= FORGED


# -- real workers ------------------------------------------------------------------------------------------------------


#: One of each sort, with a pickle where there could be one.
_CANARY_AS_RAISED = _TEXTS.pack(4, 0) + b"text" + CANARY
_CANARY_AS_VALUE = _HEAD.pack(values.INLINE, 0, len(CANARY)) + CANARY
CANARIES = {
    "LOG": wire.reply(wire.LOG, CANARY),
    "RAISED": wire.reply(wire.RAISED, _CANARY_AS_RAISED),
    "KEPT": wire.reply(wire.KEPT, _CANARY_AS_RAISED),
    "VALUE": wire.reply(wire.VALUE, _CANARY_AS_VALUE),
    "a bare VALUE": wire.reply(wire.VALUE, CANARY),
    "INTERRUPTED": wire.reply(wire.INTERRUPTED, CANARY),
    "UNFIT": wire.reply(wire.UNFIT, bytes((wire.RAISED,)) + _CANARY_AS_RAISED),
    "OUTPUT": wire.reply(wire.OUTPUT, bytes((wire.ALL_OUTPUT,)) + CANARY),
    "PRINTED": wire.reply(wire.PRINTED, b"\1" + CANARY),
    "ITEM": wire.reply(wire.ITEM, wire.FAILED_ITEM.pack(0, wire.RAISED) + _CANARY_AS_RAISED),
}


def lets_say(pool: ProcessWasmPool, frame: bytes, replies: bool) -> None:
    """The next job of the only worker is answered with that, first of all."""
    with contextlib.suppress(ProcpoolError):
        # Its own answer comes behind, and is no answer to anything.
        pool.submit(say, frame, True, replies).result(DEADLINE)


@pytest.mark.parametrize("replies", [False, True], ids=["control", "replies"])
def test_no_pickle_of_a_worker_is_loaded(replies: bool, nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=1, trust="nothing") as pool:
        for canary in CANARIES.values():
            for ask, _ in ASKED.values():
                lets_say(pool, canary, replies)
                with contextlib.suppress(ProcpoolError, TypeError):
                    ask(pool)
        assert pool.call("add", 1, 2, timeout=DEADLINE) == 3


def test_pickles_are_for_callables_alone(nothing_left: None) -> None:
    """By default; said while a plain call runs, which goes on behind its forged answer until its worker is killed."""
    with ProcessWasmPool(MISBEHAVE, workers=1, kill_grace=0.05) as pool:
        for canary in CANARIES.values():
            pool.wait_ready(DEADLINE)
            pool.submit(say, canary, False, False, timeout=DEADLINE).result()
            with contextlib.suppress(ProcpoolError):
                pool.submit("spin", timeout=1).result()
            for worker in worker_pids(pool):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
                eventually(lambda gone=worker: gone not in worker_pids(pool), "it to be replaced")  # type: ignore[misc]


def test_a_forged_pid_kills_nobody(nothing_left: None) -> None:
    """It used to be heard from the worker, and what then sent nonsense was killed by it."""
    # Of the form that it once had, and then something for which it is killed.
    victim = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    forged = wire.reply(wire.READY, wire.COUNT.pack(victim.pid)) + b"nonsense" * 100
    try:
        with (
            ProcessWasmPool(
                KERNELS, workers=1, trust="nothing", initializer=say_at_start, initargs=(forged,), start_timeout=5
            ) as pool,
            contextlib.suppress(ProcpoolError),
        ):
            pool.call("add", 1, 2, timeout=DEADLINE)
    except ProcpoolError:
        pass
    assert victim.poll() is None
    victim.communicate(b"\n", DEADLINE)


def test_a_neighbour_of_a_forger_is_unharmed(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=2, trust="nothing") as pool:
        forge = Forge(3)
        done = 0
        for _ in range(30):
            attack = pool.submit(say, b"".join(forge.frame() for _ in range(3)), True, False)
            assert list(pool.map("add", range(2000), range(2000), timeout=DEADLINE, return_exceptions=True))[:1]
            with contextlib.suppress(ProcpoolError, TypeError, ValueError, OSError):
                attack.result(DEADLINE)
                done += 1
        pool.wait_ready(DEADLINE)
        assert list(pool.map("add", range(100_000), range(100_000))) == list(range(0, 200_000, 2))


def test_keys_that_were_made_up_to_be_alike_are_refused() -> None:
    """Of numbers with one hash, a set takes a time that grows with the square."""
    alike = [n * sys.hash_info.modulus for n in range(1, 5000)]
    for kind in (b"S", b"Z"):
        forged = kind + plain.encode(tuple(alike))[1:]
        with pytest.raises(ValueError, match="same few hashes"):
            plain.decode(forged)
    flat = [part for n in alike for part in (n, None)]
    forged = b"m" + struct.pack("<I", len(alike)) + plain.encode(tuple(flat))[5:]
    with pytest.raises(ValueError, match="same few hashes"):
        plain.decode(forged)
    usual = {*range(1000), *map(float, range(2000)), *map(str, range(1000))}
    assert plain.decode(plain.encode(usual)) == usual
    assert plain.decode(plain.encode(dict.fromkeys(usual))) == dict.fromkeys(usual)


def test_exceptions_with_places_in_a_text_come_as_their_text() -> None:
    """Python believes the places when it shows them."""
    for error in (UnicodeDecodeError("utf8", b"x", 0, 1, "why"), SyntaxError("m", ("f", 1, 1, "x", 1, 2))):
        report = wire.report_of(wire.RAISED, wire.exception_to_bytes(error), None, False)
        loaded = wire.loaded(report)
        assert type(loaded) is RemoteError
        assert type(error).__name__ in str(loaded)
        forged = wire.exception_to_bytes(ValueError("m")).replace(b"builtins.ValueError", b"builtins.SyntaxError")
        assert type(wire.loaded(wire.report_of(wire.RAISED, forged, None, False))) is RemoteError


def test_characters_that_there_are_not_are_refused() -> None:
    numpy = pytest.importorskip("numpy")
    sound = plain.encode(numpy.array(["x"]))
    code = "x".encode("utf-32-le" if sys.byteorder == "little" else "utf-32-be")
    assert sound.count(code) == 1
    with pytest.raises(ValueError, match="characters"):
        plain.decode(sound.replace(code, b"\xff\xff\xff\x7f"))
