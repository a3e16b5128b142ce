"""``procpool call``"""

from __future__ import annotations

import argparse

from ..supervisor.jobs.call import Export
from .arguments import numbers
from .failures import BadRequest
from .opening import open_pool, signature
from .options import Commands, export_options, guest_options, running_options
from .output import as_json, put, shown
from .parser import word


def add_to(commands: Commands) -> None:
    """Add the command to the parser's."""
    call = commands.add_parser(
        "call",
        parents=[running_options(), guest_options(), export_options()],
        help="call one export and print its result",
        description="Call one export and print its result.",
    )
    call.add_argument(
        "args", metavar="ARG", nargs="*", help="numbers, a v128 as 32 hexadecimal digits; for a component, WAVE or JSON"
    )
    call.add_argument("--json", action="store_true", help="print an object with the arguments and the result")
    call.set_defaults(run=_call)


def _call(options: argparse.Namespace) -> None:
    with open_pool(options, stdout="inherit") as pool:
        function = pool._function(options.export)
        if not isinstance(function, Export):
            from . import component

            component.call(pool, function, [word(each) for each in options.args], options.json)
            return
        try:
            args = numbers(options.args, signature(pool, options.export))
        except ValueError as error:
            raise BadRequest(f"{options.export}: {error}") from None
        result = pool.call(options.export, *args)
    if options.json:
        put(as_json({"export": options.export, "args": args, "result": result}) + "\n")
    elif result is not None:
        put(f"{shown(result)}\n")
