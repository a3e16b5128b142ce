"""The stages of making an instance, so that what goes wrong in one says which it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import wasmtime

from ..errors import GuestExit
from .host import HostCalls


class Stages:
    """Which stage each exception has ended, until the job that it fails is answered.

    That is known here and not by the exception, which may be an object that the user's code raises again elsewhere.
    Threads of a group make instances too, and their exceptions are told by the main one.
    """

    def __init__(self) -> None:
        self._ended: list[tuple[BaseException, str]] = []

    @contextlib.contextmanager
    def step(self, name: str, calls: HostCalls) -> Iterator[None]:
        """Run code of the guest's, or of the user's, in a new instance.  What exits with success has succeeded.

        Raises:
            Whatever the code raises.
        """
        try:
            yield
        except (wasmtime.ExitTrap, GuestExit) as error:
            if error.code:
                self.ended(error, name)
                raise
            calls.failed = False
        except BaseException as error:
            self.ended(error, name)
            raise

    def ended(self, error: BaseException, stage: str) -> None:
        """That exception has ended that stage."""
        self._ended.append((error, stage))

    def of(self, error: BaseException) -> str | None:
        """Which stage an exception has ended; None if it was none."""
        return next((stage for ended, stage in self._ended if ended is error), None)

    def take(self, error: BaseException) -> str | None:
        """The same, for the last time."""
        stage = self.of(error)
        self.forget()
        return stage

    def forget(self) -> None:
        """The job is answered: whatever is raised from now on is of another."""
        self._ended.clear()
