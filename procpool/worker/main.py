"""A worker process from birth to death."""

from __future__ import annotations

import os
import pickle
import resource
import select
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from typing import Any, NoReturn

import wasmtime

from .. import cores, wire
from ..engine import loading_engine, mapped
from ..mapped import shared_memory
from ..program import Program
from ..wasi import INHERIT
from .arena import Arena
from .equipment import Surroundings, of_modules
from .failures import unfit
from .lifeline import die_with_starter
from .logs import attach_logs, forward_logs
from .loop import Loop, Room
from .payloads import Payloads
from .sandbox.lock import Lock
from .shipped import ShippedFunctions
from .snapshot import Snapshot
from .streams import Streams
from .title import show_as
from .traffic import Replies, Running, Waiting

#: Stack that Python needs beside wasm's, in bytes.
_STACK_BESIDE_WASM = 4 << 20


class Blueprint:
    """What all workers of a pool share, ready to be inherited by a fork: nothing in it compiles or starts a thread."""

    def __init__(self, settings: wire.Settings) -> None:
        self.settings = settings
        self.engine: wasmtime.Engine = loading_engine(settings.engine)
        component = not isinstance(settings.program, Program)
        if component:
            # Here, and not in each fork, and not in a locked worker, which finds no modules.
            from .component import room

            room.prepare(settings.program)
        self.modules: list[Any] = [mapped(self.engine, artifact, component) for artifact in settings.artifacts]
        self.snapshot: Snapshot | None = None
        if settings.snapshot >= 0:
            keeper = wasmtime.Module.deserialize_file(self.engine, f"/dev/fd/{settings.keeper}")
            state, inner = wire.read_state(settings.snapshot), settings.program.inner
            self.snapshot = Snapshot(settings.snapshot, state, inner, keeper)

    @classmethod
    def read(cls, settings_fd: int) -> Blueprint:
        """As the parent has written it."""
        with open(settings_fd, "rb", closefd=False) as file:
            file.seek(0)
            settings: wire.Settings = pickle.load(file)
        if settings.guest.confinement.locked:
            Lock.prepare(settings.guest.confinement)
            from .. import bytes_function  # noqa: F401  # what parents send for `call_bytes`; a locked worker finds no modules
        keep(settings_fd, *settings.artifacts, settings.lifeline, settings.parent, settings.snapshot, settings.keeper)
        return cls(settings)

    @classmethod
    def again(cls, other: Blueprint) -> Blueprint:
        """The same with an engine of its own; the code is mapped once more, so it takes no more memory."""
        return cls(other.settings)


def keep(*fds: int) -> None:
    """Have programs that the user's code starts not inherit what we inherited: it would outlive us there."""
    for fd in fds:
        if fd >= 0:
            os.set_inheritable(fd, False)


