"""Pools of components: that calls, maps, leases and callables do what they do for core modules."""

from __future__ import annotations

import asyncio
import binascii
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wasmtime
from component_texts import SHAPES
from conftest import DEADLINE, FIXTURES, busy_pid, eventually

from procpool import (
    ArgumentOutOfRange,
    BadArguments,
    BadImage,
    BadImport,
    BadWasi,
    CallTimeout,
    InvalidModule,
    LeaseEnded,
    PoolClosed,
    ProcessWasmPool,
    StartupError,
    UnknownExport,
    WasiConfig,
    WasmResultError,
    WasmTrap,
    WorkerCrashed,
)


@pytest.fixture(scope="module")
def shapes() -> Iterator[ProcessWasmPool]:
    """Shared by tests that do no harm to it."""
    with ProcessWasmPool(SHAPES, 2) as pool:
        pool.wait_ready(DEADLINE)
        yield pool


@pytest.mark.parametrize("form", ["text", "text bytes", "binary", "file", "text file"])
def test_sources(form: str, tmp_path: Any, nothing_left: None) -> None:
    binary = bytes(wasmtime.wat2wasm(SHAPES))
    (tmp_path / "shapes.wasm").write_bytes(binary)
    (tmp_path / "shapes.wat").write_text(SHAPES)
    source = {
        "text": SHAPES,
        "text bytes": SHAPES.encode(),
        "binary": binary,
        "file": tmp_path / "shapes.wasm",
        "text file": str(tmp_path / "shapes.wat"),
    }[form]
    with ProcessWasmPool(source, 1) as pool:
        assert pool.call("add", 20, 22) == 42


@pytest.mark.parametrize(
    ("export", "args", "result"),
    [
        ("add", (20, 22), 42),
        ("add", (-(2**31), 0), -(2**31)),
        ("wide", (2**53, 0.5, 1, -3, 60000), float(2**53 + 59998)),
        ("same-char", ("€",), "€"),
        ("same_char", ("\U0010ffff",), "\U0010ffff"),
        ("same-bool", (True,), True),
        ("echo", ("",), ""),
        ("echo", ("grüße \0 \U0001f40d",), "grüße \0 \U0001f40d"),
        ("echo-bytes", (bytes(range(256)),), bytes(range(256))),
        ("echo-bytes", (bytearray(b"x") * 70_000,), b"x" * 70_000),
        ("double", (b"abc",), 6),
        ("demo:sums/sums@1.2.0#plus-all", (1, 2), 3),
        ("demo:sums/sums#plus-all", (1, 2), 3),
        ("plus_all", (1, 2), 3),
    ],
)
def test_calls(shapes: ProcessWasmPool, export: str, args: tuple[Any, ...], result: Any) -> None:
    async def in_a_task() -> Any:
        return await shapes.acall(export, *args)

    assert shapes.call(export, *args) == result
    assert shapes.submit(export, *args).result(DEADLINE) == result
    assert asyncio.run(in_a_task()) == result
    assert list(shapes.starmap(export, [args] * 3)) == [result] * 3
    assert shapes.submit(lambda instance: instance.call(export, *args)).result(DEADLINE) == result
    assert shapes.function(export)(*args) == result
    with shapes.instance() as lease:
        assert lease.call(export, *args) == result


def test_records_are_classes_and_dicts_will_do(shapes: ProcessWasmPool) -> None:
    swapped = shapes.call("swap", {"x_pos": 1, "y_pos": 2})
    assert (swapped.x_pos, swapped.y_pos) == (2, 1)
    assert swapped == shapes.types.Point(2, 1)
    assert shapes.call("swap", swapped) == shapes.types.Point(1, 2)
    assert shapes.submit(lambda instance, point: instance.call("swap", point), swapped).result(DEADLINE).x_pos == 1


def test_an_error_of_the_guests_is_an_exception_and_its_instance_serves_on(shapes: ProcessWasmPool) -> None:
    with ProcessWasmPool(SHAPES, 1) as pool:
        assert pool.call("count") == 1
        with pytest.raises(WasmResultError, match="double returned an error: 7") as caught:
            pool.call("double", b"")
        assert caught.value.payload == 7
        with pytest.raises(WasmResultError):
            pool.submit("double", b"").result(DEADLINE)
        first, second = pool.map("double", [b"ab", b""], return_exceptions=True)
        assert first == 4 and isinstance(second, WasmResultError)
        with pool.instance() as lease:
            with pytest.raises(WasmResultError):
                lease.call("double", b"")
            assert lease.call("count") == 2


@pytest.mark.parametrize(
    ("export", "args", "error", "words"),
    [
        ("add", (1,), BadArguments, "takes 2 arguments"),
        ("add", ("1", 2), BadArguments, "expected s32"),
        ("add", (True, 2), BadArguments, "bool"),
        ("add", (2**31, 0), ArgumentOutOfRange, "s32"),
        ("wide", (-1, 0, 0, 0, 0), ArgumentOutOfRange, "u64"),
        ("wide", (0, 1e39, 0, 0, 0), ArgumentOutOfRange, "f32"),
        ("same-char", ("ab",), BadArguments, "one character"),
        ("same-char", ("\ud800",), BadArguments, "surrogate"),
        ("same-bool", (1,), BadArguments, "True or False"),
        ("echo", (b"x",), BadArguments, "string"),
        ("echo-bytes", (12,), BadArguments, "list<u8>"),
        ("swap", ({"x_pos": 1},), BadArguments, "y.pos"),
        ("ecko", ("x",), UnknownExport, "did you mean 'echo'"),
        ("sums", (), UnknownExport, "no function"),
        (3, (), TypeError, "name of an export"),
    ],
)
def test_what_does_not_fit_is_said_and_not_sent(
    shapes: ProcessWasmPool, export: Any, args: tuple[Any, ...], error: type[Exception], words: str
) -> None:
    for give in (shapes.call, shapes.submit):
        with pytest.raises(error, match=words):
            give(export, *args)
    with shapes.instance() as lease:
        if export != 3:
            with pytest.raises(error, match=words):
                lease.call(export, *args)
        assert lease.call("add", 1, 2) == 3


@pytest.mark.parametrize("isolation", ["pooled", "fresh"])
@pytest.mark.parametrize(
    ("export", "args", "code"),
    [("trap", (), "UNREACHABLE"), ("deep", (1,), "STACK_OVERFLOW"), ("far", (), "MEMORY_OUT_OF_BOUNDS")],
)
def test_traps_name_export_and_code_and_the_next_call_has_a_new_instance(
    isolation: Any, export: str, args: tuple[Any, ...], code: str
) -> None:
    with ProcessWasmPool(SHAPES, 1, isolation=isolation) as pool:
        pids = [worker.pid for worker in pool.stats().workers]
        for give in (pool.call, lambda *given: pool.submit(*given).result(DEADLINE)):
            assert give("count") == 1
            with pytest.raises(WasmTrap, match=f"^{export}: ") as caught:
                give(export, *args)
            assert export == "far" or caught.value.code == code
            assert give("count") == 1, "a component that has trapped cannot be entered again"
            if isolation == "pooled":
                pool.submit(lambda instance: instance.call("count")).result(DEADLINE)
                with pytest.raises(WasmTrap):
                    give("trap")
        assert [worker.pid for worker in pool.stats().workers] == pids


def test_fresh_instances_know_nothing_of_each_other() -> None:
    with ProcessWasmPool(SHAPES, 2, isolation="fresh") as pool:
        assert [pool.call("count") for _ in range(5)] == [1] * 5
        assert set(pool.starmap("count", [()] * 50)) == {1}
        with pool.instance() as lease:
            assert [lease.call("count") for _ in range(3)] == [1, 2, 3]
        assert pool.submit(lambda instance: [instance.call("count") for _ in range(3)]).result(DEADLINE) == [1, 2, 3]


