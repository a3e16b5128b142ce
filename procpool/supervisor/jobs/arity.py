"""How many arguments a callable takes: a mistake is found where it is made, and not in a worker."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from ...errors import BadArguments
from ...plain_function import without_instance

#: What nobody says of a parameter that takes an instance.
_NO_INSTANCE = frozenset(
    {"bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "set", "str", "tuple"}
)


class Takes(NamedTuple):
    """What can be passed to a callable by position."""

    least: int
    most: float
    names: str  #: of its parameters
    no_instance: bool  #: it says of its first that it is something else than an instance
    bare: bool  #: it is called without one

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Takes | None:
        """As its signature says; None if that cannot be told.  May run the user's code, and raises nothing of it."""
        bare = isinstance(function, without_instance)
        called: Any = function.function if isinstance(function, without_instance) else function
        try:
            signature = inspect.signature(called)
            parameters = list(signature.parameters.values())
            positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
            most = math.inf if any(p.kind is p.VAR_POSITIONAL for p in parameters) else len(positional)
            least = sum(p.default is p.empty for p in positional)
            no_instance = bool(positional) and _names_a_value(positional[0].annotation)
            return cls(least, most, ", ".join(p.name for p in parameters), no_instance, bare)
        except Exception:  # a builtin that does not say, or odd annotations and defaults
            return None

    def check(self, name: str, count: int) -> None:
        """Whether it can be called with that many arguments beside an instance.

        Raises:
            BadArguments: it cannot.
        """
        passed = count if self.bare else count + 1
        if self.least <= passed <= self.most and (self.bare or not self.no_instance):
            return
        given = f"{count} argument{'s'[: count != 1]}"
        signature = f"{name}({self.names})"
        if self.bare:
            raise BadArguments(
                f"{signature} cannot be called with {given}; if its first parameter is for the instance, give it to the"
                " pool's own submit or map, and not to as_executor() or as without_instance(...)"
            )
        raise BadArguments(
            f"{signature} cannot be called with an instance and {given}: a callable given to a pool gets the instance"
            f" first; for one that takes none, pool.submit(procpool.without_instance({name}), ...) or pool.as_executor()"
        )


def _names_a_value(annotation: Any) -> bool:
    name = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return isinstance(name, str) and name.partition("[")[0] in _NO_INSTANCE
