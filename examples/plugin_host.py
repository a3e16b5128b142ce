"""Plug-ins that nobody trusts: each may take so much time, work and memory, sees no files, and harms nobody but itself.

Run it:  python examples/plugin_host.py

It loads every module of examples/plugins, sends texts to all of them at once, and switches off those that fail twice.  The
good plug-in, shout, answers every text; the others misbehave, each in a way of its own that its source tells.
"""

from __future__ import annotations

import argparse
from collections import Counter
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from procpool import FuncType, ProcessWasmPool, ProcpoolError, UnknownExport, WasiConfig

TEXTS = ["good morning", "how are you?", "see you later"]
FAILURES = 2  #: after so many a plug-in is switched off


def load(path: Path) -> ProcessWasmPool:
    """A plug-in in a process of its own, so that it can neither see nor crash the others.

    Raises:
        ProcpoolError: it is no module, lacks what makes a plug-in, or wants more of the host than it is given.
    """
    plugin = ProcessWasmPool(
        path,
        workers=1,
        timeout=1.0,  # seconds per text, the wait for the worker included
        kill_grace=0.2,  # seconds: a guest that sleeps in WASI cannot be interrupted, so its worker is killed
        start_timeout=10.0,  # seconds: a module may run code, or loop, while it is instantiated
        fuel=10_000_000,  # about one per wasm instruction, so a plug-in stops at the same point on every machine
        memory_limit=16 << 20,
        max_stack=256 << 10,
        isolation="fresh",  # nothing of one text is left in memory for the next
        wasi=WasiConfig(),  # clocks and random numbers; no files, no environment, no network
    )
    if plugin.exports.get("transform") != FuncType(("i32", "i32"), ("i64",)):
        plugin.terminate()
        raise UnknownExport("it exports no function transform(i32, i32) -> i64")
    return plugin


def ask(plugin: ProcessWasmPool, text: str) -> Future[Any]:
    """The plug-in's answer, some time later."""
    return plugin.submit_bytes("transform", text.encode(), returns="packed", free=None)


def explain(error: BaseException) -> str:
    """The first line of what went wrong."""
    return f"{type(error).__name__}: {str(error).splitlines()[0]}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Run untrusted plug-ins side by side.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).with_name("plugins"))
    folder: Path = parser.parse_args().folder

    with ExitStack() as pools:
        plugins: dict[str, ProcessWasmPool] = {}
        for path in sorted(folder.glob("*.wasm")):
            try:
                plugins[path.stem] = pools.enter_context(load(path))
            except ProcpoolError as error:
                print(f"{path.stem:>9} is not loaded: {explain(error)}")

        failures: Counter[str] = Counter()
        for text in TEXTS:
            print(f"\n{text!r} goes to {len(plugins)} plug-ins")
            for name, answer in [(name, ask(plugin, text)) for name, plugin in plugins.items()]:
                try:
                    print(f"{name:>9} says {answer.result().decode()!r}")
                except (ProcpoolError, ValueError, MemoryError) as error:
                    print(f"{name:>9} failed: {explain(error)}")
                    failures[name] += 1
                    if failures[name] == FAILURES:
                        plugins.pop(name).terminate()
                        print(f"{'':>9} and is switched off")


if __name__ == "__main__":
    main()
