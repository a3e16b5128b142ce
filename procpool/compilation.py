"""From a module's source to its compiled form: found where it was kept, or made, here or in a process of its own."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import math
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

import psutil
import wasmtime

from . import artifact, interpreter, wire
from .artifact import CompiledModule
from .cache import Cache, Turn, open_cache
from .engine import PLAIN, EngineSettings, fingerprint, loading_engine, mapped
from .errors import InvalidModule, StartupError
from .files import anonymous_file, seal
from .module import ModuleSource, Opened, open_module

logger: logging.Logger = logging.getLogger("procpool")

#: Bytes from which on a module is compiled in a process of its own, on all cores.  To start one takes as long as one
#: thread takes for a module of about this size.
LARGE = 64 << 10

#: Told of what happens: its kind, the process that compiles (None: somebody else's), and a sentence.
Announce = Callable[[Literal["compiling", "compiled"], "int | None", str], None]


def unheard(kind: str, pid: int | None, message: str) -> None:
    """An Announce for nobody."""


def compile_module(
    source: ModuleSource,
    cache: bool = True,
    settings: EngineSettings = PLAIN,
    announce: Announce = unheard,
    patience: float = 60.0,
    inner: bool = False,
) -> CompiledModule:
    """Compile ``source`` for the workers to map, or find that somebody has.

    Leaves no threads behind.  Among several programs that want the same at the same time, one compiles.

    Args:
        cache: keep what was compiled, and look for it, in a directory of this user's.
        announce: told when something is compiled, and not if it was found.
        patience: seconds to wait for another program that compiles the same, and then to do without; and for a process that
            compiles to do anything.
        inner: have it export all of its state; see `exposed`.

    Raises:
        InvalidModule: wasmtime refuses it; the message says where and why.
        StartupError: the process that compiles died, or did nothing for that long.
        OSError, TypeError: as :func:`read_source`.
    """
    with open_module(source) as given, open_cache() if cache else contextlib.nullcontext() as kept:
        compiler = _Compiler(given, settings, announce, patience, inner)
        return compiler.made() if kept is None else compiler.found_or_made(kept)


@dataclass(frozen=True)
class _Compiler:
    """How to get one module compiled."""

    given: Opened
    settings: EngineSettings
    announce: Announce
    patience: float
    inner: bool

    def found_or_made(self, cache: Cache) -> CompiledModule:
        """The entry, or what is compiled and becomes one.  Trouble with the cache is no more than a warning."""
        waited = False

        def waiting() -> None:
            nonlocal waited
            waited = True
            self.announce("compiling", None, f"somebody else is compiling {self.given.name}; waiting for that")

        try:
            digest = self._digest() if self.given.file < 0 else cache.digest(self.given.file, self._digest)
            name = hashlib.sha256(artifact.FORMAT + fingerprint(self.settings) + digest + b"inner" * self.inner).hexdigest()
            found = self._found(cache, name)
            if found is not None:
                return found
            turn = cache.turn(name, waiting, self.patience)
        except OSError as error:
            logger.warning("procpool: compiling without the cache: %s", error)
            return self.made()
        with turn:
            found = self._found(cache, name)  # somebody may have made it since
            if found is None:
                return self._kept(self.made(), turn, cache, name, digest)
        if waited:
            self.announce("compiled", None, f"somebody else has compiled {self.given.name}")
        return found

    def _kept(self, made: CompiledModule, turn: Turn, cache: Cache, name: str, digest: bytes) -> CompiledModule:
        """The entry of what was made; that itself if there cannot be one."""
        if made.source != digest:  # the file has changed meanwhile
            return made
        try:
            turn.keep(made.artifact)
            found = self._found(cache, name)
        except OSError as error:
            logger.warning("procpool: cannot keep what was compiled: %s", error)
            return made
        except BaseException:
            os.close(made.artifact)
            raise
        if found is None:
            return made
        os.close(made.artifact)  # which is memory; of a file, the system need not keep all in memory
        return found

    def _digest(self) -> bytes:
        hashed = hashlib.sha256()
        for chunk in self.given.chunks():
            hashed.update(chunk)
        return hashed.digest()

    def _found(self, cache: Cache, name: str) -> CompiledModule | None:
        """That entry; None if there is none that can be used."""
        try:
            fd = cache.find(name)
        except OSError as error:
            logger.warning("procpool: not using what is in the cache for %s: %s", self.given.name, error)
            return None
        if fd is None:
            return None
        try:
            compiled = artifact.read(fd)
            # The workers do the same.  To map even a large one takes some milliseconds, and nothing of it is run.
            mapped(loading_engine(self.settings), fd, compiled.is_component).close()
        except (artifact.Torn, wasmtime.WasmtimeError, OSError) as error:
            logger.warning("procpool: not using what is in the cache for %s: %s", self.given.name, error)
            cache.remove(name)
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        return compiled

    def made(self) -> CompiledModule:
        """Compile it, into memory."""
        fd = anonymous_file(b"")
        try:
            begun = perf_counter()
            pid = self._made_here(fd) if self.given.size < LARGE else self._made_apart(fd)
            seal(fd)  # before it is read: workers have it, and would run for each other what one of them wrote
            compiled = artifact.read(fd)
            self.announce("compiled", pid, f"compiled {self.given.name} in {perf_counter() - begun:.1f} s")
            return compiled
        except BaseException:
            os.close(fd)
            raise

    def _made_here(self, fd: int) -> int:
        pid = os.getpid()
        self._begin(pid)
        artifact.make(fd, self.given.read(), self.given.subject, self.settings, parallel=False, inner=self.inner)
        return pid

    def _begin(self, pid: int) -> None:
        self.announce("compiling", pid, f"compiling {self.given.name}, {self.given.size:,} bytes")

    def _made_apart(self, fd: int) -> int:
        """In a process that can be killed at any time, and takes its threads and memory with it."""
        with contextlib.ExitStack() as owned:

            def own(descriptor: int) -> int:
                """A copy that does not replace a standard stream in a child."""
                copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
                owned.callback(os.close, copy)
                return copy

            source = self.given.file
            if source < 0:
                source = anonymous_file(self.given.read())
                owned.callback(os.close, source)
            ends = os.pipe()
            for end in ends:
                owned.callback(os.close, end)
            # The process dies when nobody has the other end, which is never written to: with this one, at the latest.
            lifeline, _ = map(own, ends)
            answer = anonymous_file(b"")
            owned.callback(os.close, answer)
            told = wire.Compilation(
                self.given.subject, own(source), own(fd), own(answer), lifeline, self.settings, self.inner
            )
            settings = anonymous_file(told.dump())
            owned.callback(os.close, settings)
            settings = own(settings)
            fds = (settings, told.source, told.artifact, told.answer, told.lifeline)
            try:
                process = interpreter.start("worker.compiler", settings, fds=fds)
            except OSError as error:
                logger.debug("procpool: compiling on one thread: no process can be started: %s", error)
                return self._made_here(fd)
            try:
                self._begin(process.pid)
                self._await_end(process)
            except BaseException:
                process.kill()
                process.wait()
                raise
            said = os.pread(answer, os.fstat(answer).st_size, 0)
        if said.startswith(wire.REFUSED):
            raise InvalidModule(said[1:].decode())
        if said != wire.COMPILED:
            raise StartupError(
                f"the process that compiled {self.given.name} ({self.given.size:,} bytes) {_ending(process.returncode)}; "
                "is there enough memory? a module of 75 MB took 2.2 GB"
            )
        return process.pid

    def _await_end(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for the compiler: as long as it takes, but not for one that was stopped.

        Raises:
            StartupError: it has done nothing for so long.
        """
        used = math.nan
        while True:
            try:
                process.wait(self.patience)
                return
            except subprocess.TimeoutExpired:
                before, used = used, _cpu_seconds(process.pid)
            if used == before:
                raise StartupError(
                    f"the process that compiles {self.given.name} ({self.given.size:,} bytes) did nothing for "
                    f"{self.patience:g} s; start_timeout says how long to wait. Was it stopped?"
                )


def _cpu_seconds(pid: int) -> float:
    """What a process has used; nan if that is not to be known, which is never the same as before."""
    try:
        used = psutil.Process(pid).cpu_times()
    except (psutil.Error, OSError):  # it has ended, or there are no descriptors left
        return math.nan
    return used.user + used.system


def _ending(code: int) -> str:
    """How a process has ended."""
    if code >= 0:
        return f"exited with code {code}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"
