"""Running what might hang where it can be given up: in a thread, or in an interpreter of its own."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, TypeVar

import pytest
from conftest import DEADLINE

T = TypeVar("T")
TESTS = Path(__file__).parent


def within(function: Callable[..., T], *args: Any, seconds: float = DEADLINE, **options: Any) -> T:
    """What the function returns or raises; the test fails, and goes on, if that takes longer."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function(*args, **options))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    if not wait([future], seconds).done:
        faulthandler.dump_traceback(sys.__stderr__)
        pytest.fail(f"{getattr(function, '__qualname__', function)} has not returned within {seconds} s")
    return future.result()


def together(*functions: Callable[[], Any]) -> list[Any]:
    """Run all at once, a thread each, released at the same moment; what they returned or raised, in order."""
    barrier = threading.Barrier(len(functions))
    futures: list[Future[Any]] = []

    def run(function: Callable[[], Any], future: Future[Any]) -> None:
        try:
            barrier.wait(DEADLINE)
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    for function in functions:
        futures.append(Future())
        threading.Thread(target=run, args=(function, futures[-1]), daemon=True).start()
    late = wait(futures, 4 * DEADLINE).not_done
    if late:
        faulthandler.dump_traceback(sys.__stderr__)
        pytest.fail(f"{len(late)} of {len(futures)} threads have not ended")
    return [future.exception() or future.result() for future in futures]


def apart(scenario: Callable[..., object], *args: object, seconds: float = DEADLINE) -> tuple[str, str, int]:
    """Run a module's function in an interpreter of its own; what it printed, to stdout and stderr, and its exit code.

    If it hangs, the test fails with the stacks of all its threads, and everything it started is killed.
    """
    module = Path(sys.modules[scenario.__module__].__file__ or "").stem
    code = (
        f"import faulthandler; faulthandler.dump_traceback_later({seconds}, exit=True)\n"
        f"from {module} import {scenario.__name__}\n"
        f"{scenario.__name__}(*{args!r})"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])},
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=seconds + 10)
    except subprocess.TimeoutExpired:  # not even its watchdog could end it
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"{scenario.__name__}{args} hung in the end:\n{out}\n{err}")
    assert "Timeout (" not in err, f"{scenario.__name__}{args} hung:\n{out}\n{err}"
    return out, err, process.returncode
