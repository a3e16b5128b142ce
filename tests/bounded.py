"""Running what may hang, so that it fails instead of hanging the tests."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from conftest import DEADLINE, FIXTURES

from procpool import ProcessWasmPool

T = TypeVar("T")


def within_deadline(what: str, action: Callable[[], T]) -> T:
    """What an action returns or raises, run in a thread of its own; the test fails if that takes until the deadline."""
    ended: list[tuple[bool, Any]] = []

    def run() -> None:
        try:
            ended.append((True, action()))
        except BaseException as error:
            ended.append((False, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    if not ended:
        pytest.fail(f"after {DEADLINE} s there is still no end of: {what}")
    succeeded, outcome = ended[0]
    if not succeeded:
        raise outcome
    return outcome  # type: ignore[no-any-return]


@contextlib.contextmanager
def pool_that_goes(*args: Any, **options: Any) -> Iterator[ProcessWasmPool]:
    """A pool that is terminated at the end, whatever it still runs."""
    pool = ProcessWasmPool(*args, **options)
    try:
        pool.wait_ready(DEADLINE)
        yield pool
    finally:
        within_deadline("terminate", pool.terminate)


def environment() -> dict[str, str]:
    """For a script that imports procpool and what lies beside this file."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(FIXTURES.parent), str(Path(__file__).parent)))}


def run_script(code: str, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a script to its end; the test fails if that does not come before the deadline."""
    command = [sys.executable, "-c", code, *args]
    try:
        return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=DEADLINE, **options)
    except subprocess.TimeoutExpired as expired:
        pytest.fail(f"the script hangs; it has said {expired.stdout!r} and {expired.stderr!r}")
