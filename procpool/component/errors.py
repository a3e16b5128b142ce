"""What goes wrong with the values of components."""

from __future__ import annotations

from typing import Any

from ..errors import ProcpoolError


class WasmResultError(ProcpoolError):
    """Raised by a call of a function that returned the error of its ``result``; its instance serves on."""

    def __init__(self, export: str, payload: Any = None):
        super().__init__(f"{export} returned an error" + ("" if payload is None else f": {payload!r}"))
        self.export = export  #: which was called
        self.payload = payload  #: what the error carries, as a value of its WIT type; None if that is nothing


class BadImage(ProcpoolError, ValueError):
    """Raised when what came from a worker is no value of the type that the function returns."""
