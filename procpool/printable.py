"""Text of others' making, such as a module's names, that is shown to people."""

from __future__ import annotations


def printable(text: str, but: str = "") -> str:
    """The text, with escapes for what could move a cursor, hide or turn text round, or end a line.

    Args:
        but: characters to leave as they are.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in but else repr(c)[1:-1] for c in text)
