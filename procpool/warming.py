"""The state that instances begin with: reached once, in a worker that is there for nothing else, and kept as a snapshot."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from . import artifact, pickler, wire
from .binary import FuncType
from .cache import Cache, open_cache
from .compilation import compile_module
from .compiled_program import CompiledProgram
from .confinement import decide
from .engine import fingerprint
from .errors import BadSnapshot
from .exposed import check_keepable
from .files import anonymous_file, seal
from .keeper import check_fits, keeper_text
from .options import PoolOptions
from .program import Program
from .raw import RAW
from .supervisor.dispatcher import Dispatcher
from .supervisor.events import announced
from .supervisor.launch import Inheritance

logger: logging.Logger = logging.getLogger("procpool")

#: Part of the name of what is kept: changes with the format.
_FORMAT = b"snapshot 1"


def check_possible(compiled: CompiledProgram) -> None:
    """Whether there can be a snapshot.

    Raises:
        BadSnapshot: there cannot; says why.
    """
    if not RAW:
        raise BadSnapshot("snapshots need wasmtime-py's private names, which are not used here (PROCPOOL_PUBLIC_API, say)")
    check_keepable(compiled.program)


def compiled_keeper(snapshot: int, program: Program, options: PoolOptions) -> int:
    """A descriptor of the compiled module of a keeper for a snapshot.

    Compiled here, and not by each worker, which would hold for ever the memory that this takes.

    Raises:
        BadSnapshot: the snapshot is of another module.
    """
    state, inner = wire.read_state(snapshot), program.inner
    check_fits(state, inner)
    return compile_module(keeper_text(state, inner).encode(), options.cache, options.engine).artifact


@dataclass(frozen=True)
class Warming:
    """How to reach the state that a pool's instances begin with."""

    compiled: CompiledProgram  #: stays the owner's
    functions: tuple[tuple[str, FuncType], ...]  #: the exports
    environment: wire.Environment  #: of the workers, which make instances
    steps: Sequence[wire.Step]  #: what to do, after what is usual in a new instance
    options: PoolOptions
    name: str  #: of the module, for people

    def snapshot(self) -> int:
        """A descriptor of a file with what an instance holds then; of the cache's, if it is known already.

        Raises:
            BadSnapshot: something cannot be kept; names it.
            StartupError: the worker died, or took too long.
            Whatever the user's own code raised there.
        """
        key = self.key() if self.options.cache else None
        if key is not None:
            with open_cache() as cache:
                if cache is not None:
                    return self._found_or_taken(cache, key)
        return self._taken()

    def key(self) -> str | None:
        """What names it in the cache; None if it may depend on more than what is known here.

        It does if Python code of the user's runs, or the guest sees files.
        """
        environment, spec = self.environment, self.environment.wasi
        all_steps = [step.do for step in (*environment.start, *self.steps)]
        if environment.imports or environment.initializer or not all(isinstance(do, wire.StartCall) for do in all_steps):
            return None
        if spec is not None and (spec.preopens or spec.stdin_path is not None):
            return None
        seen = None if spec is None else (spec.args, spec.env, spec.stdin)
        parts = self.compiled.program.parts
        links = [(part.name, sorted(part.links.items()), sorted(part.given.items())) for part in parts]
        # The numbers of functions are of all these.
        made = artifact.FORMAT, fingerprint(self.options.engine), [*self.compiled.sources.items()], links
        return hashlib.sha256(repr((_FORMAT, *made, all_steps, seen, self.options.guest_limits())).encode()).hexdigest()

    def _found_or_taken(self, cache: Cache, key: str) -> int:
        """That entry, or what is taken and becomes one.  Trouble with the cache is no more than a warning."""
        found = _found(cache, key)
        if found is not None:
            return found
        taken = self._taken()
        try:
            # Two may take the same at the same time: that costs one of them what it would have cost without a cache.
            with cache.turn(key, lambda: None, 0.1) as turn:
                turn.keep(taken)
        except TimeoutError:  # somebody else is keeping it
            pass
        except OSError as error:
            logger.warning("procpool: cannot keep the snapshot: %s", error)
        return taken

    def _taken(self) -> int:
        options = replace(
            self.options,
            workers=1,
            min_workers=None,
            instances=1,
            prewarm=1,
            isolation="pooled",
            warm=None,
            on_event=None,
            start_method="spawn",  # a template would be started for one fork
        )
        with contextlib.ExitStack() as on_failure:
            fd = anonymous_file(b"")
            on_failure.callback(os.close, fd)
            capture = wire.Step("taking the snapshot", wire.Capture(fd))
            environment = self.environment._replace(start=(*self.environment.start, *self.steps, capture))
            self._run_once(environment, options, fd)
            try:
                seal(fd)
            except BlockingIOError:
                raise BadSnapshot("a process that was left behind by what is done for warm= still writes to it") from None
            on_failure.pop_all()
        return fd

    def _run_once(self, environment: wire.Environment, options: PoolOptions, capture: int) -> None:
        """Start a worker, and end it when it is ready: it has done all there is to do then."""
        with announced(None) as (delivery, journal), contextlib.ExitStack() as on_failure:
            artifacts = list[int]()
            for each in self.compiled.artifacts:
                artifacts.append(os.dup(each))
                on_failure.callback(os.close, artifacts[-1])
            told = decide(options.sandbox, environment, options.callables).told
            confinement = told._replace(files=True, changes=True) if told.locked else told  # the snapshot is a file
            inheritance = Inheritance(
                artifacts,
                self.functions,
                self.compiled.program,
                options.guest_limits(),
                options.guest(pickler.dumps(environment), True, self.name, self.options.trusted.all, confinement),
                1,
                1,
                capture=capture,
            )
            on_failure.pop_all()
            on_failure.callback(inheritance.close)
            dispatcher = Dispatcher(inheritance, options, delivery, journal)
            on_failure.pop_all()
            try:
                dispatcher.wait_started()
            finally:
                dispatcher.terminate()


def _found(cache: Cache, key: str) -> int | None:
    """That entry, if it can be used."""
    try:
        fd = cache.find(key)
    except OSError as error:
        logger.warning("procpool: not using the snapshot that is in the cache: %s", error)
        return None
    if fd is None:
        return None
    try:
        wire.read_state(fd)
        return fd
    except BadSnapshot as error:
        logger.warning("procpool: not using the snapshot that is in the cache: %s", error)
        cache.remove(key)
    os.close(fd)
    return None
