"""``procpool run``"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import shutil
import signal
import stat
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, NoReturn

from ..errors import CallTimeout, MissingImport, WasmTrap
from ..foreground import ForegroundCommand
from ..pool import ProcessWasmPool
from ..wasi import Access, CompletedRun, WasiConfig
from ..worktime import in_words
from .failures import GUEST_FAILED, BadRequest, complain, told
from .opening import not_to_be_had
from .options import Commands, guest_options, running_options
from .output import put
from .progress import Compiling, Progress
from .wording import plural

#: Bytes that an input may have that is no file, such as a pipe.
MOST_UNFILED = 256 << 20
#: Exit codes: those of a shell for a program that aborts, and of `timeout` for one that takes too long.
TRAPPED, TIMED_OUT = 134, 124


def add_to(commands: Commands) -> None:
    """Add the command to the parser's."""
    run = commands.add_parser(
        "run",
        parents=[running_options(), guest_options()],
        help="run a WASI command",
        usage="procpool run [options] MODULE [-- ARG...]\n       procpool run [options] --each FILE... -- MODULE [ARG...]",
        description=(
            "Run a WASI command as if it were a program: streams, exit code and reaction to signals are its own.\n"
            "With --each, run it once per file, on all workers."
        ),
    )
    run.add_argument(
        "--dir",
        type=_preopen,
        action="append",
        default=[],
        metavar="HOST[::GUEST][:rw]",
        help="a directory that it may read; with :rw at the end, also write",
    )
    run.add_argument(
        "--each", nargs="+", action="extend", metavar="FILE", help="one run per file, with that as its standard input"
    )
    run.add_argument(
        "--output-dir",
        type=Path,
        metavar="DIR",
        help="with --each: write each output to a file in DIR, named as its input is below the directory that all have in "
        "common (a/1.txt and b/1.txt become DIR/a/1.txt and DIR/b/1.txt); a run that fails leaves the file as it was",
    )
    run.add_argument("command", metavar="MODULE", nargs=argparse.REMAINDER, help="the module, and its arguments")
    run.set_defaults(run=_run)


def _preopen(given: str) -> tuple[str, tuple[str, Access]]:
    """``HOST[::GUEST][:ro|:rw]`` as an entry of preopens."""
    mode: Access = "rw" if given.endswith(":rw") else "ro"
    text = given.removesuffix(f":{mode}")
    host, named, guest = text.partition("::")
    # An empty HOST would be the current directory, of which nothing was said.
    if not host or "::" in guest or (named and not guest):
        raise argparse.ArgumentTypeError(f"{given!r} is no directory to give; write HOST, or HOST::GUEST, and :rw to write")
    return guest or host, (host, mode)


def _run(options: argparse.Namespace) -> int:
    module, args = _command(options.command)
    if options.output_dir is not None and not options.each:
        raise BadRequest("run: --output-dir goes with --each")
    wasi = WasiConfig(
        args=[module, *args],
        env=dict(given for given in options.env if given is not None),
        preopens=_apart_in_guest(options.dir),
    )
    try:
        return _run_each(module, wasi, options) if options.each else _run_as_program(module, wasi, options)
    except MissingImport as error:
        raise not_to_be_had(module, error) from None


def _apart_in_guest(given: Sequence[tuple[str, tuple[str, Access]]]) -> dict[str, tuple[str, Access]]:
    """The directories by their names in the program.

    Raises:
        BadRequest: two would have one name.
    """
    preopens: dict[str, tuple[str, Access]] = {}
    for guest, entry in given:
        if preopens.setdefault(guest, entry) != entry:
            raise BadRequest(f"run: --dir: two directories would be {guest!r} in the program")
    return preopens


