"""Bringing worker processes into the world, and hearing of their ends."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from multiprocessing import spawn
from typing import Protocol

from .. import wire
from ..binary import FuncType
from ..module import anonymous_file

#: How long the template may take to kill and reap its workers when the pool closes, in seconds.
CLOSE_GRACE = 5.0


class Inheritance:
    """The anonymous files that all workers of a pool inherit under their numbers, and the parent's share in them."""

    def __init__(
        self,
        artifact: int,
        exports: tuple[tuple[str, FuncType], ...],
        limits: wire.GuestLimits,
        guest: wire.Guest,
        instances: int,
        slots: int,
        reserved: Sequence[int] = (),
    ) -> None:
        self._reserved = reserved  # descriptors to close with the rest
        self.instances = instances  #: per process, each with a row on the board
        self.slots = slots  #: the most processes there can be at a time
        board_fd = anonymous_file(b"")
        os.ftruncate(board_fd, slots * instances * wire.BOARD_ROW * 8)
        self._board = mmap.mmap(board_fd, 0)
        self.board = memoryview(self._board).cast("Q")
        self._arenas = anonymous_file(b"")
        self._arenas_size = 0
        self._payloads = anonymous_file(b"")
        try:
            # All at once, for workers write there too and must not find it short.  It takes no memory until it is used.
            os.ftruncate(self._payloads, slots * instances * wire.PAYLOAD_ROW)
            self.payload_bytes = wire.PAYLOAD_BYTES
        except OSError:  # a limit on the size of files: large values go through the pipes
            self.payload_bytes = 0
        # The parent alone has the write end, and never writes: its closing is the news that the parent has ended.
        lifeline, self._lifeline = os.pipe()
        values = max((max(len(t.params), len(t.results)) for _, t in exports), default=0)
        settings = wire.Settings(
            artifact,
            board_fd,
            self._arenas,
            self._payloads,
            lifeline,
            exports,
            limits,
            values,
            instances,
            guest,
            self.payload_bytes,
        )
        self.settings_fd = anonymous_file(settings.dump())
        self.fds: tuple[int, ...] = (self.settings_fd, artifact, board_fd, self._arenas, self._payloads, lifeline)

    def arena(self, row: int) -> mmap.mmap:
        """Map the arena of the worker with that row.  Its pages take memory when they are first written."""
        end = (row + 1) * wire.ARENA_BYTES
        if end > self._arenas_size:
            os.ftruncate(self._arenas, end)
            self._arenas_size = end
        return mmap.mmap(self._arenas, wire.ARENA_BYTES, offset=row * wire.ARENA_BYTES)

    def payload(self, row: int, slot: int, size: int) -> mmap.mmap:
        """A worker's payload slot, at least its first ``size`` bytes."""
        return wire.map_payload(self._payloads, row, slot, size)

    def close(self) -> None:
        """Close all.  A worker that still lives is killed by this."""
        fds, self.fds = self.fds, ()
        if fds:
            for fd in (*fds, self._lifeline, *self._reserved):
                os.close(fd)
            # A mapping keeps a descriptor of its own, which would live on with the pool object.
            self.board.release()
            with contextlib.suppress(BufferError):  # a direct call still looks at its dead worker; it ends with that
                self._board.close()


def reserve_stdio() -> list[int]:
    """Occupy those of the descriptors 0 to 2 that the program has closed, for the life of a pool.

    A pipe or file of ours under such a number would be replaced in each child by its standard stream.
    """
    reserved = []
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        reserved.append(fd)
    os.close(fd)
    return reserved


class Launcher(Protocol):
    """Starts workers.  What becomes of them arrives as LAUNCH_EVENT messages on ``events``."""

    events: socket.socket

    def __init__(self, inheritance: Inheritance) -> None: ...

    def launch(self, id: int, slot: int, fds: Sequence[int]) -> None:
        """Ask for a process.  The caller may close ``fds`` afterwards.

        Raises:
            OSError: it cannot be asked for.
        """

    def close(self) -> None:
        """Kill and reap every worker still there."""


def _python(code: str, *args: int) -> list[str]:
    """The command line of a fresh interpreter that runs ``code`` with this one's import path.

    The path is passed on as it is now, so a worker finds what the parent finds whatever its working directory, and
    ``__main__`` is never imported again.
    """
    executable = os.fsdecode(spawn.get_executable() or sys.executable)
    path = []
    for entry in sys.path:
        with contextlib.suppress(FileNotFoundError):  # a relative entry, and the working directory is gone
            path.append(os.path.abspath(entry))
    prelude = f"import sys; n = {len(args)}; args = [int(a) for a in sys.argv[1:n + 1]]; sys.path[:] = sys.argv[n + 1:]; "
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [executable, *flags, "-c", prelude + code, *map(str, args), *path]


def _directory() -> str | None:
    """Where to start a child: here, or at the root if here is gone (CPython 3.13 cannot start there)."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return os.sep
    return None


class TemplateLauncher:
    """One ``exec`` of a template process, then a fork of it for each worker."""

    def __init__(self, inheritance: Inheritance) -> None:
        self.events, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            requests = theirs.fileno()
            self._process = subprocess.Popen(
                _python("from procpool.worker.template import main; main(*args)", inheritance.settings_fd, requests),
                stdin=subprocess.DEVNULL,
                cwd=_directory(),
                pass_fds=(requests, *inheritance.fds),
            )
        self.events.setblocking(False)

    def launch(self, id: int, slot: int, fds: Sequence[int]) -> None:
        socket.send_fds(self.events, [wire.LAUNCH.pack(id, slot)], list(fds))

    def close(self) -> None:
        self.events.close()
        try:
            self._process.wait(CLOSE_GRACE)
        except subprocess.TimeoutExpired:  # stopped by a debugger or SIGSTOP, say
            self._process.kill()
            self._process.wait()


class SpawnLauncher:
    """A fresh interpreter for each worker: slower and larger, but needs no fork."""

    def __init__(self, inheritance: Inheritance) -> None:
        self._inheritance = inheritance
        self.events, self._report = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.events.setblocking(False)
        self._processes: dict[int, tuple[subprocess.Popen[bytes], threading.Thread]] = {}

    def launch(self, id: int, slot: int, fds: Sequence[int]) -> None:
        process = subprocess.Popen(
            _python("from procpool.worker.spawned import main; main(*args)", self._inheritance.settings_fd, slot, *fds),
            stdin=subprocess.DEVNULL,
            cwd=_directory(),
            pass_fds=(*self._inheritance.fds, *fds),
        )
        self._report.send(wire.LAUNCH_EVENT.pack(wire.LAUNCHED, id, process.pid))
        waiter = threading.Thread(target=self._wait, args=(id, process), daemon=True)
        self._processes[id] = process, waiter
        waiter.start()

    def _wait(self, id: int, process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        self._processes.pop(id, None)
        try:
            self._report.send(wire.LAUNCH_EVENT.pack(wire.EXITED, id, code))
        except OSError:  # the pool has closed meanwhile
            pass

    def close(self) -> None:
        waiting = list(self._processes.values())
        for process, _ in waiting:
            process.kill()
        for _, waiter in waiting:
            waiter.join()
        self.events.close()
        self._report.close()


#: By the names of multiprocessing's start methods.
LAUNCHERS: dict[str, type[Launcher]] = {"forkserver": TemplateLauncher, "spawn": SpawnLauncher}
