"""Rows of arguments out of a file: CSV or JSON lines."""

from __future__ import annotations

import csv
import io
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO, get_args

from ..binary import FuncType
from ..module import GZIP, URL
from .arguments import numbers
from .failures import BadRequest, BadRow
from .fields import Fields

STDIN = 0  #: its descriptor
#: Characters, with the end of the line: far more than a row needs, and no burden.
LONGEST_LINE = 1 << 24
Format = Literal["csv", "tsv", "jsonl"]
FORMATS: tuple[Format, ...] = get_args(Format)
_BY_SUFFIX: dict[str, Format] = {".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


class Row(NamedTuple):
    """A row as it was read."""

    line: int  #: where it begins
    args: list[Any]
    error: BadRow | None = None  #: why it cannot be read


@dataclass(frozen=True)
class Reading:
    """How a file is to be read."""

    name: str  #: "-" for standard input
    format: Format
    delimiter: str
    header: bool

    @classmethod
    def checked(
        cls, name: str, format: Format | None, delimiter: str | None, header: bool, columns: Sequence[str]
    ) -> Reading:
        """As the options say, and the file's name where they do not.

        Raises:
            BadRequest: they do not fit together.
        """
        if URL.match(name):
            raise BadRequest(f"{name!r} is a URL; download it first, and give the file")
        suffix = Path(name).suffix.lower()
        if format is None and suffix == ".json":
            raise BadRequest(
                f"{name} is named as one JSON document; rows are JSON lines: --input-format jsonl if it has such"
            )
        format = format or _BY_SUFFIX.get(suffix, "csv")
        if format == "jsonl":
            for flag, given in (("--delimiter", delimiter is not None), ("--header", header)):
                if given:
                    raise BadRequest(f"{flag} is for CSV, and {_named(name)} is read as JSON lines")
        elif columns and not header:
            raise BadRequest("--columns takes the names in the first line: give --header too")
        return cls(name, format, delimiter or ("\t" if format == "tsv" else ","), header)

    def place(self, line: int) -> str:
        """Where a row is, for people."""
        return f"line {line} of {_named(self.name)}"


def _named(name: str) -> str:
    return "stdin" if name == "-" else name


def open_rows(name: str) -> TextIO:
    """The file of that name, as text without a byte order mark.

    Raises:
        BadRequest: there is no standard input, or the file is compressed.
        OSError: the file cannot be read.
    """
    if name == "-" and sys.stdin is None:
        raise BadRequest("there is no standard input to read rows from; name a FILE, or give --range")
    file = open(STDIN if name == "-" else name, "rb", closefd=name != "-")  # noqa: SIM115  # for the caller to close
    if name != "-" and file.peek(len(GZIP)).startswith(GZIP):
        file.close()
        raise _compressed(name)
    # What is not UTF-8 becomes surrogates, by which `_checked` knows the row that has them.
    return io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")


def _compressed(name: str) -> BadRequest:
    return BadRequest(f"{_named(name)} is compressed by gzip; decompress it first (gunzip)")


def _lines(file: TextIO, name: str) -> Iterator[str]:
    """The lines of a file.

    Raises:
        BadRequest: it is compressed, which only its first line tells where looking ahead would wait for it: standard input.
        BadRow: a line is too long; it may have no end, so there is no reading on behind it.
    """
    for number in itertools.count(1):
        line = file.readline(LONGEST_LINE + 1)
        if not line:
            return
        if number == 1 and line.startswith(GZIP.decode(errors="surrogateescape")):
            raise _compressed(name)
        if len(line) > LONGEST_LINE:
            raise BadRow(
                f"line {number} of {_named(name)} is longer than {LONGEST_LINE:,} characters, the most that a line may have"
            )
        yield line


def _checked(text: str) -> str:
    """A piece of the file.

    Raises:
        ValueError: it was not UTF-8.
    """
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("it is not text in UTF-8") from None
    return text


def read_rows(file: TextIO, reading: Reading, signature: FuncType, fields: Fields) -> Iterator[Row]:
    """The rows of a file.  Blank lines are none.

    Raises:
        BadRow: it has a header that cannot be read, or a line that is too long; names the place.
    """
    lines = _lines(file, reading.name)
    records = _Objects(lines, fields) if reading.format == "jsonl" else _Records(lines, fields, reading)
    while True:
        args: list[Any] = []
        try:
            values = records.next()
            if values is None:
                return
            if not values and records.blank:
                continue
            args = list(values)
            row = Row(records.line, numbers(args, signature))
        except (ValueError, RecursionError, csv.Error) as error:
            hint = records.hint(args)
            row = Row(records.line, args, BadRow(f"{error}{hint}"))
        yield row


class _Records:
    """CSV."""

    def __init__(self, lines: Iterator[str], fields: Fields, reading: Reading) -> None:
        self._reader = csv.reader(lines, delimiter=reading.delimiter, strict=True)
        self._fields = fields
        self._reading = reading
        self._at: Sequence[int] | None = None
        self._width = 0
        self._seen = 0
        self.line = 1
        self.blank = False

    def next(self) -> list[str] | None:
        """The next row's arguments, none of them for a blank line; None at the end."""
        while True:
            self.line = self._reader.line_num + 1
            if self._reading.header and self._at is None:
                if not self._take_header():
                    return None
                continue
            record = self._record()
            if record is None:
                return None
            self.blank = not record
            if self.blank:
                return record
            self._seen += 1
            if self._at is None:
                return record
            if len(record) != self._width:
                raise ValueError(f"it has {len(record)} columns and the first line {self._width}")
            return [record[at] for at in self._at]

    def _record(self) -> list[str] | None:
        record = next(self._reader, None)
        return None if record is None else [_checked(field) for field in record]

    def _take_header(self) -> bool:
        """Read the line that names the columns; whether there is one.

        Raises:
            BadRow: it makes no sense, and so would the rows behind it.
        """
        try:
            record = self._record()
            if record:
                names = [name.strip() for name in record]
                self._width = len(names)
                self._at = self._fields.chosen(names)
        except (ValueError, csv.Error) as error:
            raise BadRow(f"{self._reading.place(self.line)}: {error}") from None
        return record is not None

    def hint(self, args: Sequence[Any]) -> str:
        """What may be meant by a row that cannot be read."""
        for other, flag in ((";", "';'"), ("\t", "tab"), ("|", "'|'")):
            if len(args) == 1 and other in args[0] and other != self._reading.delimiter:
                return f"; if that parts its columns, give --delimiter {flag}"
        if self._seen == 1 and not self._reading.header and args and not any(any(map(str.isdigit, text)) for text in args):
            return "; if that line names the columns, give --header"
        return ""


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, whose keys JSON lets come again."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the object has {next(name for name in names if names.count(name) > 1)!r} twice")
    return made


_DECODER = json.JSONDecoder(object_pairs_hook=_without_repetition)


class _Objects:
    """JSON lines: each an array, an object, or a number alone."""

    def __init__(self, lines: Iterator[str], fields: Fields) -> None:
        self._lines = lines
        self._fields = fields
        self.line = 0
        self.blank = False

    def next(self) -> list[Any] | None:
        """The next row's arguments, none of them for a blank line; None at the end."""
        self.line += 1
        text = next(self._lines, None)
        if text is None:
            return None
        self.blank = not text.strip()
        if self.blank:
            return []
        try:
            value = _DECODER.decode(_checked(text))
        except json.JSONDecodeError as error:
            raise ValueError(f"it is not JSON: {error.msg} at column {error.colno}") from None
        except RecursionError:
            raise ValueError("its JSON is nested too deeply") from None
        if isinstance(value, dict):
            return self._fields.of_object(value)
        return value if isinstance(value, list) else [value]

    def hint(self, _: Sequence[Any]) -> str:
        """Nothing to add."""
        return ""
