"""Telling how far a map has come."""

from __future__ import annotations

from typing import Any

from .options import Progress


class Reporter:
    """Reports to a callable, to a bar by tqdm (``progress=True``), or to nobody.

    Raises:
        ImportError: a bar was asked for, and tqdm is not installed.
    """

    def __init__(self, progress: bool | Progress, total: int | None) -> None:
        self._tell = progress if callable(progress) else None
        self._bar: Any = _bar(total) if progress is True else None
        self._total = total
        self._done = 0

    def add(self, items: int) -> None:
        """So many more are done."""
        self._done += items
        if self._tell is not None:
            self._tell(self._done, self._total)
        elif self._bar is not None:
            self._bar.update(items)

    def close(self) -> None:
        """There is nothing more to come.  May be called again; not by the garbage collector, for a bar takes locks."""
        if self._bar is not None:
            self._bar.close()


def _bar(total: int | None) -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise ImportError("progress=True needs tqdm: pip install 'procpool[cli]', or give a callable") from None
    return tqdm(total=total, unit="call", unit_scale=True)
