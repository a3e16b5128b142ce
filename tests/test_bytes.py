"""Bytes in and out: exports by pointer and length, and large values beside the pipes."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import signal
from typing import Any

import numpy as np
import pytest
from conftest import DEADLINE, FIXTURES, KERNELS, eventually, worker_pids
from hypothesis import given, settings
from hypothesis import strategies as st

from procpool import BytesFunction, Convention, ProcessWasmPool, UnknownExport, WorkerCrashed
from procpool.checks import shown
from procpool.wire.values import LARGE, dump, load

BYTES = FIXTURES / "bytes.wat"
CONVENTION: dict[str, Any] = {"alloc": "malloc", "free": "release"}


def plus_one(data: bytes) -> bytes:
    return bytes((byte + 1) % 256 for byte in data)


# -- conventions -------------------------------------------------------------------------------------------------------


def test_sha256_is_one_line(nothing_left: None) -> None:
    with ProcessWasmPool(FIXTURES / "sha256.wasm", workers=2) as pool:
        for data in (b"", b"abc", bytearray(b"abc"), memoryview(b"abc"), os.urandom(3_000_000)):
            assert pool.call_bytes("sha256", data, returns=32) == hashlib.sha256(data).digest()
        blobs = [os.urandom(size) for size in range(0, 200_000, 10_000)]
        digests = pool.map(BytesFunction("sha256", returns=32), blobs)
        assert list(digests) == [hashlib.sha256(blob).digest() for blob in blobs]


@pytest.mark.parametrize("convention", ["packed", "pair", "pointer"])
def test_results_by_every_convention(convention: str, nothing_left: None) -> None:
    with ProcessWasmPool(BYTES, workers=1) as pool:
        top = pool.call("top")
        for size in (0, 1, 100, 300_000):
            data = os.urandom(size)
            assert pool.call_bytes(convention, data, returns=convention, **CONVENTION) == plus_one(data)
        assert pool.call("top") <= top + 8, "what was allocated has been freed"
        future = pool.submit_bytes(convention, b"xyz", returns=convention, **CONVENTION)
        assert future.result(DEADLINE) == b"yz{"


def test_numbers_beside_bytes_and_no_bytes_back(nothing_left: None) -> None:
    with ProcessWasmPool(BYTES, workers=1) as pool:
        assert pool.call_bytes("sum", b"\1\2\3", 10, **CONVENTION) == 16


def test_mistakes_are_told_from_bad_luck(nothing_left: None) -> None:
    with ProcessWasmPool(BYTES, workers=1) as pool:
        with pytest.raises(UnknownExport, match="did you mean"):
            pool.call_bytes("paked", b"", returns="packed", **CONVENTION)
        with pytest.raises(UnknownExport, match=r"no function 'free' or 'dealloc' to free with.*it exports 'liar'"):
            pool.call_bytes("packed", b"", returns="packed")
        with pytest.raises(UnknownExport, match="no function 'get' to allocate with, by the convention 'c'"):
            pool.call_bytes("packed", b"", returns="packed", alloc="get")
        with pytest.raises(ValueError, match="returns must be 'packed', 'pair', 'pointer', 'string'"):
            pool.call_bytes("packed", b"", returns="text", **CONVENTION)
        with pytest.raises(ValueError, match="is returns='packed' what it does, and 'c' the convention"):
            pool.call_bytes("liar", b"", returns="packed", **CONVENTION)
        with pytest.raises(MemoryError, match=r"malloc\(5000000\) returned 0"):
            pool.call_bytes("packed", bytes(5_000_000), returns="packed", **CONVENTION)
        assert pool.call_bytes("packed", b"a", returns="packed", **CONVENTION) == b"b"


def test_by_address_nothing_is_returned_of_a_memory_of_64_bits(nothing_left: None) -> None:
    """And no other way is named that would read at half an address."""
    module = """(module (memory (export "memory") i64 1)
      (func (export "alloc") (param i64) (result i64) (i64.const 1024)) (func (export "free") (param i64))
      (func (export "first") (param i64 i64) (result i64) (i64.load8_u (local.get 0)))
      (func (export "text") (param i64 i64) (result i64) (local.get 0)))"""
    with ProcessWasmPool(module, workers=1) as pool:
        assert pool.call_bytes("first", b"a") == ord("a")
        with pytest.raises(ValueError, match="of a module with a 64-bit memory, call_bytes takes arguments, and") as raised:
            pool.call_bytes("text", b"hello", returns="string")
        assert "packed" not in str(raised.value)


@pytest.mark.parametrize("wrong", [0, 3, -8, "x", True, 8.0, 2**32])
def test_an_alignment_is_a_power_of_two(wrong: Any) -> None:
    for make in (
        lambda: BytesFunction("sum", align=wrong),
        lambda: dataclasses.replace(Convention.named("c"), align=wrong),
    ):
        with pytest.raises(ValueError, match="align must be a power of two") as raised:
            make()
        assert shown(wrong) in str(raised.value)
    assert BytesFunction("sum", align=1).align == 1


@pytest.mark.parametrize("wrong", [{"alloc": 5}, {"alloc": None}, {"free": 0}, {"memory": b"memory"}])
def test_names_of_exports_are_text(wrong: dict[str, Any]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name} must be the name of an export") as raised:
        BytesFunction("sum", **wrong)
    assert shown(value) in str(raised.value)


# -- large values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, LARGE - 1, LARGE, LARGE + 1, 1 << 20, 20_000_000])
def test_large_values_of_every_kind_come_as_they_went(size: int, nothing_left: None) -> None:
    data = os.urandom(size)
    with ProcessWasmPool(KERNELS, workers=1) as pool:
        for value in (data, bytearray(data), {"a": data, "b": 1}, [data, data], (1, data)):
            assert pool.submit(lambda instance, x: x, value).result(DEADLINE) == value
            assert type(pool.submit(lambda instance, x: x, value).result(DEADLINE)) is type(value)
        view = pool.submit(lambda instance, x: x, memoryview(data)).result(DEADLINE)
        assert type(view) is memoryview and view == data
        kinds = pool.submit(
            lambda instance, *x: [type(each).__name__ for each in x], data, bytearray(data), memoryview(data)
        )
        assert kinds.result(DEADLINE) == ["bytes", "bytearray", "memoryview"]
        array = np.frombuffer(data, np.uint8).reshape(-1, 1)
        back = pool.submit(lambda instance, x: (x, {"deep": [x]}), array).result(DEADLINE)
        assert np.array_equal(back[0], array) and np.array_equal(back[1]["deep"][0], array)


def test_what_a_function_keeps_is_not_overwritten(nothing_left: None) -> None:
    kept: list[Any] = []

    def keep(instance: Any, *values: Any) -> None:
        kept.extend(values)

    with ProcessWasmPool(KERNELS, workers=1) as pool:
        first = np.arange(100_000)
        pool.submit(keep, first, bytes(LARGE), bytearray(LARGE)).result(DEADLINE)
        for _ in range(4):
            pool.submit(lambda instance, x: None, np.ones(100_000)).result(DEADLINE)
        back = pool.submit(lambda instance: kept, timeout=DEADLINE)  # by value: another list
        assert back.result(DEADLINE) == []
        mine: list[Any] = []

    def remember(instance: Any, *values: Any) -> Any:
        if values:
            mine.append(values)
        return [bool((mine[0][0] == np.arange(100_000)).all()), mine[0][1] == bytes(LARGE)]

    with ProcessWasmPool(KERNELS, workers=1) as pool:
        assert pool.submit(remember, first, bytes(LARGE)).result(DEADLINE) == [True, True]
        results = [pool.submit(lambda instance, x: x, np.full(100_000, n)) for n in range(20)]
        for n, future in enumerate(results):
            assert (future.result(DEADLINE) == n).all()
        assert pool.submit(remember).result(DEADLINE) == [True, True]


def test_many_large_jobs_in_flight(nothing_left: None) -> None:
    blobs = [os.urandom(LARGE + n * 1000) for n in range(200)]
    with ProcessWasmPool(KERNELS, workers=2) as pool:
        futures = [pool.submit(lambda instance, x: x[::-1], blob) for blob in blobs]
        small = [pool.submit(lambda instance, x: x + 1, n) for n in range(200)]
        assert [future.result(DEADLINE) for future in futures] == [blob[::-1] for blob in blobs]
        assert [future.result(DEADLINE) for future in small] == list(range(1, 201))
        # Results that are large where arguments are not, and the other way round.
        assert [len(r) for r in pool.map(lambda instance, n: bytes(n), range(LARGE, LARGE + 300))] == list(
            range(LARGE, LARGE + 300)
        )
        assert list(pool.map(lambda instance, x: len(x), blobs)) == [len(blob) for blob in blobs]
        assert list(pool.map("add", range(1000), range(1000))) == list(range(0, 2000, 2)), "buffers are shared with batches"


def test_large_jobs_survive_deaths(nothing_left: None) -> None:
    def work(instance: Any, n: int, data: bytes) -> bytes:
        if n % 10 == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        return data

    blobs = [os.urandom(200_000) for _ in range(60)]
    with ProcessWasmPool(KERNELS, workers=2) as pool:
        futures = [pool.submit(work, n, blob) for n, blob in enumerate(blobs)]
        for n, (future, blob) in enumerate(zip(futures, blobs)):
            if n % 10 == 9:
                assert isinstance(future.exception(DEADLINE), WorkerCrashed)
            else:
                assert future.result(DEADLINE) == blob
        dropped = [pool.submit(lambda instance, x: x, blob) for blob in blobs]
        assert sum(future.cancel() for future in dropped) > 0
        assert pool.submit(lambda instance, x: x, blobs[0]).result(DEADLINE) == blobs[0]


def test_memory_of_large_jobs_is_given_back(nothing_left: None) -> None:
    def shared() -> int:
        with open("/proc/self/smaps_rollup") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith("Pss_Shmem"))

    with ProcessWasmPool(KERNELS, workers=1) as pool:
        before = shared()
        for _ in range(3):
            assert len(pool.submit(lambda instance, x: x, bytes(50_000_000)).result(DEADLINE)) == 50_000_000
        eventually(lambda: shared() - before < 20_000, "pages of the slots to be given back")  # KiB


def test_files_limited_in_size(nothing_left: None) -> None:
    """Where no large file can be made, large values go through the pipes."""
    dumped = dump((bytes(LARGE), np.arange(100_000)))
    data, array = load(dumped.inline(), lambda slot, size: memoryview(b""))
    assert data == bytes(LARGE) and (array == np.arange(100_000)).all()


@settings(max_examples=50)
@given(st.lists(st.integers(0, 4 * LARGE), max_size=4), st.booleans())
def test_any_mixture_of_sizes(sizes: list[int], inline: bool) -> None:
    values = [os.urandom(size) for size in sizes]
    dumped = dump(values)
    area = memoryview(bytearray(dumped.size))
    payload = dumped.inline() if inline else dumped.place(2, area)
    assert load(payload, lambda slot, size: area[:size]) == values


def test_workers_share_nothing(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=2) as pool:
        pool.wait_ready(DEADLINE)
        futures = [pool.submit(lambda instance, x, n: (x, n), bytes([n]) * 100_000, n) for n in range(100)]
        for n, future in enumerate(futures):
            assert future.result(DEADLINE) == (bytes([n]) * 100_000, n)
        assert len(worker_pids(pool)) == 2
