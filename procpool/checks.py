"""Checks of what a user gives: each says in one line what is wrong with a value, and what is expected."""

from __future__ import annotations

import math
from numbers import Complex, Number, Real
from typing import Any, TypeGuard


def shown(value: object) -> str:
    """The value for the text of an exception: cut short, with its type, and whatever its own repr does."""
    try:
        text = repr(value)
    except Exception:  # of the user's own, or an int of too many digits
        text = "a value that cannot be shown"
    return f"{text if len(text) <= 100 else text[:97] + '...'} ({type(value).__name__})"


def choice(name: str, value: object, *choices: str) -> None:
    """ValueError if the value is none of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {shown(value)}")


def is_int(value: object, least: int | None = None, most: int | None = None) -> TypeGuard[int]:
    """Whether it is an int from ``least`` to ``most``, and no bool."""
    if not isinstance(value, int) or isinstance(value, bool):
        return False
    return (least is None or least <= value) and (most is None or value <= most)


def count(name: str, value: object, least: int, most: int | None = None) -> int:
    """The value, if it is an int from ``least`` to ``most``; ValueError otherwise."""
    if not is_int(value, least, most):
        bounds = f"from {least}" + ("" if most is None else f" to {most}")
        raise ValueError(f"{name} must be an int {bounds}, got {shown(value)}")
    return value


def positive(name: str, value: int | None) -> int | None:
    """The value, if it is None or a positive int; ValueError otherwise."""
    if value is not None and not is_int(value, 1):
        raise ValueError(f"{name} must be a positive int, got {shown(value)}")
    return value


def boolean(name: str, value: object) -> bool:
    """The value, if it is True or False; TypeError otherwise."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {shown(value)}")
    return value


def is_real(value: object) -> TypeGuard[Any]:
    """Whether it is a real number, as Decimal's and numpy's are; a bool is none."""
    if isinstance(value, bool):
        return False
    # Decimal says of itself that it is a Number, and no more.
    return isinstance(value, Real) or (isinstance(value, Number) and not isinstance(value, Complex))


def seconds(name: str, value: object, zero: bool = False) -> float:
    """A positive real number as a float; one too large for a float is infinite.

    Args:
        zero: whether 0 will do as well.

    Raises:
        TypeError: it is no real number.
        ValueError: it is nan, negative, or 0.
    """
    expected = f"a {'' if zero else 'positive '}number of seconds (math.inf for no limit)"
    if not is_real(value):
        raise TypeError(f"{name} must be {expected}, got {shown(value)}")
    try:
        number = float(value)
    except OverflowError:  # a long int
        number = math.inf if value > 0 else -math.inf
    except ValueError:  # Decimal's signalling nan
        number = math.nan
    if not (number > 0 or (zero and number == 0)):
        raise ValueError(f"{name} must be {expected}, got {shown(value)}")
    return number


def cannot_travel(what: object, instead: str) -> TypeError:
    """What to raise when somebody pickles what belongs to this process.

    Args:
        instead: what to do.
    """
    return TypeError(f"{shown(what)} cannot be pickled, as its workers belong to this process: {instead}")
