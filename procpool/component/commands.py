"""Components that are commands: the world ``wasi:cli/command``."""

from __future__ import annotations

import re
from typing import Final

#: The export that runs one.
RUN: Final = re.compile(r"wasi:cli/run@0\.2\.\d+#run")


def failed(image: bytes) -> bool:
    """Whether what the export has returned, a ``result`` without payloads, is a failure."""
    return image[:1] != b"\0"
