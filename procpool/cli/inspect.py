"""``procpool inspect``"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from ..binary import FuncType, GlobalType, Import, MemoryType, TableType
from ..module import inspect
from ..printable import printable
from .options import Commands, feature_options, module_options
from .output import as_json, put


def add_to(commands: Commands) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser(
        "inspect",
        parents=[module_options(), feature_options()],
        help="show what a module exports and imports",
        description="Show what a module exports and imports, and how large it is.",
    )
    parser.add_argument("--json", action="store_true", help="print an object")
    parser.set_defaults(run=_inspect)


def _inspect(options: argparse.Namespace) -> None:
    found = inspect(options.module, features=options.feature)
    if options.json:
        imports = [_import(needed) for needed in found.imports]
        exports = [{"name": name} | _object(type_) for name, type_ in found.exports.items()]
        put(as_json({"module": options.module, "bytes": found.size, "imports": imports, "exports": exports}) + "\n")
    else:
        put(f"{printable(options.module)}: {found}\n")


def _import(needed: Any) -> dict[str, Any]:
    if isinstance(needed, Import):
        return {"module": needed.module, "name": needed.name} | _object(needed.type)
    return {"module": needed.interface, "name": needed.raw_label} | _object(needed)


def _object(type_: Any) -> dict[str, Any]:
    if hasattr(type_, "signature"):  # of a component
        return {"kind": "function", "signature": type_.signature}
    kinds = {FuncType: "function", MemoryType: "memory", TableType: "table", GlobalType: "global"}
    return {"kind": kinds.get(type(type_), "tag")} | dataclasses.asdict(type_)
