"""The command line: ``procpool call | map | bench | run | inspect``.

Results go to standard output, everything else to standard error.  ``procpool --help`` lists the exit codes.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]

INTERRUPTED = 130  #: exit code after Ctrl-C, as a shell has it


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        from .entry import main as run  # here, for it takes a while, in which Ctrl-C may be pressed

        return run(argv)
    except KeyboardInterrupt:
        return INTERRUPTED
