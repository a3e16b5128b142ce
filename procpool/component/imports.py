"""What the user gives for a component's imports, checked against what it wants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from ..checks import shown
from ..errors import BadImport, MissingImport
from ..imports import OnMissing
from ..printable import printable
from ..program import Names
from . import wit
from .program import ComponentProgram
from .values import snake
from .wasi import ROOT, WASI

#: (None, (interface, function)) -> the user's function
Found = dict[tuple[str | None, Names], Any]


def resolve(program: ComponentProgram, imports: Mapping[str, Any], wasi: bool, on_missing: OnMissing = None) -> Found:
    """What each imported function gets that is none of WASI's, by its interface and its name there.

    Raises:
        MissingImport: nothing was given for some; names them all and their types.
        BadImport: something given is no function, or is given for no import; or cannot be given at all.
    """
    world, served = program.world, program.served
    for name, kind in world.other_needs:
        raise BadImport(f"the component imports {printable(name)}, which is a {kind}; only functions can be given")
    found: Found = {}
    missing: list[str] = []
    unused = {interface: _names(given) for interface, given in imports.items()}
    for name in world.needs:
        if WASI.fullmatch(name):
            if name in unused:
                raise BadImport(f"imports[{name!r}]: this is one of wasmtime's interfaces of WASI, which wasi= gives")
            if not wasi:
                missing.append(f"{name} (give wasi=WasiConfig())")
    for function in world.imports:
        interface = function.interface or ROOT
        if WASI.fullmatch(interface):
            continue
        given = _given(imports.get(interface), function)
        unused.get(interface, set()).difference_update((function.raw_label, snake(function.raw_label)))
        if given is None:
            if on_missing == "trap":
                given = Missing(function.name)
            else:
                missing.append(f"{function.name}: {function.signature}")
                continue
        if function.name not in served:
            raise BadImport(
                f"the import {function.name} cannot be given: it, or another function of its interface, passes resources"
            )
        if not callable(given):
            raise BadImport(f"imports gives {shown(given)} for {function.name}, which is no function")
        found[None, (interface, function.raw_label)] = given
    if missing:
        raise MissingImport(_missing(missing))
    for interface, names in unused.items():
        if interface not in world.needs and interface != ROOT:
            near = get_close_matches(interface, world.needs, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise BadImport(f"imports gives {interface!r}, which the component does not import{hint}")
        if names:
            raise BadImport(f"imports[{interface!r}] gives {', '.join(sorted(names))}, which the component does not import")
    return found


class Missing:
    """A function that fails, for an import that nothing was given for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *args: object) -> None:
        raise MissingImport(f"nothing was given for the import {self._name}")


def _given(given: Any, function: wit.Function) -> Callable[..., Any] | None:
    names = (function.raw_label, snake(function.raw_label))
    if isinstance(given, Mapping):
        return next((given[name] for name in names if name in given), None)
    return None if given is None else getattr(given, names[1], None)


def _names(given: Any) -> set[str]:
    """Those that must be of use: an object may have methods of its own."""
    return set(given) if isinstance(given, Mapping) else set()


def _missing(missing: list[str]) -> str:
    lines = "\n".join(f"  {printable(each)}" for each in missing)
    return (
        f'the component imports what it was not given:\n{lines}\nGive it as imports={{"interface": {{"name": function}}}}'
    )
