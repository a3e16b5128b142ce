"""Options that several commands share, and the types of their values."""

from __future__ import annotations

import argparse
from typing import TypeAlias

#: What every command's ``add_to`` gets: the parser's commands, for which argparse has no public name.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def module_options() -> argparse.ArgumentParser:
    """The module to work with."""
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument("module", metavar="MODULE", help="a .wasm or .wat file")
    return parent


def running_options() -> argparse.ArgumentParser:
    """How to run it."""
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument("--workers", type=positive_int, metavar="N", help="processes (default: usable CPUs)")
    parent.add_argument("--timeout", type=seconds, metavar="S", help="seconds one call may run")
    return parent


def positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def seconds(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise ValueError
    return value


def range_(text: str) -> range:
    return range(*(int(part, 0) for part in text.split(":", 2)))


positive_int.__name__, seconds.__name__, range_.__name__ = "positive number", "number of seconds", "range"
