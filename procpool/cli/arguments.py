"""Arguments out of words, of the command line and of rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..binary import FuncType


def numbers(values: Sequence[Any], signature: FuncType) -> list[Any]:
    """Arguments as the signature wants them.  Their number and range are the pool's to check.

    Args:
        values: text, or what JSON gives.

    Raises:
        ValueError: one of them is no such number.
    """
    # Those too many, of which the pool will complain, pass as they are.
    kinds = signature.params + (None,) * (len(values) - len(signature.params))
    return [_number(value, kind) for value, kind in zip(values, kinds, strict=False)]


def _number(value: Any, kind: str | None) -> Any:
    if kind is None:
        return value
    try:
        if isinstance(value, str):
            return _parsed(value, kind)
        if type(value) is int and kind != "v128":
            return value
        if type(value) is float and kind in ("f32", "f64"):
            return value
    except ValueError:
        pass
    expected = "a v128 of 32 hexadecimal digits" if kind == "v128" else f"an {kind}"
    raise ValueError(f"{repr(value.strip()) if isinstance(value, str) else json.dumps(value)} is not {expected}")


def _parsed(text: str, kind: str) -> Any:
    if kind == "v128":
        vector = bytes.fromhex(text)
        if len(vector) != 16:
            raise ValueError
        return vector
    if kind in ("f32", "f64"):
        return float(text)
    try:
        return int(text)  # "007" is 7, as in any file of data
    except ValueError:
        return int(text, 0)
