"""Reads the command line, runs the command, and turns what it raises into an exit code."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from collections.abc import Sequence

from .._version import __version__
from ..errors import ProcpoolError
from ..supervisor.launch import reserve_stdio
from . import bench, cache, call, completion, inspect, map, run, stubs
from .failures import GUEST_FAILED, complain, exit_code, told
from .options import Commands
from .output import STANDARD_OUTPUT
from .parser import Parser, apart


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    closed = _have_streams()
    parser, commands = _parser()
    completion.answer(parser)
    options = _parsed(parser, commands, sys.argv[1:] if argv is None else list(argv))
    try:
        if closed:
            _refuse_output()
        code = options.run(options)
    except BrokenPipeError:  # the reader of our output has had enough, like `head`
        _drop_output()
        return 0
    except (ProcpoolError, OSError) as error:
        _drop_output()
        if not isinstance(error, OSError) or error.filename != STANDARD_OUTPUT:
            return complain(error, exit_code(error))
        if closed and error.errno == errno.EBADF:
            return complain("standard output is closed, and the results are lost", GUEST_FAILED)
        return complain(f"{told(error)}; the results are lost", GUEST_FAILED)
    return int(code or 0)


def _have_streams() -> bool:
    """Streams that take whatever is printed.

    Where there is no standard output or error because who started us has closed it, what is printed is dropped.  What the
    encoding has no characters for is printed as Python would write it in a string.

    Returns:
        Whether standard output is closed.
    """
    closed = sys.stdout is None
    reserve_stdio()  # or a file of ours could become a stream of a program that we run
    for fd, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, "w", closefd=False))  # noqa: SIM115  # until the end
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper):  # not what a caller in Python has put there
            stream.reconfigure(errors="backslashreplace")
    return closed


def _refuse_output() -> None:
    """Have what is printed fail, as it does for a program whose standard output is closed; its place stays taken."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _drop_output() -> None:
    """Print what can be printed, and drop the rest, of which the interpreter would complain at its exit."""
    try:
        sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _parser() -> tuple[Parser, Commands]:
    parser = Parser(prog="procpool", description="Run WebAssembly exports in worker processes.")
    parser.add_argument("--version", action="version", version=f"procpool {__version__}")
    commands: Commands = parser.add_subparsers(  # type: ignore[assignment]  # it is invariant for no reason
        required=True, metavar="COMMAND"
    )
    for command in (call, map, bench, run, inspect, stubs, cache):
        command.add_to(commands)
    return parser, commands


def _parsed(parser: Parser, commands: Commands, words: Sequence[str]) -> argparse.Namespace:
    command = commands.choices.get(words[0]) if words else None
    if command is None:
        return parser.parse_args(words)  # which explains itself, or complains
    if words[0] == "run":  # what follows its MODULE is the program's, to the letter
        return command.parse_args(words[1:])
    return command.parse_intermixed_args(apart(words[1:]))
