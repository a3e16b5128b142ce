"""``python -m perf``: every theme, in one run: tables, and pictures where matplotlib is installed.

``--json FILE`` writes the figures too.  ``--fast`` takes fewer rounds, to try things out.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from . import batch, calls, faults, startup
from .sidebyside import describe_machine, table

THEMES = {"calls": calls, "batch": batch, "startup": startup, "faults": faults}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m perf", description=__doc__)
    parser.add_argument("themes", nargs="*", metavar="THEME", help=f"of {', '.join(THEMES)} (default: all)")
    parser.add_argument("--fast", action="store_true", help="3 rounds instead of 7")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    unknown = set(options.themes) - set(THEMES)
    if unknown:
        parser.error(f"unknown theme {unknown.pop()!r}")
    print(describe_machine(), flush=True)
    figures = {}
    for name in options.themes or THEMES:
        print(f"\n## {name}\n", file=sys.stdout, flush=True)
        results = THEMES[name].measure(rounds=3 if options.fast else 7)
        figures[name] = [result.as_dict() for result in results]
        print(table(results), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"machine": describe_machine(), "figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
