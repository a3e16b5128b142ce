"""What a client asks of the pools on nodes; made by the client, and unpickled on each host when its pool is made."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Terms(NamedTuple):
    """How a node's pool is made."""

    module: str  #: digest
    linked: Mapping[str, str]  #: digests of the modules that are linked to it, by the names that they are imported by
    options: Mapping[str, Any]  #: further keywords of `ProcessWasmPool`
    levels: tuple[tuple[str, int], ...]  #: of the client's loggers, as `log_levels` gives them


class Prepare:
    """The initializer of a node's workers: has them log what the client wants to see, and calls the user's."""

    def __init__(self, levels: tuple[tuple[str, int], ...], then: Callable[..., object] | None) -> None:
        self._levels = levels
        self._then = then

    def __call__(self, *args: Any) -> None:
        for name, level in self._levels:
            logging.getLogger(name or None).setLevel(level)
        if self._then is not None:
            self._then(*args)
