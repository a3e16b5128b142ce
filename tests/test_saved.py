"""Snapshots on disk: saved by a program, made up by somebody, or kept in the cache."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import wasmtime
from conftest import DEADLINE
from warmed import COUNTER, FIRST

from procpool import (
    BadSnapshot,
    InvalidModule,
    MemoryType,
    PoolClosed,
    ProcessWasmPool,
    TableType,
    WasiConfig,
    inspect,
    wire,
)
from procpool.binary import INNER, read_interface
from procpool.cli import main
from procpool.compiled_program import compile_program
from procpool.exposed import exposed
from procpool.files import anonymous_file
from procpool.keeper import check_fits
from procpool.options import PoolOptions
from procpool.raw import RAW
from procpool.saved import opened, save
from procpool.start_steps import start_steps
from procpool.warming import Warming

pytestmark = pytest.mark.skipif(not RAW, reason="snapshots need wasmtime-py's private names")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "warm.snapshot"
    with ProcessWasmPool(COUNTER, 1, warm="boot") as pool:
        pool.save_snapshot(path)
    return path


def test_a_pool_begins_from_a_saved_snapshot(saved: Path, nothing_left: None) -> None:
    assert os.listdir(saved.parent) == [saved.name]
    with ProcessWasmPool(saved, 1) as pool:
        assert [pool.call("count") for _ in range(2)] == [FIRST, FIRST + 1_001_001]
        pool.save_snapshot(saved)  # what it began from, once more
    with ProcessWasmPool(str(saved), 1, isolation="snapshot") as pool:
        assert [pool.call("count") for _ in range(40)] == [FIRST] * 40


def test_a_saved_snapshot_keeps_what_a_text_module_in_a_file_was(tmp_path: Path, nothing_left: None) -> None:
    module, path = tmp_path / "counter.wat", tmp_path / "a"
    module.write_text(COUNTER)
    with ProcessWasmPool(module, 1, warm="boot", wasi=WasiConfig()) as pool:
        module.write_text(COUNTER + " ")
        with pytest.raises(BadSnapshot, match=r"counter\.wat has changed"):
            pool.save_snapshot(path)
        module.write_text(COUNTER)
        pool.save_snapshot(path)
    module.unlink()
    with ProcessWasmPool(path, 1, isolation="snapshot", wasi=WasiConfig()) as pool:
        assert pool.run([]).returncode == 0
        assert pool.call("count") == FIRST


def test_a_saved_snapshot_that_cannot_be_used_says_why(saved: Path, nothing_left: None) -> None:
    whole = saved.read_bytes()

    def refused(content: bytes, why: str = "cannot be used") -> None:
        saved.write_bytes(content)
        with pytest.raises(BadSnapshot, match=why):
            ProcessWasmPool(saved, 1)

    refused(whole[:-1], "not whole")
    refused(whole + b"x", "not whole")
    for size in (15, 17, 30, 100):
        refused(whole[:size])
    refused(whole.replace(b"wasmtime-", b"wasmtime_", 1), "was saved with wasmtime_.*save it again")
    refused(whole.replace(b"procpool state 2", b"procpool state 1", 1), "another version of procpool")
    refused(whole.replace(b"(memory", b"(nemory", 1), "its module has changed")
    at = whole.index(b"procsnp") + 65536 + 70000  # where the counter is
    assert whole[at] == 40
    refused(whole[:at] + b"\x29" + whole[at + 1 :], "its memory has changed")
    refused(whole.replace(b"procsnp", b"procsnq", 1), "its memory has changed")
    refused(whole.replace(b'"name"', b'"game"', 1), "'name'")
    refused(whole.replace(b'"<bytes>"', b"[1234567]", 1), "its head is none of ours")
    saved.write_bytes(whole)
    with pytest.raises(ValueError, match="warm was done before"):
        ProcessWasmPool(saved, 1, warm="boot")
    with pytest.raises(ValueError, match="start was done before"):
        ProcessWasmPool(saved, 1, start=["count"])
    with pytest.raises(InvalidModule, match="only a pool of its path"):
        inspect(saved)
    with pytest.raises(InvalidModule, match=r"modules\['lib'\]: .* a module with a snapshot"):
        ProcessWasmPool(COUNTER, 1, modules={"lib": saved})


@pytest.mark.fast
def test_damage_to_a_saved_snapshot_is_seen(saved: Path) -> None:
    whole = bytearray(saved.read_bytes())
    before = opened(saved)
    assert before is not None
    pick = random.Random(3)
    name = range(whole.index(b"<bytes>"), whole.index(b"<bytes>") + 7)
    flipped = [at for at in (pick.randrange(len(whole)) for _ in range(100)) if at not in name]
    for at in [*flipped, *range(16, 400, 7)]:
        damaged = whole.copy()
        damaged[at] ^= 1 << pick.randrange(8)
        saved.write_bytes(damaged)
        with contextlib.suppress(BadSnapshot):
            found = opened(saved)
            # A wrong name of a key is seen, and so is what is wrong at it; but not each bit of each name is looked at.
            assert found is not None and at in name and found.module == before.module
            os.close(found.state)
    os.close(before.state)


def forged(path: Path, state: wire.State, contents: Sequence[bytes] = (), module: str = COUNTER) -> Path:
    """A saved snapshot that somebody has made up."""
    fd = anonymous_file(b"")
    wire.write_state(fd, state, [memoryview(each) for each in contents])
    save(path, module.encode(), "forged", {}, fd)
    os.close(fd)
    return path


FORGEABLE = """(module (memory 1 2) (memory i64 1) (table $t 2 4 funcref) (table $e 2 externref) (func $f) (elem declare func $f)
  (global (mut i32) (i32.const 0)) (global (mut funcref) (ref.func $f)) (global (mut externref) (ref.null extern))
  (data $d "x") (func (export "count") (result i32) (data.drop $d) (i32.const 1)))"""


def forgeable(**changed: Any) -> wire.State:
    """A snapshot of that, but for what is changed: `memory_0={"size": 1}`, say, or `dropped`."""

    def each(kind: str, known: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(replace(each, **changed.get(f"{kind}_{at}", {})) for at, each in enumerate(known))

    return wire.State(
        each("memory", [wire.MemoryState(f"{INNER}memory {at}", 65536) for at in range(2)]),
        each(
            "global",
            [
                wire.GlobalState(f"{INNER}global {at}", type_, value)
                for at, (type_, value) in enumerate([("i32", 7), ("funcref", 0), ("externref", None)])
            ],
        ),
        each("table", [wire.TableState(f"{INNER}table {at}", 2, ()) for at in range(2)]),
        changed.get("dropped", ()),
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"memory_0": {"size": 3 * 65536}},
        {"memory_0": {"size": 0}},
        {"memory_0": {"size": 65537}},
        {"memory_0": {"name": "memory"}},
        {"memory_0": {"name": f"{INNER}memory 1"}},
        {"memory_0": {"name": f"{INNER}global 0"}},
        {"global_0": {"value": 1 << 32}},
        {"global_0": {"value": -1}},
        {"global_0": {"value": None}},
        {"global_0": {"type": "i64"}},
        {"global_0": {"type": "i32)) (func"}},
        {"global_1": {"value": 2}},
        {"global_1": {"value": -1}},
        {"global_2": {"value": 0}},
        {"global_2": {"name": "\ud800"}},
        {"table_0": {"size": 5}},
        {"table_0": {"size": 1}},
        {"table_0": {"elements": ((2, 0),)}},
        {"table_0": {"elements": ((-1, 0),)}},
        {"table_0": {"elements": ((0, 9),)}},
        {"table_1": {"size": 1 << 32}},
        {"table_1": {"size": 1 << 64}},
        {"table_1": {"elements": ((0, 0),)}},
        {"dropped": (f"{INNER}drop data 1",)},
        {"dropped": (f"{INNER}kept data 0",)},
    ],
    ids=str,
)
@pytest.mark.fast
def test_a_forged_snapshot_is_refused_before_anything_begins(changed: dict[str, Any]) -> None:
    inner = read_interface(exposed(bytes(wasmtime.wat2wasm(FORGEABLE)))).inner
    check_fits(forgeable(), inner)
    with pytest.raises(BadSnapshot, match="of another module"):
        check_fits(forgeable(**changed), inner)


def test_a_forged_snapshot_that_fits_is_one(tmp_path: Path, nothing_left: None) -> None:
    full = bytes(65536)
    for how in ({}, {"isolation": "snapshot"}):
        with ProcessWasmPool(forged(tmp_path / "a", forgeable(), [full, full], FORGEABLE), 1, **how) as pool:
            assert pool.call("count") == 1
    with pytest.raises(BadSnapshot, match="of another module"):
        ProcessWasmPool(forged(tmp_path / "a", forgeable(), [full, full]), 1)


def test_a_snapshot_that_the_limits_do_not_allow(tmp_path: Path, nothing_left: None) -> None:
    path = tmp_path / "a"
    with ProcessWasmPool(COUNTER, 1, warm="grow") as pool:
        pool.save_snapshot(path)
    with pytest.raises(
        BadSnapshot, match=r"^the snapshot's memory 0 takes 196,608 bytes, and memory_limit does not allow that"
    ):
        ProcessWasmPool(path, 1, memory_limit=2 * 65536)
    table = '(module (table $t 1 funcref) (func (export "grow") (drop (table.grow $t (ref.null func) (i32.const 9999)))))'
    with ProcessWasmPool(table, 1, warm="grow") as pool:
        pool.save_snapshot(path)
    with pytest.raises(
        BadSnapshot, match=r"^the snapshot's table 0 has 10,000 elements, and memory_limit does not allow that"
    ):
        ProcessWasmPool(path, 1, memory_limit=65536)


def test_imports_that_are_larger_than_they_were(tmp_path: Path, nothing_left: None) -> None:
    module = """(module (import "env" "m" (memory 1)) (import "env" "t" (table 1 funcref))
      (func (export "sizes") (result i32) (i32.add (memory.size) (i32.mul (i32.const 10) (table.size)))))"""

    def imports(pages: int, elements: int) -> dict[str, Any]:
        return {"imports": {"env": {"m": MemoryType(pages), "t": TableType("funcref", elements)}}}

    with ProcessWasmPool(module, 1, isolation="snapshot", **imports(2, 3)) as pool:
        pool.save_snapshot(tmp_path / "a")
    for how in (imports(2, 3), imports(1, 1)):  # what is smaller grows
        with ProcessWasmPool(tmp_path / "a", 1, isolation="snapshot", **how) as pool:
            assert [pool.call("sizes") for _ in range(3)] == [32] * 3
    with pytest.raises(BadSnapshot, match=r"^the snapshot's memory 0 is smaller than the one that imports= gives now"):
        ProcessWasmPool(tmp_path / "a", 1, **imports(3, 3))
    with pytest.raises(BadSnapshot, match=r"^the snapshot's table 0 is smaller"):
        ProcessWasmPool(tmp_path / "a", 1, **imports(2, 4))


def test_who_has_no_snapshot_saves_none(tmp_path: Path, nothing_left: None) -> None:
    with ProcessWasmPool(COUNTER, 1) as pool, pytest.raises(BadSnapshot, match="no snapshot to save; give it warm="):
        pool.save_snapshot(tmp_path / "a")
    with ProcessWasmPool(COUNTER, 1, isolation="snapshot") as pool, pytest.raises(OSError):
        pool.save_snapshot(tmp_path / "no" / "a")
    with pytest.raises(PoolClosed):
        pool.save_snapshot(tmp_path / "a")
    assert os.listdir(tmp_path) == []


@pytest.mark.fast
def test_a_key_has_all_that_a_snapshot_depends_on(tmp_path: Path) -> None:
    def key(module: str = COUNTER, **given: Any) -> str | None:
        options = PoolOptions(cache=False, **{"warm": "boot", **given})
        with contextlib.closing(compile_program(module, {}, {}, False, options.engine, inner=True)) as compiled:
            spec = None if options.wasi is None else options.wasi.spec()
            steps = start_steps(options.warm_steps, compiled.program.exports, "warm")
            environment = wire.Environment({}, options.initializer, (), spec)
            return Warming(compiled, (), environment, steps, options, "a name").key()

    assert key() == key()
    keys = [
        key(),
        key(warm="count"),
        key(warm=["boot", "boot"]),
        key(COUNTER + " "),
        key(fuel=1000),
        key(memory_limit=1 << 20),
        key(features=["custom-page-sizes"]),
        *(key(wasi=WasiConfig(**each)) for each in ({}, {"args": ["a"]}, {"env": {"a": "b"}}, {"stdin": b"a"})),
    ]
    assert None not in keys and len(set(keys)) == len(keys)
    # Python code, or files, may be others the next time.
    assert key(warm=lambda instance: None) is None
    assert key(initializer=print) is None
    assert key(wasi=WasiConfig(preopens={"/": tmp_path})) is None
    assert key(wasi=WasiConfig(stdin="inherit")) is None


def test_a_snapshot_is_kept_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], nothing_left: None
) -> None:
    monkeypatch.setenv("PROCPOOL_CACHE_DIR", str(tmp_path / "cache"))
    module = f'(module {COUNTER.strip()[len("(module") : -1]} (func (export "mine")))'
    taken: list[int] = []
    monkeypatch.setattr(Warming, "_taken", lambda self, real=Warming._taken: taken.append(1) or real(self))

    def first(**how: Any) -> Any:
        with ProcessWasmPool(module, 1, isolation="snapshot", **how) as pool:
            return pool.call("count")

    def kept() -> list[Path]:
        return [entry for entry in (tmp_path / "cache").iterdir() if entry.read_bytes().startswith(b"procsnp")]

    assert [first(warm="boot"), first(warm="boot"), first(warm="count")] == [FIRST, FIRST, 2_002_002]
    assert len(taken) == len(kept()) == 2
    assert first(warm="boot", cache=False) == FIRST
    assert (len(taken), len(kept())) == (3, 2)
    for entry in kept():
        entry.write_bytes(b"procsnp")
    assert first(warm="boot") == FIRST  # a damaged one is taken again
    assert len(taken) == 4

    assert main(["cache"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"{tmp_path / 'cache'}: ")
    assert shown.endswith("of at most 2,147,483,648\n")
    assert main(["cache", "--clear", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["files"], told["bytes"], told["removed"] > 65536) == (0, 0, True)
    assert list((tmp_path / "cache").iterdir()) == []
    monkeypatch.setenv("PROCPOOL_CACHE_DIR", "off")
    assert main(["cache"]) == 2


def test_what_is_no_file_is_not_replaced_by_a_snapshot(tmp_path: Path) -> None:
    pipe, link, target = tmp_path / "pipe", tmp_path / "link", tmp_path / "target"
    os.mkfifo(pipe)
    link.symlink_to(target)
    target.write_bytes(b"old")
    with ProcessWasmPool(COUNTER, workers=1, warm="boot") as pool:
        with pytest.raises(FileExistsError, match="no file that could be replaced"):
            pool.save_snapshot(pipe)
        pool.save_snapshot(link)
    assert pipe.is_fifo() and link.is_symlink()
    with ProcessWasmPool(target, workers=1) as pool:
        assert pool.call("count", timeout=DEADLINE) == FIRST
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe", "target"]


def test_who_is_killed_while_it_saves_leaves_nothing(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from procpool import ProcessWasmPool, saved\n"
        "saved.os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)\n"
        "with ProcessWasmPool(sys.argv[1], workers=1, warm='boot') as pool:\n"
        "    pool.save_snapshot(sys.argv[2])\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, COUNTER, str(tmp_path / "snapshot")], timeout=DEADLINE)
    assert ended.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == []
