"""The command line: ``procpool call | map | run | inspect``.

Results go to standard output, everything else to standard error.  Exit codes: 0 all is well; 1 the guest failed (it
trapped, ran out of time, or took its worker down); 2 the request was wrong (module, export, arguments, input rows);
130 interrupted.  ``run`` acts like the program itself: its exit code, or 134 if it trapped, 124 if it ran out of time.
"""

from .entry import main

__all__ = ["main"]
