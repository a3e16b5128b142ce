"""wasi-threads: the threads of one instance, on one shared memory.

Each thread has a store and an instance of its own, as the proposal wants; wasmtime dropped its own implementation in 47.
Their WASI calls go to one context, in a store that nobody runs the module in, so that a file opened by one thread is open
for all.  What may block for long and touches no file (`NATIVE`) is served by each thread's own context.
"""

from __future__ import annotations

import itertools
import struct
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

import wasmtime

from ..binary import FuncType, Import, MemoryType, joint
from ..errors import GuestExit
from ..program import Names
from ..wasi import MODULES, PROC_EXIT, THREAD_SPAWN
from . import ffi
from .host import HostCalls
from .made import Own

if TYPE_CHECKING:
    from .assembly import Member
    from .instantiator import Instantiator

#: WASI functions that each thread has to itself.
NATIVE = frozenset(
    {
        *("args_get", "args_sizes_get", "environ_get", "environ_sizes_get", "clock_res_get", "clock_time_get"),
        *("poll_oneoff", PROC_EXIT, "sched_yield", "random_get"),
    }
)
#: Thread ids are from 1 to this, https://github.com/WebAssembly/wasi-threads.
MOST_ID = (1 << 29) - 1
#: What the names of threads begin with; their ids follow.
NAME = "wasi-thread-"
#: Seconds that threads may take to end when the group does.  Those that take longer sit in a host call.
END_GRACE = 1.0
#: How many times they are woken before that is said of them: where a second is short, they have not had a turn in it yet.
END_ROUNDS = 10
#: Seconds before a new thread enters the guest.  Zig's std.Thread (0.14) notes a thread's id when `thread-spawn` has
#: returned, and waits for ever for one that has ended by then.  wasmtime's own threads took longer to start than the
#: spawner to go on; ours are woken by the very release of the GIL that lets the spawner go on, and may get its core
#: first: 5 of 60 runs of a program that did not guard against it hung on a loaded machine.  The delay makes that rare;
#: nothing of ours depends on it.
START_DELAY = 0.001


@dataclass
class _Shared:
    """A shared memory that the modules import."""

    type: MemoryType  # what they say of it
    given: MemoryType | None  # what the user does
    memory: Any = None  # when it is made


