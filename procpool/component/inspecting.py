"""What a component says of itself, for people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ..module import Inspection
from ..printable import printable
from . import wit
from .binary import read_world
from .wasi import WASI


@dataclass(frozen=True)
class ComponentInspection(Inspection):
    """What a component imports and exports.  Its text is its world."""

    world: wit.World

    def __str__(self) -> str:
        lines = [f"{self.size:,} bytes of a component"]
        for title, names, functions in (
            ("imports", self.world.needs, self.world.imports),
            ("exports", (), self.world.exports),
        ):
            listed = list(_listed(names, functions))
            lines.append(f"{title}: {'' if listed else 'none'}".rstrip())
            lines += listed
        types = [_defined(each) for each in self.world.types if isinstance(each, wit.Named) and not WASI.match(each.name)]
        return "\n".join([*lines, *(["types:"] if types else []), *(f"  {printable(each)}" for each in types)])


def inspected(wasm: bytes) -> ComponentInspection:
    """A component by its binary.

    Raises:
        InvalidModule: it is not one that is understood here.
    """
    world = read_world(wasm)
    exports: dict[str, Any] = {each.name: each for each in world.exports}
    return ComponentInspection(world.imports, MappingProxyType(exports), len(wasm), world)


def _listed(names: tuple[str, ...], functions: tuple[wit.Function, ...]) -> Iterator[str]:
    by_interface: dict[str | None, list[wit.Function]] = {name: [] for name in names}
    for function in functions:
        by_interface.setdefault(function.interface, []).append(function)
    for function in by_interface.pop(None, []):
        by_interface.pop(function.name, None)
        yield f"  {printable(str(function))}"
    for name, members in by_interface.items():
        yield f"  {printable(str(name))}"
        if not WASI.fullmatch(str(name)):  # which everybody knows
            yield from (f"    {printable(str(each))}" for each in members)


def _defined(type_: Any) -> str:
    match type_:
        case wit.Record():
            body = f"record {type_.label} {{ {', '.join(f'{name}: {each}' for name, each in type_.fields)} }}"
        case wit.Variant():
            cases = (name if each is None else f"{name}({each})" for name, each in type_.cases)
            body = f"variant {type_.label} {{ {', '.join(cases)} }}"
        case wit.Enum():
            body = f"enum {type_.label} {{ {', '.join(type_.labels)} }}"
        case wit.Flags():
            body = f"flags {type_.label} {{ {', '.join(type_.labels)} }}"
        case wit.Resource():
            body = f"resource {type_.label}"
        case _:
            body = str(type_)
    return body
