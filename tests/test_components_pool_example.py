"""CPython in a component: the example, where componentize-py is there to build it."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import DEADLINE, FIXTURES

from examples.python_sandbox import ENDLESS, build, sandbox
from procpool import CallTimeout, ProcessWasmPool, WasmResultError

PROGRAM = FIXTURES.parent / "examples" / "python_sandbox.py"

pytestmark = pytest.mark.skipif(
    shutil.which("componentize-py") is None and shutil.which("componentize-py", path=Path(sys.executable).parent) is None,
    reason="the sandbox is built by componentize-py, which is not installed (pip install componentize-py==0.25.1)",
)


@pytest.fixture(scope="module")
def component(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sandbox") / "sandbox.wasm"
    build(path)
    return path


@pytest.fixture(scope="module")
def pool(component: Path) -> Iterator[ProcessWasmPool]:
    with sandbox(component, 2) as made:
        yield made


def test_every_program_is_accounted_for(component: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(component), "--count", "60", "--timeout", "10"],
        capture_output=True,
        text=True,
        check=False,
        timeout=20 * DEADLINE,
    )
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    counted = {what: int(count) for count, what in (line.split(maxsplit=1) for line in lines)}
    assert counted == {
        "ended well": 56,
        "took too long": 1,
        "raised MemoryError": 1,
        "crashed its interpreter": 1,
        "raised FileNotFoundError": 1,
    }
    assert last.startswith("60 programs in ")


def test_values_of_python_that_python_gets(pool: ProcessWasmPool) -> None:
    shape = pool.types.Shape
    assert pool.call("area", shape.Circle(2)) == 12
    assert pool.call("area", shape.Rectangle({"x": 3, "y": -4})) == 12
    assert pool.call("area", shape.Nothing()) == 0
    data = bytes(range(256)) * 4096
    assert pool.call("digest", data) == hashlib.sha256(data).digest()


def test_what_one_leaves_behind_no_other_sees(pool: ProcessWasmPool) -> None:
    leave = "import builtins\nprint(hasattr(builtins, 'left'))\nbuiltins.left = 1"
    assert list(pool.map("run", [leave] * 8)) == ["False\n"] * 8
    numbers = list(pool.map("run", ["import random\nprint(random.random())"] * 4))
    assert len(set(numbers)) == 4, "they are not random as the component was built"


def test_errors_and_time_limits(pool: ProcessWasmPool) -> None:
    with pytest.raises(WasmResultError) as caught:
        pool.call("run", "1/0")
    assert caught.value.payload == "ZeroDivisionError: division by zero"
    with pytest.raises(CallTimeout):
        pool.call("run", ENDLESS, timeout=0.5)
    assert pool.call("run", "print(1)") == "1\n"
