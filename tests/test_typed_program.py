"""A user's program under mypy and pyright, and the package under `pyright --verifytypes`.

Both look at a copy of the program in a directory of its own, where they find procpool as an installed package, with
py.typed and no configuration of ours.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import procpool

PROGRAM = Path(__file__).with_name("typed_program.py")
#: Where the package is that is looked at.
ROOT = Path(procpool.__file__).parent.parent
#: Seconds that a checker may take; the first run of pyright downloads it.
PATIENCE = 300

pyright = pytest.mark.skipif(
    importlib.util.find_spec("pyright") is None, reason="pyright is not installed (procpool[lint])"
)
mypy = pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed (procpool[lint])")


def checked(directory: Path, checker: str, *args: str) -> subprocess.CompletedProcess[str]:
    installed = "site-packages" in ROOT.parts  # then they find it by themselves, and mypy will not be told
    environment = os.environ | ({} if installed else {"PYTHONPATH": os.fspath(ROOT), "MYPYPATH": os.fspath(ROOT)})
    command = [sys.executable, "-m", checker, *args]
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=PATIENCE)


def by_pyright(directory: Path, *args: str) -> dict[str, Any]:
    done = checked(directory, "pyright", "--pythonpath", sys.executable, "--outputjson", *args)
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def with_mypy(directory: Path, text: str) -> str:
    program = directory / "program.py"
    program.write_text(text)
    args = ("--strict", "--python-version", "3.10", "--cache-dir", os.fspath(directory / "cache"), program.name)
    return checked(directory, "mypy", *args).stdout


def with_pyright(directory: Path, text: str) -> list[str]:
    (directory / "program.py").write_text(text)
    config = {"typeCheckingMode": "strict", "reportUnnecessaryTypeIgnoreComment": "error", "pythonVersion": "3.10"}
    (directory / "pyrightconfig.json").write_text(json.dumps({"include": ["program.py"], **config}))
    found = by_pyright(directory)
    assert found["summary"]["filesAnalyzed"] == 1
    return [f"{one['range']['start']['line'] + 1}: {one['message']}" for one in found["generalDiagnostics"]]


#: A mistake in the program -> that it makes: so that the checks above are known to be able to fail.
MISTAKES = {
    'assert_type(pool.submit(digest, b"x"), Future[bytes])': 'assert_type(pool.submit(digest, b"x"), Future[str])',
    'assert_type(pool.map(digest, [b"x"]), MapResults[bytes])': 'assert_type(pool.map(digest, [b"x"]), MapResults[Any])',
    "pool.map(halved, [1])  # type: ignore": "pool.map(scaled, [1], [2])  # type: ignore",
}


def broken() -> str:
    text = PROGRAM.read_text()
    for right, wrong in MISTAKES.items():
        assert text.count(right) == 1, right
        text = text.replace(right, wrong)
    return text


@mypy
def test_a_program_under_mypy(tmp_path: Path) -> None:
    assert with_mypy(tmp_path, PROGRAM.read_text()).startswith("Success")


@mypy
def test_mistakes_under_mypy(tmp_path: Path) -> None:
    assert f"Found {len(MISTAKES)} errors in 1 file" in with_mypy(tmp_path, broken())


@pyright
def test_a_program_under_pyright(tmp_path: Path) -> None:
    assert with_pyright(tmp_path, PROGRAM.read_text()) == []


@pyright
def test_mistakes_under_pyright(tmp_path: Path) -> None:
    assert len(with_pyright(tmp_path, broken())) == len(MISTAKES)


@pyright
def test_all_types_are_known(tmp_path: Path) -> None:
    found = by_pyright(tmp_path, "--verifytypes", "procpool", "--ignoreexternal")["typeCompleteness"]
    unknown = [
        f"{symbol['name']}: {one['message']}"
        for symbol in found["symbols"]
        for one in symbol.get("diagnostics", ())
        if symbol["isExported"] and one["severity"] == "error"
    ]
    assert len(found["symbols"]) > 1000, "it has looked at the package"
    assert not unknown and found["completenessScore"] == 1, "\n".join(unknown)


def test_the_program_runs() -> None:
    pytest.importorskip("typing_extensions", reason="typing_extensions is not installed (procpool[lint])")
    done = subprocess.run([sys.executable, PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
