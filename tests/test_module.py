"""From sources to an artifact: what is taken, and how the rest is refused before any process starts."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psutil
import pytest
from bounded import environment, run_script
from conftest import FIXTURES, KERNELS

from procpool import InvalidModule, MissingImport, ProcessWasmPool, StartupError, WasmTrap
from procpool.compilation import compile_module

ADD = '(module (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1))))'


@pytest.mark.parametrize("form", ["path", "str", "bytes", "bytearray", "wat", "wat bytes", "wat file"])
def test_sources(form: str, tmp_path: Path, nothing_left: None) -> None:
    source: object = {
        "path": KERNELS,
        "str": str(KERNELS),
        "bytes": KERNELS.read_bytes(),
        "bytearray": bytearray(KERNELS.read_bytes()),
        "wat": "\n ;; a comment first\n" + ADD,
        "wat bytes": ADD.encode(),
        "wat file": tmp_path / "add.wat",
    }[form]
    (tmp_path / "add.wat").write_text(ADD)
    with ProcessWasmPool(source, workers=1) as pool:  # type: ignore[arg-type]
        assert pool.call("add", 20, 22) == 42


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        (b"", InvalidModule, "empty"),
        (b"MZ\x90\0 not wasm", InvalidModule, "are not WebAssembly"),
        (KERNELS.read_bytes()[:200], InvalidModule, "refuses"),
        (b"\0asm\x02\0\0\0", InvalidModule, "version"),
        (b"\0asm\x0d\0\x01\0\x07", InvalidModule, "component"),
        ("(module (func (export", InvalidModule, "not valid WAT"),
        ("(module (func (result i32) i64.const 1))", InvalidModule, "type mismatch"),
        ("no/such/file.wasm", FileNotFoundError, "no/such/file.wasm"),
        (FIXTURES, IsADirectoryError, "fixtures"),
        (12, TypeError, "int"),
        ("no/\ud800.wasm", InvalidModule, r"'no/\\ud800\.wasm' is no path"),
        ("no/\0.wasm", InvalidModule, r"'no/\\x00\.wasm' is no path"),
        ('(module (func (export "\ud800")))', InvalidModule, "given text is not UTF-8: its character 23 is half of one"),
        ('(module (import "env" "log" (func (param i32))))', MissingImport, r"env\.log.*\(i32\) -> \(\)"),
    ],
)
def test_refused_before_any_process_starts(
    source: object, error: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch, nothing_left: None
) -> None:
    def no_process(*args: object, **kwargs: object) -> None:
        pytest.fail("a process was started")

    monkeypatch.setattr(subprocess, "Popen", no_process)
    with pytest.raises(error, match=words):
        ProcessWasmPool(source)  # type: ignore[arg-type]


def test_a_truncated_file_of_any_length_is_refused(tmp_path: Path) -> None:
    whole = (FIXTURES / "misbehave.wasm").read_bytes()
    for size in range(1, len(whole), 7):
        path = tmp_path / "cut.wasm"
        path.write_bytes(whole[:size])
        try:
            os.close(compile_module(path).artifact)
        except InvalidModule:
            continue
        # A cut between two sections can leave a smaller valid module.
        assert size >= 8


def test_a_start_function_that_traps_fails_the_construction(nothing_left: None) -> None:
    with pytest.raises(StartupError, match="unreachable") as caught:
        ProcessWasmPool(FIXTURES / "badstart.wat", workers=4)
    assert isinstance(caught.value.__cause__, WasmTrap)
    assert caught.value.__cause__.code == "UNREACHABLE"


def test_the_artifact_has_no_name_and_workers_map_it(nothing_left: None) -> None:
    before = set(os.listdir("/dev/shm")) | set(os.listdir("/tmp"))
    with ProcessWasmPool(KERNELS, workers=1, cache=False) as pool:
        assert set(os.listdir("/dev/shm")) | set(os.listdir("/tmp")) <= before
        maps = psutil.Process(pool.stats().workers[0].pid).memory_maps()
        assert any("memfd:procpool" in entry.path for entry in maps)


def test_compiled_once_per_machine(tmp_path: Path) -> None:
    """A second run finds what the first one has kept, in the usual place."""
    script = f"""
from procpool.compilation import compile_module
compile_module({str(KERNELS)!r}, announce=lambda kind, pid, message: print(kind))
"""
    unset = {name: value for name, value in environment().items() if name != "PROCPOOL_CACHE_DIR"}
    cached = {**unset, "XDG_CACHE_HOME": str(tmp_path / "new")}
    assert [run_script(script, env=cached).stdout.split() for _ in range(2)] == [["compiling", "compiled"], []]
    assert [path.name for path in tmp_path.glob("*/*")] == ["procpool"]


def test_without_a_usable_cache_it_compiles_anyway(tmp_path: Path) -> None:
    homeless = {name: value for name, value in environment().items() if name not in ("HOME", "XDG_CACHE_HOME")}
    script = f"from procpool import ProcessWasmPool; print(ProcessWasmPool({str(KERNELS)!r}, 1).call('add', 1, 2))"
    run = run_script(script, env={**homeless, "HOME": "/dev/null"})
    assert run.stdout == "3\n", run.stderr
