"""Clocks and random numbers that are the same in each instance."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import FIXTURES

from procpool import BadWasi, ProcessWasmPool, WasiConfig

GUEST = """(module
  (import "wasi_snapshot_preview1" "clock_time_get" (func $time (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (global $begun (mut i64) (i64.const 0))
  (func $start (drop (call $time (i32.const 0) (i64.const 0) (i32.const 0))) (global.set $begun (i64.load (i32.const 0))))
  (start $start)
  (func (export "begun") (result i64) (global.get $begun))
  (func (export "time") (param i32) (result i64)
    (drop (call $time (local.get 0) (i64.const 0) (i32.const 0))) (i64.load (i32.const 0)))
  (func (export "random") (result i64)
    (drop (call $random (i32.const 0) (i32.const 8))) (i64.load (i32.const 0)))
  (func (export "fault") (param i32 i32) (result i32)
    (i32.or (call $random (local.get 0) (local.get 1)) (i32.shl (call $time (i32.const 0) (i64.const 0) (local.get 0))
      (i32.const 8))))
  (func (export "_start") (drop (call $random (i32.const 0) (i32.const 1)))
    (call $exit (i32.and (i32.load8_u (i32.const 0)) (i32.const 63)))))"""
SECONDS = 1_000_000_000


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_each_instance_sees_the_same(start_method: Any) -> None:
    config = WasiConfig(clock=1_700_000_000.5, random_seed=7)
    seen = []
    for isolation in ("pooled", "snapshot", "fresh"):
        options: dict[str, Any] = {"isolation": isolation, "start_method": start_method, "cache": False}
        with ProcessWasmPool(GUEST, workers=1, wasi=config, callables=False, **options) as pool:
            if isolation != "snapshot":  # whose start function is behind it
                assert pool.call("begun") == 1_700_000_000_500_001_000
            seen.append([pool.call("random") for _ in range(3)])
            codes = {pool.run().returncode for _ in range(3)}
            assert len(codes) == 1, "a command begins anew, whatever went on beside it"
    pooled, snapshot, fresh = seen
    assert len(set(pooled)) == 3, "in one instance they go on"
    assert set(snapshot) == set(fresh) == {pooled[0]}


def test_clocks_move_only_when_they_are_looked_at() -> None:
    with ProcessWasmPool(GUEST, workers=1, wasi=WasiConfig(clock=5), callables=False) as pool:
        first = [pool.call("time", 0) for _ in range(40)]  # at first by Python, later it would be by wasm
        assert first == [5 * SECONDS + 1000 * n for n in range(2, 42)]
        assert pool.call("time", 1) == 42_000
        assert len({pool.call("random") for _ in range(3)}) == 3, "the machine's"
    with ProcessWasmPool(GUEST, workers=1, wasi=WasiConfig(), callables=False) as pool:
        assert pool.call("time", 0) > 10**18


def test_a_command_leaves_the_instance_where_it_was() -> None:
    with ProcessWasmPool(GUEST, workers=1, wasi=WasiConfig(random_seed=1), callables=False) as pool:
        alone = [pool.call("random") for _ in range(4)]
    with ProcessWasmPool(GUEST, workers=1, wasi=WasiConfig(random_seed=1), callables=False) as pool:
        beside = []
        for _ in range(4):
            beside.append(pool.call("random"))
            pool.run()
    assert alone == beside


def test_addresses_that_are_none() -> None:
    with ProcessWasmPool(GUEST, workers=1, wasi=WasiConfig(clock=0, random_seed=1), callables=False) as pool:
        assert pool.call("fault", 65530, 8) == 21 | 21 << 8
        assert pool.call("fault", -1, 8) == 21 | 21 << 8
        assert pool.call("fault", 0, -1) == 21
        assert pool.call("fault", 65528, 8) == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"clock": -1}, "clock"),
        ({"clock": "now"}, "clock"),
        ({"clock": True}, "clock"),
        ({"clock": float("nan")}, "clock"),
        ({"clock": 2**40}, "clock"),
        ({"random_seed": 1.5}, "random_seed"),
        ({"random_seed": "x"}, "random_seed"),
    ],
)
def test_what_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(BadWasi, match=says):
        ProcessWasmPool(FIXTURES / "command.wasm", workers=1, wasi=WasiConfig(**options))


def test_linked_modules_are_refused() -> None:
    main = '(module (import "lib" "random" (func (result i64))))'
    with pytest.raises(BadWasi, match="linked"):
        ProcessWasmPool(main, workers=1, modules={"lib": GUEST}, wasi=WasiConfig(random_seed=1))
