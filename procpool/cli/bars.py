"""Bars of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

WIDTH = 32  #: characters of the longest bar
_EIGHTHS = " ▏▎▍▌▋▊▉"


def bars(values: Sequence[float], file: TextIO) -> list[str]:
    """A bar for each value, to the scale of the greatest; padded to one width.

    In blocks to the eighth of a character, or in ``#`` where the file's encoding has no such.
    """
    greatest = max(values, default=0) or 1
    try:
        ("█" + _EIGHTHS).encode(file.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return [("#" * round(WIDTH * value / greatest)).ljust(WIDTH) for value in values]
    drawn = []
    for value in values:
        full, part = divmod(round(8 * WIDTH * value / greatest), 8)
        drawn.append(("█" * full + _EIGHTHS[part].strip()).ljust(WIDTH))
    return drawn
