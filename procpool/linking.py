"""Which of several modules gives what to which, and whether it fits."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from itertools import pairwise

from .binary import SCALARS, STORAGE, ExternType, FuncType, GlobalType, Interface, MemoryType, TableType, TagType
from .errors import BadImport
from .imports import Renames, renamed
from .printable import printable
from .program import INITIALIZE, Names, Part, Program, mismatch


def link(main: Interface, modules: Mapping[str, Interface], renames: Renames) -> Program:
    """A program of the main module, and those that it and they may import from, by name.

    What a module does not export is left to be given from outside.

    Args:
        renames: under which other names imports are looked for.

    Raises:
        BadImport: they import from each other in a circle; or an export does not fit an import.
    """
    _check_renames(modules, renames)
    parts = {name: _part(name, interface, modules, renames) for name, interface in modules.items()}
    ordered: dict[str, Part] = {}
    for name in modules:
        _visit(parts, name, ordered, ())
    program = Program(_part(None, main, modules, renames), ordered)
    grown = any(each.starts or INITIALIZE in each.exports for each in modules.values())
    for part in program.parts:
        for needed in part.interface.imports:
            provided = part.links.get(needed.names)
            if provided is None:
                continue
            given, outside = _made(parts, provided)
            why = misfit(needed.type, given, grown, outside)
            if why is not None:
                raise BadImport(mismatch(part, needed, parts[provided[0]]) + why)
    _check_names(modules)
    return program


def _check_renames(modules: Mapping[str, Interface], renames: Renames) -> None:
    """Whether those for one linked module are for one that there is.

    Raises:
        BadImport: there is none of the name.
    """
    for name, renaming in renames.items():
        if isinstance(renaming, Mapping) and name not in modules:
            near = get_close_matches(str(name), modules, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise BadImport(f"rename_imports[{name!r}] is for the linked module of that name, and there is none{hint}")


def _part(name: str | None, interface: Interface, modules: Mapping[str, Interface], renames: Renames) -> Part:
    links: dict[Names, Names] = {}
    given: dict[Names, Names] = {}
    for each in interface.imports:
        source, export = renamed(name, each, renames)
        if source in modules and export in modules[source].exports:
            links[each.names] = source, export
        elif isinstance(each.type, STORAGE) and (source, export) != each.names:
            given[each.names] = source, export
    return Part(name, interface, links, given)


def _visit(parts: Mapping[str, Part], name: str, ordered: dict[str, Part], path: tuple[str, ...]) -> None:
    """Put a module behind those that it imports from, directly or not.

    Raises:
        BadImport: it does from itself.
    """
    if name in ordered:
        return
    if name in path:
        circle = [*path[path.index(name) :], name]
        raise BadImport(
            "the modules import from each other in a circle, so none can be the first: "
            + ", ".join(f"{printable(repr(by))} imports {_example(parts[by], source)}" for by, source in pairwise(circle))
        )
    for source in dict.fromkeys(source for source, _ in parts[name].links.values()):
        _visit(parts, source, ordered, (*path, name))
    ordered[name] = parts[name]


def _example(part: Part, source: str) -> str:
    needed = next(each for each in part.interface.imports if part.links.get(each.names, (None,))[0] == source)
    return printable(f"{needed.module}.{needed.name}")


def _made(parts: Mapping[str, Part], provided: Names) -> tuple[ExternType, bool]:
    """The type that an export is made with, by whichever module makes it; and whether that is none of them.

    What a module exports that it imports may have narrower limits than the module says.
    """
    part = parts[provided[0]]
    type_ = part.interface.exports[provided[1]]
    if isinstance(type_, (MemoryType, TableType)):
        for each in part.interface.imports:
            if each.type is type_:
                return _made(parts, part.links[each.names]) if each.names in part.links else (type_, True)
    return type_, False


def _check_names(modules: Mapping[str, Interface]) -> None:
    """Whether each export has a name of its own.

    Raises:
        BadImport: two have one, as there are dots in their names or their modules'.
    """
    known: dict[str, Names] = {}
    for module, interface in modules.items():
        for name in interface.exports:
            other = known.setdefault(f"{module}.{name}", (module, name))
            if other != (module, name):
                raise BadImport(f"the linked modules {other[0]!r} and {module!r} both export {f'{module}.{name}'!r}")


def misfit(wanted: ExternType, given: ExternType, grown: bool, outside: bool = False) -> str | None:
    """Why an export can never serve an import, as the end of a sentence; None if it can, or only wasmtime can tell.

    Types by their number in one module or the other say nothing here, and of references one may be a subtype of the other.

    Args:
        grown: whether the export may have more than its minimum when it is imported.
        outside: whether its limits are not known at all.
    """
    if type(wanted) is not type(given):
        return ""
    if isinstance(wanted, FuncType) and isinstance(given, FuncType):
        return _signatures(wanted, given)
    if isinstance(wanted, TagType) and isinstance(given, TagType):
        return _signatures(wanted.signature, given.signature)
    if isinstance(wanted, GlobalType) and isinstance(given, GlobalType):
        if wanted.mutable != given.mutable or _differ((wanted.content,), (given.content,)):
            return ""
    elif isinstance(wanted, MemoryType) and isinstance(given, MemoryType):
        if (wanted.shared, wanted.is_64, wanted.page_size) != (given.shared, given.is_64, given.page_size):
            return ""
        return None if outside else _limits(wanted, given, grown)
    elif isinstance(wanted, TableType) and isinstance(given, TableType):
        if wanted.is_64 != given.is_64 or _differ((wanted.element,), (given.element,)):
            return ""
        return None if outside else _limits(wanted, given, grown)
    return None


def _signatures(wanted: FuncType, given: FuncType) -> str | None:
    if len(wanted.params) != len(given.params) or len(wanted.results) != len(given.results):
        return ""
    return "" if _differ(wanted.params + wanted.results, given.params + given.results) else None


def _differ(wanted: tuple[str, ...], given: tuple[str, ...]) -> bool:
    """Whether two lists of value types differ where their names alone tell."""
    return any(
        first != second and (first in SCALARS or second in SCALARS) for first, second in zip(wanted, given, strict=True)
    )


def _limits(wanted: MemoryType | TableType, given: MemoryType | TableType, grown: bool) -> str | None:
    if given.minimum < wanted.minimum and not grown:
        return ", which is too small"
    if wanted.maximum is not None and (given.maximum is None or given.maximum > wanted.maximum):
        return ", which may grow too large"
    return None
