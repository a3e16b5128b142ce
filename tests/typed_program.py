"""A user's program as type checkers see it: `test_typed_program.py` has mypy and pyright check it, and runs it.

What a checker must refuse is marked by a comment that it must find necessary.
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import Unpack, assert_type

from procpool import (
    AsyncMapResults,
    Balance,
    BytesConvention,
    BytesFunction,
    Casting,
    CompletedRun,
    EventKind,
    ExportFunction,
    Instance,
    Isolation,
    Lease,
    MapResults,
    Memory,
    OnFull,
    OrderedMap,
    PoolEvent,
    PoolStats,
    Preopens,
    ProcessWasmPool,
    Returns,
    StartMethod,
    WasiConfig,
    without_instance,
)

FIXTURES = Path(__file__).parent.parent / "fixtures"


def digest(instance: Instance, data: bytes, rounds: int = 1) -> bytes:
    address = instance.call("alloc", 64)
    instance.memory[address : address + len(data)] = data
    return bytes(instance.memory[address : address + 1]) * rounds


def scaled(instance: Instance, value: int, by: float) -> float:
    return value * by


def text(instance: Instance) -> str:
    return type(instance).__name__


def summed(instance: Instance, a: int, b: int, c: int) -> int:
    return a + b + c


class Tool:
    def method(self, instance: Instance, n: int) -> complex:
        return complex(n)

    def __call__(self, instance: Instance) -> list[int]:
        return [1]


def halved(n: int) -> float:
    return n / 2


def futures(pool: ProcessWasmPool) -> None:
    assert_type(pool.submit("alloc", 1), Future[Any])
    assert_type(pool.submit(digest, b"x"), Future[bytes])
    assert_type(pool.submit(digest, b"x", 3, timeout=5, priority=1, key="a", retries=None), Future[bytes])
    assert_type(pool.submit(scaled, 3, 0.5).result(), float)
    assert_type(pool.submit(text), Future[str])
    assert_type(pool.submit(Tool().method, 1), Future[complex])
    assert_type(pool.submit(Tool()), Future[list[int]])
    assert_type(pool.submit(lambda instance: instance.grow(0)), Future[int])
    assert_type(pool.submit(lambda instance, n: n + 1, 3), Future[int])
    assert_type(pool.submit(functools.partial(scaled, by=2.0), 3), Future[float])
    assert_type(pool.submit(BytesFunction("sha256", returns=32), b"x"), Future[Any])
    assert_type(pool.submit(BytesFunction("sha256", 32, convention="c", result=bytes), "x"), Future[Any])
    assert_type(pool.submit(without_instance(halved), 3, timeout=5), Future[float])
    assert_type(pool.function("alloc"), ExportFunction)
    assert_type(pool.submit_bytes("sha256", b"x", returns=32), Future[Any])
    assert_type(pool.call("alloc", 1, timeout=math.inf), Any)


async def tasks(pool: ProcessWasmPool) -> None:
    assert_type(await pool.acall(digest, b"x"), bytes)
    assert_type(await pool.acall("alloc", 1), Any)
    assert_type(pool.amap(digest, [b"x", b"y"]), AsyncMapResults[bytes])
    assert_type([result async for result in pool.amap(digest, [b"x"])], list[bytes])
    loop = asyncio.get_running_loop()
    assert_type(await loop.run_in_executor(pool.plain_executor(), halved, 3), float)
    async with pool.instance() as lease:
        assert_type(lease, Lease)
    await pool.aput(await pool.aget(timeout=5), discard=True)


def maps(pool: ProcessWasmPool) -> None:
    assert_type(pool.map("alloc", [1, 2]), MapResults[Any])
    assert_type(pool.map(digest, [b"x"]), MapResults[bytes])
    assert_type(pool.map(digest, [b"x"], range(3), chunksize=None, ordered=True), MapResults[bytes])
    assert_type(pool.map(summed, [1], [2], [3]), MapResults[int])
    assert_type(pool.map(scaled, [1], [0.5], ordered=False), MapResults[tuple[int, float]])
    assert_type(pool.map(scaled, [1], [0.5], return_exceptions=True), MapResults[float | BaseException])
    assert_type(pool.map(scaled, [1], [0.5], return_exceptions=True, ordered=False), MapResults[Any])
    assert_type(pool.starmap(scaled, [(1, 0.5)], timeout=30), MapResults[float])
    assert_type(pool.starmap("alloc", [(1,)]), MapResults[Any])
    assert_type(list(pool.map(without_instance(halved), [1, 2], progress=False)), list[float])
    for one in pool.map(digest, [b"x"]):
        assert_type(one, bytes)


def patient(pool: ProcessWasmPool, blobs: list[bytes], **keywords: Unpack[OrderedMap]) -> list[bytes]:
    """Passes keywords on."""
    return list(pool.map(digest, blobs, **keywords))


def hashed(pool: ProcessWasmPool, data: bytes, **convention: Unpack[BytesConvention]) -> Any:
    return pool.call_bytes("sha256", data, **convention)


def plain(pool: ProcessWasmPool) -> None:
    executor: Executor = pool.plain_executor()
    assert_type(executor.submit(halved, 3), Future[float])
    assert_type(pool.plain_executor().submit(halved, n=3), Future[float])
    assert_type(pool.closed, bool)


def leases(pool: ProcessWasmPool) -> None:
    with pool.instance(timeout=5) as lease:
        assert_type(lease, Lease)
        assert_type(lease.memory, Memory)
        assert_type(lease.grow(0), int)


def looking(pool: ProcessWasmPool) -> None:
    stats: PoolStats = pool.stats()
    assert_type([worker.pid for worker in stats.workers], list[int | None])


kinds: list[EventKind] = []


def on_event(event: PoolEvent) -> None:
    kinds.append(event.kind)


def make(
    src: Path,
    isolation: Isolation = "pooled",
    balance: Balance = "round_robin",
    on_full: OnFull = "raise",
    start_method: StartMethod | None = None,
) -> ProcessWasmPool:
    return ProcessWasmPool(
        src, 2, isolation=isolation, balance=balance, on_full=on_full, start_method=start_method, on_event=on_event
    )


def commands() -> None:
    preopens: Preopens = {"/data": FIXTURES, "/more": (FIXTURES, "ro")}
    with ProcessWasmPool(FIXTURES / "command.wasm", 1, wasi=WasiConfig(preopens=preopens)) as pool:
        assert_type(pool.run(["upper", "upper"], stdin=b"x", stdout="capture"), CompletedRun)
        assert_type(pool.submit_run(["upper", "upper"]), Future[CompletedRun])
        assert_type(pool.run_map([b"x"], args=["upper", "upper"], stderr=None, env={"A": "b"}), MapResults[CompletedRun])


returns: Returns = "packed"
casting: Casting = "same_kind"

if TYPE_CHECKING:  # what is wrong, and never runs

    def wrong(pool: ProcessWasmPool) -> None:
        pool.submit(halved, 3)  # type: ignore
        pool.submit(digest, "text")  # type: ignore
        pool.submit(digest)  # type: ignore
        pool.submit(digest, b"x", timeout="1")  # type: ignore
        pool.submit(digest, b"x", patience=1)  # type: ignore
        pool.submit("add", 1, priority="high")  # type: ignore
        pool.submit(3)  # type: ignore
        pool.map(digest, ["text"])  # type: ignore
        pool.map(halved, [1])  # type: ignore
        pool.map(digest, [b"x"], timeout="1")  # type: ignore
        pool.map(digest, [b"x"], time=1)  # type: ignore
        pool.starmap(digest, [(b"x",)], size=1)  # type: ignore
        pool.amap(halved, [1])  # type: ignore
        pool.call_bytes("sha256", b"x", returns="odd")  # type: ignore
        pool.call_bytes("sha256", b"x", result=32)  # type: ignore
        pool.call_bytes("sha256", b"x", convention="rust")  # type: ignore
        pool.run_map([b""], stdio=None)  # type: ignore
        pool.map_array("add", [1], casting="odd")  # type: ignore
        pool.plain_executor().submit(halved, "x")  # type: ignore
        pool.plain_executor().submit(halved)  # type: ignore
        without_instance(3)  # type: ignore
        result: Future[int] = pool.submit(digest, b"x")  # type: ignore
        function: Callable[[], None] = pool.function  # type: ignore
        ProcessWasmPool("x", isolation="odd")  # type: ignore
        ProcessWasmPool("x", balance="odd")  # type: ignore
        ProcessWasmPool("x", on_full="odd")  # type: ignore
        ProcessWasmPool("x", start_method="fork")  # type: ignore
        WasiConfig(preopens={"/": ("x", "wr")})  # type: ignore
        WasiConfig(stdout=3)  # type: ignore

    async def wrong_too(pool: ProcessWasmPool) -> None:
        await pool.acall(halved, 3)  # type: ignore
        await pool.acall(digest, "text")  # type: ignore
        wait: int = await pool.acall(digest, b"x")  # type: ignore


def main() -> None:
    with make(FIXTURES / "sha256.wasm") as pool:
        futures(pool)
        maps(pool)
        assert patient(pool, [b"x"], timeout=30) == [b"x"]
        assert len(hashed(pool, b"x", returns=32)) == 32
        plain(pool)
        leases(pool)
        looking(pool)
        asyncio.run(tasks(pool))
    commands()


if __name__ == "__main__":
    main()
