"""Bringing worker processes into the world, and hearing of their ends."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import select
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol

from .. import interpreter, wire
from ..binary import FuncType
from ..errors import PoolClosed
from ..files import anonymous_file, seal

#: How long the template may take to kill and reap its workers when the pool closes, in seconds.
CLOSE_GRACE = 5.0


class Inheritance:
    """The files that all workers of a pool inherit under their numbers, each for reading only: code, settings, a snapshot.

    What can be written is shared with one process alone, and not here: see `ProcessMemory`.

    Owns ``artifacts``, ``reserved``, ``snapshot`` and ``keeper``, which are descriptors, from when it is made; if it cannot
    be, the caller does.  ``capture``, the one file that a worker writes, is inherited too, and stays the caller's.  What it
    is asked for may be asked by any thread.

    Raises:
        StartupError: there is no Python interpreter that could run workers.
        OSError: there are no descriptors left, say.
    """

    def __init__(
        self,
        artifacts: Sequence[int],
        exports: tuple[tuple[str, Any], ...],
        program: Any,
        limits: wire.GuestLimits,
        guest: wire.Guest,
        instances: int,
        slots: int,
        reserved: Sequence[int] = (),
        snapshot: int = -1,
        keeper: int = -1,
        capture: int = -1,
    ) -> None:
        self.interpreter: str = interpreter.chosen()  #: the Python that runs workers
        self.instances = instances  #: per process
        self.slots = slots  #: the most processes there can be at a time
        self.snapshot = snapshot  #: a file with what instances begin as; -1 if there is none
        self._pid = os.getpid()
        # Held while a file is used by its number.  A signal handler or a finalizer may come here again in the same thread.
        self._using = threading.RLock()
        with contextlib.ExitStack() as owned:

            def own(fd: int) -> int:
                owned.callback(os.close, fd)
                return fd

            # The parent alone has the write end, and never writes: its closing is the news that the parent has ended.
            lifeline, _ = map(own, os.pipe())
            # The same news, though less firm, when a copy of the write end lives on in a fork that we have not seen.
            parent = _pidfd(self._pid)
            if parent >= 0:
                own(parent)
            values = max((max(len(t.params), len(t.results)) for _, t in exports if isinstance(t, FuncType)), default=0)
            settings = wire.Settings(
                tuple(artifacts),
                lifeline,
                exports,
                program,
                limits,
                values,
                instances,
                guest,
                snapshot,
                keeper,
                parent,
            )
            self.settings_fd: int = own(anonymous_file(settings.dump()))
            seal(self.settings_fd)
            self._owned = owned.pop_all()
        for fd in (*artifacts, *reserved, snapshot, keeper):
            if fd >= 0:
                self._owned.callback(os.close, fd)
        inherited = (self.settings_fd, *artifacts, lifeline, parent, snapshot, keeper, capture)
        self.fds: tuple[int, ...] = tuple(fd for fd in inherited if fd >= 0)

    @contextlib.contextmanager
    def held_snapshot(self) -> Iterator[int]:
        """The file of the snapshot, which stays open meanwhile.

        Raises:
            PoolClosed: `close` came first.
            OSError: there are no descriptors left.
        """
        with self._using:
            self._check_open()
            copy = os.dup(self.snapshot)
        try:
            yield copy
        finally:
            os.close(copy)

    def _check_open(self) -> None:
        if not self.fds:  # the numbers may be those of other files by now
            raise PoolClosed("this pool was shut down")

    def close(self) -> None:
        """Close all.  A worker that still lives is killed by this."""
        if os.getpid() != self._pid:
            self._using = threading.RLock()  # the thread that held the other one may not exist in this child
        with self._using:
            self.fds = ()
            self._owned.close()


def reserve_stdio() -> list[int]:
    """Occupy those of the descriptors 0 to 2 that the program has closed, for the life of a pool.

    A pipe or file of ours under such a number would be replaced in each child by its standard stream.

    Raises:
        OSError: there are no descriptors left.
    """
    reserved: list[int] = []
    try:
        while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
            reserved.append(fd)
    except OSError:
        for fd in reserved:
            os.close(fd)
        raise
    os.close(fd)
    return reserved


def _pidfd(pid: int) -> int:
    """A descriptor that is readable once that process has ended; -1 where the system has or allows none.

    Raises:
        ProcessLookupError: there is no such process.
        OSError: there are no descriptors left.
    """
    if not hasattr(os, "pidfd_open"):
        return -1
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno in (errno.ESRCH, errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        return -1


class Events(Protocol):
    """What a launcher has to tell: the three methods that a dispatcher needs of a socket."""

    def fileno(self) -> int:
        """A descriptor that is readable when there is a message."""

    def recv(self, size: int, /) -> bytes:
        """The next LAUNCH_EVENT message; nothing when no more will come.

        Raises:
            BlockingIOError: there is none now.
        """

    def close(self) -> None:
        """Close the descriptors."""


class LauncherBusy(Exception):
    """Raised by a launcher that has been asked for more than it has come to: ask again later."""


class Launcher(Protocol):
    """Starts workers.  What becomes of them arrives as LAUNCH_EVENT messages on ``events``."""

    @property
    def events(self) -> Events: ...

    def __init__(self, inheritance: Inheritance) -> None: ...

    def launch(self, id: int, slot: int, fds: Sequence[int]) -> None:
        """Ask for a process, with ``fds`` for it alone; see wire.LAUNCH.  The caller may close them afterwards.

        Always from the same thread, which lives as long as the workers: theirs may end with it.

        Raises:
            OSError: it cannot be asked for now; nothing is left of the attempt.
            LauncherBusy: likewise, and nothing is wrong.
        """

    def close(self) -> None:
        """Kill and reap every worker still there."""

    def forsake(self) -> None:
        """In the child of a fork: close our copies of its descriptors, and harm nobody."""


def _start(
    inheritance: Inheritance, part: Literal["spawned", "template"], *args: int, fds: Sequence[int]
) -> subprocess.Popen[bytes]:
    """A fresh interpreter that runs that part of the child's side, and inherits ``fds`` beside what all inherit.

    Raises:
        OSError: it cannot be started.
    """
    python = inheritance.interpreter
    return interpreter.start(f"worker.{part}", inheritance.settings_fd, *args, fds=(*inheritance.fds, *fds), python=python)


class TemplateLauncher:
    """One ``exec`` of a template process, when the first worker is wanted, then a fork of it for each worker."""

    def __init__(self, inheritance: Inheritance) -> None:
        self._inheritance = inheritance
        self._process: subprocess.Popen[bytes] | None = None
        self.events: socket.socket
        self.events, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.events.setblocking(False)

    def launch(self, id: int, slot: int, fds: Sequence[int]) -> None:
        if self._process is None:
            requests = self._theirs.fileno()
            self._process = _start(self._inheritance, "template", requests, fds=[requests])
            self._theirs.close()
        try:
            socket.send_fds(self.events, [wire.LAUNCH.pack(id, slot)], list(fds))
        except BlockingIOError as full:
            raise LauncherBusy("the template has not come to what it was asked for") from full

    def forsake(self) -> None:
        self.events.close()
        self._theirs.close()  # open until the template has been started: while it is, and if it could not be

    def close(self) -> None:
        self.forsake()
        if self._process is None:
            return
        try:
            self._process.wait(CLOSE_GRACE)
        except subprocess.TimeoutExpired:  # stopped by a debugger or SIGSTOP, say
            self._process.kill()
            self._process.wait()


class _Exits:
    """The events of a launcher in this process: messages put here, and those made when a watched child ends."""

    def __init__(self) -> None:
        self._messages: deque[bytes] = deque()
        self._at_end: dict[int, Callable[[], bytes]] = {}  # pidfd -> makes the message, once
        with contextlib.ExitStack() as owned:
            self._bell, self._ringer = map(owned.enter_context, socket.socketpair())
            self._bell.setblocking(False)
            self._ringer.setblocking(False)
            self._epoll: select.epoll | None = None
            if hasattr(select, "epoll"):
                self._epoll = owned.enter_context(select.epoll())
                self._epoll.register(self._bell, select.EPOLLIN)
            self._owned = owned.pop_all()

    def fileno(self) -> int:
        return (self._epoll or self._bell).fileno()

    def put(self, message: bytes) -> None:
        """Add a message.  From any thread."""
        self._messages.append(message)
        with contextlib.suppress(OSError):  # rung often enough, or closed
            self._ringer.send(b"\0")

    def watch(self, pid: int, at_end: Callable[[], bytes]) -> None:
        """Have ``at_end`` make a message when that child has ended: needs a descriptor, or a thread where there are none.

        Raises:
            OSError: there is neither.
        """
        try:
            pidfd = _pidfd(pid) if self._epoll is not None else -1
        except ProcessLookupError:  # it has ended, and somebody else has reaped it
            self.put(at_end())
            return
        if pidfd >= 0:
            assert self._epoll is not None
            self._at_end[pidfd] = at_end
            self._epoll.register(pidfd, select.EPOLLIN)
            return
        try:
            threading.Thread(target=lambda: self.put(at_end()), daemon=True).start()
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, str(error)) from error

    def recv(self, size: int, /) -> bytes:
        with contextlib.suppress(BlockingIOError):
            while self._bell.recv(4096):
                pass
        for fd, _ in self._epoll.poll(0) if self._epoll is not None else ():
            at_end = self._at_end.pop(fd, None)
            if at_end is not None:
                assert self._epoll is not None
                self._epoll.unregister(fd)  # a forked child's copy would keep it there
                os.close(fd)
                self._messages.append(at_end())
        try:
            return self._messages.popleft()
        except IndexError:
            raise BlockingIOError from None

    def close(self) -> None:
        # Nothing is unregistered: in a forked child, the epoll set is the parent's too.
        while self._at_end:
            os.close(self._at_end.popitem()[0])
        self._owned.close()


class SpawnLauncher:
    """A fresh interpreter for each worker: slower and larger, but needs no fork."""

    def __init__(self, inheritance: Inheritance) -> None:
        self._inheritance = inheritance
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self.events: _Exits = _Exits()

    def launch(self, id: int, slot: int, fds: Sequence[int]) -> None:
        process = _start(self._inheritance, "spawned", slot, *fds, fds=fds)
        self.events.put(wire.LAUNCH_EVENT.pack(wire.LAUNCHED, id, process.pid))
        self._processes[id] = process
        try:
            self.events.watch(process.pid, functools.partial(self._ended, id, process))
        except OSError:
            del self._processes[id]
            process.kill()
            process.wait()
            raise

    def _ended(self, id: int, process: subprocess.Popen[bytes]) -> bytes:
        code = process.wait()
        self._processes.pop(id, None)
        return wire.LAUNCH_EVENT.pack(wire.EXITED, id, code)

    def close(self) -> None:
        processes = list(self._processes.values())
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
        self.events.close()

    def forsake(self) -> None:
        self.events.close()


#: By the names of multiprocessing's start methods.
LAUNCHERS: dict[str, type[Launcher]] = {"forkserver": TemplateLauncher, "spawn": SpawnLauncher}
