"""The same pool on many machines, over Dask.distributed: ``pip install 'procpool[dask]'``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import NodeLost
    from .events import ClusterEvent, ClusterEventKind
    from .observed import ClusterStats, NodeInfo
    from .pool import ClusterWasmPool

__all__ = ["ClusterEvent", "ClusterEventKind", "ClusterStats", "ClusterWasmPool", "NodeInfo", "NodeLost"]

_PLACES = {
    "ClusterEvent": "events",
    "ClusterEventKind": "events",
    "ClusterStats": "observed",
    "ClusterWasmPool": "pool",
    "NodeInfo": "observed",
    "NodeLost": "errors",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_PLACES[name]}", __name__), name)
    globals()[name] = value  # so that the next use does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
