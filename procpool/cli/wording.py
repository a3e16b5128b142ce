"""Numbers for people."""

from __future__ import annotations


def plural(count: int, noun: str) -> str:
    """So many of them: "1 call", "2 calls"."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def rate(value: float) -> str:
    """How many a second, with three digits at least."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """A length of time, with three digits, in the unit that suits it."""
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds * 1e9:.3g} ns"
