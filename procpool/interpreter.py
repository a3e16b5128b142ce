"""Fresh Python interpreters that are children of ours."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing import spawn

from .confinement import listed
from .errors import StartupError

#: In the environment of our children until they have begun to be what they are meant to be.  A program that finds it
#: and wants a pool is such a child that became something else.
CHILD = "PROCPOOL_CHILD"


def chosen() -> str:
    """The Python that runs workers.

    Raises:
        StartupError: there is none, or it would be this program again, which would make a pool, whose workers would be...
    """
    advice = "give multiprocessing.set_executable() the path of a Python interpreter before you make a pool"
    if CHILD in os.environ:
        raise StartupError(
            f"this program was started by a pool to be its worker, and wants a pool itself: {sys.executable!r} does not "
            f"run the code it is given, as a Python interpreter does; {advice}"
        )
    executable = os.fsdecode(spawn.get_executable() or sys.executable or "")
    if not executable:
        raise StartupError(f"sys.executable names no Python interpreter to run workers; {advice}")
    if _frozen() and executable == sys.executable:
        raise StartupError(f"this program is frozen, and {executable!r}, being the program, cannot be a worker; {advice}")
    return executable


def _frozen() -> bool:
    """Whether this is an interpreter and a program packed into one, as by PyInstaller."""
    return bool(getattr(sys, "frozen", False))


def command(python: str, part: str, *args: int) -> list[str]:
    """The command line of a fresh interpreter with this one's import path, that runs ``main`` of a module of procpool.

    The path is passed on as it is now, so a worker finds what the parent finds whatever its working directory, and
    ``__main__`` is never imported again.  A frozen program's path, which lacks most of the library, comes after the
    interpreter's own.
    """
    path = []
    for entry in sys.path:
        with contextlib.suppress(FileNotFoundError):  # a relative entry, and the working directory is gone
            path.append(os.path.abspath(entry))
    prelude = (
        f"import os, sys; os.environ.pop({CHILD!r}, None); n = {len(args)}; args = [int(a) for a in sys.argv[1:n + 1]]; "
        f"sys.path[{'len(sys.path)' if _frozen() else ''}:] = sys.argv[n + 1:]; "
    )
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    code = f"{prelude}from procpool.{part} import main; main(*args)"
    return [python, *flags, "-c", code, *map(str, args), *path]


def _directory() -> str | None:
    """Where to start a child: here, or at the root if here is gone (CPython 3.13 cannot start there)."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return os.sep
    return None


def _environment(bare: bool) -> dict[str, str]:
    """A child's environment."""
    while True:
        try:
            ours = dict(os.environ)
            return {**(listed(ours) if bare else ours), CHILD: "1"}
        except KeyError:  # another thread has removed a variable meanwhile
            pass


def start(
    part: str, *args: int, fds: Sequence[int], python: str | None = None, bare: bool = False
) -> subprocess.Popen[bytes]:
    """A fresh interpreter that inherits ``fds``.

    By its name, as nothing of the child's side is imported here.

    Args:
        part: the module of procpool whose ``main`` it runs, with ``args``.
        python: which one; by default the one that is chosen now.
        bare: of the environment variables, it gets only those that are `listed`.

    Raises:
        StartupError: there is none.
        OSError: it cannot be started.
    """
    line = command(python or chosen(), part, *args)
    # Ctrl-C reaches the terminal's whole process group, and the child must not hear it before it can ignore it.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        return subprocess.Popen(
            line, stdin=subprocess.DEVNULL, cwd=_directory(), env=_environment(bare), pass_fds=tuple(fds)
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
