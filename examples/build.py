"""Build the examples' modules from their sources: ``python -m examples.build [directory]``.

It needs the compiler (``pip install ziglang==0.14.1``).  The results are committed beside the sources, so that the examples
run without it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fixtures.build import FREESTANDING, compile_c

HERE = Path(__file__).parent
#: Beside the examples themselves, and the plug-ins that one of them loads.
SOURCES = sorted((*HERE.glob("*.c"), *HERE.glob("plugins/*.c")))


def build(directory: Path) -> None:
    """Compile every module into ``directory``, laid out as the sources are."""
    for source in SOURCES:
        target = (directory / source.relative_to(HERE)).with_suffix(".wasm")
        target.parent.mkdir(parents=True, exist_ok=True)
        compile_c(source, target, FREESTANDING)


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
