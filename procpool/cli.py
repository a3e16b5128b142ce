"""The command line: ``procpool call | map | run | inspect``.

Results go to standard output, everything else to standard error.  Exit codes: 0 all is well; 1 the guest failed (it
trapped, ran out of time, or took its worker down); 2 the request was wrong (module, export, arguments, input rows);
130 interrupted.  ``run`` acts like the program itself: its exit code, or 134 if it trapped, 124 if it ran out of time.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any, TextIO

from ._version import __version__
from .binary import FuncType
from .errors import (
    BadArguments,
    BadWasi,
    CallTimeout,
    GuestExit,
    InvalidModule,
    MissingImport,
    ProcpoolError,
    StartupError,
    UnknownExport,
    WasmTrap,
    WorkerCrashed,
)
from .module import compile_module, read_source
from .pool import ProcessWasmPool
from .wasi import Access, WasiConfig

#: The longest time for which results are kept in a buffer while others come, in seconds.
FLUSH_SECONDS = 0.1

_GUEST_FAILED = (WasmTrap, GuestExit, CallTimeout, WorkerCrashed, StartupError)
_WRONG_REQUEST = (InvalidModule, MissingImport, UnknownExport, BadArguments, BadWasi, OSError)


class BadRow(ProcpoolError):
    """Raised when a row of the input cannot be read as arguments."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(argv)
    try:
        code = options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has had enough, like `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the exit's flush would complain again
        return 0
    except _GUEST_FAILED as error:
        return _complain(error, 1)
    except (*_WRONG_REQUEST, BadRow) as error:
        return _complain(error, 2)
    return int(code or 0)


def _complain(error: BaseException, code: int) -> int:
    print(f"procpool: {error}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="procpool", description="Run WebAssembly exports in worker processes.")
    parser.add_argument("--version", action="version", version=f"procpool {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    module = argparse.ArgumentParser(add_help=False)
    module.add_argument("module", metavar="MODULE", help="a .wasm or .wat file")
    running = argparse.ArgumentParser(add_help=False)
    running.add_argument("--workers", type=_positive_int, metavar="N", help="processes (default: usable CPUs)")
    running.add_argument("--timeout", type=_seconds, metavar="S", help="seconds one call may run")

    call = commands.add_parser("call", parents=[running, module], help="call one export and print its result")
    call.add_argument("export", metavar="EXPORT")
    # REMAINDER, because argparse takes numbers such as -4e5 and -inf for options.
    arguments = "numbers; a v128 as 32 hexadecimal digits; options go before MODULE"
    call.add_argument("args", metavar="ARG", nargs=argparse.REMAINDER, help=arguments)
    call.set_defaults(run=_call)

    map_ = commands.add_parser(
        "map",
        parents=[running, module],
        help="call an export once per row of input",
        description="Call an export once per row and print the results in order, one line each.",
    )
    map_.add_argument("export", metavar="EXPORT")
    map_.add_argument("input", metavar="FILE", nargs="?", default="-", help="CSV, or JSON lines (default: stdin)")
    map_.add_argument("--format", choices=("csv", "jsonl"), help="of the input (default: by its name, else csv)")
    map_.add_argument(
        "--range",
        type=_range,
        action="append",
        metavar="A:B[:STEP]",
        help="count instead of reading: A, A+STEP, ... below B; once per parameter",
    )
    map_.set_defaults(run=_map)

    run = commands.add_parser(
        "run",
        parents=[running],
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

    inspect = commands.add_parser("inspect", parents=[module], help="show what a module exports and imports")
    inspect.set_defaults(run=_inspect)
    return parser


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise ValueError
    return value


def _range(text: str) -> range:
    return range(*(int(part, 0) for part in text.split(":", 2)))


_positive_int.__name__, _seconds.__name__, _range.__name__ = "positive number", "number of seconds", "range"


def _pool(options: argparse.Namespace) -> ProcessWasmPool:
    return ProcessWasmPool(options.module, options.workers, timeout=options.timeout)


def _signature(pool: ProcessWasmPool, export: str) -> FuncType:
    type_ = pool.exports.get(export)
    # Anything else is for the pool to refuse, with its hints.
    return type_ if isinstance(type_, FuncType) else FuncType()


def _call(options: argparse.Namespace) -> None:
    with _pool(options) as pool:
        try:
            given = options.args[1:] if options.args[:1] == ["--"] else options.args
            args = _numbers(given, _signature(pool, options.export))
        except ValueError as error:
            raise BadRow(f"{options.export}: {error}") from None
        result = pool.call(options.export, *args)
        if result is not None:
            print(_shown(result))


def _numbers(texts: Iterable[Any], signature: FuncType) -> list[Any]:
    """Arguments as the signature wants them.  Their number and range are the pool's to check."""
    texts = list(texts)
    kinds = signature.params + ("i64",) * (len(texts) - len(signature.params))
    return [_number(text, kind) for text, kind in zip(texts, kinds, strict=False)]


def _number(text: Any, kind: str) -> Any:
    if not isinstance(text, str):  # JSON has its own numbers
        return text
    try:
        if kind == "v128":
            return bytes.fromhex(text)
        return int(text, 0) if kind in ("i32", "i64") else float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an {kind}") from None


def _shown(result: Any) -> str:
    values = result if isinstance(result, tuple) else (result,)
    return ",".join("" if v is None else v.hex() if isinstance(v, bytes) else repr(v) for v in values)


def _map(options: argparse.Namespace) -> None:
    with _pool(options) as pool:
        signature = _signature(pool, options.export)
        if options.range:
            total: int | None = min(map(len, options.range))
            rows: Iterator[list[Any]] = ([*row] for row in zip(*options.range, strict=False))
        else:
            total = None
            rows = _read_rows(options.input, options.format, signature)
        started = perf_counter()
        done, flushed = 0, -math.inf
        with _progress(total) as advance:
            for result in pool.starmap(options.export, rows):
                sys.stdout.write(_shown(result) + "\n")
                # Who writes the input may wait for the output, and a buffer would keep what little there is.
                if perf_counter() - flushed > FLUSH_SECONDS:
                    sys.stdout.flush()
                    flushed = perf_counter()
                done += 1
                advance(1)
        seconds = perf_counter() - started
        rate = f", {done / seconds:,.0f} calls/s" if seconds else ""
        print(f"{done} calls in {seconds:.3f} s on {len(pool.stats().workers)} workers{rate}", file=sys.stderr)


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
            return _complain(trap, 134)
        except CallTimeout as timeout:
            return _complain(timeout, 124)


def _preopen(text: str) -> tuple[str, tuple[str, Access]]:
    host, _, guest = text.partition("::")
    if guest.endswith(":ro"):
        return guest[:-3], (host, "ro")
    if guest.endswith(":rw"):
        return guest[:-3], (host, "rw")
    return guest or host, (host, "rw")


def _run_each(pool: ProcessWasmPool, options: argparse.Namespace) -> int:
    """One run per input, across the workers; outputs in order of the inputs."""
    if options.output_dir is not None:
        options.output_dir.mkdir(parents=True, exist_ok=True)
    blobs = (Path(name).read_bytes() for name in options.each)
    failed, started = 0, perf_counter()
    with _progress(len(options.each)) as advance:
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


def _read_rows(name: str, format: str | None, signature: FuncType) -> Iterator[list[Any]]:
    with _open_input(name) as file:
        parse = _json_rows if (format or Path(name).suffix.lstrip(".")) == "jsonl" else csv.reader
        source = parse(file)
        number = 0
        while True:
            number += 1
            try:
                row = next(source)
                if row:  # blank lines are skipped, and still counted
                    yield _numbers(row, signature)
            except StopIteration:
                return
            except (ValueError, csv.Error) as error:
                raise BadRow(f"row {number} of {'stdin' if name == '-' else name}: {error}") from None


def _open_input(name: str) -> TextIO:
    if name == "-":
        return open(sys.stdin.fileno(), encoding="utf-8", newline="", closefd=False)
    return open(name, encoding="utf-8", newline="")


def _json_rows(file: Iterable[str]) -> Iterator[list[Any]]:
    for line in file:
        if not line.strip():
            yield []
            continue
        row = json.loads(line)
        yield row if isinstance(row, list) else [row]


class _progress:
    """A bar on a terminal, where tqdm is installed; otherwise nothing.  ``with _progress(total) as advance``."""

    def __init__(self, total: int | None) -> None:
        self._bar: Any = None
        if sys.stderr.isatty():
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self._bar = tqdm(total=total, unit=" calls", unit_scale=True, dynamic_ncols=True, file=sys.stderr)

    def __enter__(self) -> Any:
        return self._bar.update if self._bar else lambda count: None

    def __exit__(self, *exc: object) -> None:
        if self._bar:
            self._bar.close()


def _inspect(options: argparse.Namespace) -> None:
    size = len(read_source(options.module))
    compiled = compile_module(options.module)
    with open(compiled.artifact, "rb") as artifact:
        code = os.fstat(artifact.fileno()).st_size
    print(f"{options.module}: {size:,} bytes of wasm, {code:,} bytes compiled")
    for title, items in (
        ("imports", [(f"{i.module}.{i.name}", i.type) for i in compiled.interface.imports]),
        ("exports", list(compiled.interface.exports.items())),
    ):
        print(f"{title}: {len(items) or 'none'}")
        for name, type_ in items:
            print(f"  {name} {type_}" if isinstance(type_, FuncType) else f"  {name}: {type_}")