def _command(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The module and its arguments.  A ``--`` on either side of the module is ours, any other the program's."""
    if words[:1] == ["--"]:
        words = words[1:]
    if not words:
        raise BadRequest("run: name a module")
    module, *args = words
    return module, args[1:] if args[:1] == ["--"] else args


def _guest(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "memory_limit": options.memory_limit,
        "fuel": options.fuel,
        "on_missing_import": options.missing_imports,
        "features": options.feature,
    }


# -- one run -----------------------------------------------------------------------------------------------------------


def _run_as_program(module: str, wasi: WasiConfig, options: argparse.Namespace) -> NoReturn:
    _usual_signals()
    with Compiling() as compiling:
        command = ForegroundCommand(module, wasi, **_guest(options), announce=compiling.announce)
    if options.timeout is not None:
        limit = threading.Timer(min(options.timeout, threading.TIMEOUT_MAX), _out_of_time, [module, options.timeout])
        limit.daemon = True
        limit.start()
    command.run(_end)


def _usual_signals() -> None:
    """React to signals as programs usually do.  A handler of Python's would not run while wasm does."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else we were started to ignore it
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def _out_of_time(module: str, timeout: float) -> NoReturn:
    """In a thread: the program may be in wasm or in a host call, and only the end of the process ends both."""
    os._exit(complain(CallTimeout(f"{module} ran longer than {timeout:g} s and was stopped"), TIMED_OUT))


def _end(outcome: int | WasmTrap) -> NoReturn:
    """Without the interpreter's own end: there may be threads in wasm, which it cannot stop."""
    os._exit(outcome & 0xFF if isinstance(outcome, int) else complain(outcome, TRAPPED))


# -- one run per file --------------------------------------------------------------------------------------------------


def _run_each(module: str, wasi: WasiConfig, options: argparse.Namespace) -> int:
    """One run per input, across the workers; outputs in order of the inputs."""
    inputs: list[str] = options.each
    for name in inputs:
        if os.path.isdir(name) or not os.access(name, os.R_OK):
            raise BadRequest(f"run: --each {name}: {'it is a directory' if os.path.isdir(name) else 'it cannot be read'}")
    outputs = [None] * len(inputs) if options.output_dir is None else _outputs(inputs, options.output_dir)
    failed, started = 0, perf_counter()
    progress = Progress(len(inputs), "runs")
    with Compiling() as compiling:
        pool = ProcessWasmPool(
            module, options.workers, wasi=wasi, on_event=compiling.hear, callables=False, **_guest(options)
        )
    with pool, progress as advance:
        if options.output_dir is not None:  # before anything runs for nothing
            options.output_dir.mkdir(parents=True, exist_ok=True)
        for name, output, done in zip(inputs, outputs, _outcomes(pool, inputs, options.timeout), strict=True):
            advance(1)
            with progress.aside():
                failed += not _tell(name, output, done)
        workers = len(pool.stats().workers)
    seconds = perf_counter() - started
    print(f"{plural(len(inputs), 'run')} in {in_words(seconds)} on {plural(workers, 'worker')}", file=sys.stderr)
    return GUEST_FAILED if failed else 0


def _outcomes(
    pool: ProcessWasmPool, inputs: Sequence[str], timeout: float | None
) -> Iterator[CompletedRun | BaseException]:
    """What becomes of the run for each input, in order."""
    read = deque[OSError | MemoryError | BadRequest | None]()  # why an input cannot be read, for each without an outcome

    def contents() -> Iterator[bytes]:
        for name in inputs:
            try:
                content = _content(name)
            except (OSError, MemoryError, BadRequest) as error:  # raised here, it would end the map
                read.append(error)
            else:
                read.append(None)
                yield content

    with contextlib.closing(pool.run_map(contents(), timeout=timeout, return_exceptions=True)) as runs:
        for done in itertools.chain(runs, [None]):
            while read and (error := read.popleft()) is not None:
                yield error
            if done is not None:
                yield done


def _content(name: str) -> bytes:
    """What is in a file; or comes out of a pipe or a device, if that is not too much.

    Raises:
        OSError: it cannot be read.
        MemoryError: it is too large for this machine.
        BadRequest: it may have no end.
    """
    with open(name, "rb") as file:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return file.read()
        content = file.read(MOST_UNFILED + 1)
    if len(content) > MOST_UNFILED:
        raise BadRequest(f"it is no file, and goes on behind {MOST_UNFILED >> 20} MiB")
    return content


def _tell(name: str, output: Path | None, done: CompletedRun | BaseException) -> bool:
    """Put what one run has printed where it belongs, and say what went wrong.

    Returns:
        Whether nothing did.
    """
    if isinstance(done, BaseException):
        text = told(done)
        complain(text if isinstance(done, OSError) and done.filename == name else f"{name}: {text}", GUEST_FAILED)
        return False
    sys.stderr.buffer.write(done.stderr)
    sys.stderr.flush()
    if output is None:
        put(done.stdout)
    elif not done.returncode:
        try:
            _replace(output, done.stdout)
        except OSError as error:  # raised, it would end the other runs
            complain(error, GUEST_FAILED)
            return False
    if done.returncode:
        kept = f"; {output} is left as it was" if output is not None and output.exists() else ""
        complain(f"{name}: exited with code {done.returncode}{kept}", GUEST_FAILED)
    return not done.returncode


def _replace(output: Path, content: bytes) -> None:
    """Write a file whole or not at all; or to what is there and is no file, such as a pipe.

    Raises:
        OSError: it cannot be written; names it.
    """
    try:
        if output.exists() and not output.is_file():  # as it is named: there may be no path to what /dev/stdout stands for
            output.write_bytes(content)
        else:
            _replace_file(_real(output), content)
    except OSError as error:
        error.filename = str(output)
        raise


def _replace_file(output: Path, content: bytes) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    beside = output.with_name(f".{os.getpid()}.part")  # in the same directory, for a name cannot move to another disk
    try:
        beside.write_bytes(content)
        if output.exists():
            shutil.copymode(output, beside)
        beside.replace(output)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _outputs(inputs: Sequence[str], directory: Path) -> list[Path]:
    """Where the output for each input goes: to its path below the directory that all inputs have in common.

    Raises:
        BadRequest: two outputs would go to one file, or one to an input.
    """
    paths = [Path(os.path.abspath(name)) for name in inputs]
    common = os.path.commonpath([path.parent for path in paths])
    outputs = [directory / path.relative_to(common) for path in paths]
    taken = {_real(path): name for path, name in zip(paths, inputs, strict=True)}
    seen: set[Path] = set()
    for name, output in zip(inputs, outputs, strict=True):
        if output in seen:
            raise BadRequest(f"run: --each {name}: given twice, and both outputs would be written to {output}")
        seen.add(output)
        if (real := _real(output)) in taken:
            raise BadRequest(f"run: --each {taken[real]}: the output would be written over it; choose another DIR")
    return outputs


def _real(path: Path) -> Path:
    """Behind all links.  One that leads to itself is left as it is: `Path.resolve` raises what is no OSError."""
    return Path(os.path.realpath(path))
