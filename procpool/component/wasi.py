"""The interfaces of WASI 0.2 that have a meaning here."""

from __future__ import annotations

import re
from typing import Final

#: The interfaces that wasmtime serves.
WASI: Final = re.compile(r"wasi:(cli|clocks|filesystem|io|random|sockets)/[a-z0-9-]+@0\.2\.\d+")
#: The export that runs a command.
RUN: Final = re.compile(r"wasi:cli/run@0\.2\.\d+#run")

#: What stands for the interface of functions that a component imports without one, where they are given.
ROOT: Final = ""


def own(name: str) -> bool:
    """Whether an interface, or a function at the root, that a component imports is none of wasmtime's."""
    return WASI.fullmatch(name) is None


def failed(image: bytes) -> bool:
    """Whether what the export has returned, a ``result`` without payloads, is a failure."""
    return image[:1] != b"\0"
