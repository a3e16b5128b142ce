"""What a client asks of the pools on nodes; made by the client, and unpickled on each host when its pool is made."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Terms(NamedTuple):
    """How a node's pool is made."""

    module: str  #: digest
    linked: Mapping[str, str]  #: digests of the modules that are linked to it, by the names that they are imported by
    options: Mapping[str, Any]  #: further keywords of `ProcessWasmPool`
    levels: tuple[tuple[str, int], ...]  #: of the client's loggers, as `log_levels` gives them


class Prepare:
    """The initializer of a node's workers: has them die with the warden, and log what the client wants to see.

    Args:
        levels: see `Terms`.
        lifeline: see `Warden`; None where there is none.
        then: the user's initializer.
    """

    def __init__(
        self, levels: tuple[tuple[str, int], ...], lifeline: str | None, then: Callable[..., object] | None
    ) -> None:
        self._levels = levels
        self._lifeline = lifeline
        self._then = then

    def __call__(self, *args: Any) -> None:
        from ...worker.lifeline import die_with_writers  # of the child's side, as this call is

        if self._lifeline is not None:
            die_with_writers(self._lifeline, os.getpid())
        for name, level in self._levels:
            logging.getLogger(name or None).setLevel(level)
        if self._then is not None:
            self._then(*args)
