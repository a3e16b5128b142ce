"""Runs the command line: as a user does, in a process of its own, or on a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from typing import Literal

import pyte
from conftest import DEADLINE, FIXTURES

COLUMNS, LINES = 200, 40


def procpool(*args: str, stdin: str = "") -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    run = subprocess.run(
        [sys.executable, "-m", "procpool", *args],
        input=stdin,
        capture_output=True,
        text=True,
        cwd=FIXTURES.parent,
        timeout=60,
    )
    assert "Traceback" not in run.stderr
    return run.returncode, run.stdout, run.stderr


def on_terminal(
    args: Sequence[str], streams: Literal["both", "stdout", "stderr"] = "both", typed: str | None = None
) -> tuple[int, bytes, list[str], str]:
    """Run it with standard output, standard error or both on a terminal.

    Args:
        typed: what is written to its standard input, which is that terminal then; None for an empty input.

    Returns:
        Exit code, all that came to the terminal, the lines on its screen in the end, and what came to the other stream.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", LINES, COLUMNS, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "procpool", *args],
        stdin=subprocess.DEVNULL if typed is None else slave,
        stdout=slave if streams != "stderr" else subprocess.PIPE,
        stderr=slave if streams != "stdout" else subprocess.PIPE,
        cwd=FIXTURES.parent,
    )
    os.close(slave)
    if typed is not None:
        os.write(master, typed.encode())
    seen = b""
    while True:
        try:
            seen += os.read(master, 4096)
        except OSError:  # the terminal has closed
            break
    os.close(master)
    out, err = process.communicate(timeout=DEADLINE)
    screen = pyte.Screen(COLUMNS, LINES)
    pyte.ByteStream(screen).feed(seen)
    lines = [line.rstrip() for line in screen.display]
    while lines and not lines[-1]:
        lines.pop()
    return process.returncode, seen, lines, ((out or b"") + (err or b"")).decode()
