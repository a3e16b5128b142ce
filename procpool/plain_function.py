"""Functions that take no instance, as callables for a pool, which gives one to each."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, ParamSpec, TypeVar

from .checks import shown

if TYPE_CHECKING:
    from .worker.instance import Instance

P = ParamSpec("P")
R = TypeVar("R")


class without_instance(Generic[P, R]):  # a decorator
    """A function that takes no instance, as a callable for a pool's `submit`, `map` and the like.

    ``pool.submit(without_instance(math.sqrt), 2.0, timeout=1)``.

    Raises:
        TypeError: it cannot be called, or is such a callable already.
    """

    def __init__(self, function: Callable[P, R]) -> None:
        if not callable(function):
            raise TypeError(f"without_instance takes a function, got {shown(function)}")
        if isinstance(function, without_instance):
            raise TypeError(
                f"without_instance takes a function, and {shown(function.function)} has been given to it before"
            )
        self.function: Callable[P, R] = function

    def __call__(self, instance: Instance, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)
