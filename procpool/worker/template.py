"""The template process: loads everything once, then forks ready workers on request.

It is started by a fresh ``exec``, so it shares nothing with the program that uses the pool, and it must stay fit to
fork: no threads, and nothing compiled (a process forked after wasmtime compiled hangs on its next compile, because the
threads of its compiler pool did not survive the fork).
"""

from __future__ import annotations

import errno
import gc
import os
import select
import signal
import socket
from collections.abc import Iterator
from typing import NoReturn

from .. import wire
from .lifeline import die_with_parent
from .main import Blueprint, run_worker, usual_signals
from .title import show_as


def main(settings_fd: int, requests_fd: int) -> NoReturn:
    """Serve fork requests until the parent closes the socket, then take all workers down."""
    usual_signals()
    requests = socket.socket(fileno=requests_fd)
    os.setpgid(0, 0)  # a group of our own: signals typed at the terminal are the parent's business
    blueprint = Blueprint.read(settings_fd)
    parent = blueprint.settings.parent
    die_with_parent(blueprint.settings.lifeline, -os.getpgrp())
    wakeup, notify = os.pipe()
    os.set_blocking(wakeup, False)
    os.set_blocking(notify, False)
    signal.set_wakeup_fd(notify, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # a no-op, but SIG_IGN or SIG_DFL would not write to `notify`
    show_as("template", blueprint.settings.guest.module)
    gc.freeze()  # what is alive now stays alive: keep the collector from dirtying the pages shared with workers
    children: dict[int, int] = {}  # pid -> worker id
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    poll.register(wakeup, select.POLLIN)
    if parent >= 0:
        poll.register(parent, select.POLLIN)
    serving = True
    try:
        while serving:
            ready = {fd for fd, _ in poll.poll()}
            if parent in ready:  # where the lifeline is still held, by a fork that Python did not see
                os.killpg(0, signal.SIGKILL)
            if wakeup in ready:
                os.read(wakeup, 4096)
                for event in _reap(children):
                    requests.send(event)
            if requests.fileno() in ready:
                serving = _serve_request(requests, blueprint, children, (wakeup, notify))
    except (BrokenPipeError, ConnectionResetError):
        pass
    for pid in children:
        os.kill(pid, signal.SIGKILL)  # ours and not reaped yet, so the pid is still theirs
    for pid in children:
        os.waitpid(pid, 0)
    os._exit(0)


def _reap(children: dict[int, int]) -> Iterator[bytes]:
    """An EXITED event for each child that has ended."""
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        worker = children.pop(pid, None)
        if worker is not None:
            yield wire.LAUNCH_EVENT.pack(wire.EXITED, worker, os.waitstatus_to_exitcode(status))


def _serve_request(requests: socket.socket, blueprint: Blueprint, children: dict[int, int], own: tuple[int, int]) -> bool:
    """Fork for the request that waits; false when the parent has closed the socket."""
    expected = wire.descriptors(blueprint.settings.instances)
    message, fds, _, _ = socket.recv_fds(requests, wire.LAUNCH.size, expected)
    if not message:
        return False
    worker, slot = wire.LAUNCH.unpack(message)
    if len(fds) != expected:  # the kernel drops descriptors when this process may not open more
        _close(fds)
        requests.send(wire.LAUNCH_EVENT.pack(wire.LAUNCH_FAILED, worker, errno.EMFILE))
        return True
    try:
        pid = os.fork()
    except OSError as error:
        requests.send(wire.LAUNCH_EVENT.pack(wire.LAUNCH_FAILED, worker, error.errno or 0))
    else:
        if pid == 0:
            signal.set_wakeup_fd(-1)
            requests.close()
            _close(own)
            run_worker(blueprint, slot, fds)
        children[pid] = worker
        requests.send(wire.LAUNCH_EVENT.pack(wire.LAUNCHED, worker, pid))
    # A copy kept here would keep the pipe from ever reporting the end of its worker, and every later sibling would have it.
    _close(fds)
    return True


def _close(fds: list[int] | tuple[int, ...]) -> None:
    for fd in fds:
        os.close(fd)
