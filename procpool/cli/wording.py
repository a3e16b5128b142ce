"""Numbers for people."""

from __future__ import annotations


def plural(count: int, noun: str) -> str:
    """So many of them: "1 call", "2 calls"."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def rate(value: float) -> str:
    """How many a second, with three digits at least."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
