"""Ctrl-C before the command line has got anywhere."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import DEADLINE, FIXTURES, KERNELS

#: Starts the command line in one way or the other, and presses Ctrl-C when it first imports that module.
PROGRAM = """
import os, runpy, signal, sys

class Presses:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Presses())
sys.argv = ["procpool", "call", {kernels!r}, "add", "1", "2"]
{start}
"""
STARTS = {
    "script": "from procpool.cli import main; sys.exit(main())",
    "module": "runpy.run_module('procpool', run_name='__main__')",
}


@pytest.mark.parametrize("module", ["procpool.cli.entry", "argparse", "wasmtime", "procpool.cli.run"])
@pytest.mark.parametrize("start", STARTS)
def test_ctrl_c_while_it_imports(start: str, module: str) -> None:
    program = PROGRAM.format(module=module, kernels=str(KERNELS), start=STARTS[start])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, cwd=FIXTURES.parent, timeout=DEADLINE)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")
