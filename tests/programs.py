"""Scenarios that may hang: each in a program of its own, or in a thread that nobody waits for too long."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from conftest import DEADLINE

HERE = Path(__file__).parent
#: Seconds that a program may take, which has an interpreter and pools to start.
LONGEST = 2 * DEADLINE
#: A program that hangs says where each of its threads is when it is asked.  (A watchdog of faulthandler's would do that by
#: itself; but in a forked child it hangs the end of the interpreter.)
PROGRAM = """
import faulthandler, pickle, signal, sys
faulthandler.register(signal.SIGUSR1)
sys.path[:0] = {path}
from {module} import {name}
{name}(*pickle.loads(bytes.fromhex(sys.argv[1])))
"""


def in_a_program(scenario: Callable[..., object], *args: object) -> str:
    """Call a function of a test module in a fresh interpreter; what it prints.

    Fails if the function raises, if it has not returned in time, or if then the interpreter does not end, or leaves a
    process behind that holds its output open.
    """
    path = [str(HERE), str(HERE.parent)]
    code = PROGRAM.format(path=path, module=scenario.__module__, name=scenario.__name__)
    command = [sys.executable, "-c", code, pickle.dumps(args).hex()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            out, err = process.communicate(timeout=LONGEST)
            ending = f"exited with {process.returncode}"
        except subprocess.TimeoutExpired:
            ending = "hangs" if process.poll() is None else "has ended, and something that it started has not"
            if process.poll() is None:
                process.send_signal(signal.SIGUSR1)
            try:
                out, err = process.communicate(timeout=1)
            except subprocess.TimeoutExpired as late:
                process.kill()
                out, err = (text.decode(errors="replace") if text else "" for text in (late.stdout, late.stderr))
                for pipe in (process.stdout, process.stderr):
                    if pipe is not None:
                        pipe.close()
    assert ending == "exited with 0", f"{scenario.__name__} {ending}:\n{out[-2000:]}\n{err[-6000:]}"
    return out


def outcome(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """What a function returns or raises; AssertionError if it does neither until the deadline."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(function(*args, **options))
        except BaseException as error:
            future.set_exception(error)

    # A daemon: one that hangs must not hang the tests.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    assert not thread.is_alive(), f"still waiting for: {function}"
    return future.result()


def raised(function: Callable[..., Any], *args: Any, **options: Any) -> BaseException | None:
    """What a function raises, or None; AssertionError if it has not ended at the deadline."""
    try:
        outcome(function, *args, **options)
    except AssertionError:
        raise
    except BaseException as error:
        return error
    return None
