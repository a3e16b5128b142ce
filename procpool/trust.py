"""Whom the program believes: whether it unpickles what workers say, which may run any code there is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

Trust = Literal["auto", "nothing", "workers"]


class Trusted(NamedTuple):
    """Which answers are unpickled.  All others are numbers in slots, or plain data (wire/plain.py)."""

    all: bool  #: to every job
    callables: bool  #: to a callable of the user's

    @classmethod
    def given(cls, trust: Trust, beside: Iterable[Any]) -> Trusted:
        """By what the pool was told.

        Args:
            beside: what surrounds the guest; if any of it can be called, the user's own Python code runs with every job.
        """
        if trust == "auto":
            return cls(any(map(callable, beside)), True)
        return cls(trust == "workers", trust == "workers")
