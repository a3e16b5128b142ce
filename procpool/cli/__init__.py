"""The command line: ``procpool call | map | bench | run | inspect``.

Results go to standard output, everything else to standard error.  ``procpool --help`` lists the exit codes.
"""

from .entry import main

__all__ = ["main"]
