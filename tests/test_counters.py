"""What a blocking call does in the parent, counted: a slow path that creeps back is caught without timing anything."""

from __future__ import annotations

import os
import pickle
import sys
import threading
from typing import Any

import pytest
from conftest import DEADLINE, KERNELS

from procpool import ProcessWasmPool, wire

CALLS = 200


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """Sizes of this thread's writes and of its reads that got something."""
    seen: dict[str, list[int]] = {"write": [], "read": []}
    me, write, read = threading.get_ident(), os.write, os.read

    def counting_write(fd: int, data: Any) -> int:
        if threading.get_ident() == me:
            seen["write"].append(len(data))
        return write(fd, data)

    def counting_read(fd: int, size: int) -> bytes:
        data = read(fd, size)
        if threading.get_ident() == me:
            seen["read"].append(len(data))
        return data

    monkeypatch.setattr(os, "write", counting_write)
    monkeypatch.setattr(os, "read", counting_read)
    return seen


def test_a_blocking_call_is_at_most_one_write_and_one_read(nothing_left: None, counted: dict[str, list[int]]) -> None:
    """One that is hot is neither; how many are, the machine decides."""
    with ProcessWasmPool(KERNELS, workers=1) as pool:
        pool.wait_ready(DEADLINE)
        for sizes in counted.values():
            sizes.clear()
        for n in range(CALLS):
            assert pool.call("add", n, 1) == n + 1
        assert set(counted["write"]) == {wire.JOB.size + 2 * 16}, "a header and two slots, nothing else"
        assert set(counted["read"]) == {wire.REPLY.size + 16}
        assert len(counted["write"]) <= CALLS and len(counted["read"]) <= CALLS


def test_a_blocking_call_pickles_nothing(nothing_left: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with ProcessWasmPool(KERNELS, workers=1) as pool:
        pool.wait_ready(DEADLINE)

        def refuse(*args: Any, **options: Any) -> Any:
            raise AssertionError("pickled something")

        with monkeypatch.context() as patch:
            patch.setattr(pickle, "dumps", refuse)
            patch.setattr(pickle, "loads", refuse)
            assert pool.call("add", 1, 2) == 3
            assert pool.submit("add", 1, 2).result(DEADLINE) == 3
            assert list(pool.map("add", range(100), range(100))) == list(range(0, 200, 2))


def test_calls_leave_no_objects_behind(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=1) as pool:
        pool.wait_ready(DEADLINE)
        for n in range(CALLS):
            pool.call("add", n, 1)
        before = sys.getallocatedblocks()
        for n in range(10 * CALLS):
            pool.call("add", n, 1)
        assert sys.getallocatedblocks() - before < CALLS, "less than one object in ten calls"


def test_many_submits_share_their_writes(nothing_left: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """By all threads: once jobs are known to be short, a write carries many."""
    writes: list[int] = []
    write = os.write

    def counting_write(fd: int, data: Any) -> int:
        writes.append(len(data))
        return write(fd, data)

    with ProcessWasmPool(KERNELS, workers=2) as pool:
        pool.wait_ready(DEADLINE)
        for _ in range(2):
            monkeypatch.setattr(os, "write", counting_write)
            writes.clear()
            futures = [pool.submit("add", n, 1) for n in range(5000)]
            assert [future.result(DEADLINE) for future in futures] == list(range(1, 5001))
            monkeypatch.undo()
        assert sum(size > 1 for size in writes) < 2500, "a write per job would be 5000"
