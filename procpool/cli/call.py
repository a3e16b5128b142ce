"""``procpool call``"""

from __future__ import annotations

import argparse

from .failures import BadRow
from .opening import opened, signature
from .options import Commands, module_options, running_options
from .rows import numbers
from .shown import shown


def add_to(commands: Commands) -> None:
    """Add the command to the parser's."""
    parents = [running_options(), module_options()]
    call = commands.add_parser("call", parents=parents, help="call one export and print its result")
    call.add_argument("export", metavar="EXPORT")
    # REMAINDER, because argparse takes numbers such as -4e5 and -inf for options.
    arguments = "numbers; a v128 as 32 hexadecimal digits; options go before MODULE"
    call.add_argument("args", metavar="ARG", nargs=argparse.REMAINDER, help=arguments)
    call.set_defaults(run=_call)


def _call(options: argparse.Namespace) -> None:
    with opened(options) as pool:
        try:
            given = options.args[1:] if options.args[:1] == ["--"] else options.args
            args = numbers(given, signature(pool, options.export))
        except ValueError as error:
            raise BadRow(f"{options.export}: {error}") from None
        result = pool.call(options.export, *args)
        if result is not None:
            print(shown(result))
