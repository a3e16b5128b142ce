"""Exports as objects: callables for users, and a table for leases."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from .checks import cannot_travel
from .errors import UnknownExport
from .supervisor.jobs.call import Export

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


class ExportTable(Mapping[str, Export]):
    """The pool's functions, for leases: looking one up explains itself as the pool does."""

    def __init__(self, pool: ProcessWasmPool) -> None:
        self._functions = pool._functions
        self._refuse = weakref.WeakMethod(pool._no_function)

    def __getitem__(self, name: str) -> Export:
        function = self._functions.get(name)
        refuse = self._refuse()
        if function is None and refuse is not None:
            refuse(name)
        if function is None:
            raise UnknownExport(f"the module exports no function {name!r}")
        return function

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    def __len__(self) -> int:
        return len(self._functions)
