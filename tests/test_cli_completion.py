"""Completion in the shell, by a real bash on a terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest
from conftest import DEADLINE, FIXTURES

PROMPT = "ready> "


class Shell:
    """A bash that completes ``procpool``."""

    def __init__(self, bin: Path) -> None:
        script = subprocess.run(
            [sys.executable, "-c", "import argcomplete; print(argcomplete.shellcode(['procpool']))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        (bin / "procpool").write_text(f'#!/bin/sh\nexec {sys.executable} -m procpool "$@"\n')
        (bin / "procpool").chmod(0o755)
        (bin / "rc").write_text(f"{script}\nPS1='{PROMPT}'\nbind 'set enable-bracketed-paste off'\n")
        master, slave = pty.openpty()
        environment = {
            **os.environ,
            "PATH": f"{bin}:{os.environ['PATH']}",
            "PYTHONPATH": str(FIXTURES.parent),
            "TERM": "dumb",
        }
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--rcfile", str(bin / "rc"), "-i"],
            stdin=slave, stdout=slave, stderr=slave, cwd=FIXTURES, env=environment, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self._terminal = master
        self._lines = 0
        self._until(PROMPT)

    def typed(self, text: str, expected: str) -> str:
        """Type that; what it shows up to and with what is expected.  Then the line is thrown away."""
        os.write(self._terminal, text.encode())
        seen = self._until(expected)
        self._lines += 1  # Ctrl-U, and a command whose output is not what was typed; a prompt may come more than once
        os.write(self._terminal, f"\x15echo line $(({self._lines} + 1000))\r".encode())
        self._until(f"line {self._lines + 1000}\r\n")
        return seen

    def _until(self, expected: str) -> str:
        seen, deadline = "", monotonic() + 2 * DEADLINE
        while not re.search(expected, seen):
            ready, _, _ = select.select([self._terminal], [], [], max(0, deadline - monotonic()))
            assert ready, f"no {expected!r} in {seen!r}"
            seen += os.read(self._terminal, 4096).decode(errors="replace")
        return seen

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._terminal)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    shell.close()


def test_completion(shell: Shell) -> None:
    shell.typed("procpool insp\t", "procpool inspect ")
    shell.typed("procpool map --keep\t", "procpool map --keep-going ")
    shell.typed("procpool call kern\t", r"procpool call kernels\.wasm ")
    shell.typed("procpool bench kernels.wasm count\t", r"procpool bench kernels\.wasm count_primes ")
    shell.typed("procpool map kernels.wasm add --reduce m\t\t", r"max\s+min")
    shell.typed(
        "procpool call missing.wasm zzz\t#", "procpool call missing.wasm zzz\x07*#"
    )  # nothing to offer, and no noise
