"""Running components that are commands: each in an instance of its own, from ``wasi:cli/run`` to its exit code."""

from __future__ import annotations

import os

import wasmtime

from ... import wire
from ...component.entry import Entry
from ...component.wasi import RUN, failed
from ...errors import GuestExit
from ...wasi import INHERIT, Spec
from ...wire import values
from ..failures import as_trap
from ..ffi.components import ComponentFunction
from ..payloads import Payloads
from ..streams import Streams
from .instantiator import ComponentInstantiator


def run_command(instantiator: ComponentInstantiator, entry: Entry, wasi: wasmtime.WasiConfig) -> int:
    """Run a command in an instance of its own; its exit code.

    Raises:
        wasmtime.WasmtimeError: it trapped, or cannot be made.
        Whatever a host function raised that it called.
    """
    store: wasmtime.Store | None = None
    try:
        store, instance = instantiator.instantiate(wasi)
        function = ComponentFunction(store, instance, entry, instantiator.calls)
        function.params[:] = b""
        function.run()
        return int(failed(function.results))
    except (wasmtime.ExitTrap, GuestExit) as error:
        return error.code
    finally:
        if store is not None:
            store.close()


class ComponentCommand:
    """Runs one at a time, as `CommandRunner` does commands of WASI's first preview."""

    stopped: bool = False  #: no thread of a component is left when it has ended

    def __init__(
        self,
        instantiator: ComponentInstantiator,
        payloads: Payloads,
        streams: Streams,
        exports: tuple[tuple[str, Entry], ...],
    ) -> None:
        self._instantiator = instantiator
        self._payloads = payloads
        self._streams = streams
        self._entry = next((entry for name, entry in exports if RUN.fullmatch(name)), None)
        self.printed: tuple[bytes | None, bytes | None] = None, None  #: by the last one
        self.doomed: bool = False  #: it has read the standard input: wasmtime has one of that per process

    def run(self, payload: bytes) -> bytes:
        """The payload of (exit code, trap, stream that it printed too much to, stdout, stderr); each may be None.

        Raises:
            Whatever a host function raised that it called.
        """
        spec, taken = values.load(payload, self._payloads.slot)
        code: int | None = None
        trap: bytes | None = None
        self.printed = None, None
        self._streams.begin(spec)
        try:
            code = self._run(spec)
        except wasmtime.WasmtimeError as error:
            found = as_trap(error, self._instantiator.stages.take(error))
            assert found is not None
            trap = wire.trap_to_bytes(found)
        finally:
            self.printed = self._streams.end()
        return self._payloads.result((code, trap, self._streams.excess(), *self.printed), taken, pickled=False)

    def _run(self, spec: Spec) -> int:
        fds: list[int] = []
        self.doomed = self.doomed or spec.stdin_path == INHERIT
        failed_before = self._instantiator.calls.failed
        try:
            assert self._entry is not None  # or the parent would not have sent it
            return run_command(self._instantiator, self._entry, self._streams.configure(spec, fds))
        finally:
            self._instantiator.calls.failed = failed_before  # a command that fails leaves the kept instance as it was
            for fd in fds:
                os.close(fd)

    def tell(self) -> None:
        """Control thread: send what the running command has printed; it is being interrupted."""
        self._streams.tell()
        if self.doomed:
            os._exit(wire.EXIT_SPENT)
