"""What the user gives for a module's imports, checked against what the module wants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal, TypeVar

from .binary import SCALARS, FuncType, GlobalType, Import, MemoryType, TableType, nullable
from .codec import converted
from .errors import BadArguments, BadImport, MissingImport
from .printable import printable
from .stand_ins import Trapping, Zero, zero
from .wasi import MODULES, THREAD_SPAWN

#: module name -> name -> a host function; a number for a global; a MemoryType or TableType, of which each instance gets one
Imports = Mapping[str, Mapping[str, Any]]
#: import's module name -> name it is given under in ``imports``; or the same for (module, name) pairs
Renames = Mapping[str | tuple[str, str], str | tuple[str, str]]

#: what to do about imports that nothing is given for: trap when they are called, give zeros, or whatever a function of the
#: user's says; None to refuse the module
OnMissing = Literal["trap", "zero"] | Callable[[Import], Any] | None

F = TypeVar("F", bound=Callable[..., Any])


def wants_instance(function: F) -> F:
    """Mark a host function that takes the calling :class:`~procpool.worker.instance.Instance` before its arguments."""
    function._procpool_wants_instance = True  # type: ignore[attr-defined]
    return function


def resolve(
    needed: Sequence[Import], given: Imports, renames: Renames, wasi: bool, otherwise: OnMissing = None
) -> dict[tuple[str, str], Any]:
    """What each import of the module gets, by its (module, name).

    Args:
        needed: what the module imports.
        given: what the user gives.
        renames: under which other names.
        wasi: whether there is WASI.
        otherwise: what to do about the rest; see ``on_missing_import`` of the pool.

    Raises:
        MissingImport: nothing was given for some; names them all and their types.
        BadImport: something does not fit its type, or is given for no import.
    """
    unused = {(module, name) for module, names in given.items() for name in names}
    found: dict[tuple[str, str], Any] = {}
    missing: list[Import] = []
    for needs in needed:
        key = _renamed((needs.module, needs.name), renames)
        try:
            value = given[key[0]][key[1]]
            unused.discard(key)
        except KeyError:
            if wasi and _provided(needs):
                continue
            if otherwise is None:
                missing.append(needs)
                continue
            value = stand_in(needs, otherwise)
        _check(needs, value)
        found[needs.module, needs.name] = value
    if missing:
        raise MissingImport(_missing(missing, renames))
    if unused:
        module, name = min(unused)
        near = get_close_matches(f"{module}.{name}", [f"{i.module}.{i.name}" for i in needed], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise BadImport(f"imports gives {module}.{name}, which the module does not import{hint}")
    return found


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
        return (Trapping if otherwise == "trap" else Zero)(needs.module, needs.name, type_)
    if isinstance(type_, (MemoryType, TableType)):
        return type_
    if isinstance(type_, GlobalType) and (type_.content in SCALARS or nullable(type_.content)):
        return zero(type_.content)
    raise MissingImport(f"the module imports {needs.module}.{needs.name}, a {type_}, which nothing can stand in for")


def _missing(missing: Sequence[Import], renames: Renames) -> str:
    """All that is missing, and what to paste."""
    lines = []
    wanted: dict[str, list[str]] = {}
    for needs in missing:
        key = _renamed((needs.module, needs.name), renames)
        under = "" if key == (needs.module, needs.name) else f", looked for as {printable('.'.join(key))}"
        lines.append(f"{printable(f'{needs.module}.{needs.name}')}, a {_described(needs.type)}{under}")
        wanted.setdefault(key[0], []).append(f"        {key[1]!r}: {_skeleton(needs.type)}")
    hint = " (or give wasi=WasiConfig(...) for what is WASI's)" if any(map(_provided, missing)) else ""
    stand_ins = 'on_missing_import="trap" has those that are called trap'
    if len(lines) == 1:
        head = f"the module imports {lines[0]}, and nothing was given for it"
    else:
        head = f"the module imports {len(lines)} things that nothing was given for:\n  " + "\n  ".join(lines)
    body = "".join(f"    {module!r}: {{\n" + "\n".join(entries) + "\n    },\n" for module, entries in wanted.items())
    return f"{head}\nGive it as below{hint}; {stand_ins}.\nimports={{\n{body}}}"


def _skeleton(type_: Any) -> str:
    if isinstance(type_, FuncType):
        params = ", ".join(chr(ord("a") + n) if len(type_.params) <= 26 else f"a{n}" for n in range(len(type_.params)))
        results = tuple(zero(kind) for kind in type_.results)
        returned = None if not results else results[0] if len(results) == 1 else results
        return f"lambda {params}: {returned!r},  # {type_}".replace("lambda :", "lambda:")
    if isinstance(type_, MemoryType):
        shared = ", shared=True" if type_.shared else ""
        return f"MemoryType({type_.minimum}, {type_.maximum}{shared}),"
    if isinstance(type_, TableType):
        return f"TableType({type_.element!r}, {type_.minimum}, {type_.maximum}),"
    if isinstance(type_, GlobalType):
        return f"{zero(type_.content)!r},  # {type_}"
    return f"...,  # {type_}"


def _provided(needs: Import) -> bool:
    """Whether WASI and wasi-threads provide an import."""
    shared = isinstance(needs.type, MemoryType) and needs.type.shared
    return needs.module in MODULES or (needs.module, needs.name) == THREAD_SPAWN or shared


def _renamed(key: tuple[str, str], renames: Renames) -> tuple[str, str]:
    to = renames.get(key, renames.get(key[0], key))
    return (to, key[1]) if isinstance(to, str) else to


def _described(type_: Any) -> str:
    return f"function {type_}" if isinstance(type_, FuncType) else str(type_)


def _check(needs: Import, value: Any) -> None:
    where, type_ = f"{needs.module}.{needs.name}", needs.type

    def refuse(expected: str) -> None:
        raise BadImport(f"imports gives {value!r} ({type(value).__name__}) for {where}, expected {expected}")

    if isinstance(type_, FuncType):
        if not callable(value):
            refuse(f"a function {type_}")
    elif isinstance(type_, GlobalType):
        if type_.content in SCALARS:
            try:
                converted(f"imports gives {where}, which", value, type_.content)
            except BadArguments as error:
                raise BadImport(f"{error}; the import is a {type_}") from None
        elif value is not None and type_.content != "externref":
            refuse(f"None: of a {type_}, Python can give the null alone")
    elif isinstance(type_, MemoryType):
        if not isinstance(value, MemoryType):
            refuse(f"a procpool.MemoryType, of which each instance gets one; the import is a {type_}")
        if value.shared != type_.shared or not _within(value, type_):
            refuse(f"one that fits the import's {type_}")
    elif isinstance(type_, TableType):
        if not isinstance(value, TableType):
            refuse(f"a procpool.TableType, of which each instance gets one; the import is a {type_}")
        plain = type_.element in ("funcref", "externref")
        if value.element != type_.element or not (_within(value, type_) if plain else value == type_):
            refuse(f"one that {'fits' if plain else 'is'} the import's {type_}")
    else:
        raise BadImport(f"{where} is a {type_}, which cannot be given")


def _within(given: MemoryType | TableType, wanted: MemoryType | TableType) -> bool:
    """Whether what has the given limits can be made, and imported where those are wanted."""
    if given.minimum < wanted.minimum or (given.maximum is not None and given.maximum < given.minimum):
        return False
    return wanted.maximum is None or (given.maximum is not None and given.maximum <= wanted.maximum)
