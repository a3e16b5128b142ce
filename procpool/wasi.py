"""WASI commands: what a program sees, and what became of it."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, Union

from .binary import ExternType, FuncType, is_shared
from .checks import is_int, shown
from .errors import BadWasi, RunFailed, UnknownExport
from .program import Part, Program

#: The modules whose functions wasmtime provides.
MODULES = ("wasi_snapshot_preview1", "wasi_unstable")
#: Its functions that can write to a standard stream.
WRITES = ("fd_write", "fd_pwrite", "sock_send")
#: That of them which ends the guest with an exit code.
PROC_EXIT = "proc_exit"
#: Functions of WASI after which the others do as they did before, as long as no file was opened.
STATELESS = frozenset(
    {
        *(
            "args_get",
            "args_sizes_get",
            "environ_get",
            "environ_sizes_get",
            "clock_res_get",
            "clock_time_get",
            "random_get",
        ),
        *("proc_exit", "proc_raise", "sched_yield", "poll_oneoff", "fd_write", "fd_pwrite", "fd_prestat_get"),
        *("fd_prestat_dir_name", "fd_fdstat_get", "fd_filestat_get", "fd_tell", "path_filestat_get"),
    }
)
#: Those that tell the time, and that give random bytes.
CLOCK, RANDOM = "clock_time_get", "random_get"
#: The import of wasi-threads.
THREAD_SPAWN = ("wasi", "thread-spawn")

Stdin = Union[bytes, bytearray, memoryview, str, "os.PathLike[str]", None]
Stream = Union[Literal["capture", "inherit"], str, "os.PathLike[str]", Callable[[str], object], None]
_MOST_SECONDS = 1 << 33  # the year 2242; in nanoseconds it fits into 64 bits
#: Whether a guest may only read a directory, or write to it as well.
Access = Literal["ro", "rw"]
#: guest path -> host directory, or (host directory, access)
Preopens = Mapping[str, Union[str, "os.PathLike[str]", tuple[Union[str, "os.PathLike[str]"], Access]]]

CAPTURE: Final = "capture"
INHERIT: Final = "inherit"


class Spec(NamedTuple):
    """A checked configuration, as it goes to a worker."""

    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    stdin: bytes | None
    stdin_path: str | None  #: absolute, or "inherit"
    stdout: str | None  #: "capture", "inherit", "lines", a path as "file:...", None to drop it
    stderr: str | None
    preopens: tuple[tuple[str, str, bool], ...]  #: host path, guest path, whether it may be written
    max_output: int
    max_threads: int
    program: int  #: pid of the program, whose streams may be inherited
    clock: int | None = None  #: nanoseconds since 1970 that the clock begins with; None for the machine's
    random_seed: int | None = None  #: None for the machine's random numbers


@dataclass(frozen=True)
class WasiConfig:
    """What a WASI module may see of the world: nothing, unless given here.

    Args:
        args: the arguments, the program's name first.
        env: the environment.
        stdin: bytes, the path of a file, ``"inherit"``, or None for an empty one.  ``"inherit"`` is the program's own.  At
            a terminal the command reads the keyboard as a part of the program: Ctrl-D ends its input, Ctrl-Z stops both,
            and Ctrl-C raises KeyboardInterrupt where the program waits, which ends the command.  A file is read from
            where the program has come to, and the program's place in it stays.
        stdout, stderr: ``"capture"`` (for the result of :meth:`ProcessWasmPool.run`), ``"inherit"``, the path of a file to
            write, a function called with each line as it comes, or None to drop what is printed.  The function runs in
            a thread for such code, one line after the other.  What is printed outside of ``run`` goes to the function too;
            if it is captured, the logger ``procpool.guest`` has each line, at INFO for stdout and WARNING for stderr.
            Outside of ``run``, a line that the guest does not end goes on with the next call, and ends with the instance or
            the lease: C libraries hold back what is printed, and a call may end in the middle of a line.  When 64 MiB wait
            for either, what is printed is dropped until all that waits has been seen, and it is logged how many lines were.
            A file is emptied, or made, when what it was given to begins: the pool, a run, or a map of runs.  All workers
            and instances then write to its end.
        preopens: guest path -> host directory, readable only; or -> (host directory, ``"ro"`` or ``"rw"``).
        max_output: bytes that a command may print to each stream that is captured or given to a function, and a call, or
            an item of a map, to both; a guest that prints more is stopped.  An item of a map may print as much as fits into
            two pipes (128 KiB) more before it is, so that none is stopped for what the one before has printed.  What ends
            by itself before it could be stopped ends as it has.
        max_threads: live threads of a module with wasi-threads, the main one not counted; a further spawn fails.
        clock: seconds since 1970 that the guest's clock shows when an instance begins; None for the machine's clock.  The
            monotonic clock begins with 0.  Each look at either moves both on by a microsecond, and nothing else does.  What
            waits waits as ever.
        random_seed: an int that all of the guest's random bytes follow from, the same in each instance: no secrets then.
            Not for modules with threads, and not for linked modules; nor is ``clock``.
    """

    args: Sequence[str] = ()
    env: Mapping[str, str] | None = None
    stdin: Stdin = None
    stdout: Stream = CAPTURE
    stderr: Stream = CAPTURE
    preopens: Preopens | None = None
    max_output: int = 64 << 20
    max_threads: int = 64
    clock: float | None = None
    random_seed: int | None = None

    def spec(self) -> Spec:
        """Checked, and ready to travel.

        Raises:
            BadWasi: an argument or a variable cannot be given to a program; a preopen does not exist, or is asked to be
                writable and is not; an option is none of those above.
        """
        stdin, stdin_path = _stdin(self.stdin)
        for name in ("max_output", "max_threads"):
            value = getattr(self, name)
            if not is_int(value, 1):
                raise BadWasi(f"{name} must be a positive int, got {shown(value)}")
        return Spec(
            tuple(_text("argument", arg) for arg in checked_args(self.args)),
            tuple(_variable(name, value) for name, value in (self.env or {}).items()),
            stdin,
            stdin_path,
            _stream("stdout", self.stdout),
            _stream("stderr", self.stderr),
            tuple(_preopen(guest, host) for guest, host in (self.preopens or {}).items()),
            self.max_output,
            self.max_threads,
            os.getpid(),
            _clock(self.clock),
            _seed(self.random_seed),
        )


def _clock(clock: Any) -> int | None:
    """In nanoseconds."""
    if clock is None:
        return None
    if isinstance(clock, bool) or not isinstance(clock, (int, float)) or not 0 <= clock < _MOST_SECONDS:
        raise BadWasi(f"clock must be seconds since 1970, from 0 to {_MOST_SECONDS}, got {shown(clock)}")
    return int(clock * 10**9)


def _seed(seed: Any) -> int | None:
    if seed is not None and not is_int(seed):
        raise BadWasi(f"random_seed must be an int, got {shown(seed)}")
    return None if seed is None else int(seed)


def checked_args(args: Any) -> tuple[Any, ...]:
    """Arguments of a command.

    Raises:
        BadWasi: it is one text; it would be taken for a sequence of letters.
    """
    if isinstance(args, (str, bytes)):
        raise BadWasi(f"args must be a sequence of strings, got {args!r}; did you mean [{args!r}]?")
    return tuple(args)


def _text(what: str, value: Any) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise BadWasi(f"the {what} {shown(value)} is not UTF-8, which WASI wants") from None
    if not isinstance(value, str):
        raise BadWasi(f"the {what} {shown(value)} is no string")
    if "\0" in value:
        raise BadWasi(f"the {what} {shown(value)} contains a NUL byte, which would end it")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadWasi(f"the {what} {shown(value)} is not UTF-8, which WASI wants") from None
    return value


def _variable(name: Any, value: Any) -> tuple[str, str]:
    name = _text("name of a variable", name)
    if not name or "=" in name:
        raise BadWasi(f"{name!r} cannot be the name of an environment variable")
    return name, _text("variable", value)


def _stdin(stdin: Any) -> tuple[bytes | None, str | None]:
    if stdin is None:
        return None, None
    if isinstance(stdin, (bytes, bytearray, memoryview)):
        return bytes(stdin), None
    if isinstance(stdin, str) and stdin == INHERIT:
        with contextlib.suppress(OSError):  # closed: then it is empty
            if stat.S_ISSOCK(os.fstat(0).st_mode):
                raise BadWasi("stdin='inherit': the standard input is a socket, which no other process can open")
        return None, INHERIT
    if not isinstance(stdin, (str, os.PathLike)):
        raise BadWasi(f"stdin must be bytes, a path, 'inherit' or None, got {shown(stdin)}")
    path = os.path.abspath(_text("path for stdin", stdin))
    if not os.access(path, os.R_OK):
        raise BadWasi(f"stdin: {path!r} cannot be read")
    return None, path


def _stream(name: str, stream: Any) -> str | None:
    if stream is None or (isinstance(stream, str) and stream in (CAPTURE, INHERIT)):
        return stream
    if callable(stream):
        return "lines"
    if isinstance(stream, (str, os.PathLike)):
        path = os.path.abspath(_text(f"path for {name}", stream))
        if not os.access(path if os.path.exists(path) else os.path.dirname(path), os.W_OK) or os.path.isdir(path):
            raise BadWasi(f"{name}: {path!r} cannot be written")
        return f"file:{path}"
    raise BadWasi(f"{name} must be 'capture', 'inherit', a path, a function or None, got {shown(stream)}")


def empty_files(**streams: Stream) -> None:
    """Empty, or make, the files among streams, before anybody writes to them.

    Raises:
        BadWasi: it cannot be done.
    """
    for name, stream in streams.items():
        to = _stream(name, stream)
        path = to[5:] if to is not None and to.startswith("file:") else ""
        # Not of a pipe or a terminal: there is nothing to empty, and opening it might wait for somebody.
        if path and (os.path.isfile(path) or not os.path.exists(path)):
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666))
            except OSError as error:
                raise BadWasi(f"{name}: {path!r} cannot be written: {error.strerror}") from None


def _preopen(guest: Any, host: Any) -> tuple[str, str, bool]:
    host, mode = host if isinstance(host, tuple) else (host, "ro")
    if not isinstance(mode, str) or mode not in ("ro", "rw"):
        raise BadWasi(f"preopen {shown(guest)}: the mode must be 'ro' or 'rw', got {shown(mode)}")
    path = os.path.abspath(_text("preopen", host))
    if not os.path.isdir(path):
        raise BadWasi(f"preopen {shown(guest)}: {path!r} is no directory")
    if not os.access(path, os.R_OK | os.X_OK):
        raise BadWasi(f"preopen {shown(guest)}: {path!r} cannot be read")
    if mode == "rw" and not os.access(path, os.W_OK):
        raise BadWasi(f"preopen {shown(guest)}: {path!r} is asked to be writable and is not")
    return path, _text("preopen", guest), mode == "rw"


def check_command(exports: Mapping[str, ExternType]) -> None:
    """Whether a module with those exports is a command.

    Raises:
        UnknownExport: it is not.
    """
    if exports.get("_start") != FuncType():
        raise UnknownExport("the module is no command: it exports no _start; is it a library, to be called?")


def check_deterministic(program: Program, config: WasiConfig | None) -> None:
    """Whether a program can have the clock and the random numbers that it is given.

    Raises:
        BadWasi: it has threads, or a linked module wants them.
    """
    if config is None or (config.clock is None and config.random_seed is None):
        return
    given = [name for name, value in ((CLOCK, config.clock), (RANDOM, config.random_seed)) if value is not None]
    if any((each.module, each.name) == THREAD_SPAWN or is_shared(each.type) for each in program.needed):
        raise BadWasi("clock and random_seed are not for modules with threads: who comes first would decide")
    for name, part in program.linked.items():
        if any(each.module in MODULES and each.name in given for each in part.left.values()):
            raise BadWasi(f"clock and random_seed are not for linked modules, and {name!r} imports {' or '.join(given)}")


def check_threads(program: Program) -> None:
    """Whether a program has what wasi-threads wants of it.

    Raises:
        BadWasi: it spawns threads and cannot start any, or they would not share a memory.
    """
    if not any((each.module, each.name) == THREAD_SPAWN for each in program.needed):
        return
    if program.exports.get("wasi_thread_start") != FuncType(("i32", "i32")):
        raise BadWasi("the module imports wasi.thread-spawn and exports no wasi_thread_start(i32, i32)")
    for part in program.parts:
        for names, (provider, export) in part.links.items():
            if is_shared(program.exported((provider, export))) and not _passed_on(program.linked[provider], export):
                raise BadWasi(
                    f"each thread has instances of its own, so the threads would not share the memory {'.'.join(names)}, "
                    f"which the linked module {provider!r} makes; have that one import it too"
                )


def _passed_on(part: Part, export: str) -> bool:
    """Whether a memory that a module exports is one that it imports from outside."""
    return any(each.type is part.interface.exports[export] for each in part.left.values())


@dataclass(frozen=True)
class CompletedRun:
    """What became of a command, as :class:`subprocess.CompletedProcess`.

    Attributes:
        args: what it was called with.
        returncode: its exit code; 0 is success.
        stdout: what it printed, bytes or with ``text=True`` str; None where it was not captured.
        stderr: likewise.
    """

    args: tuple[str, ...]
    returncode: int
    stdout: Any
    stderr: Any

    def check_returncode(self) -> None:
        """Raise RunFailed if the exit code is not 0."""
        if self.returncode:
            raise RunFailed(self.args, self.returncode, self.stdout, self.stderr)
