"""What the user gives for a module's imports, checked against what the module wants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import reduce
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from .binary import (
    PAGE,
    SCALARS,
    STORAGE,
    ExternType,
    FuncType,
    GlobalType,
    Import,
    Interface,
    MemoryType,
    TableType,
    TagType,
    canonical,
    described,
    joint,
    nullable,
    simple,
    with_article,
)
from .checks import shown
from .codec import converted
from .errors import BadArguments, BadImport, MissingImport
from .printable import printable
from .program import Names, whom
from .stand_ins import Trapping, has_zero, zero, zeros
from .wasi import MODULES, THREAD_SPAWN

#: module name -> name -> a host function; a number for a global; a MemoryType or TableType, of which each instance gets one
Imports = Mapping[str, Mapping[str, Any]]
#: import's module name -> name it is given under in ``imports`` or ``modules``; or the same for (module, name) pairs
Renaming = Mapping[str | tuple[str, str], str | tuple[str, str]]
#: the same for all modules; or, under the name of a linked module, for that one alone
Renames = Mapping[str | tuple[str, str], str | tuple[str, str] | Renaming]

#: what to do about imports that nothing is given for: trap when they are called, give zeros, or whatever a function of the
#: user's says; None to refuse the module
OnMissing = Literal["trap", "zero"] | Callable[[Import], Any] | None

#: what serves each import, by the module that needs it (None for the main one) and its two names
Found = dict[tuple[str | None, Names], Any]

#: any Python object but None
_SOME_OBJECT = "(ref extern)"

F = TypeVar("F", bound=Callable[..., Any])


def wants_instance(function: F) -> F:
    """Mark a host function that takes the calling :class:`~procpool.worker.instance.Instance` before its arguments."""
    function._procpool_wants_instance = True  # type: ignore[attr-defined]
    return function


def resolve(
    needed: Sequence[Import],
    given: Imports,
    renames: Renames,
    wasi: bool,
    otherwise: OnMissing = None,
    linked: Mapping[str, Interface] = MappingProxyType({}),
) -> Found:
    """What each import gets that no linked module serves.

    Args:
        needed: what the modules import.
        given: what the user gives.
        renames: under which other names.
        wasi: whether there is WASI.
        otherwise: what to do about the rest; see ``on_missing_import`` of the pool.
        linked: the linked modules by name, for what is said of one that lacks an export.

    Raises:
        MissingImport: nothing was given for some; names them all and their types.
        BadImport: something does not fit its type, or is given for no import; or WASI's is wanted as several types.
    """
    unused = {(module, name) for module, names in given.items() for name in names}
    found: Found = {}
    missing: list[Import] = []
    together = _together(needed, renames)
    stood: dict[Names, Any] = {}  # what stands in for memories, tables and globals, each once
    for needs in needed:
        key = renamed(needs.by, needs, renames)
        giver = "imports gives"
        try:
            value = given[key[0]][key[1]]
            unused.discard(key)
        except KeyError:
            if wasi and _provided(needs):
                if needs.nth:
                    raise BadImport(
                        f"{whom(needs.by)} imports {needs.module}.{needs.name} as functions of several types, one of them"
                        f" {needs.type}, and WASI's has one type; give one that serves them all in imports"
                    ) from None
                continue
            if otherwise is None:
                missing.append(needs)
                continue
            giver = "on_missing_import gives"
            if not isinstance(needs.type, STORAGE):
                value = stand_in(needs, otherwise)
            elif key in stood:
                value = stood[key]
            else:
                value = stood[key] = stand_in(together[key], otherwise)
        _check(needs, value, giver)
        found[needs.by, needs.names] = value
    if missing:
        raise MissingImport(_missing(missing, renames, linked))
    if unused:
        module, name = min(unused)
        near = get_close_matches(f"{module}.{name}", [f"{i.module}.{i.name}" for i in needed], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        if module in linked and name in linked[module].exports:
            hint = f"; modules[{module!r}] exports it"
        unwanted = "which no module imports from outside" if linked else "which the module does not import"
        raise BadImport(f"imports gives {module}.{name}, {unwanted}{hint}")
    return found


def _together(needed: Sequence[Import], renames: Renames) -> dict[Names, Import]:
    """For memories, tables and globals, by where they are looked for: an import that would do for all that share it.

    Raises:
        BadImport: nothing would.
    """
    together: dict[Names, Import] = {}
    for needs in needed:
        if isinstance(needs.type, STORAGE):
            key = renamed(needs.by, needs, renames)
            other = together.setdefault(key, needs)
            both = joint(other.type, needs.type)
            if both is None:
                first = f"{other.module}.{other.name}"
                second = f"{whom(needs.by)} {needs.module}.{needs.name}" if needs.names != other.names else whom(needs.by)
                raise BadImport(
                    f"{whom(other.by)} imports {first} as a {other.type}, and {second} as a {needs.type}: nothing is both,"
                    " and they share it"
                )
            together[key] = replace(other, type=both)
    return together


def stand_in(needs: Import, otherwise: OnMissing) -> Any:
    """What serves an import that nothing was given for.

    Raises:
        MissingImport: there is nothing that could: a tag, say, or a reference that cannot be null.
        Whatever the user's own function raises.
    """
    if callable(otherwise):
        return otherwise(needs)
    type_ = needs.type
    if isinstance(type_, FuncType):
        return (Trapping if otherwise == "trap" else zeros)(needs.module, needs.name, type_)
    if isinstance(type_, (MemoryType, TableType)) and _can_be_given(type_):
        return type_
    if isinstance(type_, GlobalType) and has_zero(type_.content):
        return zero(type_.content)
    raise MissingImport(f"{whom(needs.by)} imports {needs.module}.{needs.name}, a {type_}, which nothing can stand in for")


def _missing(missing: Sequence[Import], renames: Renames, linked: Mapping[str, Interface]) -> str:
    """All that is missing, and what to paste."""
    lines: dict[tuple[str | None, str], None] = {}
    wanted: dict[str, dict[str, list[ExternType]]] = {}
    for needs in missing:
        key = renamed(needs.by, needs, renames)
        line = f"{printable(f'{needs.module}.{needs.name}')}, a {described(needs.type)}"
        if key != (needs.module, needs.name):
            line += f", looked for as {printable('.'.join(key))}"
        if key[0] in linked:
            near = get_close_matches(key[1], linked[key[0]].exports, n=1)
            hint = f" (did you mean {printable(near[0])}?)" if near else ""
            line += f", which modules[{printable(repr(key[0]))}] does not export{hint}"
        if not _can_be_given(needs.type):
            line += f", which only a module can give that exports it, as modules={{{printable(repr(key[0]))}: ...}}"
        else:
            wanted.setdefault(key[0], {}).setdefault(key[1], []).append(needs.type)
        lines[needs.by, line] = None
    hint = " (or give wasi=WasiConfig(...) for what is WASI's)" if any(map(_provided, missing)) else ""
    stand_ins = 'on_missing_import="trap" has those that are called trap'
    if len(lines) == 1:
        (by, line), *_ = lines
        head = f"{whom(by)} imports {line}, and nothing was given for it"
    else:
        told = "".join(f"\n  {line}{'' if by is None else f', for {whom(by)}'}" for by, line in lines)
        head = f"the module{'s import' if linked else ' imports'} {len(lines)} things that nothing was given for:{told}"
    for module in wanted.keys() - linked.keys():
        if near := get_close_matches(module, linked, n=1):
            hint += f" (is {module!r} meant to be {near[0]!r} of modules?)"
    body = "".join(
        f"    {module!r}: {{\n"
        + "".join(f"        {_skeleton(name, types)}\n" for name, types in entries.items())
        + "    },\n"
        for module, entries in wanted.items()
    )
    return f"{head}\nGive it as below{hint}; {stand_ins}.\nimports={{\n{body}}}" if wanted else head


def _skeleton(name: str, types: Sequence[ExternType]) -> str:
    """What to paste for a name, which may be imported as several types."""
    if len({type(each) for each in types}) > 1:
        told = ", and a ".join(map(described, dict.fromkeys(types)))
        return f"# {name!r}, a {told}: nothing is all of these, and on_missing_import=function is asked for each"
    return f"{name!r}: {_value(types)}"


def _value(types: Sequence[ExternType]) -> str:
    """The same for types of one kind."""
    type_, *others = dict.fromkeys(types)
    if isinstance(type_, STORAGE):
        type_ = reduce(lambda first, second: joint(first, second) or first, others, type_)  # `_together` has found one
    if isinstance(type_, FuncType):
        params = ", ".join(chr(ord("a") + n) if len(type_.params) <= 26 else f"a{n}" for n in range(len(type_.params)))
        results = [_example(kind) for kind in type_.results]
        returned = "None" if not results else results[0] if len(results) == 1 else f"({', '.join(results)})"
        told = ", and ".join(map(str, (type_, *others)))
        never = [kind for kind in dict.fromkeys(type_.results) if not has_zero(kind)]
        told += "".join(f"; {with_article(kind)} is never None" for kind in never)
        return f"lambda {'*args' if others else params}: {returned},  # {told}".replace("lambda :", "lambda:")
    if isinstance(type_, MemoryType):
        shared = (", shared=True" if type_.shared else "") + (", is_64=True" if type_.is_64 else "")
        page_size = "" if type_.page_size == PAGE else f", page_size={type_.page_size}"
        return f"MemoryType({type_.minimum}, {type_.maximum}{shared}{page_size}),"
    if isinstance(type_, TableType):
        return f"TableType({type_.element!r}, {type_.minimum}, {type_.maximum}{', is_64=True' if type_.is_64 else ''}),"
    if isinstance(type_, GlobalType):
        return f"{_example(type_.content)},  # {type_}"
    return f"...,  # {type_}"


def _example(kind: str) -> str:
    """A value of a type, in the words of Python: its zero, where it has one."""
    return "object()" if kind == _SOME_OBJECT else repr(zero(kind))


def _can_be_given(type_: ExternType) -> bool:
    """Whether there is something in Python to give for an import; of the rest, a linked module may export one."""
    if isinstance(type_, TableType):
        return nullable(type_.element)  # a new one is full of nulls
    if isinstance(type_, GlobalType):
        return has_zero(type_.content) or type_.content == _SOME_OBJECT
    return not isinstance(type_, TagType)


def _provided(needs: Import) -> bool:
    """Whether WASI and wasi-threads provide an import."""
    shared = isinstance(needs.type, MemoryType) and needs.type.shared
    return needs.module in MODULES or (needs.module, needs.name) == THREAD_SPAWN or shared


def checked_renames(given: object) -> Renames:
    """What says under which other names imports are looked for, if that is what it is.

    Raises:
        TypeError: an entry can be none; names it, and what is expected.
    """
    if not isinstance(given, Mapping):
        raise TypeError(f"rename_imports must be a mapping, got {shown(given)}")
    for key, to in given.items():
        if isinstance(key, str) and isinstance(to, Mapping):
            for inner, its in to.items():
                _check_renaming(f"rename_imports[{key!r}]", inner, its)
        else:
            _check_renaming("rename_imports", key, to)
    return given


def _check_renaming(where: str, key: object, to: object) -> None:
    for what, each in ((f"{where} has the key", key), (f"{where}[{key!r}] is", to)):
        if not isinstance(each, str) and not (
            isinstance(each, tuple) and len(each) == 2 and all(isinstance(name, str) for name in each)
        ):
            raise TypeError(f"{what} {shown(each)}, expected a module's name, or a tuple of that and an import's own name")


def renamed(by: str | None, needs: Import, renames: Renames) -> tuple[str, str]:
    """The names under which an import of a module is looked for."""
    own = None if by is None else renames.get(by)
    for each in (own if isinstance(own, Mapping) else {}, renames):
        for key in ((needs.module, needs.name), needs.module):
            to = each.get(key)
            if isinstance(to, str):
                return to, needs.name
            if isinstance(to, tuple):
                return to
    return needs.module, needs.name


def _check(needs: Import, value: Any, giver: str) -> None:
    where, type_ = f"{needs.module}.{needs.name}", needs.type

    def refuse(expected: str) -> None:
        raise BadImport(f"{giver} {value!r} ({type(value).__name__}) for {where}, expected {expected}")

    if not _can_be_given(type_):
        raise BadImport(f"{where} is a {type_}, which cannot be given from Python; a module in modules may export it")
    if isinstance(type_, FuncType):
        if not callable(value):
            refuse(f"a function {type_}")
    elif isinstance(type_, GlobalType):
        if type_.content in SCALARS:
            try:
                converted(f"{giver} {where}, which", value, type_.content)
            except BadArguments as error:
                raise BadImport(f"{error}; the import is a {type_}") from None
        elif type_.content == _SOME_OBJECT:
            if value is None:
                refuse(f"another object: a {type_} is never null")
        elif value is not None and type_.content != "externref":
            refuse(f"None: of a {type_}, Python can give the null alone")
    elif isinstance(type_, MemoryType):
        if not isinstance(value, MemoryType):
            refuse(f"a procpool.MemoryType, of which each instance gets one; the import is a {type_}")
        same = (value.shared, value.page_size) == (type_.shared, type_.page_size)
        if (
            not same
            or value.is_64 > type_.is_64
            or not _within(value, type_, (2**64 if type_.is_64 else 2**32) // type_.page_size)
        ):
            refuse(f"one that fits the import's {type_}")
    elif isinstance(type_, TableType):
        if not isinstance(value, TableType):
            refuse(f"a procpool.TableType, of which each instance gets one; the import is a {type_}")
        if value.is_64 > type_.is_64:
            refuse(f"one that fits the import's {type_}")
        value = replace(value, element=canonical(value.element), is_64=type_.is_64)
        plain = simple(type_)
        if value.element != type_.element or not (_within(value, type_, 2**32 - 1) if plain else value == type_):
            refuse(f"one that {'fits' if plain else 'is'} the import's {type_}")


def _within(given: MemoryType | TableType, wanted: MemoryType | TableType, most: int) -> bool:
    """Whether what has the given limits can be made, and imported where those are wanted.

    Args:
        most: how large one of the kind can be.
    """
    limits = (given.minimum,) if given.maximum is None else (given.minimum, given.maximum)
    if not all(isinstance(each, int) and wanted.minimum <= each <= most for each in limits):
        return False
    if given.maximum is not None and given.maximum < given.minimum:
        return False
    return wanted.maximum is None or (given.maximum is not None and given.maximum <= wanted.maximum)
