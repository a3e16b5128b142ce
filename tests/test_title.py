"""What `ps` shows of the processes of a pool."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import DEADLINE, KERNELS, eventually, worker_pids

from procpool import ProcessWasmPool

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux shows what is written over arguments")


def shown(pid: int) -> tuple[str, str]:
    """The short name and the command line of a process."""
    proc = Path(f"/proc/{pid}")
    return proc.joinpath("comm").read_text().strip(), proc.joinpath("cmdline").read_bytes().decode()


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_workers_have_a_name_and_a_number(start_method: Any, nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=3, start_method=start_method) as pool:
        pool.wait_ready(DEADLINE)
        pids = worker_pids(pool)
        names = {n: (f"procpool {n}", f"procpool worker {n} of kernels.wasm\0") for n in (1, 2, 3)}
        assert sorted(map(shown, pids)) == sorted(names.values())
        if start_method == "forkserver":
            (template,) = {psutil.Process(pid).ppid() for pid in pids}
            assert shown(template) == ("procpool templa", "procpool template of kernels.wasm\0")
        victim = next(pid for pid in pids if shown(pid) == names[2])
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: victim not in worker_pids(pool) and pool.stats().idle == 3, "a replacement")
        assert sorted(map(shown, worker_pids(pool))) == sorted(names.values()), "in its place"
        assert pool.submit(lambda instance: sys.argv[0]).result(DEADLINE) == "-c", "what Python knows is as it was"


@pytest.mark.skipif(shutil.which("ps") is None, reason="there is no ps")
def test_ps_shows_them(tmp_path: Path, nothing_left: None) -> None:
    odd = tmp_path / f"a b\n{'long' * 50}é.wasm"
    odd.write_bytes(KERNELS.read_bytes())
    with ProcessWasmPool(odd, workers=1) as pool:
        (pid,) = worker_pids(pool)
        done = subprocess.run(["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, check=True)
        assert done.stdout.startswith(b"procpool worker 1 of a b?longlong") and done.stdout.count(b"\n") == 1


def test_a_module_without_a_name(nothing_left: None) -> None:
    with ProcessWasmPool("(module)", workers=1) as pool:
        (pid,) = worker_pids(pool)
        assert shown(pid) == ("procpool 1", "procpool worker 1 of <bytes>\0")


def test_the_name_of_a_file_with_parentheses(tmp_path: Path, nothing_left: None) -> None:
    module = tmp_path / "kernels (1) <new>.wasm"
    module.write_bytes(KERNELS.read_bytes())
    for source in (module, str(module)):
        with ProcessWasmPool(source, workers=1) as pool:
            assert repr(pool).startswith("<ProcessWasmPool kernels (1) <new>.wasm ")
