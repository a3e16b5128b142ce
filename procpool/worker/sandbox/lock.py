"""The order in which a worker gives things up: it loads first, locks second, and runs the guest third."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Collection, Iterable
from typing import Any

from ... import wire
from ...errors import SandboxUnavailable
from . import landlock, privileges, seccomp
from .system import Missing

_STANDARD = (0, 1, 2)
_OWN = "/proc/self/fd"


class Lock:
    """One worker's.

    Args:
        told: what to give up.
    """

    def __init__(self, told: wire.Confinement) -> None:
        self._told = told
        self.missing: dict[str, str] = {}  #: what could not be given up, and why
        self._ours: frozenset[int] = frozenset()

    @staticmethod
    def prepare(told: wire.Confinement) -> None:
        """In a template: what is the same for all of its workers."""
        with contextlib.suppress(Missing):
            seccomp.program(0, told.files, told.changes)

    def before_python(self) -> None:
        """What is open now is ours: Python code of the user's comes next, and what it opens is its own."""
        if self._told.locked and self._told.python:
            self._ours = frozenset(_open())

    def before_threads(self, kept: Collection[int], mapped: Collection[int], inherited: Collection[int]) -> None:
        """What other threads only have if it is done before they are started.

        Args:
            kept: descriptors that stay open.
            mapped: of compiled modules; the engine has opened their files itself, and maps memories from there.
            inherited: standard streams of the program that the guest is given.

        Raises:
            SandboxUnavailable: something cannot be given up that has to be.
        """
        if not self._told.locked:
            return
        told = self._told
        alone = not told.python or len(os.listdir("/proc/self/task")) == 1
        logging.captureWarnings(True)  # the parent shows them: standard error is closed
        self._do("descriptors", self._close, kept, mapped, inherited)
        self._do("limits", privileges.limits)
        # A path that is allowed is looked up before the root is another, and before there are fewer rights to.
        self._do("namespaces", privileges.own_namespaces, told.files)
        self._do("no_new_privileges", privileges.no_new_privileges)
        self._do("not_dumpable", privileges.not_dumpable)
        self._do("capabilities", privileges.no_capabilities, bool(told.allowed))
        self._do("landlock", self._restrict, alone)

    def before_guest(self) -> None:
        """The rest, when everything is loaded and all threads run.

        Raises:
            SandboxUnavailable: something cannot be given up that has to be.
        """
        if not self._told.locked:
            return
        self._do("seccomp", lambda: seccomp.install(seccomp.program(os.getpid(), self._told.files, self._told.changes)))

    def _do(self, layer: str, give_up: Callable[..., object], *args: Any) -> None:
        try:
            give_up(*args)
        except (Missing, OSError) as error:
            self.missing[layer] = str(error)
            if self._told.strict and layer not in wire.EXTRAS:
                raise SandboxUnavailable(f"sandbox='strict' cannot be had: {layer}: {error}") from None

    def _close(self, kept: Iterable[int], mapped: Collection[int], inherited: Collection[int]) -> None:
        """Close all that is ours and not needed any more."""
        ours = self._ours if self._told.python else frozenset(_open())
        files = {_identity(fd) for fd in mapped if fd >= 0}
        for fd in ours.difference(kept, _STANDARD):
            if fd in mapped or _identity(fd) not in files:
                os.close(fd)
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for fd in _STANDARD:
            if fd not in inherited:
                os.dup2(nothing, fd)
        os.close(nothing)

    def _restrict(self, alone: bool) -> None:
        allowed = [landlock.Allowed(*each) for each in self._told.allowed]
        if self._told.files:
            allowed.append(landlock.Allowed(_OWN, False))  # where streams are found; what a link there leads to is no part
        if not alone:
            raise Missing("the initializer has left threads running, which Landlock does not reach")
        lacking = landlock.restrict(allowed)
        if lacking is not None:
            raise Missing(lacking)


def _identity(fd: int) -> tuple[int, int]:
    file = os.fstat(fd)
    return file.st_dev, file.st_ino


def _open() -> list[int]:
    """The descriptors of this process."""
    found = []
    for each in os.listdir("/dev/fd"):
        fd = int(each)
        with contextlib.suppress(OSError):  # that of the listing itself
            os.fstat(fd)
            found.append(fd)
    return found
