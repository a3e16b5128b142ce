"""``python -m perf``: every theme, in one run: as tables, and as a picture.

``--json FILE`` writes the figures too, ``--picture FILE`` draws them.  ``--fast`` takes fewer rounds, to try things out.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from . import batch, calls, faults, startup
from .pictures import draw
from .sidebyside import Result, describe_machine, table

THEMES = {"calls": calls, "batch": batch, "startup": startup, "faults": faults}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m perf", description=__doc__)
    parser.add_argument("themes", nargs="*", metavar="THEME", help=f"of {', '.join(THEMES)} (default: all)")
    parser.add_argument("--fast", action="store_true", help="3 rounds instead of 7")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--picture", type=Path, help="draw the figures there (needs matplotlib)")
    options = parser.parse_args()
    unknown = set(options.themes) - set(THEMES)
    if unknown:
        parser.error(f"unknown theme {unknown.pop()!r}")
    print(describe_machine(), flush=True)
    figures: dict[str, list[Result]] = {}
    for name in options.themes or THEMES:
        print(f"\n## {name}\n", file=sys.stdout, flush=True)
        figures[name] = THEMES[name].measure(rounds=3 if options.fast else 7)
        print(table(figures[name]), flush=True)
    if options.json:
        rows = {name: [result.as_dict() for result in results] for name, results in figures.items()}
        options.json.write_text(json.dumps({"machine": describe_machine(), "figures": rows}, indent=1) + "\n")
    if options.picture:
        draw([result for results in figures.values() for result in results], options.picture)


if __name__ == "__main__":
    main()
