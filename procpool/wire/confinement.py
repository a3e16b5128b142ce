"""What a worker gives up, as it is told to, and as it says that it has."""

from __future__ import annotations

import json
from typing import NamedTuple

#: What a worker may give up, in the order in which it does, by the names that `pool.sandbox` shows.
LAYERS = (
    *("environment", "descriptors", "limits", "namespaces", "capabilities"),
    *("no_new_privileges", "not_dumpable", "landlock", "seccomp"),
)
#: What the others stand without: it only backs them up, and many systems do not let ordinary users have it.
EXTRAS = frozenset({"namespaces"})
#: Characters of the reason why something was not given up.
MOST_REASON = 1024


class Confinement(NamedTuple):
    """What a worker is told about it."""

    locked: bool = False
    strict: bool = False  #: it ends rather than run with less
    files: bool = False  #: its guest has WASI, which opens files
    changes: bool = False  #: of which some may be changed
    python: bool = False  #: Python code of the user's has run in it, whose descriptors stay
    allowed: tuple[tuple[str, bool], ...] = ()  #: absolute paths, and whether what is there may be changed


def confined_to_bytes(missing: dict[str, str]) -> bytes:
    """What a worker has not given up, and why, by layer."""
    return json.dumps({layer: why[:MOST_REASON] for layer, why in missing.items()}).encode()


def confined_from_bytes(payload: bytes) -> dict[str, str]:
    """The same, of a worker's.

    Raises:
        ValueError: no sound worker sends that.
    """
    try:
        told = json.loads(payload) if len(payload) <= 2 * MOST_REASON * len(LAYERS) else None
    except (ValueError, RecursionError):
        told = None
    if type(told) is not dict or not all(
        layer in LAYERS and type(why) is str and len(why) <= MOST_REASON for layer, why in told.items()
    ):
        raise ValueError("a worker says of itself what none would")
    return told
