"""Arguments out of text: of the command line, and of the rows of a file."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from ..binary import FuncType
from .failures import BadRow


def numbers(texts: Iterable[Any], signature: FuncType) -> list[Any]:
    """Arguments as the signature wants them.  Their number and range are the pool's to check."""
    texts = list(texts)
    kinds = signature.params + ("i64",) * (len(texts) - len(signature.params))
    return [_number(text, kind) for text, kind in zip(texts, kinds, strict=False)]


def _number(text: Any, kind: str) -> Any:
    if not isinstance(text, str):  # JSON has its own numbers
        return text
    try:
        if kind == "v128":
            return bytes.fromhex(text)
        return int(text, 0) if kind in ("i32", "i64") else float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an {kind}") from None


def read_rows(name: str, format: str | None, signature: FuncType) -> Iterator[list[Any]]:
    with _open_input(name) as file:
        parse = _json_rows if (format or Path(name).suffix.lstrip(".")) == "jsonl" else csv.reader
        source = parse(file)
        number = 0
        while True:
            number += 1
            try:
                row = next(source)
                if row:  # blank lines are skipped, and still counted
                    yield numbers(row, signature)
            except StopIteration:
                return
            except (ValueError, csv.Error) as error:
                raise BadRow(f"row {number} of {'stdin' if name == '-' else name}: {error}") from None


def _open_input(name: str) -> TextIO:
    if name == "-":
        return open(sys.stdin.fileno(), encoding="utf-8", newline="", closefd=False)
    return open(name, encoding="utf-8", newline="")


def _json_rows(file: Iterable[str]) -> Iterator[list[Any]]:
    for line in file:
        if not line.strip():
            yield []
            continue
        row = json.loads(line)
        yield row if isinstance(row, list) else [row]
