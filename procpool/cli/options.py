"""Options that several commands share, and the types of their values."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from typing import Literal, TypeAlias, TypeVar, get_args

from ..engine import checked_features
from ..options import MAX_WORKERS
from .completion import exports_of, modules
from .parser import word

#: What every command's ``add_to`` gets: the parser's commands, for which argparse has no public name.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

T = TypeVar("T", int, float)
MissingImports = Literal["trap", "zero"]

_SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def module_options() -> argparse.ArgumentParser:
    """The module to work with."""
    parent = argparse.ArgumentParser(add_help=False)
    module = parent.add_argument("module", metavar="MODULE", type=word, help="a .wasm or .wat file")
    module.completer = modules  # type: ignore[attr-defined]  # as argcomplete wants it
    return parent


def export_options() -> argparse.ArgumentParser:
    """The module and which of its functions."""
    parent = argparse.ArgumentParser(add_help=False, parents=[module_options()])
    export = parent.add_argument("export", metavar="EXPORT", type=word, help="the exported function to call")
    export.completer = exports_of  # type: ignore[attr-defined]
    return parent


def running_options() -> argparse.ArgumentParser:
    """How to run it."""
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument("--workers", type=workers, metavar="N", help="processes (default: usable CPUs)")
    parent.add_argument("--timeout", type=seconds, metavar="S", help="seconds one call may run")
    return parent


def guest_options() -> argparse.ArgumentParser:
    """What a called function may use."""
    parent = argparse.ArgumentParser(add_help=False, parents=[feature_options()])
    parent.add_argument(
        "--fuel", type=positive_int, metavar="N", help="units one call may burn, about one per wasm instruction"
    )
    parent.add_argument("--memory-limit", type=size, metavar="SIZE", help="bytes a memory may grow to, as in 64M or 1G")
    missing = "what calls of imports that nothing is given for do: trap, or return zeros (default: refuse the module)"
    parent.add_argument("--missing-imports", choices=get_args(MissingImports), help=missing)
    variables = "a variable of its environment; without =V as it is here; by default it has none"
    parent.add_argument("--env", type=variable, action="append", default=[], metavar="K[=V]", help=variables)
    return parent


def feature_options() -> argparse.ArgumentParser:
    """What the module may be written in."""
    parent = argparse.ArgumentParser(add_help=False)
    help = "a proposal for WebAssembly that the module may use, as custom-page-sizes; may be given several times"
    parent.add_argument("--feature", type=feature, action="append", default=[], metavar="NAME", help=help)
    return parent


def feature(text: str) -> str:
    """The name of a proposal."""
    try:
        (name,) = checked_features([text.strip()])
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("features: ")) from None
    return name


def positive_int(text: str) -> int:
    """A whole number from 1."""
    return _positive(text, int, "whole number from 1")


def workers(text: str) -> int:
    """A number of processes."""
    value = positive_int(text)
    if value > MAX_WORKERS:
        raise argparse.ArgumentTypeError(f"{value} is more than {MAX_WORKERS}, the most processes that a pool can have")
    return value


def seconds(text: str) -> float:
    """A length of time."""
    return _positive(text, float, "positive number of seconds")


def size(text: str) -> int:
    """A number of bytes, with K, M or G for powers of 1024."""
    found = re.fullmatch(r"(\d+) *(?:([kmg])(?:i?b)?)?", text.strip(), re.IGNORECASE)
    value = int(found[1]) * _SIZES[(found[2] or "").lower()] if found else 0
    if not value:
        raise argparse.ArgumentTypeError(f"{text.strip()!r} is no size in bytes; write 65536, 64K, 16M or 1G")
    return value


def variable(text: str) -> tuple[str, str] | None:
    """An environment variable: K=V, or K as it is in our own environment; None if it is not there."""
    name, given, value = text.partition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"{text!r} is no variable; write NAME=VALUE")
    if given:
        return name, value
    return (name, os.environ[name]) if name in os.environ else None


def counted(text: str) -> range:
    """A range of integers."""
    try:
        parts = [int(part, 0) for part in text.split(":")]
        if not 2 <= len(parts) <= 3:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text.strip()!r} is no range; write A:B or A:B:STEP in whole numbers") from None
    if parts[2:] == [0]:
        raise argparse.ArgumentTypeError(f"{text.strip()!r} has a STEP of 0")
    values = range(*parts)
    if not values:
        hint = "; a negative STEP counts down" if parts[0] > parts[1] else ""
        raise argparse.ArgumentTypeError(f"{text.strip()!r} counts nothing{hint}")
    if values[sys.maxsize :]:  # more have no length
        raise argparse.ArgumentTypeError(f"{text.strip()!r} counts more than {sys.maxsize}")
    return values


def _positive(text: str, convert: Callable[[str], T], expected: str) -> T:
    try:
        value = convert(text)
        if value > 0:
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text.strip()!r} is no {expected}")
