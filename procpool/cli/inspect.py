"""``procpool inspect``"""

from __future__ import annotations

import argparse
import dataclasses
import os
from typing import Any

from ..binary import ExternType, FuncType, GlobalType, MemoryType, TableType
from ..module import compile_module
from .options import Commands, module_options
from .shown import as_json


def add_to(commands: Commands) -> None:
    """Add the command to the parser's."""
    inspect = commands.add_parser(
        "inspect",
        parents=[module_options()],
        help="show what a module exports and imports",
        description="Show what a module exports and imports, and how large it is.",
    )
    inspect.add_argument("--json", action="store_true", help="print an object")
    inspect.set_defaults(run=_inspect)


def _inspect(options: argparse.Namespace) -> None:
    compiled = compile_module(options.module)
    with open(compiled.artifact, "rb") as artifact:
        code = os.fstat(artifact.fileno()).st_size
    interface = compiled.interface
    if options.json:
        imports = [{"module": i.module, "name": i.name} | _object(i.type) for i in interface.imports]
        exports = [{"name": name} | _object(type_) for name, type_ in interface.exports.items()]
        sizes = {"module": options.module, "wasm_bytes": compiled.size, "compiled_bytes": code}
        print(as_json(sizes | {"imports": imports, "exports": exports}))
        return
    print(f"{options.module}: {compiled.size:,} bytes of wasm, {code:,} bytes compiled")
    for title, items in (
        ("imports", [(f"{i.module}.{i.name}", i.type) for i in interface.imports]),
        ("exports", list(interface.exports.items())),
    ):
        print(f"{title}: {len(items) or 'none'}")
        for name, type_ in items:
            print(f"  {name} {type_}" if isinstance(type_, FuncType) else f"  {name}: {type_}")


def _object(type_: ExternType) -> dict[str, Any]:
    kinds = {FuncType: "function", MemoryType: "memory", TableType: "table", GlobalType: "global"}
    return {"kind": kinds.get(type(type_), "tag")} | dataclasses.asdict(type_)
