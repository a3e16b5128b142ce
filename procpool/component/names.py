"""Finding a function of a world by what people call it: by the shortest name that only it has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from ..checks import shown
from ..errors import UnknownExport
from . import wit


class Functions:
    """The functions of a world by name.

    A function goes by its full name, ``ns:pkg/iface@1.0.0#counter.inc``; without the version; by the interface's own name,
    ``iface#counter.inc``; and by its own alone, ``counter.inc``.  Underscores stand for hyphens.  A function at the root of
    the world has no other name than its own, and comes before those of interfaces that are called the same.
    """

    def __init__(self, functions: Iterable[wit.Function]) -> None:
        self._functions: dict[str, wit.Function] = {function.name: function for function in functions}
        self._known: dict[str, list[wit.Function]] = {}
        for function in self._functions.values():
            for name in dict.fromkeys(_names(function)):
                self._known.setdefault(name, []).append(function)

    def __iter__(self) -> Iterator[wit.Function]:
        return iter(self._functions.values())

    def find(self, name: object) -> wit.Function:
        """The function of that name.

        Raises:
            TypeError: it is no name.
            UnknownExport: there is none, or several; says which there are.
        """
        if not isinstance(name, str):
            raise TypeError(f"expected the name of an export, got {shown(name)}")
        found = self._functions.get(name)
        if found is not None:
            return found
        several = self._known.get(name.replace("_", "-")) or self._known.get(name) or []
        roots = [function for function in several if function.interface is None]
        if len(several) == 1 or len(roots) == 1:
            return (roots or several)[0]
        if several:
            raise UnknownExport(f"{shown(name)} may be {_either(self.shortest(each) for each in several)}")
        near = get_close_matches(name.replace("_", "-"), self._known, n=3)
        likely = list(dict.fromkeys(self.shortest(each) for known in near for each in self._known[known]))
        if not likely:
            likely = sorted(map(self.shortest, self))[:5]
        hint = f"; did you mean {_either(likely)}?" if likely else "; it exports no function at all"
        raise UnknownExport(f"the component exports no function {shown(name)}{hint}")

    def shortest(self, function: wit.Function) -> str:
        """The shortest name that only this function has."""
        names = [name for name in _names(function) if self._is(name, function)]
        return min(names, key=len, default=function.name)

    def _is(self, name: str, function: wit.Function) -> bool:
        known = self._known[name]
        return known == [function] or (function.interface is None and [each.interface for each in known].count(None) == 1)


def _names(function: wit.Function) -> Iterator[str]:
    own = {function.label, function.raw_label}
    interface = function.interface
    yield from own
    if interface is not None:
        unversioned = interface.partition("@")[0]
        for each in (interface, unversioned, unversioned.partition(":")[2], unversioned.rpartition("/")[2]):
            yield from (f"{each}#{name}" for name in own if each)


def _either(names: Iterable[str]) -> str:
    return " or ".join(map(repr, names))
