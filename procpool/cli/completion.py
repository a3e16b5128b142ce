"""Completion of words by the shell, where argcomplete is installed.

argcomplete asks this program itself, so what it offers is never out of date, and the exports of the very module on the
line are among that.  Scripts made beforehand, as by shtab, could not know those.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from ..binary import FuncType, read_interface
from ..module import read_source


def answer(parser: argparse.ArgumentParser) -> None:
    """Print what fits and exit, if it is the shell that asks."""
    if "_ARGCOMPLETE" not in os.environ:
        return
    try:
        import argcomplete
    except ImportError:
        return
    argcomplete.autocomplete(parser)


def modules(prefix: str, **given: Any) -> list[str]:
    """The files that may be modules, and the directories on the way to them."""
    from argcomplete.completers import FilesCompleter

    return list(FilesCompleter(("wasm", "wat"))(prefix, **given))


def exports_of(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """The functions that the module on the line exports."""
    try:
        exports = read_interface(read_source(parsed_args.module)).exports
    except Exception:  # whatever is wrong with the module, a TAB is no place to say so
        return []
    return [name for name, type_ in exports.items() if isinstance(type_, FuncType) and name.isprintable()]
