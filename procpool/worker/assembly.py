"""Modules put together: a linker for each, and how their instances are made, one behind the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import wasmtime

from ..binary import INNER_START, FuncType, Import
from ..errors import BadImport
from ..program import INITIALIZE, Names, Part, mismatch, whom
from . import ffi
from .host import HostCalls, HostFunction
from .made import Made, Own, make
from .stages import Stages

#: What wasmtime's complaint about an import begins with.
_INCOMPATIBLE = "incompatible import type for"


class Member(NamedTuple):
    """One of the modules, with what knows its imports.

    A linker of its own, because the same import may have another type in another module.
    """

    part: Part
    module: wasmtime.Module
    linker: wasmtime.Linker
    types: ffi.ImportTypes
    left: Mapping[Names, Import]  #: the imports that no linked module serves
    storage: frozenset[Names]  #: its imports that are memories, tables or globals

    def taking(self, source: Names) -> Iterator[Names]:
        """Its imports that are one memory, table or global, given under those names."""
        return (names for names in self.left if names in self.storage and self.part.source(names) == source)


class Assembly:
    """Makes instances of all modules of a program.

    Args:
        engine: that the modules were loaded with.
        modules: with each part of the program, in the program's order.
        calls: where exceptions of host functions are kept.
        stages: where it is kept what ended the making of an instance.
    """

    def __init__(
        self,
        engine: wasmtime.Engine,
        modules: Iterable[tuple[Part, wasmtime.Module]],
        calls: HostCalls,
        stages: Stages,
    ) -> None:
        self.members: list[Member] = []
        self._calls = calls
        self._stages = stages
        self._callbacks: list[Any] = []  # what the linkers refer to by address
        self._made: dict[Names, Made] = {}
        self._taking: dict[Names, list[tuple[wasmtime.Linker, Names]]] = {}  # who imports each of these, as what
        for part, module in modules:
            linker = wasmtime.Linker(engine)
            linker.allow_shadowing = True
            self.members.append(Member(part, module, linker, ffi.ImportTypes(module), part.left, frozenset(part.storage)))
        self._quick: Callable[[wasmtime.Store], wasmtime.Instance] | None = None

    def importing(self, names: Names) -> Iterator[Member]:
        """The members that import that, and from no linked module."""
        return (member for member in self.members if names in member.left)

    def serve(self, member: Member, needed: Import, function: Callable[..., Any], surface: Any = None) -> None:
        """Have a Python function serve an import of one member.

        Args:
            surface: what it gets first, if it wants that.
        """
        host = HostFunction(needed, function)
        declared = needed.names in member.part.interface.declared.imports
        self._callbacks.append(ffi.define(member.linker, member.types, host, surface, self._calls, declared))

    def make(self, member: Member, names: Names, value: Any) -> None:
        """Have each instance get a memory, table or global of its own, which all members share that import it."""
        source = member.part.source(names)
        if source not in self._made:
            self._made[source] = Made(source, member.left[names].type, value, member.types.of(*names))
        self._taking.setdefault(source, []).append((member.linker, names))

    def instantiate(self, store: wasmtime.Store, own: Own, starts: bool = True) -> wasmtime.Instance:
        """An instance of the main module.

        Args:
            store: for it, and the instances of linked modules.
            own: gets what is made for it, before anything of it runs.
            starts: do what is to be done first: not for another thread of an instance that there is, nor for one that
                begins as a snapshot says.

        Raises:
            BadImport: a module does not fit what it is linked to.
            wasmtime.Trap, wasmtime.WasmtimeError: it cannot be made, or a start function trapped.
            Whatever a host function raised that a start function called.
        """
        if len(self.members) == 1 and not self._made:
            try:
                if self._quick is None:
                    self._quick = self.members[0].linker.instantiate_pre(self.members[0].module).instantiate
                instance = self._quick(store)
                if starts:
                    self._start(store, self.members[0], instance)
                return instance
            except BaseException as error:
                self._stages.ended(error, _making(self.members[0]))
                raise
        for source, each in self._made.items():
            own.imports[source] = new = make(store, each)
            for linker, names in self._taking[source]:
                linker.define(store, *names, new)
        for member in self.members:
            self._link(member, store, own)
            try:
                instance = member.linker.instantiate(store, member.module)
                if starts:
                    self._start(store, member, instance)
            except BaseException as error:
                misfit = self._misfit(member, error)
                if misfit is not None:
                    raise misfit from None
                self._stages.ended(error, _making(member))
                raise
            if member.part.name is not None:
                own.linked[member.part.name] = instance
                if starts and member.part.interface.exports.get(INITIALIZE) == FuncType():
                    with self._stages.step(f"{INITIALIZE}() of {whom(member.part.name)}", self._calls):
                        ffi.bind(store, instance, INITIALIZE, FuncType(), ffi.Slots(1), self._calls)()
        return instance

    def _start(self, store: wasmtime.Store, member: Member, instance: wasmtime.Instance) -> None:
        """Call what was the start function of a module that exports its state."""
        if INNER_START in member.part.interface.inner:
            ffi.bind(store, instance, INNER_START, FuncType(), ffi.Slots(1), self._calls)()

    def _link(self, member: Member, store: wasmtime.Store, own: Own) -> None:
        """Give a member what it imports from those before it."""
        for names, (provider, export) in member.part.links.items():
            found = ffi.find(store, own.linked[provider], export)
            if isinstance(found, wasmtime.SharedMemory):
                ffi.define_shared_memory(member.linker, store, *names, found)
            else:
                member.linker.define(store, *names, found)
            if names in member.storage:
                own.imports[provider, export] = found

    def _misfit(self, member: Member, error: BaseException) -> BadImport | None:
        """Which export does not fit, if that is the matter, where only wasmtime can tell: it names the import."""
        for needed in member.part.interface.imports:
            if needed.names in member.part.links and str(error).startswith(f"{_INCOMPATIBLE} `{'::'.join(needed.names)}`"):
                provider, _ = member.part.links[needed.names]
                found = next(each.part for each in self.members if each.part.name == provider)
                return BadImport(mismatch(member.part, needed, found))
        return None


def _making(member: Member) -> str:
    return f"making an instance of {whom(member.part.name)}"
