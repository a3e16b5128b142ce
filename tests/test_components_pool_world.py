"""What components import: functions of the user's, and WASI 0.2; and components that are commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from component_texts import CALLER, COMMAND
from conftest import DEADLINE

from procpool import (
    BadImport,
    CallTimeout,
    MissingImport,
    OutputLimit,
    ProcessWasmPool,
    SandboxLevel,
    WasiConfig,
    WasmTrap,
    wants_instance,
)


class Log:
    def add_up(self, a: int, b: int) -> Any:
        if a == 99:
            raise KeyError("ninety-nine")
        return "x" if a == 98 else a + b

    def say(self, text: str) -> int:
        return len(text)


HOST = {"demo:host/log@1.0.0": Log(), "": {"twice": lambda a: 2 * a}}


@pytest.mark.parametrize("sandbox", ["default", "strict"])
def test_functions_are_called_with_values_and_return_them(sandbox: SandboxLevel) -> None:
    with ProcessWasmPool(CALLER, 1, imports=HOST, sandbox=sandbox) as pool:
        assert pool.call("go", 4) == 10
        assert pool.call("speak") == 5
        assert list(pool.map("go", range(50))) == [2 * n + 2 for n in range(50)]


def test_a_component_that_waits_for_a_host_function_cannot_be_entered() -> None:
    @wants_instance
    def twice(instance: Any, a: int) -> int:
        return int(instance.call("speak")) if a > 100 else 2 * a

    with ProcessWasmPool(CALLER, 1, imports={**HOST, "": {"twice": twice}}, timeout=DEADLINE) as pool:
        with pytest.raises(RuntimeError, match="speak cannot be called by a host function"):
            pool.call("go", 100)
        assert pool.call("go", 4) == 10
        assert pool.call("speak") == 5


def test_what_a_function_raises_reaches_the_caller_as_itself() -> None:
    with ProcessWasmPool(CALLER, 1, imports=HOST) as pool:
        for _ in range(3):
            with pytest.raises(KeyError, match="ninety-nine"):
                pool.call("go", 99)
            with pytest.raises(KeyError):
                pool.submit("go", 99).result(DEADLINE)
            with pytest.raises(TypeError, match=r"returned"):
                pool.call("go", 98)
            assert pool.call("go", 4) == 10


@pytest.mark.parametrize(
    ("imports", "error", "words"),
    [
        ({}, MissingImport, r"add-up: func\(a: s32, b: s32\) -> s32"),
        ({"demo:host/log@1.0.0": Log()}, MissingImport, "twice"),
        ({"demo:host/log@1.0.0": {"add-up": 3}}, BadImport, "no function"),
        ({**HOST, "demo:host/lag@1.0.0": {"f": print}}, BadImport, "did you mean 'demo:host/log@1.0.0'"),
        ({**HOST, "demo:host/log@1.0.0": {"add_up": max, "say": len, "shout": len}}, BadImport, "shout"),
    ],
)
def test_what_is_missing_or_unknown_is_said(imports: Any, error: type[Exception], words: str, nothing_left: None) -> None:
    with pytest.raises(error, match=words):
        ProcessWasmPool(CALLER, 1, imports=imports)


def test_what_is_missing_may_trap() -> None:
    given = {"": {"twice": abs}}
    with ProcessWasmPool(CALLER, 1, imports=given, on_missing_import="trap") as pool, pytest.raises(MissingImport):
        pool.call("go", 1)


@pytest.fixture(scope="module")
def command() -> Iterator[ProcessWasmPool]:
    with ProcessWasmPool(COMMAND, 1, wasi=WasiConfig(), timeout=DEADLINE) as pool:
        yield pool


def test_wasi_is_given_or_missing(nothing_left: None) -> None:
    with pytest.raises(MissingImport, match=r"wasi:cli/stdout@0\.2\.0 .*WasiConfig"):
        ProcessWasmPool(COMMAND, 1)


@pytest.mark.parametrize(("what", "code"), [("p", 0), ("f", 1), ("x", 1)])
def test_commands_have_output_and_an_exit_code(command: ProcessWasmPool, what: str, code: int) -> None:
    done = command.run(["command", what])
    assert (done.returncode, done.stdout, done.stderr) == (code, b"hello\n", b"")
    lines: list[str] = []
    assert command.run(["command", what], stdout=lines.append).returncode == code
    assert lines == ["hello"]


def test_commands_that_fail_tell_what_they_had_printed(command: ProcessWasmPool, tmp_path: Path) -> None:
    with pytest.raises(WasmTrap) as trapped:
        command.run(["command", "t"])
    assert (trapped.value.code, trapped.value.stdout) == ("UNREACHABLE", b"hello\n")
    with pytest.raises(CallTimeout) as late:
        command.run(["command", "l"], timeout=0.2)
    assert late.value.stdout == b"hello\n"
    with pytest.raises(OutputLimit) as much:
        command.run(["command", "o"], max_output=10_000)
    assert len(much.value.stdout) == 10_000
    assert command.run(["command", "p"], stdout=tmp_path / "out").stdout is None
    assert (tmp_path / "out").read_bytes() == b"hello\n"
    assert [done.returncode for done in command.run_map([["command", each] for each in "pfpf"])] == [0, 1, 0, 1]
