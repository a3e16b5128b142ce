"""``procpool cache``"""

from __future__ import annotations

import argparse

from ..cache import DIRECTORY, SIZE, open_cache, place
from ..printable import printable
from .failures import BadRequest
from .options import Commands
from .output import as_json, put


def add_to(commands: Commands) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser(
        "cache",
        help="show or clear what is kept of compiled modules and snapshots",
        description="Show what pools have kept on disk of compiled modules and snapshots, or remove it. "
        f"{DIRECTORY} names the directory, or is 'off'; {SIZE} says how many bytes there may be in it.",
    )
    parser.add_argument("--clear", action="store_true", help="remove it all; a pool that uses some of it is not harmed")
    parser.add_argument("--json", action="store_true", help="print an object")
    parser.set_defaults(run=_cache)


def _cache(options: argparse.Namespace) -> None:
    with open_cache() as cache:
        if cache is None:
            raise BadRequest(f"there is no cache: {DIRECTORY} is 'off', or its directory cannot be used")
        before = cache.contents()
        if options.clear:
            cache.clear()
        found = cache.contents()
        directory, most = place(), cache.most
    size = sum(size for _, size, _ in found)
    removed = sum(size for _, size, _ in before) - size
    if options.json:
        put(as_json({"directory": directory, "files": len(found), "bytes": size, "most": most, "removed": removed}) + "\n")
        return
    if options.clear:
        put(f"removed {len(before) - len(found)} files, {removed:,} bytes\n")
    put(f"{printable(directory)}: {len(found)} files, {size:,} bytes of at most {most:,}\n")
