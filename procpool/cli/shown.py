"""Results as text."""

from __future__ import annotations

from typing import Any


def shown(result: Any) -> str:
    values = result if isinstance(result, tuple) else (result,)
    return ",".join("" if v is None else v.hex() if isinstance(v, bytes) else repr(v) for v in values)
