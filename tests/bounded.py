"""Running what may hang, in a thread or in a process of its own, so that it fails instead of holding up the tests."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, TypeVar

import pytest
from conftest import DEADLINE

from procpool import ProcessWasmPool

T = TypeVar("T")
TESTS = Path(__file__).parent
#: Seconds that a program may take, which has an interpreter and pools to start.
LONGEST = 3 * DEADLINE
#: A program that hangs says where each of its threads is when it is asked.  (A watchdog of faulthandler's would do that by
#: itself; but in a forked child it hangs the end of the interpreter.)
PROGRAM = """
import faulthandler, pickle, signal, sys
faulthandler.register(signal.SIGUSR1)
from {module} import {name}
{name}(*pickle.loads(bytes.fromhex(sys.argv[1])))
"""


# -- threads -----------------------------------------------------------------------------------------------------------


def started(function: Callable[[], T]) -> Future[T]:
    """What a function will have returned or raised; it runs in a thread that holds up nobody's end."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def within(function: Callable[..., T], *args: Any, seconds: float = DEADLINE, **options: Any) -> T:
    """What the function returns or raises; the test fails, and goes on, if that takes longer."""
    future = started(lambda: function(*args, **options))
    if not wait([future], seconds).done:
        faulthandler.dump_traceback(sys.__stderr__)
        pytest.fail(f"{getattr(function, '__qualname__', function)} has not returned within {seconds} s")
    return future.result()


def raised(function: Callable[..., object], *args: Any, **options: Any) -> BaseException | None:
    """What the function raises, or None; the test fails if it has not ended at the deadline."""
    try:
        within(function, *args, **options)
    except pytest.fail.Exception:
        raise
    except BaseException as error:
        return error
    return None


def together(*functions: Callable[[], Any]) -> list[Any]:
    """Run all at once, a thread each, released at the same moment; what they returned or raised, in order."""
    barrier = threading.Barrier(len(functions))

    def released(function: Callable[[], Any]) -> Any:
        barrier.wait(DEADLINE)
        return function()

    futures = [started(lambda function=function: released(function)) for function in functions]  # type: ignore[misc]
    late = wait(futures, 4 * DEADLINE).not_done
    if late:
        faulthandler.dump_traceback(sys.__stderr__)
        pytest.fail(f"{len(late)} of {len(futures)} threads have not ended")
    return [future.exception() or future.result() for future in futures]


@contextlib.contextmanager
def pool_that_goes(*args: Any, **options: Any) -> Iterator[ProcessWasmPool]:
    """A pool that is terminated at the end, whatever it still runs."""
    pool = ProcessWasmPool(*args, **options)
    try:
        pool.wait_ready(DEADLINE)
        yield pool
    finally:
        within(pool.terminate)


# -- processes ---------------------------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    """For a program that imports procpool and what lies beside this file."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(TESTS.parent), str(TESTS)))}


def run(command: Sequence[str | Path], input: str | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; the test fails if it, or what it started, holds its output open for too long.

    It is killed then, with all that is left of its session.
    """
    options.setdefault("env", environment())
    stdin = None if input is None else subprocess.PIPE
    pipes = {"stdin": stdin, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, start_new_session=True, **options) as process:  # type: ignore[call-overload]
        try:
            out, err = process.communicate(input, timeout=LONGEST)
        except subprocess.TimeoutExpired:
            ending = "hangs" if process.poll() is None else "has ended, and something that it started has not"
            process.send_signal(signal.SIGUSR1)  # for the stacks of a PROGRAM; the end of any other
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate(timeout=DEADLINE)
            pytest.fail(f"it {ending}:\n{out[-2000:]}\n{err[-6000:]}")
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def run_python(*args: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, *args], **options)


def run_script(code: str, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return run_python("-c", code, *args, **options)


def apart(scenario: Callable[..., object], *args: object) -> tuple[str, str, int]:
    """Call a function of a test module in a fresh interpreter; what it printed, to stdout and stderr, and its exit code."""
    code = PROGRAM.format(module=scenario.__module__, name=scenario.__name__)
    done = run_script(code, pickle.dumps(args).hex())
    return done.stdout, done.stderr, done.returncode


def in_a_program(scenario: Callable[..., object], *args: object) -> str:
    """The same where nothing may go wrong: what it printed to stdout."""
    out, err, code = apart(scenario, *args)
    assert code == 0, f"{scenario.__name__} exited with {code}:\n{out[-2000:]}\n{err[-6000:]}"
    return out
