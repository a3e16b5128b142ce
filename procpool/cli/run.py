"""``procpool run``"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import perf_counter

from ..errors import CallTimeout, WasmTrap
from ..pool import ProcessWasmPool
from ..wasi import WasiConfig
from .failures import BadRow, complain
from .options import Commands, running_options
from .progress import Progress


def add_to(commands: Commands) -> None:
    """Add the command to the parser's."""
    run = commands.add_parser(
        "run",
        parents=[running_options()],
        help="run a WASI command",
        usage="procpool run [options] MODULE [-- ARG...]\n       procpool run [options] --each FILE... -- MODULE [ARG...]",
        description="Run a WASI command: streams, exit code and Ctrl-C are the program's own.",
    )
    run.add_argument("--dir", action="append", default=[], metavar="HOST::GUEST[:ro]", help="a directory it may use")
    run.add_argument("--env", action="append", default=[], metavar="K=V", help="a variable of its environment")
    run.add_argument("--each", nargs="+", metavar="FILE", help="one run per file, with that as its standard input")
    run.add_argument("--output-dir", type=Path, metavar="DIR", help="with --each: a file in DIR for each output")
    run.add_argument("command", metavar="MODULE", nargs=argparse.REMAINDER, help="the module, and its arguments")
    run.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int | None:
    command = [word for at, word in enumerate(options.command) if word != "--" or "--" in options.command[:at]]
    if not command:
        raise BadRow("run: name a module")
    module, *args = command
    preopens = dict(_preopen(text) for text in options.dir)
    env = dict(text.partition("=")[::2] for text in options.env)
    wasi = WasiConfig(args=[module, *args], env=env, preopens=preopens)
    if options.each:
        with ProcessWasmPool(module, options.workers, wasi=wasi) as pool:
            return _run_each(pool, options)
    with ProcessWasmPool(module, 1, wasi=wasi) as pool:
        try:
            return pool.run(stdin="inherit", stdout="inherit", stderr="inherit", timeout=options.timeout).returncode
        except WasmTrap as trap:
            return complain(trap, 134)
        except CallTimeout as timeout:
            return complain(timeout, 124)


def _preopen(text: str) -> tuple[str, tuple[str, str]]:
    host, _, guest = text.partition("::")
    if guest.endswith((":ro", ":rw")):
        return guest[:-3], (host, guest[-2:])
    return guest or host, (host, "rw")


def _run_each(pool: ProcessWasmPool, options: argparse.Namespace) -> int:
    """One run per input, across the workers; outputs in order of the inputs."""
    if options.output_dir is not None:
        options.output_dir.mkdir(parents=True, exist_ok=True)
    blobs = (Path(name).read_bytes() for name in options.each)
    failed, started = 0, perf_counter()
    with Progress(len(options.each)) as advance:
        for name, done in zip(
            options.each, pool.run_map(blobs, timeout=options.timeout, return_exceptions=True), strict=True
        ):
            advance(1)
            if isinstance(done, BaseException) or done.returncode:
                failed += 1
                what = done if isinstance(done, BaseException) else f"exited with code {done.returncode}"
                print(f"procpool: {Path(name).name}: {what}", file=sys.stderr)
            if isinstance(done, BaseException):
                continue
            sys.stderr.buffer.write(done.stderr)
            if options.output_dir is None:
                sys.stdout.buffer.write(done.stdout)
            else:
                (options.output_dir / Path(name).name).write_bytes(done.stdout)
    seconds = perf_counter() - started
    print(f"{len(options.each)} runs in {seconds:.3f} s on {len(pool.stats().workers)} workers", file=sys.stderr)
    return 1 if failed else 0
