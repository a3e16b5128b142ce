"""Instances that begin as a snapshot says, and are put back to it after each job.

The memories of an instance are private mappings of the snapshot's file, so all workers share the pages that nobody has
written to.  A *keeper* puts an instance back.  It is a small wasm module generated for a snapshot and linked to the
instance: globals, tables and pages that were written to are copied in compiled code.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import wasmtime

from .. import wire
from ..binary import INNER, ExternType, FuncType, GlobalType, MemoryType, TableType
from ..codec import SLOT
from ..errors import BadSnapshot
from ..exposed import DROP, FUNCTIONS, KEPT
from ..keeper import KEPT_PAGES, RUN_BYTES, imported_by_keeper
from ..mapped import map_over, memory_over
from . import ffi
from .host import HostCalls
from .written import WrittenPages, open_pagemap

_NOTHING = FuncType()

#: Whose export is known under a name, and its own name there.
Place = Callable[[str], tuple[wasmtime.Instance, str]]


class Snapshot:
    """What new instances begin as.

    Args:
        fd: the file of the snapshot.
        state: what it says.
        inner: what the modules export for snapshots; see `exposed`.
        module: of a keeper for it; see `keeper_text`.
    """

    def __init__(
        self,
        fd: int,
        state: wire.State,
        inner: Mapping[str, ExternType],
        module: wasmtime.Module,
    ) -> None:
        self._fd = fd
        self._state = state
        self._inner = inner
        self._module = module
        self.pagemap: int = -1  #: what `open_pagemap` gave
        self._prepared = False
        #: whether instances can be put back: not if a job may drop what nothing brings back, and not where to have pages
        #: forgotten (MADV_DONTNEED) is advice that the system need not follow
        self.in_place: bool = sys.platform == "linux" and not any(name.startswith(DROP) for name in inner)

    def prepare(self) -> None:
        """Open what a keeper needs, in the process that is to have it."""
        if not self._prepared:
            self._prepared = True
            self.pagemap = open_pagemap()

    def begin(self, store: wasmtime.Store, place: Place) -> None:
        """Make a new instance what the snapshot says.

        Raises:
            BadSnapshot: it is not of this module, or the limits of the store do not allow that.
            OSError: memory cannot be mapped.
        """
        functions = _functions(store, place, self._inner)
        try:
            for name in self._state.dropped:
                if name.startswith(DROP) and name in self._inner:
                    ffi.bind(store, *place(name), _NOTHING, ffi.Slots(1), HostCalls())()
            for memory in self._state.memories:
                found = ffi.find(store, *place(memory.name))
                more = _more(memory.name, memory.size, found.data_len(store))
                with _allowed(memory.name, f"takes {memory.size:,} bytes"):
                    found.grow(store, more // self._type(memory.name, MemoryType).page_size)
                map_over(store, found, self._fd, memory.at, memory.size, shared=False)
            for each in self._state.globals:
                type_ = self._type(each.name, GlobalType).content
                ffi.set_bits(store, ffi.find(store, *place(each.name)), type_, each.value, functions)
            for table in self._state.tables:
                element, found = self._type(table.name, TableType).element, ffi.find(store, *place(table.name))
                if _more(table.name, table.size, found.size(store)):
                    with _allowed(table.name, f"has {table.size:,} elements"):
                        ffi.grow_table(store, found, element, table.size)
                for at, number in table.elements:
                    ffi.set_element(store, found, element, at, number, functions)
        except BadSnapshot:
            raise
        except (IndexError, ValueError, OverflowError, KeyError) as error:
            raise BadSnapshot(f"the snapshot is of another module: {error}") from None

    def _type(self, name: str, kind: type[Any]) -> Any:
        """The type of what is exported for snapshots under that name.

        Raises:
            KeyError: there is no such thing.
        """
        type_ = self._inner[name]
        if not isinstance(type_, kind):
            raise KeyError(name)
        return type_

    def keeper(self, store: wasmtime.Store, place: Place) -> Keeper | None:
        """What puts an instance back that `begin` has just made; None if there is no such thing.

        The store must have no limits meanwhile: what is made is not the guest's.
        """
        if not self.in_place:
            return None
        try:
            return self._new_keeper(store, place)
        except (wasmtime.WasmtimeError, OSError):
            self.in_place = False  # no addresses are left, because of RLIMIT_AS, say: each memory reserves some GiB
            return None

    def _new_keeper(self, store: wasmtime.Store, place: Place) -> Keeper:
        self.prepare()
        state = self._state
        theirs = [ffi.find(store, *place(name)) for name in imported_by_keeper(state, self._inner)]
        ours = [memory_over(store, self._fd, each.at, each.size, False, self._is_64(each)) for each in state.memories]
        made = wasmtime.Instance(store, self._module, [*theirs, *ours])
        mapped = [(_address(store, ffi.find(store, *place(each.name))), each.size) for each in state.memories]
        return Keeper(store, made, mapped, self.pagemap)

    def _is_64(self, memory: wire.MemoryState) -> bool:
        is_64: bool = self._type(memory.name, MemoryType).is_64
        return is_64


class Keeper:
    """Puts one instance back.

    Args:
        made: of the keeper's module.
        mapped: address and size of each memory.
        pagemap: what `open_pagemap` gave.
    """

    def __init__(
        self, store: wasmtime.Store, made: wasmtime.Instance, mapped: Sequence[tuple[int, int]], pagemap: int
    ) -> None:
        calls, slots = HostCalls(), ffi.Slots(len(mapped))
        found = _address(store, ffi.find(store, made, "found"))
        self._written = [
            WrittenPages(pagemap, address, size, found + at * KEPT_PAGES * RUN_BYTES)
            for at, (address, size) in enumerate(mapped)
        ]
        for at, (address, _) in enumerate(mapped):
            slots.bytes[SLOT * at : SLOT * at + 8] = address.to_bytes(8, "little")
        ffi.bind(store, made, "begin", FuncType(("i64",) * len(mapped)), slots, calls)()
        self._runs = slots.bytes.cast("I")  # how many runs of pages there are in each memory; behind that, what came of it
        self._restore = ffi.bind(store, made, "restore", FuncType(("i32",) * len(mapped), ("i32",)), slots, calls)

    def restore(self) -> bool:
        """Put everything back; false if that cannot be done, as something has grown.

        Raises:
            wasmtime.Trap, wasmtime.WasmtimeError: it was interrupted, or there was no fuel.
            OSError: the system refuses.
        """
        many = []
        for at, pages in enumerate(self._written):
            runs = pages.find()
            if runs < 0:
                many.append(pages)
            self._runs[4 * at] = max(runs, 0)
        self._restore()
        if not self._runs[0]:
            return False
        for pages in many:  # not before it is known that nothing has moved
            pages.forget()
        return True


def take(
    ours: tuple[wasmtime.Store, Place],
    new: tuple[wasmtime.Store, Place],
    inner: Mapping[str, ExternType],
    fd: int,
) -> None:
    """Write what an instance holds into an empty file.

    Args:
        ours: the instance, in its store.
        new: another one in which nothing has run.
        inner: what the module exports for snapshots; see `exposed`.

    Raises:
        BadSnapshot: something cannot be kept; names it.
        OSError: there is no room for it.
    """
    (store, place), (new_store, new_place) = ours, new
    functions, new_functions = _functions(store, place, inner), _functions(new_store, new_place, inner)
    memories, contents = list[wire.MemoryState](), list[memoryview]()
    globals_, tables = list[wire.GlobalState](), list[wire.TableState]()
    for name, type_ in inner.items():
        found = ffi.find(store, *place(name))
        try:
            if isinstance(type_, MemoryType):
                contents.append(ffi.view(found.data_ptr(store), found.data_len(store)))
                memories.append(wire.MemoryState(name, found.data_len(store)))
            elif isinstance(type_, GlobalType):
                globals_.append(wire.GlobalState(name, type_.content, ffi.get_bits(store, found, type_.content, functions)))
            elif isinstance(type_, TableType) and not name.startswith(FUNCTIONS):
                now = ffi.elements(store, found, functions)
                before = ffi.elements(new_store, ffi.find(new_store, *new_place(name)), new_functions)
                tables.append(wire.TableState(name, len(now), tuple(_changes(before, now))))
        except ffi.Unkeepable as error:
            raise BadSnapshot(f"the state cannot be kept: the module's {name.removeprefix(INNER)} holds {error}") from None
    dropped = tuple(_dropped(store, place, inner))
    wire.write_state(fd, wire.State(tuple(memories), tuple(globals_), tuple(tables), dropped), contents)


def _more(name: str, size: int, now: int) -> int:
    """By how much something has to grow.

    Raises:
        BadSnapshot: it would have to shrink.
    """
    if size < now:
        raise BadSnapshot(f"the snapshot's {name.removeprefix(INNER)} is smaller than the one that imports= gives now")
    return size - now


@contextlib.contextmanager
def _allowed(name: str, what: str) -> Iterator[None]:
    """What cannot grow within the limits of a store is told of the snapshot."""
    try:
        yield
    except (wasmtime.WasmtimeError, MemoryError):
        raise BadSnapshot(
            f"the snapshot's {name.removeprefix(INNER)} {what}, and memory_limit does not allow that"
        ) from None


def _functions(store: wasmtime.Store, place: Place, inner: Mapping[str, ExternType]) -> ffi.Functions:
    return ffi.Functions(store, [ffi.find(store, *place(name)) for name in inner if name.startswith(FUNCTIONS)])


def _changes(before: Sequence[int | None], now: Sequence[int | None]) -> Iterator[tuple[int, int | None]]:
    """The elements of a table that are others than in a new one, which is as long and has nulls at its end."""
    for at, (old, number) in enumerate(zip_longest(before, now)):
        if old != number:
            yield at, number


def _dropped(store: wasmtime.Store, place: Place, inner: Mapping[str, ExternType]) -> Iterator[str]:
    """The functions that drop the segments that were dropped."""
    for name in inner:
        if name.startswith(KEPT):
            try:
                ffi.bind(store, *place(name), _NOTHING, ffi.Slots(1), HostCalls())()
            except wasmtime.Trap:
                yield DROP + name.removeprefix(KEPT)


def _address(store: wasmtime.Store, memory: wasmtime.Memory) -> int:
    return ctypes.cast(memory.data_ptr(store), ctypes.c_void_p).value or 0