def usual_signals() -> None:
    """React to signals as a program usually does, whatever the parent blocks or ignores: that is inherited.

    But for SIGINT.  The terminal sends Ctrl-C to the whole process group; what to do about it is the parent's decision.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A Python handler would not run while wasm does.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def run_worker(blueprint: Blueprint, slot: int, fds: Sequence[int]) -> NoReturn:
    """Be a worker.  Never returns: ends by ``os._exit``, so nothing of the parent's or template's is torn down here.

    ``fds`` are this process's alone: the memory that it shares with the parent; and jobs, replies, control per instance.
    """
    code = 1
    try:
        usual_signals()
        keep(*fds)
        show_as(f"worker {slot + 1}", blueprint.settings.guest.module)
        code = _work(blueprint, fds)
    except (BrokenPipeError, ConnectionResetError):  # the parent is gone
        code = 0
    except wire.CorruptStream as error:
        print(f"procpool: worker {os.getpid()} ends: {error}", file=sys.stderr)
        code = wire.EXIT_CORRUPT
    except _Scarce:
        code = wire.EXIT_SCARCE
    finally:
        # Whatever happened, flush what the user's code printed; a broken stream must not change the exit code.
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                pass
        os._exit(code)


def _work(blueprint: Blueprint, fds: Sequence[int]) -> int:
    settings = blueprint.settings
    rows = range(settings.instances)
    rooms: list[Room] = []  # none, if it is the initializer that raises
    memory, *ends = fds
    channels = [ends[at : at + 3] for at in range(0, len(ends), 3)]
    replies = [Replies(socket.socket(fileno=control)) for _, _, control in channels]
    forward_logs(replies[0], settings.guest.log_levels)
    try:
        _limit_resources(settings.guest.rlimits, settings.limits.stack)
        # An interrupt stops everything that runs on an engine, so each thread has its own.  Before the initializer, which
        # may give up the right to open files.
        blueprints = [blueprint, *(Blueprint.again(blueprint) for _ in rows[1:])]
        lock = Lock(settings.guest.confinement)
        lock.before_python()
        environment = pickle.loads(settings.guest.environment)
        keep(*(step.do.fd for step in environment.start if isinstance(step.do, wire.Capture)))
        if environment.initializer is not None:
            environment.initializer(*environment.initargs)
        if settings.guest.confinement.locked:
            _give_up_files(lock, blueprints, fds, environment)
        rooms = [
            _furnish(each, environment, memory, row, channel, answers)
            for each, row, channel, answers in zip(blueprints, rows, channels, replies, strict=True)
        ]
        lock.before_guest()
        if settings.guest.confinement.locked:
            # Now, and not with the next reply: guest code comes first, and could say something else.
            replies[0].flush(wire.reply(wire.CONFINED, wire.confined_to_bytes(lock.missing)))
        for room in rooms[: settings.guest.prewarm]:
            room.instances.warm()
            if room.printed is not None:
                room.printed()  # so that it does not count as the first call's
    except _Scarce:
        raise
    except BaseException as error:
        stage = next(filter(None, (room.instances.stages.of(error) for room in rooms)), None)
        replies[0].flush(unfit(error, stage, settings.guest.pickles))
        return 0
    threads = [threading.Thread(target=_serve, args=(room, settings), daemon=True) for room in rooms[1:]]
    for thread in threads:
        _start_thread(thread)
    replies[0].flush(wire.reply(wire.READY))
    Loop(rooms[0], settings).serve()
    for thread in threads:
        thread.join()
    return 0


def _give_up_files(lock: Lock, blueprints: Sequence[Blueprint], fds: Sequence[int], environment: wire.Environment) -> None:
    """Have open what is needed while jobs run, and nothing else."""
    settings = blueprints[0].settings
    for each in blueprints:
        if each.snapshot is not None:
            each.snapshot.prepare()
    pagemaps = [each.snapshot.pagemap for each in blueprints if each.snapshot is not None]
    captures = [step.do.fd for step in environment.start if isinstance(step.do, wire.Capture)]
    spec = environment.wasi
    inherits = spec is not None and INHERIT in (spec.stdin_path, spec.stdout, spec.stderr)
    # Who has taken a worker over could open the lifeline for writing, and one byte in it would end all that watch it.  So
    # it goes, with the watch.  When the program ends, its template's group is killed, and we with whoever started us.
    shared = settings.parent, settings.snapshot, *((settings.lifeline,) if inherits else ())
    streams = () if spec is None else ((1, spec.stdout), (2, spec.stderr))
    kept = {*fds, *shared, *pagemaps, *captures, cores.keep_open()}
    lock.before_threads(kept, (*settings.artifacts, settings.keeper), [fd for fd, to in streams if to == INHERIT])
    die_with_starter(settings.parent)  # after there are other namespaces, for whoever gains rights there loses this


def _limit_resources(limits: tuple[tuple[int, int], ...], stack: int | None) -> None:
    for kind, most in limits:
        _, hard = resource.getrlimit(kind)
        # At its hard limit of time a process is killed, and nobody is told why; at the other one, by SIGXCPU.
        last = most + 1 if kind == resource.RLIMIT_CPU and most >= 0 else most
        resource.setrlimit(kind, (most, last) if hard == resource.RLIM_INFINITY else (min(most, hard), min(last, hard)))
    if stack is not None:
        # The main thread's stack grows up to the limit as it is now; other threads get theirs when they start.
        soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
        needed = stack + _STACK_BESIDE_WASM
        if soft not in (resource.RLIM_INFINITY,) and soft < needed:
            resource.setrlimit(resource.RLIMIT_STACK, (needed, hard))
        threading.stack_size(needed)


def _furnish(
    blueprint: Blueprint, environment: wire.Environment, memory: int, row: int, channel: Sequence[int], replies: Replies
) -> Room:
    """What the thread for one instance needs, and its control thread."""
    settings = blueprint.settings
    jobs_fd, replies_fd, _ = channel
    arena = Arena(memory, wire.arena_at(row))
    slots = wire.payload_at(settings.instances, row, 0)
    payloads = Payloads(memory, slots, wire.PAYLOAD_BYTES if os.fstat(memory).st_size > slots else 0)
    running = Running(blueprint.engine)
    streams = Streams(running, replies, arena, settings.lifeline, environment.wasi)
    if settings.guest.confinement.locked and environment.wasi is not None:
        streams.prepare(environment.wasi)
    around = Surroundings(blueprint.engine, settings, environment, running, streams, arena, payloads, replies)
    if isinstance(settings.program, Program):
        made = of_modules(blueprint.modules, blueprint.snapshot, around)
    else:
        from .component.room import of_component

        made = of_component(blueprint.modules[0], around)
    board = shared_memory(memory, 0, wire.BOARD_BYTES).cast("Q")
    first = row * wire.BOARD_ROW
    room = Room(
        waiting=Waiting(jobs_fd),
        running=running,
        replies=replies,
        replies_fd=replies_fd,
        instances=made.instances,
        functions=ShippedFunctions(made.surface, payloads, settings.guest.confinement.locked),
        commands=made.commands,
        access=made.access,
        arena=arena,
        board=board[first : first + wire.BOARD_ROW],
        printed=streams.pass_on if streams.sends and made.prints else None,
        python_sees=bool(environment.imports) or made.deterministic or (streams.sends and made.prints),
    )
    _start_thread(threading.Thread(target=_listen, args=(room, settings.parent), daemon=True))
    return room


class _Scarce(Exception):
    """Raised when the system has no place for another thread now; the parent tries again later."""


def _start_thread(thread: threading.Thread) -> None:
    try:
        thread.start()
    except RuntimeError as error:
        raise _Scarce(str(error)) from error


def _serve(room: Room, settings: wire.Settings) -> None:
    """A further thread's life.  What ends it otherwise than by the end of its pipe ends the process."""
    try:
        attach_logs(room.replies)
        room.replies.flush(wire.reply(wire.READY))
        Loop(room, settings).serve()
    except (BrokenPipeError, ConnectionResetError):
        os._exit(0)
    except BaseException as error:
        print(f"procpool: worker {os.getpid()} ends: {error}", file=sys.stderr, flush=True)
        os._exit(wire.EXIT_CORRUPT)


def _listen(room: Room, parent: int) -> None:
    """A control thread.  Asleep but for interrupts and the end of the parent.

    The end of file tells of that too, unless a fork that Python did not see holds a copy of the parent's end.
    """
    poll = select.poll()
    poll.register(room.replies.control, select.POLLIN)
    if parent >= 0:
        poll.register(parent, select.POLLIN)
    while True:
        if any(fd == parent and event & select.POLLIN for fd, event in poll.poll()):
            os._exit(0)
        try:
            message = room.replies.control.recv(wire.CONTROL.size, socket.MSG_WAITALL)
        except OSError:
            message = b""
        if len(message) < wire.CONTROL.size:
            os._exit(0)  # the parent is gone or wants us gone; the main thread may never return from wasm
        command, item, number = wire.CONTROL.unpack(message)
        try:
            if command == wire.INTERRUPT:
                room.running.interrupt(number, item, room.arena.at_item(item), room.commands.tell)
            elif command == wire.FLUSH:
                room.replies.flush()
            else:
                os._exit(wire.EXIT_CORRUPT)
        except wire.CorruptStream:
            os._exit(wire.EXIT_CORRUPT)
        except OSError:  # the parent went away while we told it something
            os._exit(0)
