"""Reads the command line, runs the command, and turns what it raises into an exit code."""

from __future__ import annotations

import argparse
import os
import sys

from .._version import __version__
from . import call, inspect, map, run
from .failures import GUEST_FAILED, WRONG_REQUEST, complain


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
    except GUEST_FAILED as error:
        return complain(error, 1)
    except WRONG_REQUEST as error:
        return complain(error, 2)
    return int(code or 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="procpool", description="Run WebAssembly exports in worker processes.")
    parser.add_argument("--version", action="version", version=f"procpool {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (call, map, run, inspect):
        command.add_to(commands)
    return parser