def test_time_limits_stop_the_guest_and_not_its_worker() -> None:
    with ProcessWasmPool(SHAPES, 1) as pool:
        (worker,) = pool.stats().workers
        for _ in range(3):
            with pytest.raises(CallTimeout, match="spin"):
                pool.call("spin", timeout=0.05)
            with pytest.raises(CallTimeout):
                pool.submit("spin", timeout=0.05).result(DEADLINE)
            assert pool.call("add", 1, 2) == 3
        outcomes = list(pool.starmap("spin", [()] * 3, item_timeout=0.05, return_exceptions=True))
        assert [type(each) for each in outcomes] == [CallTimeout] * 3
        job = pool.submit("spin")
        eventually(job.running, "it runs")
        assert job.cancel()
        assert pool.call("count") == 1
        assert [each.pid for each in pool.stats().workers] == [worker.pid]


def test_a_worker_that_dies_is_blamed_on_its_call(nothing_left: None) -> None:
    with ProcessWasmPool(SHAPES, 2, kill_grace=5) as pool:
        job = pool.submit("spin")
        os.kill(busy_pid(pool), signal.SIGKILL)
        with pytest.raises(WorkerCrashed, match="spin"):
            job.result(DEADLINE)
        assert list(pool.map("add", range(100), range(100))) == [2 * n for n in range(100)]


def test_a_call_is_run_again_when_its_worker_dies() -> None:
    def once(instance: Any, path: str) -> int:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return int(instance.call("add", 1, 2))
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    import tempfile

    with tempfile.TemporaryDirectory() as directory, ProcessWasmPool(SHAPES, 1, retries=1) as pool:
        assert pool.submit(once, f"{directory}/mark").result(DEADLINE) == 3


def test_memory_and_fuel_have_limits() -> None:
    with ProcessWasmPool(SHAPES, 1, memory_limit=4 << 20) as pool:
        assert pool.call("grow", 30) > 0
        assert pool.call("grow", 40) == -1
        with pytest.raises(WasmTrap):
            pool.call("echo-bytes", bytes(8 << 20))
        assert pool.call("add", 1, 2) == 3
    with ProcessWasmPool(SHAPES, 1, fuel=100_000) as pool:
        for _ in range(3):
            with pytest.raises(WasmTrap) as caught:
                pool.call("spin")
            assert caught.value.code == "OUT_OF_FUEL"
            assert [pool.call("echo", "x" * 100) for _ in range(20)] == ["x" * 100] * 20, "each call has it anew"
    with pytest.raises(Exception, match="memory"), ProcessWasmPool(SHAPES, 1, memory_limit=1000):
        pass


def test_a_lease_keeps_its_instance_until_a_call_fails() -> None:
    with ProcessWasmPool(SHAPES, 1) as pool:
        with pool.instance() as lease:
            assert [lease.call("count") for _ in range(3)] == [1, 2, 3]
            assert lease.exports["count"]() == 4
            with pytest.raises(LookupError, match="memory"):
                lease.memory  # noqa: B018
            with pytest.raises(BadArguments, match="core modules"):
                lease.call_bytes("echo", b"x")
            with pytest.raises(WasmTrap):
                lease.call("trap")
            with pytest.raises(LeaseEnded):
                lease.call("count")
        assert pool.call("count") == 1
        lease = pool.get()
        pool.put(lease, discard=True)
        assert pool.call("count") == 1


