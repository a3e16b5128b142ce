"""What tests send to workers to make trouble: only the standard library, for workers import this module."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _raise(error: BaseException) -> None:
    raise error


#: Ways to spoil what is under way.  The last four end the process.
ACTS: dict[str, Callable[[], object]] = {
    "error": lambda: _raise(ArithmeticError("spoilt")),
    "SystemExit": lambda: sys.exit(5),
    "KeyboardInterrupt": lambda: _raise(KeyboardInterrupt()),
    "_exit(0)": lambda: os._exit(0),
    "_exit(3)": lambda: os._exit(3),
    "SIGSEGV": lambda: ctypes.string_at(8),
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
}
FATAL = ("_exit(0)", "_exit(3)", "SIGSEGV", "SIGKILL")


def act(how: str, spared: int | None = None) -> None:
    """Make trouble, except in the process that is to be spared."""
    if os.getpid() != spared:
        ACTS[how]()


class Hostile:
    """Makes trouble on its way.  What is fatal happens in workers only, never in the process that made the object."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.spared = os.getpid() if how in FATAL else None

    def trouble(self) -> None:
        act(self.how, self.spared)


class WhenPickled(Hostile):
    def __reduce__(self) -> tuple[Any, ...]:
        self.trouble()
        return str, ("pickled all the same",)


class WhenUnpickled(Hostile):
    def __reduce__(self) -> tuple[Any, ...]:
        return act, (self.how, self.spared)


class WhenState(Hostile):
    """Makes trouble when it gets its state, having been made."""

    def __getstate__(self) -> dict[str, Any]:
        return vars(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.trouble()


class ErrorWhenPickled(WhenPickled, Exception):
    pass


class ErrorWhenUnpickled(WhenUnpickled, Exception):
    pass


OBJECTS = {"pickled": WhenPickled, "unpickled": WhenUnpickled, "given its state": WhenState}
ERRORS = {"pickled": ErrorWhenPickled, "unpickled": ErrorWhenUnpickled}


class NoErrorWhenUnpickled(Exception):
    """Leaves its worker as an exception, and arrives as something else."""

    def __reduce__(self) -> tuple[Any, ...]:
        return str, ("no exception",)


def take(instance: Any, argument: object) -> str:
    return "taken"


def give(instance: Any, when: str, how: str, spared: int | None) -> object:
    """A result that makes trouble."""
    made = OBJECTS[when](how)
    made.spared = spared
    return made


def fail_with(instance: Any, when: str, how: str, spared: int | None) -> None:
    """An exception that makes trouble."""
    made = ERRORS[when](how)
    made.spared = spared
    raise made


def commit(instance: Any, how: str) -> None:
    """Trouble while the function runs."""
    act(how)


def fail_oddly(instance: Any) -> None:
    raise NoErrorWhenUnpickled


class Told(Exception):
    """Unlike the built-in ones, it can be weakly referenced."""


def tell(instance: Any) -> None:
    raise Told("so")


def same(instance: Any, value: Any) -> Any:
    return value


class Gate:
    """A place where jobs wait in workers until the test lets them go on, all at once."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._path = path
        self._began = path.with_suffix(".began")
        self._began.touch()
        self._open: int | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _Entrance, (str(self._path), str(self._began))

    def began(self) -> int:
        """How many jobs have come to it so far."""
        return self._began.stat().st_size

    def open(self) -> None:
        if self._open is None:
            # For both: opening for writing alone would wait for a reader.
            self._open = os.open(self._path, os.O_RDWR)

    def close(self) -> None:
        """Open it for good: for jobs that have not come to it yet, too."""
        self.open()
        assert self._open is not None
        os.replace(self._began, self._path)  # a plain file, on which nobody waits
        self._began.touch()
        os.close(self._open)


class _Entrance:
    """The gate as a job sees it."""

    def __init__(self, path: str, began: str) -> None:
        self.path = path
        self.began = began

    def wait(self) -> None:
        with open(self.began, "ab") as file:
            file.write(b".")
        with open(self.path, "rb"):  # opening a pipe for reading waits for a writer
            pass


def after(instance: Any, gate: _Entrance, value: Any = None, how: str | None = None) -> Any:
    """The value, or trouble, as soon as the gate is open."""
    gate.wait()
    if how is not None:
        act(how)
    return value
