"""A worker process from birth to death."""

from __future__ import annotations

import fcntl
import mmap
import os
import pickle
import select
import signal
import socket
import sys
import threading
from typing import NoReturn

import wasmtime

from .. import wire
from ..engine import loading_engine
from .arena import Arena
from .instances import Instances
from .jobs import Replies, Running, Waiting
from .loop import Loop, unfit
from .shipped import Functions

_F_SETSIG = 10  # Linux's fcntl.h; the fcntl module does not name it


class Blueprint:
    """What all workers of a pool share, ready to be inherited by a fork: nothing in it compiles or starts a thread."""

    def __init__(self, settings_fd: int) -> None:
        with open(settings_fd, "rb", closefd=False) as file:
            file.seek(0)
            settings: wire.Settings = pickle.load(file)
        self.settings = settings
        self.engine = loading_engine(settings.limits.fuel is not None)
        self.module = wasmtime.Module.deserialize_file(self.engine, f"/dev/fd/{settings.artifact}")
        self.board = memoryview(mmap.mmap(settings.board, 0)).cast("Q")


def die_with_parent(lifeline: int, owner: int) -> None:
    """Have the kernel kill ``owner`` (a pid, or minus a process group) when the parent's end of ``lifeline`` closes.

    No thread or handler of ours has to run for it, so it also ends a worker that holds the GIL in a stuck host
    function.  Where the system has no F_SETSIG, the control socket's end of file does the same a little less firmly.
    """
    if not sys.platform.startswith("linux"):
        return
    # Opened anew, because the owner belongs to the open file and others hold the inherited one.
    watch = os.open(f"/dev/fd/{lifeline}", os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(watch, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(watch, fcntl.F_SETOWN, owner)
    fcntl.fcntl(watch, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    # It may have closed before we asked to be told; then nothing more would come.
    if select.select([watch], [], [], 0)[0]:
        os.kill(owner, signal.SIGKILL)


def run_worker(blueprint: Blueprint, row: int, jobs_fd: int, replies_fd: int, control_fd: int) -> NoReturn:
    """Be a worker.  Never returns: ends by ``os._exit``, so nothing of the parent's or template's is torn down here."""
    code = 1
    try:
        # The terminal sends Ctrl-C to the whole process group; what to do about it is the parent's decision.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # A Python handler would not run while wasm does.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        code = _work(blueprint, row, jobs_fd, replies_fd, socket.socket(fileno=control_fd))
    except (BrokenPipeError, ConnectionResetError):  # the parent is gone
        code = 0
    finally:
        # Whatever happened, flush what the user's code printed; a broken stream must not change the exit code.
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                pass
        os._exit(code)


def _work(blueprint: Blueprint, row: int, jobs_fd: int, replies_fd: int, control: socket.socket) -> int:
    settings = blueprint.settings
    replies = Replies(control)
    arena = Arena(settings.arenas, row)
    instances = Instances(blueprint.engine, blueprint.module, settings.exports, settings.slots, settings.limits, arena)
    waiting = Waiting(jobs_fd)
    running = Running(blueprint.engine)
    threading.Thread(target=_listen, args=(control, waiting, running, replies, arena), daemon=True).start()
    try:
        instances.warm()
    except BaseException as error:
        replies.flush(unfit(error))
        return 0
    replies.flush(wire.reply(wire.READY))
    first = row * wire.BOARD_ROW
    board = blueprint.board[first : first + wire.BOARD_ROW]
    functions = Functions(instances, settings.exports)
    Loop(waiting, running, replies, replies_fd, instances, functions, arena, board).serve()
    return 0


def _listen(control: socket.socket, waiting: Waiting, running: Running, replies: Replies, arena: Arena) -> None:
    """The control thread.  Asleep but for interrupts, recalls, and the end of the parent."""
    while True:
        try:
            message = control.recv(wire.CONTROL.size, socket.MSG_WAITALL)
        except OSError:
            message = b""
        if len(message) < wire.CONTROL.size:
            os._exit(0)  # the parent is gone or wants us gone; the main thread may never return from wasm
        command, item, number = wire.CONTROL.unpack(message)
        if command == wire.INTERRUPT:
            running.interrupt(number, arena.at_item(item))
        elif command == wire.RECALL:
            replies.flush(wire.reply(wire.RECALLED, wire.COUNT.pack(waiting.give_back())))
        else:
            os._exit(70)  # EX_SOFTWARE: the stream is corrupt
