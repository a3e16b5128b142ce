"""Exports as objects: callables for users, and a table for leases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NoReturn

from .binary import ExternType
from .checks import cannot_travel, shown
from .errors import BadArguments, UnknownExport
from .supervisor.jobs.call import Callee

if TYPE_CHECKING:
    from .pool import ProcessWasmPool


class ExportFunction:
    """An export of a pool as a callable; see :meth:`ProcessWasmPool.function`."""

    def __init__(self, pool: ProcessWasmPool, name: str) -> None:
        self._pool = pool
        self.__name__ = self.__qualname__ = name

    def __call__(self, *args: Any, timeout: float | None = None) -> Any:
        return self._pool.call(self.__name__, *args, timeout=timeout)

    def name_in(self, pool: ProcessWasmPool) -> str:
        """The name it stands for in that pool.

        Raises:
            ValueError: it belongs to another.
        """
        if pool is not self._pool:
            raise ValueError(f"{self!r} belongs to another pool")
        return self.__name__

    def __reduce__(self) -> NoReturn:
        raise cannot_travel(self, "pass on its name")

    def __repr__(self) -> str:
        return f"<export {self.__name__!r} of {self._pool!r}>"


def refuse(
    export: object, functions: Mapping[str, Callee], refused: Mapping[str, BadArguments], exports: Mapping[str, ExternType]
) -> NoReturn:
    """Say why there is no function of that name among a module's.

    Args:
        functions: those that can be called, by name.
        refused: those that cannot, and why.
        exports: all that the module exports.

    Raises:
        TypeError: it is no name.
        BadArguments: it cannot be called.
        UnknownExport: there is none; names some that are much like it.
    """
    if not isinstance(export, str):
        raise TypeError(f"expected the name of an export, got {shown(export)}")
    if export in refused:
        raise BadArguments(*refused[export].args)
    if export in exports:
        raise UnknownExport(f"the export {export!r} is a {exports[export]}, not a function")
    near = get_close_matches(export, functions, n=3) or sorted(functions)[:5]
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "; it exports no callable function at all"
    raise UnknownExport(f"the module exports no function {shown(export)}{hint}")


class ExportTable(Mapping[str, Callee]):
    """The pool's functions, for leases: looking one up explains itself as the pool does."""

    def __init__(self, pool: ProcessWasmPool) -> None:
        self._functions = pool._functions
        self._find = pool._kind.function

    def __getitem__(self, name: str) -> Callee:
        return self._functions.get(name) or self._find(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    def __len__(self) -> int:
        return len(self._functions)
