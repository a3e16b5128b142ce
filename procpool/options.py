"""What may be given to a pool: checked before anything is started."""

from __future__ import annotations

import logging
import os
import resource
from collections.abc import Mapping
from typing import TypeGuard

#: The most workers a pool can have: rows of the shared board, 64 bytes each.
MAX_WORKERS = 4096
#: The most instances per worker process: three descriptors of each travel in one message, which holds 253.
MAX_INSTANCES = 64


def usable_cpus() -> int:
    """How many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def choice(name: str, value: object, *choices: str) -> None:
    """ValueError if the value is none of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}, got {value!r}")


def is_int(value: object, least: int, most: int | None = None) -> TypeGuard[int]:
    """Whether it is an int from ``least`` to ``most``, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value and (most is None or value <= most)


def count(name: str, value: object, least: int, most: int | None = None) -> int:
    """The value, if it is an int from ``least`` to ``most``; ValueError otherwise."""
    if not is_int(value, least, most):
        bounds = f"from {least}" + ("" if most is None else f" to {most}")
        raise ValueError(f"{name} must be an int {bounds}, got {value!r}")
    return value


def positive(name: str, value: int | None) -> int | None:
    """The value, if it is None or a positive int; ValueError otherwise."""
    if value is not None and not is_int(value, 1):
        raise ValueError(f"{name} must be a positive int, got {value!r}")
    return value


def checked_workers(workers: object, name: str = "workers") -> int:
    """How many workers to have; ValueError if there cannot be so many."""
    return count(name, workers, 1, MAX_WORKERS)


def checked_timeout(timeout: float | None, name: str = "timeout") -> float | None:
    """The value, if it is None or a positive number; ValueError otherwise."""
    if timeout is not None and not timeout > 0:
        raise ValueError(f"{name} must be a positive number of seconds, got {timeout!r}")
    return timeout


def resource_limits(given: Mapping[str, int]) -> tuple[tuple[int, int], ...]:
    """(resource, limit) pairs for a worker process.  No core dumps unless asked for: they hold what users passed in.

    Raises:
        ValueError: there is no such resource here, or a limit is no int.
    """
    limits = {"CORE": 0, **given}
    pairs = []
    for name, most in limits.items():
        kind = getattr(resource, f"RLIMIT_{name.upper().removeprefix('RLIMIT_')}", None)
        if kind is None:
            raise ValueError(f"rlimits names {name!r}, which this system does not have")
        if not is_int(most, -1):
            raise ValueError(f"rlimits[{name!r}] must be an int, got {most!r}")
        pairs.append((kind, most))
    return tuple(pairs)


def log_levels() -> tuple[tuple[str, int], ...]:
    """The levels set on this process's loggers, the root's under ""."""
    named = {
        name: logger.level
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger) and logger.level
    }
    return (("", logging.root.level), *named.items())
