"""Both ends of the wire, given what no sound peer sends."""

from __future__ import annotations

import os
import random
import select
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from conftest import DEADLINE, KERNELS, eventually, worker_pids

from procpool import ProcessWasmPool, WorkerCrashed, wire
from procpool.compilation import compile_module
from procpool.interpreter import chosen, command
from procpool.program import single
from procpool.supervisor.launch import Inheritance
from procpool.supervisor.memory import ProcessMemory


class Bare:
    """A worker process whose channels we hold ourselves."""

    def __init__(self) -> None:
        compiled = compile_module(KERNELS)
        functions = tuple(
            (name, type_) for name, type_ in compiled.interface.exports.items() if type(type_).__name__ == "FuncType"
        )
        environment = wire.Environment({})
        import cloudpickle

        guest = wire.Guest(environment=cloudpickle.dumps(environment))
        self.inheritance = Inheritance(
            [compiled.artifact], functions, single(compiled.interface), wire.GuestLimits(), guest, 1, 4
        )
        self.memory = ProcessMemory(1)
        jobs_theirs, self.jobs = os.pipe()
        self.replies, replies_theirs = os.pipe()
        self.control, control_theirs = socket.socketpair()
        fds = (self.memory.fd, jobs_theirs, replies_theirs, control_theirs.fileno())
        self.process = subprocess.Popen(
            command(chosen(), "worker.spawned", self.inheritance.settings_fd, 0, *fds),
            pass_fds=(*self.inheritance.fds, *fds),
            stderr=subprocess.PIPE,
        )
        os.close(jobs_theirs)
        os.close(replies_theirs)
        control_theirs.close()
        assert self.control.recv(16) == wire.reply(wire.READY, wire.COUNT.pack(self.process.pid))

    def close(self) -> None:
        if self.jobs >= 0:
            os.close(self.jobs)
        os.close(self.replies)
        self.control.close()
        self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()
        self.inheritance.close()
        self.memory.close()

    def end_jobs(self) -> None:
        os.close(self.jobs)
        self.jobs = -1


@contextmanager
def bare() -> Iterator[Bare]:
    worker = Bare()
    try:
        yield worker
    finally:
        worker.close()


def job(kind: int, payload: bytes, export: int = 0, flags: int = 0, size: int | None = None) -> bytes:
    return wire.JOB.pack(len(payload) if size is None else size, export, kind, flags) + payload


