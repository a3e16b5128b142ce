"""Run Python that nobody has read, on all cores: a thousand programs, each in a CPython of its own.

Run it:  python examples/python_sandbox.py sandbox.wasm

If there is no such file, it is built first, out of examples/sandbox, which takes a quarter of a minute and no network:
componentize-py makes it (pip install componentize-py==0.25.1).  The first pool compiles it, and later ones find that.

Each program has some seconds and some megabytes, and nothing of the outside: no files, no network, no environment.  What
one leaves behind, no other sees.  Among them are one that never ends, one that takes all the memory there is, one that
crashes its interpreter, and one that wants to read a file.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from time import perf_counter

from procpool import CallTimeout, ProcessWasmPool, WasiConfig, WasmResultError, WasmTrap

SOURCES = Path(__file__).parent / "sandbox"

HARMLESS = """
import builtins, json
assert not hasattr(builtins, "left"), "somebody was here"
builtins.left = True
print(json.dumps({{"number": {0}, "square": {0} ** 2}}))
"""
ENDLESS = "while True: pass"
GREEDY = "everything = []\nwhile True: everything.append(bytearray(1 << 20))"
CRASHING = "import os\nos.abort()"
NOSY = "print(open('/etc/passwd').read())"


def build(target: Path) -> None:
    """Make the component.

    Raises:
        SystemExit: componentize-py is not installed, or fails; says so.
    """
    tool = shutil.which("componentize-py") or shutil.which("componentize-py", path=Path(sys.executable).parent)
    if tool is None:
        raise SystemExit(f"{target} is not there, and cannot be built: pip install componentize-py==0.25.1")
    print(f"building {target} ...", file=sys.stderr)
    made = target.absolute()
    command = [tool, "-d", "sandbox.wit", "-w", "sandbox", "componentize", "guest", "-o", str(made)]
    built = subprocess.run(command, check=False, cwd=SOURCES, capture_output=True, text=True)
    if built.returncode:
        raise SystemExit(f"componentize-py has failed:\n{built.stderr}")


def sandbox(component: Path, workers: int | None = None) -> ProcessWasmPool:
    """A pool in which each call has a CPython that nobody has used."""
    return ProcessWasmPool(
        component,
        workers,
        isolation="fresh",
        wasi=WasiConfig(stdout=None, stderr=None),
        memory_limit=128 << 20,
        start_timeout=600,
    )


def programs(count: int) -> list[str]:
    """Most are harmless."""
    made = [HARMLESS.format(number) for number in range(count)]
    made[count // 5], made[count // 4], made[count // 3], made[count // 2] = ENDLESS, GREEDY, CRASHING, NOSY
    return made


def outcome(result: object) -> str:
    """What became of a program, in a few words.

    Raises:
        result itself, when it says nothing about the program: the pool could not run it.
    """
    match result:
        case str():
            return "ended well"
        case WasmResultError():
            return f"raised {str(result.payload).partition(':')[0]}"
        case CallTimeout():
            return "took too long"
        case WasmTrap():
            return "crashed its interpreter"
        case BaseException():
            raise result
    return "returned something else"


def main() -> int:
    parser = argparse.ArgumentParser(description="Run many Python programs in a sandbox.")
    parser.add_argument("component", type=Path, help="the sandbox; built if it is not there")
    parser.add_argument("--count", type=int, default=1000, help="how many programs")
    parser.add_argument("--timeout", type=float, default=2.0, help="seconds that each may run")
    parser.add_argument("--workers", type=int, help="how many processes; by default one for each processor")
    options = parser.parse_args()

    if not options.component.exists():
        build(options.component)
    with sandbox(options.component, options.workers) as pool:
        pool.wait_ready()
        begun = perf_counter()
        results = pool.map("run", programs(options.count), item_timeout=options.timeout, return_exceptions=True)
        counted = Counter(map(outcome, results))
        seconds = perf_counter() - begun
    for what, count in counted.most_common():
        print(f"{count:>6}  {what}")
    print(f"{options.count} programs in {seconds:.2f} s")
    return 0 if counted.total() == options.count else 1


if __name__ == "__main__":
    sys.exit(main())
