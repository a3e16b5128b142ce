"""Running WASI commands: each in an instance of its own, from `_start` to its exit code."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable

import wasmtime

from .. import wire
from ..binary import FuncType
from ..errors import GuestExit
from ..wasi import INHERIT, Spec
from ..wire import values
from . import ffi
from .failures import as_trap, failure
from .holder import InstanceHolder
from .instantiator import Instantiator
from .made import Own
from .payloads import Payloads
from .streams import Streams
from .traffic import Replies


class CommandRunner:
    """Runs one at a time.

    Args:
        alone: this process serves no other instance, so it may be ended for a command.
        pickles: exceptions go back as pickles.
    """

    def __init__(
        self,
        instantiator: Instantiator,
        instances: InstanceHolder,
        payloads: Payloads,
        replies: Replies,
        streams: Streams,
        alone: bool,
        pickles: bool,
    ) -> None:
        self._instantiator = instantiator
        self._instances = instances
        self._streams = streams
        self._replies = replies
        self._alone = alone
        self._pickles = pickles
        self._answering = threading.Lock()
        self._payloads = payloads
        self._spent = False
        self.stopped: bool = False  #: the last one left the epoch raised, so no other instance of this engine can be used
        self.printed: tuple[bytes | None, bytes | None] = None, None  #: by the last one

    def run(self, payload: bytes) -> bytes:
        """The payload of (exit code, trap, stream that it printed too much to, stdout, stderr); each may be None.

        Raises:
            Whatever a host function raised that it called.
        """
        spec, taken = values.load(payload, self._payloads.slot)
        code: int | None = None
        trap: bytes | None = None
        self.stopped = False
        self.printed = None, None
        self._streams.begin(spec)
        if self._alone:  # else the answer has to wait for the host call: others must not pay for it with their process
            self._instantiator.on_stuck = functools.partial(self._answer_instead, taken)
        try:
            code = self._run(spec)
        except BaseException as error:
            trap = self._trap(error)
            if trap is None:
                raise
        finally:
            self._instantiator.on_stuck = None
            # Never given back if the command has been answered for already: the process is ending.
            self._answering.acquire()
            self._answering.release()
            self.printed = self._streams.end()
        self._instantiator.stages.forget()
        return self._payloads.result((code, trap, self._streams.excess(), *self.printed), taken, pickled=False)

    def _answer_instead(self, taken: int, error: BaseException) -> None:
        """In a thread of the command, which has ended it: the main thread sits in a host call, so answer for it."""
        self._answering.acquire()
        printed = self._streams.end()
        code, trap = error.code if isinstance(error, GuestExit) else None, self._trap(error)
        if code is None and trap is None:
            self._replies.flush(failure(error, self._instantiator.stages.of(error), self._pickles))
        else:
            self._replies.flush(
                wire.reply(
                    wire.VALUE,
                    self._payloads.result((code, trap, self._streams.excess(), *printed), taken, pickled=False),
                )
            )
        os._exit(0)

    def _trap(self, error: BaseException) -> bytes | None:
        """A trap as it travels; None for any other exception."""
        found = as_trap(error, self._instantiator.stages.of(error))
        return None if found is None else wire.trap_to_bytes(found)

    @property
    def doomed(self) -> bool:
        """Whether this process can run no other.

        A command has left threads in it that nothing else ends, or has read the standard input: wasmtime has one of that
        per process, and what it knows of it (read ahead, at its end) would be true for no later command.
        """
        return self._instantiator.doomed or self._spent

    def tell(self) -> None:
        """Control thread: send what the running command has printed; it is being interrupted."""
        self._streams.tell()
        if self._spent:  # it would leave anyhow, and until then read keys that are meant for others by now
            os._exit(wire.EXIT_SPENT)
        for group in list(self._instantiator.groups):
            group.interrupt()

    def _run(self, spec: Spec) -> int:
        fds = list[int]()
        self._spent = spec.stdin_path == INHERIT
        try:
            with self._instances.giving_way() as show:
                return run_start(self._instantiator, self._streams.configuring(spec, fds), spec.max_threads, show)
        finally:
            self.stopped = self._instantiator.threaded
            for fd in fds:
                os.close(fd)


def run_start(
    instantiator: Instantiator,
    wasi: Callable[[], wasmtime.WasiConfig],
    max_threads: int,
    show: Callable[[wasmtime.Store, Own, wasmtime.Instance | None], None] = lambda *_: None,
) -> int:
    """Run a command in an instance of its own; its exit code.

    If the module has threads, the epoch of the instantiator's engine is left raised.

    Args:
        instantiator: what makes the instance.
        wasi: makes the configuration of each thread.
        max_threads: how many there may be.
        show: told the store and the imports made for the instance, and the instance when it is made.

    Raises:
        wasmtime.Trap, wasmtime.WasmtimeError: it trapped, or cannot be made.
        Whatever a host function raised that it called.
    """
    store = group = None
    own = Own()
    try:
        store = instantiator.new_store(wasi())
        show(store, own, None)
        instance, group = instantiator.instantiate(store, wasi, max_threads, own)
        show(store, own, instance)
        exceptions = instantiator.exceptions(store, instance, own)
        ffi.bind(store, instance, "_start", FuncType(), ffi.Slots(1), instantiator.calls, exceptions)()
        if group is not None and group.error is not None:
            raise group.error
        return 0
    except (wasmtime.ExitTrap, GuestExit) as error:
        return error.code
    finally:
        if group is not None:
            group.close()
        if store is not None and not instantiator.doomed:
            store.close()
