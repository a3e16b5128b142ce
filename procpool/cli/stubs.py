"""``procpool stubs``"""

from __future__ import annotations

import argparse

from ..module import inspect
from ..printable import printable
from .failures import BadRequest
from .options import Commands, module_options
from .output import put


def add_to(commands: Commands) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser(
        "stubs",
        parents=[module_options()],
        help="print the types of a component's world for editors and type checkers",
        description="Print a stub file for a component: procpool stubs app.wasm > app.pyi",
    )
    parser.set_defaults(run=_stubs)


def _stubs(options: argparse.Namespace) -> None:
    from ..component.inspecting import ComponentInspection
    from ..component.stubs import stubs

    found = inspect(options.module)
    if not isinstance(found, ComponentInspection):
        raise BadRequest(
            f"{printable(options.module)} is a core module, whose functions take numbers; stubs are for components"
        )
    put(stubs(found.world, options.module))
