"""The standard streams of WASI modules in this worker.

wasmtime can write to a file it opens by path, and to a callback that it runs on threads of its own (which panicked in some
runs when the interpreter ended).  So output goes to a pipe, opened by its path under /proc, and a thread of ours empties
it: it works while the guest runs, can stop one that prints too much, and passes lines on as they come.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import functools
import os
import select
import termios
import threading
from collections.abc import Callable
from typing import Any

import wasmtime

from .. import wire
from ..errors import OutputLimit
from ..wasi import CAPTURE, INHERIT, Spec
from . import inherited
from .arena import Arena
from .traffic import Replies, Running, write_all

_OUT, _ERR = 1, 2


def surroundings(spec: Spec) -> wasmtime.WasiConfig:
    """wasmtime's configuration of all that a command sees but its streams.

    Raises:
        wasmtime.WasmtimeError: a directory has gone since it was checked.
    """
    config = wasmtime.WasiConfig()
    if spec.args:  # what is left out takes no time, and some get a new configuration for each job
        config.argv = list(spec.args)
    if spec.env:
        config.env = list(spec.env)
    for host, guest, writable in spec.preopens:
        config.preopen_dir(host, guest, writable)
    return config


class Streams:
    """What the command that runs has printed, one at a time; and what other instances do, which the parent sees to.

    Args:
        running: the job that runs; one that prints too much is stopped.
        replies: where what is printed goes.
        arena: tells which item of a batch runs; each may print as much as a call.
        lifeline: see `inherited.join`.
        spec: of instances that run no command; None if the module has no WASI.
    """

    def __init__(self, running: Running, replies: Replies, arena: Arena, lifeline: int, spec: Spec | None) -> None:
        self._running = running
        self._replies = replies
        self._sent = (
            ()
            if spec is None
            else tuple(stream for stream, to in ((_OUT, spec.stdout), (_ERR, spec.stderr)) if to in (CAPTURE, "lines"))
        )
        self._most = 0 if spec is None else spec.max_output
        self._arena = arena
        # The job and item that was seen last; what lay in the pipes then, which others may have printed; what came since.
        self._seen: tuple[Any, int] = None, 0
        self._foreign = 0
        self._came = 0
        self._stopped = False  # it has printed too much: what comes until it has ended is dropped
        self._unended: set[int] = set()  # streams that the parent has seen a part of a line of
        self._poll = select.poll()
        self._lifeline = lifeline
        self._joined = False  # this process is in the program's group
        self._inherited = False  # the program's standard input is ours
        self._lock = threading.Lock()  # over all below, and every read of the pipes: so chunks stay in order
        self._reads: dict[int, int] = {}  # stream -> read end
        self._paths: dict[int, str] = {}
        self._captured: dict[int, bytearray] = {}
        self._live: dict[int, int] = {}  # streams whose chunks are passed on, and how many bytes have been
        self._limit = 0
        self._active = False
        self._over = 0  # the stream that exceeded the limit

    @property
    def sends(self) -> bool:
        """Whether anybody is to see what is printed outside of a command."""
        return bool(self._sent)

    def prepare(self, spec: Spec) -> None:
        """Do now what takes rights that this process is about to give up."""
        self._join(spec)
        self._open()

    def _join(self, spec: Spec) -> None:
        if not self._joined and INHERIT in (spec.stdin_path, spec.stdout, spec.stderr):
            inherited.join(spec.program, self._lifeline)
            self._joined = True

    def configure(self, spec: Spec, close: list[int]) -> wasmtime.WasiConfig:
        """wasmtime's configuration; descriptors to close when the store is made, or cannot be, are added to ``close``.

        Raises:
            OSError, wasmtime.WasmtimeError: a file or directory has gone since it was checked.
        """
        config = surroundings(spec)
        self._join(spec)
        if spec.stdin is not None:
            fd = os.memfd_create("stdin")
            close.append(fd)
            write_all(fd, spec.stdin)
            config.stdin_file = f"/proc/self/fd/{fd}"
        elif spec.stdin_path == INHERIT:
            if not self._inherited:
                inherited.take_stdin(spec.program)
                self._inherited = True
            # wasmtime reads this one only when the guest does, and a file ahead: that would take keys meant for others.
            config.inherit_stdin()
        elif spec.stdin_path is not None:
            config.stdin_file = spec.stdin_path
        self._direct(config, "stdout", _OUT, spec.stdout)
        self._direct(config, "stderr", _ERR, spec.stderr)
        return config

    def configuring(self, spec: Spec, close: list[int]) -> Callable[[], wasmtime.WasiConfig]:
        """A maker of configurations, one for each store; what they open by descriptor is added to ``close``."""
        return functools.partial(self.configure, spec, close)

    def _direct(self, config: Any, name: str, stream: int, to: str | None) -> None:
        if to == INHERIT:
            getattr(config, f"inherit_{name}")()
        elif to is None:
            return  # then wasmtime drops it, and opens nothing
        elif to.startswith("file:"):
            _append(config, name, to[5:])
        else:
            if not self._reads:
                self._open()
            setattr(config, f"{name}_file", self._paths[stream])

    def _open(self) -> None:
        for stream in (_OUT, _ERR):
            read, write = os.pipe()
            os.set_blocking(read, False)
            self._reads[stream] = read
            self._paths[stream] = f"/proc/self/fd/{write}"
            self._poll.register(read, select.POLLIN)
        threading.Thread(target=self._empty, name="procpool-streams", daemon=True).start()

    # -- while a command runs ------------------------------------------------------------------------------------------

    def begin(self, spec: Spec) -> None:
        """A command begins."""
        with self._lock:
            self._drain()
            self._captured = {
                stream: bytearray() for stream, to in ((_OUT, spec.stdout), (_ERR, spec.stderr)) if to == CAPTURE
            }
            self._live = {stream: 0 for stream, to in ((_OUT, spec.stdout), (_ERR, spec.stderr)) if to == "lines"}
            self._limit = spec.max_output
            self._over = 0
            self._active = True

    def end(self) -> tuple[bytes | None, bytes | None]:
        """The command has ended, and so have its writes: all it has printed."""
        with self._lock:
            self._drain()
            self._active = False
            return self._so_far()

    def excess(self) -> str | None:
        """After the end: the name of the stream to which the command printed more than it may, and was stopped for it."""
        return {0: None, _OUT: "stdout", _ERR: "stderr"}[self._over]

    def tell(self) -> None:
        """Control thread: the command is being interrupted, and may never come to its end; send what there is."""
        with self._lock:
            if not self._active:
                return
            self._drain()
            payload = bytes((wire.ALL_OUTPUT,)) + wire.encode(self._so_far())
        self._replies.flush(wire.reply(wire.OUTPUT, payload))

    def pass_on(self) -> None:
        """Send all that was printed, if no command runs."""
        if self._reads:
            with self._lock:  # also if there is nothing: what the thread has taken has been sent then
                self._drain()
                self._stopped = False

    def end_lines(self) -> None:
        """What was printed by now belongs to an instance, or a lease, that has ended: what comes begins a new line."""
        if self._reads:
            with self._lock:
                self._drain()
                for stream in self._unended:
                    self._replies.flush(wire.reply(wire.PRINTED, bytes((stream,))))
                self._unended.clear()

    def _drain(self) -> None:
        """Take all there is.  The guest has ended, or not begun, so no job can be stopped for it any more."""
        self._seen = None, 0  # also if there is nothing: the next item of a batch begins under the same number
        if self._poll.poll(0):
            for stream in self._reads:
                while self._read(stream):
                    pass

    def _so_far(self) -> tuple[bytes | None, bytes | None]:
        out, err = (self._captured.get(stream) for stream in (_OUT, _ERR))
        return None if out is None else bytes(out), None if err is None else bytes(err)

    def _empty(self) -> None:
        """The thread: take what comes, so that no guest waits for room."""
        poll = select.poll()
        streams = {fd: stream for stream, fd in self._reads.items()}
        for fd in streams:
            poll.register(fd, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                with self._lock:
                    if not self._active:
                        self._look_who_prints()
                    self._read(streams[fd])

    def _read(self, stream: int) -> bool:
        """Take one chunk; false if there is none."""
        try:
            chunk = os.read(self._reads[stream], 65536)
        except BlockingIOError:
            return False
        if not self._active:
            self._send(stream, chunk)
            return True
        captured, passed = self._captured.get(stream), self._live.get(stream)
        if captured is not None:
            room = self._limit - len(captured)
            captured += chunk[:room]
        elif passed is not None:
            room = self._limit - passed
            self._live[stream] = passed + min(room, len(chunk))
            if room:
                self._replies.flush(wire.reply(wire.OUTPUT, bytes((stream,)) + chunk[:room]))
        else:
            return True
        if len(chunk) > room and not self._over:
            self._over = stream
            # Under the lock, so it cannot be the next command that is stopped.
            self._running.raise_epoch()
        return True

    def _send(self, stream: int, chunk: bytes) -> None:
        """Have the parent see what no command has printed."""
        if stream not in self._sent or self._stopped:
            return
        self._came += len(chunk)
        beyond = self._came - self._foreign - self._most
        if beyond > 0 and self._stop_seen():
            self._stopped = True
            chunk = chunk[:-beyond]
        if chunk:
            self._replies.flush(wire.reply(wire.PRINTED, bytes((stream,)) + chunk))
            (self._unended.discard if chunk.endswith(b"\n") else self._unended.add)(stream)

    def _stop_seen(self) -> bool:
        """Stop the job that was seen, if any, at the item that was, if it is still there; whether it was."""
        job, _ = self._seen
        if job is None or self._runs() != self._seen:
            return False
        self._arena.hold()  # it may end in this very moment, and the next item must not be stopped for it
        if self._runs() != self._seen:
            return False
        most = f"max_output={self._most:,} bytes of its WasiConfig"
        return self._running.stop(job, OutputLimit(f"the guest printed more than {most} in one call and was stopped"))

    def _runs(self) -> tuple[Any, int]:
        """The job that runs, and its item."""
        job = self._running.number
        return job, job[1] if isinstance(job, tuple) else self._arena.item()

    def _look_who_prints(self) -> None:
        """Before a read: what was printed by then may be another item's, and is not held against this one.

        A guest waits for its writes, so what others have printed lies in the pipes.  When a job begins nothing does: it was
        passed on when the one before had ended.  So it was for an item that has a number of its own to be stopped by.
        """
        runs = job, item = self._runs()
        if runs != self._seen:
            nothing = job != self._seen[0] and (not item or isinstance(job, tuple))
            self._seen, self._came = runs, 0
            self._foreign = 0 if nothing else sum(map(_bytes_in, self._reads.values()))


def _append(config: Any, name: str, path: str) -> None:
    """Have a stream written to the end of a file, to which others write as well.

    wasmtime opens a file by its path, empties it, and writes from its beginning.  So it is given an empty one of ours, and
    the descriptor that it has then is made one of the file that is meant.

    Raises:
        wasmtime.WasmtimeError: the file cannot be opened.
    """
    try:
        meant = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise wasmtime.WasmtimeError(f"{name}: {error}") from None
    ours = os.memfd_create(name)
    try:
        setattr(config, f"{name}_file", f"/proc/self/fd/{ours}")
        os.dup2(meant, _other_descriptor(ours), inheritable=False)
    finally:
        os.close(ours)
        os.close(meant)


def _other_descriptor(fd: int) -> int:
    """The second descriptor of a file that nobody else knows."""
    file = os.fstat(fd)
    for other in map(int, os.listdir("/proc/self/fd")):
        if other != fd:
            with contextlib.suppress(OSError):  # closed meanwhile, by another thread
                if os.path.samestat(os.fstat(other), file):
                    return other
    raise RuntimeError("wasmtime has not opened the file of a stream when it was given it")


def _bytes_in(pipe: int) -> int:
    size = array.array("i", (0,))
    fcntl.ioctl(pipe, termios.FIONREAD, size)
    return size[0]