def test_steps_of_start_are_done_in_each_new_instance() -> None:
    def count_on(instance: Any) -> None:
        instance.call("count")

    with ProcessWasmPool(SHAPES, 1, isolation="fresh", start=["count", ("add", 1, 2), count_on]) as pool:
        assert [pool.call("count") for _ in range(3)] == [3, 3, 3]
    with pytest.raises(UnknownExport, match="cownt"):
        ProcessWasmPool(SHAPES, 1, start=["cownt"])
    with pytest.raises(StartupError, match=r"start\[0\], trap: "):
        ProcessWasmPool(SHAPES, 1, start=["trap"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"isolation": "snapshot"}, "fresh"),
        ({"warm": "count"}, "snapshot"),
        ({"recycle_memory": 1 << 20}, "recycle_memory"),
        ({"rename_imports": {"a": "b"}}, "rename_imports"),
        ({"modules": {"math": "(module)"}}, "modules="),
        ({"on_missing_import": "zero"}, "on_missing_import"),
        ({"imports": {"demo:sums/sums@1.2.0": {}}}, "does not import"),
    ],
)
def test_what_components_cannot_have_is_refused_by_name(options: dict[str, Any], words: str, nothing_left: None) -> None:
    with pytest.raises((ValueError, BadImport, InvalidModule), match=words):
        ProcessWasmPool(SHAPES, 1, **options)


def test_what_is_for_core_modules_is_refused_by_name(shapes: ProcessWasmPool) -> None:
    with pytest.raises(BadArguments, match="map_array"):
        shapes.map_array("add", [1], [2])
    with pytest.raises(BadArguments, match="ufunc"):
        shapes.ufunc("add")
    with pytest.raises(BadArguments, match="call_bytes"):
        shapes.call_bytes("echo", b"x")
    with pytest.raises(BadWasi):
        shapes.run(["x"])
    with ProcessWasmPool(SHAPES, 1, wasi=WasiConfig()) as pool, pytest.raises(UnknownExport, match="no command"):
        pool.run(["x"])
    with pytest.raises(BadImport, match="component"):
        ProcessWasmPool("(module)", 1, modules={"math": SHAPES})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('(component (import "wasi:http/types@0.2.0" (instance (export "f" (func)))))', "wasi:http"),
        ('(component (import "f" (func async)))', "asynchronous"),
        ('(component (import "f" (func (param "a" (stream u8)))))', "stream"),
        ('(component (func (export "f") (canon lift (core func 9))))', "refuses this component"),
    ],
)
def test_what_cannot_be_had_is_refused_when_the_pool_is_made(text: str, words: str, nothing_left: None) -> None:
    with pytest.raises(InvalidModule, match=words):
        ProcessWasmPool(text, 1)


def imported(instance: Any) -> list[str]:
    instance.call("add", 1, 2)
    return [name for name in sys.modules if name.startswith("procpool.")]


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_a_worker_imports_nothing_of_the_parents(start_method: Any) -> None:
    code = f"""
from component_texts import SHAPES
from procpool import ProcessWasmPool
import cloudpickle, test_components_pool_calls as tests
cloudpickle.register_pickle_by_value(tests)
with ProcessWasmPool(SHAPES, 1, start_method={start_method!r}) as pool:
    print(*pool.submit(tests.imported).result(45))
"""
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=90, check=True
    )
    for_parents = {"supervisor", "pool", "options", "maps", "kind", "imports", "compilation", "cli", "cluster"}
    assert "procpool.worker.component.holder" in run.stdout.split()
    assert not for_parents.intersection(name.split(".")[1] for name in run.stdout.split())


def test_without_private_names_it_is_refused() -> None:
    code = """
from component_texts import SHAPES
from procpool import InvalidModule, ProcessWasmPool
try:
    ProcessWasmPool(SHAPES, 1)
except InvalidModule as error:
    print(error)
"""
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env={**os.environ, "PROCPOOL_PUBLIC_API": "1"},
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    assert "private names" in run.stdout


def spoil(instance: Any) -> None:
    """From now on this worker answers nonsense."""
    import types

    from procpool.worker.ffi import components

    nonsense = bytes(8) + b"\xff" * 8
    components.binascii = types.SimpleNamespace(hexlify=binascii.hexlify, unhexlify=lambda digits: nonsense)  # type: ignore


