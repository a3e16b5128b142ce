"""How many arguments a callable takes: a mistake is found where it is made, and not in a worker."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from types import FunctionType, MethodType
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
        """As far as can be told; None if that is nothing.  May run the user's code, and raises nothing of it."""
        bare = isinstance(function, without_instance)
        try:
            parameters, unbounded = _by_position(function.function if isinstance(function, without_instance) else function)
            least = sum(not one.optional for one in parameters)
            names = ", ".join(one.name for one in parameters) + ", ..." * unbounded
            no_instance = bool(parameters) and _names_a_value(parameters[0].annotation)
            return cls(least, math.inf if unbounded else len(parameters), names, no_instance, bare)
        except Exception:  # a builtin that does not say, or odd annotations
            return None

    def bounds(self) -> tuple[float, float]:
        """The least and the most arguments, the instance not counted; the least is infinite if it takes no instance."""
        beside = 0 if self.bare else 1
        return math.inf if self.no_instance and not self.bare else self.least - beside, self.most - beside

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
                " pool's own submit or map, and not to plain_executor() or as without_instance(...)"
            )
        raise BadArguments(
            f"{signature} cannot be called with an instance and {given}: a callable given to a pool gets the instance"
            f" first; for one that takes none, pool.submit(procpool.without_instance({name}), ...) or pool.plain_executor()"
        )


class _Parameter(NamedTuple):
    name: str
    optional: bool
    annotation: Any


def _by_position(called: Any) -> tuple[Sequence[_Parameter], bool]:
    """The parameters that can be passed by position, and whether any number may follow.

    inspect.signature tells too, and takes longer than all else that is done to submit a method or a partial.
    """
    if isinstance(called, functools.partial):
        parameters, unbounded = _by_position(called.func)
        parameters = parameters[len(called.args) :]
        for n, one in enumerate(parameters):
            if one.name in called.keywords:  # it has its argument, and those behind it cannot be reached
                return parameters[:n], False
        return parameters, unbounded
    if isinstance(called, MethodType):
        parameters, unbounded = _by_position(called.__func__)
        return parameters[1:], unbounded
    if isinstance(called, FunctionType):
        code, annotations = called.__code__, called.__annotations__
        names = code.co_varnames[: code.co_argcount]
        required = len(names) - len(called.__defaults__ or ())
        found = [_Parameter(name, n >= required, annotations.get(name)) for n, name in enumerate(names)]
        return found, bool(code.co_flags & inspect.CO_VARARGS)
    if not isinstance(called, type) and isinstance(type(called).__call__, FunctionType):
        return _by_position(called.__call__)
    given = inspect.signature(called).parameters.values()
    found = [
        _Parameter(one.name, one.default is not one.empty, one.annotation)
        for one in given
        if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
    ]
    return found, any(one.kind is one.VAR_POSITIONAL for one in given)


def _names_a_value(annotation: Any) -> bool:
    name = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return isinstance(name, str) and name.partition("[")[0] in _NO_INSTANCE
