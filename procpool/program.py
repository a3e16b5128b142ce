"""What a pool runs: one module, or several that are linked together.  Plain data, for both sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from .binary import STORAGE, ExternType, GlobalType, Import, Interface, MemoryType, TableType, TagType, described
from .checks import shown
from .printable import printable

#: the two names of an import, of its module and its own, as `Import.names`; or those of a linked module and of its export
Names = tuple[str, str]

#: What a reactor of WASI's wants to be called before anything else of it.
INITIALIZE = "_initialize"


@dataclass(frozen=True)
class Part:
    """One module of a program."""

    name: str | None  #: that others import it by; None for the main module
    interface: Interface
    links: Mapping[Names, Names] = field(default_factory=dict)  #: what it imports from linked modules -> which exports
    given: Mapping[Names, Names] = field(default_factory=dict)  #: its other memories, tables, globals -> given as what

    def source(self, names: Names) -> Names:
        """What serves an import: a linked module and its export, or else the two names that it is given under.

        Memories, tables and globals of one source are one, whoever imports them.  No source is both: what a linked module
        exports is never given.
        """
        return self.links.get(names) or self.given.get(names, names)

    @property
    def storage(self) -> dict[Names, MemoryType | TableType | GlobalType]:
        """The imports that are memories, tables or globals."""
        types = self.interface.import_types
        return {names: type_ for names, type_ in types.items() if isinstance(type_, STORAGE)}

    @property
    def left(self) -> dict[Names, Import]:
        """The imports that no linked module serves."""
        return {each.names: each for each in self.interface.imports if each.names not in self.links}


@dataclass(frozen=True)
class Program:
    """Modules linked together.

    What a linked module exports is known as ``module.name``, and what the main one exports by its name alone.
    """

    main: Part
    linked: Mapping[str, Part] = field(default_factory=dict)  #: the others, each behind those it imports from

    @property
    def parts(self) -> tuple[Part, ...]:
        """All modules, each behind those it imports from; so the main one is the last."""
        return (*self.linked.values(), self.main)

    @property
    def needed(self) -> tuple[Import, ...]:
        """What is left to be given from outside, the main module's imports first."""
        return tuple(
            replace(each, by=part.name)
            for part in (self.main, *self.linked.values())
            for each in part.interface.imports
            if each.names not in part.links
        )

    @cached_property
    def places(self) -> dict[str, Names]:
        """Exports of linked modules, by what they are known as: the module and the export's own name."""
        own = self.main.interface.exports
        return {
            known: (module, name)
            for module, part in self.linked.items()
            for name in part.interface.exports
            if (known := f"{module}.{name}") not in own
        }

    @cached_property
    def exports(self) -> dict[str, ExternType]:
        """What all modules export, by what it is known as; the main one's first."""
        return self.main.interface.exports | {known: self.exported(names) for known, names in self.places.items()}

    @cached_property
    def _inner(self) -> dict[str, tuple[str | None, str, ExternType]]:
        found: dict[str, tuple[str | None, str, ExternType]] = {}
        given: set[Names] = set()  # what several modules import is one
        for part in self.parts:
            imported = {id(each.type): each.names for each in part.interface.imports}
            for name, type_ in part.interface.inner.items():
                names = imported.get(id(type_))
                if names is not None:
                    if names in part.links or part.source(names) in given:
                        continue  # whose it is has exported it
                    given.add(part.source(names))
                found[name if part.name is None else f"{name} of {part.name!r}"] = part.name, name, type_
        return found

    @property
    def inner(self) -> dict[str, ExternType]:
        """What the modules export for snapshots alone, by what it is known as; each memory, table and global once."""
        return {known: type_ for known, (_, _, type_) in self._inner.items()}

    @property
    def inner_places(self) -> dict[str, Names]:
        """Those of linked modules: the module, and the export's own name."""
        return {known: (module, name) for known, (module, name, _) in self._inner.items() if module is not None}

    @property
    def tags(self) -> tuple[str, ...]:
        """The exported exception tags, by what they are known as."""
        return tuple(known for known, type_ in self.exports.items() if isinstance(type_, TagType))

    @cached_property
    def imported(self) -> dict[str, Names]:
        """What an imported memory, table or global is known as -> its source; see `Part.source`.

        That is ``module.name``, as it is given and as it is imported, and its name alone; of two that are imported alike,
        the main module's.  What others would be known as together, as there may be dots in names, is the name of none.  An
        export of the name goes first.
        """
        full: dict[Names, Names] = {}
        for part in self.parts:
            full |= {names: part.source(names) for names in part.storage}
        for part in self.parts:
            full |= {given: given for given in part.given.values()}
        mine = {name for _, name in self.main.storage}
        known = [(".".join(names), source) for names, source in full.items()]
        for part in self.parts:
            known += [(each[1], part.source(each)) for each in part.storage if part is self.main or each[1] not in mine]
        sources: dict[str, set[Names]] = {}
        for name, source in known:
            sources.setdefault(name, set()).add(source)
        return {name: source for name, source in known if len(sources[name]) == 1}

    @cached_property
    def storage(self) -> dict[str, MemoryType | TableType | GlobalType]:
        """Memories, tables and globals by what they are known as: those imported, and those exported."""
        known = {name: self._sources[source] for name, source in self.imported.items()}
        return {name: type_ for name, type_ in (known | self.exports).items() if isinstance(type_, STORAGE)}

    @cached_property
    def _sources(self) -> dict[Names, ExternType]:
        """The memories, tables and globals that any module imports, by source; what is exported as the export's type."""
        found: dict[Names, ExternType] = {}
        for part in reversed(self.parts):
            for names, type_ in part.storage.items():
                found.setdefault(part.source(names), self.exported(part.links[names]) if names in part.links else type_)
        return found

    def exported(self, names: Names) -> ExternType:
        """The type of an export of a linked module."""
        return self.linked[names[0]].interface.exports[names[1]]


def absent(types: Mapping[str, Any], kind: type[object], what: str, name: object) -> str:
    """What is said of a memory, table or global that is not there: with those that only more of a name would tell apart."""
    end = f".{name}" if isinstance(name, str) else None
    near = [known for known, type_ in types.items() if isinstance(type_, kind) and end and known.endswith(end)]
    if not near:
        return f"the module exports no {what} {shown(name)}, and imports none of that name"
    meant = " or ".join(map(repr, near))
    return f"the module exports no {what} {shown(name)}, and imports none that this alone names; did you mean {meant}?"


def whom(by: str | None) -> str:
    """A module of a program, for people; the main one by None."""
    return "the module" if by is None else f"the linked module {printable(repr(by))}"


def mismatch(part: Part, needed: Import, provider: Part) -> str:
    """What is said of an import that does not fit the export that serves it."""
    _, export = part.links[needed.names]
    return (
        f"{whom(part.name)} imports {printable(f'{needed.module}.{needed.name}')} as a {described(needed.type)}, and"
        f" {whom(provider.name)} exports {printable(export)}, a {described(provider.interface.exports[export])}"
    )


def single(interface: Interface) -> Program:
    """A program of one module."""
    return Program(Part(None, interface))