def test_what_a_worker_makes_up_is_no_value() -> None:
    with ProcessWasmPool(SHAPES, 1) as pool:
        pool.submit(spoil).result(DEADLINE)
        for give in (pool.call, lambda *given: pool.submit(*given).result(DEADLINE), lambda *given: list(pool.map(*given))):
            with pytest.raises(BadImage):
                give("echo", "x")
        assert pool.call("add", 1, 2) == 3


def test_tasks(shapes: ProcessWasmPool) -> None:
    async def main() -> None:
        assert [each async for each in shapes.amap("add", range(100), range(100))] == [2 * n for n in range(100)]
        spinning = asyncio.create_task(shapes.acall("spin"))
        await asyncio.sleep(0)
        spinning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await spinning
        async with shapes.instance() as lease:
            assert await asyncio.to_thread(lease.call, "add", 1, 2) == 3

    asyncio.run(main())


def test_large_values_in_both_directions_while_workers_die() -> None:
    blobs = [bytes([n]) * (1 << 20) for n in range(40)]
    with ProcessWasmPool(SHAPES, 2, retries=1) as pool:
        assert list(pool.map("echo-bytes", blobs)) == blobs
        jobs = [pool.submit("echo-bytes", blob) for blob in blobs]
        for worker in pool.stats().workers:
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGKILL)
        assert [job.result(DEADLINE) for job in jobs] == blobs
        with pytest.raises(BadArguments, match="one call"):
            pool.call("echo-bytes", bytes(64 << 20))


def test_a_thousand_small_maps(shapes: ProcessWasmPool) -> None:
    for n in range(1000):
        assert list(shapes.map("add", [n, n + 1], [1, 1])) == [n + 1, n + 2]


def test_keys_priorities_and_threads() -> None:
    with ProcessWasmPool(SHAPES, 1, instances=2) as pool:
        jobs = [pool.submit("count", key="a") for _ in range(20)]
        assert [job.result(DEADLINE) for job in jobs] == list(range(1, 21))
        assert pool.submit("add", 1, 2, priority=5).result(DEADLINE) == 3


def test_shutting_down_ends_what_runs(nothing_left: None) -> None:
    pool = ProcessWasmPool(SHAPES, 2)
    jobs = [pool.submit("spin") for _ in range(4)]
    pool.terminate()
    for job in jobs:
        with pytest.raises(PoolClosed):
            job.result(DEADLINE)


def test_a_map_taken_after_the_pool_has_ended() -> None:
    with ProcessWasmPool(SHAPES, 2) as pool:
        results = pool.map("echo", [str(n) for n in range(500)])
    assert list(results) == [str(n) for n in range(500)]


def test_spawned_workers_do_it_too() -> None:
    with ProcessWasmPool(SHAPES, 1, start_method="spawn") as pool:
        assert pool.call("echo", "x") == "x"


def test_a_compiled_component_is_found_again(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kinds: list[str] = []
    for _ in range(2):
        with ProcessWasmPool(SHAPES, 1, on_event=lambda event: kinds.append(event.kind)) as pool:
            assert pool.call("add", 1, 2) == 3
    assert kinds.count("compiled") == 1


def test_values_of_named_types_are_the_same_beside_the_instance_and_here() -> None:
    """Also in cloudpickle, which takes classes that no module has apart, and makes other ones of them."""
    page = (FIXTURES.parent / "docs" / "howto" / "components.md").read_text()
    source = page.partition("<!-- file: shapes.wat -->")[2].split("```")[1].partition("\n")[2]
    with ProcessWasmPool(source, 1, timeout=DEADLINE) as pool:
        shape, rectangle = pool.types.Shape, pool.types.Rectangle

        def there(instance: Any, value: Any) -> tuple[Any, int, bool]:
            return value, instance.call("area", value), isinstance(value, shape)

        for value, area in ((shape.Circle(2), 12), (shape.Box(rectangle(2, 3)), 6)):
            back, seen, known = pool.submit(there, value).result()
            assert (back, seen, known) == (value, area, True)
            assert type(back) is type(value)
        assert pool.submit(lambda _, cls: cls, shape.Circle).result() is shape.Circle
