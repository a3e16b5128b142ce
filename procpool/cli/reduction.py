"""An output of one result made of all."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

from .failures import BadRequest
from .output import Outcome, shown

Reduce = Literal["sum", "min", "max"]
REDUCTIONS: tuple[Reduce, ...] = get_args(Reduce)


def _least(a: Any, b: Any) -> Any:
    return a if a <= b or a != a else b  # noqa: PLR0124  # NaN alone differs from itself; it wins, wherever it comes


def _greatest(a: Any, b: Any) -> Any:
    return a if a >= b or a != a else b  # noqa: PLR0124


_STEPS: dict[Reduce, Callable[[Any, Any], Any]] = {"sum": operator.add, "min": _least, "max": _greatest}


class Reduction:
    """The sum, the least or the greatest of all results; each by itself where an export gives several.

    Args:
        kinds: the types of an export's results.

    Raises:
        BadRequest: there is nothing to do with them.
    """

    def __init__(self, how: Reduce, kinds: Sequence[str]) -> None:
        if not kinds or "v128" in kinds:
            raise BadRequest(f"--reduce {how} needs numbers, and the export gives {', '.join(kinds) or 'nothing'}")
        self._step = _STEPS[how]
        self._values: tuple[Any, ...] = (0,) * len(kinds) if how == "sum" else ()

    def line(self, outcome: Outcome) -> str:
        """Take it into account; nothing to print yet.  Python's ints do not overflow."""
        if outcome.error is None:
            values = outcome.result if isinstance(outcome.result, tuple) else (outcome.result,)
            self._values = tuple(map(self._step, self._values, values)) if self._values else values
        return ""

    def end(self) -> str:
        """What it is; nothing if there was nothing."""
        return shown(self._values) + "\n" if self._values else ""
