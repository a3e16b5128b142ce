"""A bar on a terminal."""

from __future__ import annotations

import sys
from typing import Any


class Progress:
    """A bar on a terminal, where tqdm is installed; otherwise nothing.  ``with Progress(total) as advance``."""

    def __init__(self, total: int | None) -> None:
        self._bar: Any = None
        if sys.stderr.isatty():
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self._bar = tqdm(total=total, unit=" calls", unit_scale=True, dynamic_ncols=True, file=sys.stderr)

    def __enter__(self) -> Any:
        return self._bar.update if self._bar else lambda count: None

    def __exit__(self, *exc: object) -> None:
        if self._bar:
            self._bar.close()