class ThreadGroup:
    """The threads of one instance; the one that made it is the main thread."""

    def __init__(
        self, instantiator: Instantiator, wasi: Callable[[], wasmtime.WasiConfig] | None, max_threads: int
    ) -> None:
        self._instantiator = instantiator
        self._wasi = wasi
        self._max = max_threads
        self._lock = threading.Lock()
        self._changed = threading.Condition()  # notified when a thread has ended
        self._left = threading.Event()  # the main thread has left the guest for good
        self._threads: dict[int, threading.Thread] = {}
        self._next = 1
        self._closing = False
        self.error: BaseException | None = None  #: what ended the group, if not the main thread did
        self._memories: dict[Names, _Shared] = {}
        self._wasi_store: wasmtime.Store | None = None
        self._turn = threading.Lock()  # whose it is to be in WASI
        self._keep: list[Any] = []
        self._assembly = instantiator.new_assembly()
        store = instantiator.new_store(None)
        self._define_memories(store)
        store.close()
        if instantiator.environment.wasi is not None and wasi is not None:
            self._define_proxies(wasi)
        for member in self._assembly.importing(THREAD_SPAWN):
            self._assembly.serve(member, Import(*THREAD_SPAWN, FuncType(("i32",), ("i32",))), self._spawn)
        instantiator.groups.add(self)

    # -- making --------------------------------------------------------------------------------------------------------

    def _define_memories(self, store: wasmtime.Store) -> None:
        types = [
            (part.source(each.names), each.type, self._instantiator.environment.imports.get((part.name, each.names)))
            for part in (self._instantiator.program.main, *self._instantiator.program.linked.values())
            for each in part.interface.imports
            if each.names not in part.links and isinstance(each.type, MemoryType) and each.type.shared
        ]
        for source, type_, given in types:
            both = joint(self._memories[source].type, type_) if source in self._memories else type_
            assert both is not None  # the parent has looked
            self._memories[source] = _Shared(both, given)
        for source, shared in self._memories.items():
            kind = shared.given or shared.type
            least, most = kind.minimum, kind.maximum or shared.type.maximum or 0
            if self._instantiator.limits.memory is not None:  # wasmtime's own limiter does not count shared memories
                most = min(most, self._instantiator.limits.memory // kind.page_size)
                if most < least:
                    raise MemoryError(
                        f"the module's shared memory begins with {least * kind.page_size} bytes, beyond memory_limit"
                    )
            made = wasmtime.MemoryType(
                wasmtime.Limits(least, most), shared.type.is_64, shared=True, page_size_log2=kind.page_size.bit_length() - 1
            )
            shared.memory = wasmtime.SharedMemory(self._instantiator.engine, made)
            for member in self._assembly.members:
                for names in member.taking(source):
                    ffi.define_shared_memory(member.linker, store, *names, shared.memory)

    def _define_proxies(self, wasi: Callable[[], wasmtime.WasiConfig]) -> None:
        """Have the files of all threads in one table: modules that pass WASI calls on, in a store of their own."""
        for member in self._assembly.members:
            shared = self._memory_of(member)
            wanted = [
                needed
                for names, needed in member.left.items()
                if needed.module in MODULES
                and needed.name not in NATIVE
                and isinstance(needed.type, FuncType)
                and (member.part.name, names) not in self._instantiator.environment.imports
            ]
            if not wanted or shared is None:
                continue
            if self._wasi_store is None:
                self._wasi_store = self._instantiator.new_store(wasi())
            self._define_proxy(self._wasi_store, member, shared, wanted)

    def _memory_of(self, member: Member) -> _Shared | None:
        """The memory that WASI reads for it: what it exports as ``memory``, and if it does not say, the only one."""
        exported = member.part.interface.exports.get("memory")
        found = [shared for source, shared in self._memories.items() if any(member.taking(source))]
        own = [
            self._memories[member.part.source(names)]
            for names, needed in member.left.items()
            if needed.type is exported and member.part.source(names) in self._memories
        ]
        return own[0] if own else found[0] if len(found) == 1 else None

    def _define_proxy(self, store: wasmtime.Store, member: Member, shared: _Shared, wanted: list[Import]) -> None:
        linker = wasmtime.Linker(self._instantiator.engine)
        linker.define_wasi()
        ffi.define_shared_memory(linker, store, "env", "memory", shared.memory)
        instance = linker.instantiate(store, self._instantiator.compiled(_proxy_text(wanted, shared.type)))
        self._keep.append((linker, instance))
        for number, needed in enumerate(wanted):
            assert isinstance(needed.type, FuncType)
            proxy = _Proxy(store, instance, f"f{number}", needed.type, self._turn, self._instantiator.calls)
            self._assembly.serve(member, needed, proxy.call)

    def instantiate(self, store: wasmtime.Store, own: Own, first: bool) -> wasmtime.Instance:
        """The instance of one thread; ``own`` gets its imports, and the memories that all share.

        Args:
            first: whether the thread is the main one.
        """
        own.imports.update((source, shared.memory) for source, shared in self._memories.items())
        return self._assembly.instantiate(store, own, first)

    def watched(self, run: Callable[[], None]) -> Callable[[], None]:
        """A call of the main thread that fails if another thread has, also if the guest came back before it noticed."""

        def run_watched() -> None:
            run()
            if self.error is not None:
                self._instantiator.calls.failed = True
                raise self.error

        return run_watched

    # -- running -------------------------------------------------------------------------------------------------------

    def _spawn(self, argument: int) -> int:
        """wasi.thread-spawn: the id of a new thread, or -1."""
        with self._lock:
            if self._closing or len(self._threads) >= self._max or self._next > MOST_ID:
                return -1
            number = self._next
            self._next += 1
            # See START_DELAY: it begins to count when we are on our way back to the guest.
            gate = threading.Lock()
            gate.acquire()
            thread = threading.Thread(target=self._run, args=(number, argument, gate), name=f"{NAME}{number}", daemon=True)
            self._threads[number] = thread
            try:
                thread.start()
            except RuntimeError:  # the system has no more threads
                del self._threads[number]
                return -1
        gate.release()
        return number

    def _run(self, number: int, argument: int, gate: threading.Lock) -> None:
        """One thread's life."""
        self._instantiator.threads.add(threading.get_ident())
        try:
            gate.acquire()
            threading.Event().wait(START_DELAY)
            store = self._instantiator.new_store(self._wasi() if self._wasi is not None else None)
            try:
                if self._closing:  # maybe since before the store took its deadline from the epoch: it would not hear of it
                    return
                own = Own()
                instance = self.instantiate(store, own, False)
                slots = ffi.Slots(2)
                signature = FuncType(("i32", "i32"))
                exceptions = self._instantiator.exceptions(store, instance, own)
                run = ffi.bind(store, instance, "wasi_thread_start", signature, slots, self._instantiator.calls, exceptions)
                slots.bytes[:4] = number.to_bytes(4, sys.byteorder)
                slots.bytes[16:20] = (argument & 0xFFFFFFFF).to_bytes(4, sys.byteorder)
                run()
            finally:
                store.close()
        except BaseException as error:
            self._fail(error)
        finally:
            self._instantiator.threads.discard(threading.get_ident())  # before it ends, for the next may be given the same
            with self._lock:
                self._threads.pop(number, None)
            with self._changed:
                self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        """A thread has trapped or exited, and that ends all of them."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            if isinstance(error, wasmtime.ExitTrap):
                error = GuestExit(error.code)
            self.error = error
            # Whatever the main thread makes of being stopped, this is why.
            self._instantiator.calls.ended = error
        self._instantiator.engine.increment_epoch()
        # If the main thread is not in the guest, its next call will find out; if it sits in a host call, it never may.
        if not self._wake_until(self._left.is_set) and self._instantiator.on_stuck is not None:
            self._instantiator.on_stuck(error)

    def interrupt(self) -> None:
        """Control thread: the main thread is being interrupted, and may be waiting for the others.

        The epoch has been raised for that; once more, later, could hit another instance.  They are woken until it has
        left, however slow the machine is; if it sits in a host call, the parent's patience ends that.
        """
        with self._lock:
            self._closing = True
        threading.Thread(target=self._wake_until, args=(self._left.is_set, True), daemon=True).start()

    def close(self) -> None:
        """End all threads but the calling one.  After that the engine's epoch has been raised, if there were any."""
        self._left.set()
        with self._changed:
            self._changed.notify_all()
        with self._lock:
            self._closing = True
        self._instantiator.groups.discard(self)
        if self._threads:
            self._instantiator.engine.increment_epoch()
            # Those that sit in a host call can be ended by nothing but the end of the process.
            if not self._wake_until(lambda: not self._threads):
                self._instantiator.doomed = True
        self._instantiator.calls.ended = None
        if self._wasi_store is not None and not self._instantiator.doomed:
            self._wasi_store.close()
            self._wasi_store = None

    def _wake_until(self, done: Callable[[], bool], patient: bool = False) -> bool:
        """The epoch is up: wake those who wait on the memory, for they do not look at it; false if that does not help.

        Again and again, because one may begin to wait after it was its turn to be woken; ever less often, because each
        time may take as long as there is memory.
        """
        deadline = monotonic() + END_GRACE
        pause = 0.005
        waker = self._waker()
        for round in itertools.count():
            if done():
                break
            if not patient and round >= END_ROUNDS and monotonic() > deadline:
                return False
            waker()
            with self._changed:
                self._changed.wait_for(done, pause)
            pause = min(1.5 * pause, 0.1)
        return True

    def _waker(self) -> Callable[[], None]:
        """Notifies every address of the shared memories."""
        wakers = [self._waker_of(shared) for shared in self._memories.values()]

        def wake() -> None:
            for each in wakers:
                each()

        return wake

    def _waker_of(self, shared: _Shared) -> Callable[[], None]:
        store = wasmtime.Store(self._instantiator.engine)
        store.set_epoch_deadline(1 << 40)
        linker = wasmtime.Linker(self._instantiator.engine)
        ffi.define_shared_memory(linker, store, "env", "memory", shared.memory)
        if self._instantiator.limits.fuel is not None:
            store.set_fuel(1 << 62)
        instance = linker.instantiate(store, self._instantiator.compiled(_waker_text(shared.type)))
        slots = ffi.Slots(1)
        run = ffi.bind(store, instance, "wake", FuncType(("i32",)), slots, HostCalls())

        def wake(_alive: Any = (linker, instance)) -> None:
            slots.bytes[:4] = min(shared.memory.data_len(), 0xFFFFFFFC).to_bytes(4, sys.byteorder)
            run()

        return wake


class _Proxy:
    """A WASI function of the group's one context.  Its callers take turns."""

    def __init__(
        self,
        store: wasmtime.Store,
        instance: wasmtime.Instance,
        name: str,
        signature: FuncType,
        lock: threading.Lock,
        calls: HostCalls,
    ) -> None:
        formats = {"i32": "i12x", "i64": "q8x", "f32": "f12x", "f64": "d8x"}
        self._slots = ffi.Slots(max(len(signature.params), 1))
        # With the group's calls: if it is ended here, the caller gets to know why.
        self._run = ffi.bind(store, instance, name, signature, self._slots, calls)
        self._params = struct.Struct("<" + "".join(formats[kind] for kind in signature.params))
        self._results = struct.Struct("<" + "".join(formats[kind] for kind in signature.results))
        self._lock = lock

    def call(self, *args: Any) -> Any:
        """Pass a call on."""
        with self._lock:
            self._params.pack_into(self._slots.bytes, 0, *args)
            self._run()
            results = self._results.unpack_from(self._slots.bytes)
        return results[0] if results else None


def _memory_text(kind: MemoryType) -> str:
    return f'(import "env" "memory" (memory 0 {kind.maximum} shared))'


def _proxy_text(wanted: list[Import], kind: MemoryType) -> str:
    """A module that calls each function with what it is called with."""
    imports, functions = [], []
    for number, needed in enumerate(wanted):
        type_ = needed.type
        assert isinstance(type_, FuncType)
        signature = f"(param {' '.join(type_.params)}) (result {' '.join(type_.results)})"
        gets = " ".join(f"(local.get {n})" for n in range(len(type_.params)))
        imports.append(f'(import "{needed.module}" "{needed.name}" (func $w{number} {signature}))')
        functions.append(f'(func (export "f{number}") {signature} (call $w{number} {gets}))')
    memory = [_memory_text(kind), '(export "memory" (memory 0))']
    return "\n".join(["(module", *imports, *memory, *functions, ")"])


def _waker_text(kind: MemoryType) -> str:
    return f"""(module {_memory_text(kind)}
      (func (export "wake") (param $end i32) (local $at i32)
        (loop $next
          (drop (memory.atomic.notify (local.get $at) (i32.const -1)))
          (local.set $at (i32.add (local.get $at) (i32.const 4)))
          (br_if $next (i32.lt_u (local.get $at) (local.get $end))))))"""
