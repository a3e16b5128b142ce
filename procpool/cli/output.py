"""Results as text, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from .failures import told

#: What it is called where the name of a file would be.
STANDARD_OUTPUT = "standard output"


class Outcome(NamedTuple):
    """What became of a row."""

    row: int  #: its number: of the line, in a file
    args: Sequence[Any]  #: none if it could not be read
    result: Any = None
    error: BaseException | None = None


class Output(Protocol):
    """How results are printed."""

    def line(self, outcome: Outcome) -> str:
        """What to print for one of them."""

    def end(self) -> str:
        """What to print behind all of them."""


class Text:
    """The results alone.  A row that failed leaves its line empty, so that lines and rows stay side by side."""

    def line(self, outcome: Outcome) -> str:
        """See :class:`Output`."""
        return "\n" if outcome.error is not None else shown(outcome.result) + "\n"

    def end(self) -> str:
        """See :class:`Output`."""
        return ""


class JsonLines:
    """An object for each row."""

    def line(self, outcome: Outcome) -> str:
        """See :class:`Output`."""
        became = {"result": outcome.result} if outcome.error is None else {"error": _summary(outcome.error)}
        return as_json({"row": outcome.row, "args": outcome.args} | became) + "\n"

    def end(self) -> str:
        """See :class:`Output`."""
        return ""


class Csv:
    """The arguments and the results, each in a column of its own, and a column for what went wrong if that is asked for.

    Args:
        names: gives those of the arguments, when the first row has been read.
    """

    def __init__(self, names: Callable[[], Sequence[str]], params: int, results: int, errors: bool) -> None:
        self._names = names
        self._params, self._results, self._errors = params, results, errors
        self._begun = False

    def line(self, outcome: Outcome) -> str:
        """See :class:`Output`."""
        args = [_plain(arg) for arg in outcome.args[: self._params]]
        if outcome.error is None:
            fields = args + [_plain(value) for value in _values(outcome.result)] + [""] * self._errors
        else:
            fields = args + [""] * (self._params - len(args) + self._results) + [_summary(outcome.error)]
        return self._head() + _record(fields)

    def end(self) -> str:
        """See :class:`Output`."""
        return self._head()

    def _head(self) -> str:
        if self._begun:
            return ""
        self._begun = True
        results = ["result"] if self._results == 1 else [f"result{n}" for n in range(self._results)]
        return _record([*self._names(), *results, *["error"] * self._errors])


def put(content: str | bytes) -> None:
    """Print it, at once.

    Raises:
        OSError: it cannot be printed; names standard output.
    """
    try:
        if isinstance(content, str):
            sys.stdout.write(content)
        else:
            sys.stdout.buffer.write(content)
        sys.stdout.flush()
    except OSError as error:
        error.filename = STANDARD_OUTPUT
        raise


def shown(result: Any) -> str:
    """A result as text: several values with commas between them."""
    if type(result) is int or type(result) is float:  # nearly all are
        return str(result)
    return ",".join(map(_plain, _values(result)))


def as_json(value: Any) -> str:
    """A value as JSON on one line; what JSON has no numbers for (inf, nan, v128) as a string that can be read back."""
    return json.dumps(_jsonable(value))  # in ASCII, which is JSON in whatever encoding it is printed


def _jsonable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    return value


def _values(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else () if result is None else (result,)


def _plain(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def _summary(error: BaseException) -> str:
    return told(error).partition("\n")[0]


def _record(fields: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(fields)
    return line.getvalue()
