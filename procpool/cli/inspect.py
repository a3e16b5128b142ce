"""``procpool inspect``"""

from __future__ import annotations

import argparse
import os

from ..binary import FuncType
from ..module import compile_module, read_source
from .options import Commands, module_options


def add_to(commands: Commands) -> None:
    """Add the command to the parser's."""
    inspect = commands.add_parser("inspect", parents=[module_options()], help="show what a module exports and imports")
    inspect.set_defaults(run=_inspect)


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