#: Frames that no parent sends.
WRONG = {
    "unknown kind": job(99, b""),
    "no such export": job(wire.CALL, bytes(32), export=1000),
    "too few arguments": job(wire.SUBMIT, bytes(16)),
    "too many arguments": job(wire.CALL, bytes(64)),
    "oversized": job(wire.SHIPPED, b"", size=wire.MAX_PAYLOAD + 1),
    "batch of nothing": job(wire.BATCH, b""),
    "batch beyond its cells": job(wire.BATCH, b"".join(struct.pack("<I12x", n) for n in (0, 1, 7, 0, 0, 0))),
    "batch backwards": job(wire.BATCH, b"".join(struct.pack("<I12x", n) for n in (5, 1, 0, 0, 0, 0))),
    "noise": random.Random(1).randbytes(100_000),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_worker_ends_with_a_clear_code_at_a_wrong_frame(name: str, nothing_left: None) -> None:
    with bare() as worker:
        good = job(wire.SUBMIT, struct.pack("<i12xi12x", 1, 2), export=_add(worker))
        os.write(worker.jobs, good)
        assert worker.control.recv(4096)[4] == wire.OK
        try:
            os.write(worker.jobs, WRONG[name])
        except BrokenPipeError:  # it has seen enough
            pass
        if name == "noise":  # which begins like a very long frame, of which more might come
            worker.end_jobs()
        assert worker.process.wait(DEADLINE) == wire.EXIT_CORRUPT
        assert worker.process.stderr is not None
        assert b"procpool: worker" in worker.process.stderr.read()


def _add(worker: Bare) -> int:
    with open(worker.inheritance.settings_fd, "rb", closefd=False) as file:
        import pickle

        file.seek(0)
        settings = pickle.load(file)
    return [name for name, _ in settings.exports].index("add")


def test_a_worker_ends_at_a_truncated_stream(nothing_left: None) -> None:
    with bare() as worker:
        os.write(worker.jobs, job(wire.SUBMIT, bytes(10), size=32))
        worker.end_jobs()
        assert worker.process.wait(DEADLINE) == wire.EXIT_CORRUPT
    with bare() as worker:
        worker.end_jobs()
        assert worker.process.wait(DEADLINE) == 0, "an end between frames is an ordinary one"


def test_a_worker_ends_at_a_wrong_command(nothing_left: None) -> None:
    with bare() as worker:
        worker.control.send(wire.CONTROL.pack(9, 0, 0))
        assert worker.process.wait(DEADLINE) == wire.EXIT_CORRUPT
    with bare() as worker:  # commands for jobs that never were, or are long over, are harmless
        os.write(worker.jobs, job(wire.SUBMIT, struct.pack("<i12xi12x", 3, 4), export=_add(worker)))
        assert worker.control.recv(4096)[8:12] == struct.pack("<i", 7)
        for number in (0, 5, 2**60):  # the first is over: before it began, it might have been meant
            worker.control.send(wire.CONTROL.pack(wire.INTERRUPT, number % 7, number))
        os.write(worker.jobs, job(wire.SUBMIT, struct.pack("<i12xi12x", 1, 2), export=_add(worker)))
        assert worker.control.recv(4096)[8:12] == struct.pack("<i", 3)


def test_random_streams_end_a_worker_and_never_hang_it(nothing_left: None) -> None:
    """Well-formed frames of random content, in random pieces."""
    for seed in range(int(os.environ.get("PROCPOOL_FUZZ", "6"))):
        rng = random.Random(seed)
        with bare() as worker:
            stream = b""
            for _ in range(50):
                kind = rng.choice(
                    [wire.CALL, wire.SUBMIT, wire.BATCH, wire.SHIPPED, wire.PURGE, wire.ACCESS, rng.randrange(256)]
                )
                payload = rng.randbytes(rng.choice([0, 16, 32, 96, rng.randrange(300)]))
                stream += job(kind, payload, rng.randrange(8), rng.randrange(8))
            poll = select.poll()
            for fd in (worker.replies, worker.control.fileno()):
                os.set_blocking(fd, False)
                poll.register(fd, select.POLLIN)
            try:
                while stream:
                    size = rng.randrange(1, 400)
                    os.write(worker.jobs, stream[:size])
                    stream = stream[size:]
                    for fd, _ in poll.poll(0):  # somebody has to read, or it would wait for that
                        try:
                            os.read(fd, 65536)
                        except OSError:
                            pass
                worker.end_jobs()
            except BrokenPipeError:
                pass
            assert worker.process.wait(DEADLINE) in (0, wire.EXIT_CORRUPT)


# -- the parent --------------------------------------------------------------------------------------------------------

NOISE = {
    "unknown status": wire.reply(50),
    "unknown announcement": wire.reply(200, b"x"),
    "oversized": wire.REPLY.pack(wire.MAX_PAYLOAD + 1, wire.OK),
    "reply to nothing": wire.reply(wire.OK, bytes(16)) * 50,
    "item of no batch": wire.reply(wire.ITEM, wire.FAILED_ITEM.pack(0, wire.TRAP)),
    "passed a fence that is none": wire.reply(wire.PASSED, wire.COUNT.pack(1000)),
    "batch result for a call": wire.reply(wire.OK, b"123"),
    "pickle of nonsense": wire.reply(wire.UNFIT, b"nonsense"),
    "log of nonsense": wire.reply(wire.LOG, b"nonsense"),
    "output of no command": wire.reply(wire.OUTPUT, b"1x"),
    "noise": random.Random(3).randbytes(5000),
}


def _say(instance: Any, message: bytes, replies: bool) -> None:
    """In a worker: write to the parent what no worker writes, and go on as if nothing were."""
    for fd in range(3, 100):
        try:
            kind = os.readlink(f"/proc/self/fd/{fd}").partition(":")[0]
            if kind == "socket" and not replies:
                os.write(fd, message)
            if kind == "pipe" and replies:
                os.write(fd, message)
        except OSError:
            pass
    signal.pause()


@pytest.mark.parametrize("name", NOISE)
def test_the_parent_takes_a_worker_that_talks_nonsense_for_crashed(name: str, nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=2) as pool:
        pool.wait_ready(DEADLINE)
        before = set(worker_pids(pool))
        guilty = pool.submit(_say, NOISE[name], False, timeout=2)
        others = [pool.submit("add", n, 1) for n in range(200)]
        assert [future.result(DEADLINE) for future in others] == list(range(1, 201))
        assert isinstance(guilty.exception(DEADLINE), (WorkerCrashed, Exception))
        assert [pool.call("add", n, 1) for n in range(100)] == list(range(1, 101))
        eventually(lambda: len(before & set(worker_pids(pool))) == 1, "the worker to be gone")
        assert pool.stats().killed == 1
        pool.wait_ready(DEADLINE)


def _say_and_go_on(instance: Any, message: bytes) -> None:
    """The same, and answer as usual after it."""
    for fd in range(3, 100):
        try:
            if os.readlink(f"/proc/self/fd/{fd}").startswith("socket"):
                os.write(fd, message)
        except OSError:
            pass


def test_a_worker_is_ready_once(nothing_left: None) -> None:
    """One that said it again was among the idle twice, and two callers used its channels at once."""
    with ProcessWasmPool(KERNELS, workers=1, timeout=DEADLINE) as pool:
        for status in (wire.READY, wire.UNFIT):
            with pytest.raises(WorkerCrashed):
                pool.submit(_say_and_go_on, wire.reply(status, wire.COUNT.pack(1))).result(DEADLINE)
            assert pool.call("add", 1, 2) == 3
        assert pool.stats().killed == 2


def test_nonsense_where_a_direct_call_reads(nothing_left: None) -> None:
    """What was written to the replies pipe is found by the next call, which runs elsewhere or fails, and harms nobody."""
    with ProcessWasmPool(KERNELS, workers=1, timeout=DEADLINE) as pool:

        def leave_noise(instance: Any) -> None:
            for fd in range(3, 100):
                try:
                    if os.readlink(f"/proc/self/fd/{fd}").startswith("pipe"):
                        os.write(fd, wire.reply(77, b"noise"))
                except OSError:
                    pass

        pool.submit(leave_noise).result(DEADLINE)
        eventually(lambda: pool.stats().idle == 1, "the worker to be idle, so that the call goes to it directly")
        try:
            assert pool.call("add", 1, 2) == 3, "the worker was gone before it had begun, and another ran it"
        except WorkerCrashed:
            pass
        eventually(lambda: pool.stats().killed == 1, "the worker to be killed")
        assert [pool.call("add", n, 1) for n in range(100)] == list(range(1, 101))
