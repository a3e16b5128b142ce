"""A terminal to run programs at, with a person's patience and a person's keys."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import subprocess
import termios
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any

import psutil

#: Seconds that a program may keep its user waiting, on a machine that has much else to do.
PATIENCE = 60.0
CTRL_C, CTRL_D, CTRL_Z, CTRL_BACKSLASH = "\x03", "\x04", "\x1a", "\x1c"


class Terminal:
    """A pseudo-terminal with a program that has it as its controlling terminal."""

    def __init__(self, command: Sequence[object], env: Mapping[str, str] | None = None) -> None:
        self._master, self._slave = os.openpty()
        self.resize(24, 80)
        self.modes_before = self.modes()
        self.seen = ""  #: all that was shown
        self._expected = 0  # where in `seen` to look on
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  # a system call, no lock
            env={**os.environ, **(env or {})},
        )

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._master, keys.encode())

    def expect(self, pattern: str) -> re.Match[str]:
        """Wait until something is shown, behind what was expected before; lines end in \\r\\n."""
        deadline = monotonic() + PATIENCE
        while not (found := re.compile(pattern, re.DOTALL).search(self.seen, self._expected)):
            shown = self.seen[self._expected :]
            assert self._look(deadline), f"still waiting for {pattern!r}, with {shown!r} on the screen"
        self._expected = found.end()
        return found

    def handed_over(self) -> None:
        """Wait until the program, a shell, has given the terminal to a job; keys are for that from then on.

        It shows the job's command first, and keys pressed in between are its own.
        """
        deadline = monotonic() + PATIENCE
        while os.tcgetpgrp(self._master) == self.process.pid:
            assert monotonic() < deadline, f"no job in the foreground, with {self.seen!r} on the screen"
            self._look(monotonic() + 0.02)

    def put_away(self) -> None:
        """Wait until all processes of the job that a shell has told to be stopped are.

        It tells so when the first is.  Another that was reading may not have got round to it, and takes what is typed next.
        """
        deadline = monotonic() + PATIENCE
        shell = psutil.Process(self.process.pid)
        jobs = {child.pid for child in shell.children()}  # each leads its group
        for process in shell.children(recursive=True):
            while os.getpgid(process.pid) in jobs and process.status() != psutil.STATUS_STOPPED:
                assert monotonic() < deadline, f"{process} goes on"
                self._look(monotonic() + 0.02)

    def ended(self) -> int:
        """Wait for the program to end; its exit code, or minus the signal."""
        deadline = monotonic() + PATIENCE
        while self.process.poll() is None:
            assert monotonic() < deadline, f"still running, with {self.seen!r} on the screen"
            self._look(monotonic() + 0.02)  # it may wait for room on the screen
        while self._look(monotonic()):
            pass
        return self.process.returncode

    def _look(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - monotonic()))
        if ready:
            self.seen += os.read(self._master, 65536).decode(errors="replace")
        return bool(ready)

    def resize(self, rows: int, columns: int) -> None:
        """Make the window larger or smaller, which signals it."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def modes(self) -> list[Any]:
        """What is set of the terminal: echo, lines, special keys."""
        return termios.tcgetattr(self._slave)

    def hang_up(self) -> None:
        """Close the window."""
        for fd in (self._slave, self._master):
            if fd >= 0:
                os.close(fd)
        self._master = self._slave = -1

    def close(self) -> None:
        """Close the window, and end what takes no notice."""
        self.hang_up()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@contextmanager
def at_a_terminal(*command: object, env: Mapping[str, str] | None = None) -> Iterator[Terminal]:
    """A terminal for the block, with ``command`` running at it."""
    terminal = Terminal(command, env)
    try:
        yield terminal
    finally:
        terminal.close()


@contextmanager
def at_a_shell() -> Iterator[Terminal]:
    """A terminal for the block, with a shell that has job control."""
    env = {"PS1": "PROMPT ", "INPUTRC": "/dev/null", "HISTFILE": "", "TERM": "dumb"}
    with at_a_terminal("bash", "--norc", "--noprofile", "--noediting", "-i", env=env) as terminal:
        terminal.expect("PROMPT ")
        yield terminal
