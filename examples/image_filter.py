"""Make every photograph in a folder look painted, on every core; a broken file costs nothing but itself.

Run it:  python examples/image_filter.py PHOTOGRAPHS PAINTINGS

Pillow reads and writes in the workers too: `paint_file` is sent to them once, and runs there beside an instance of the
module, whose memory it sees without a copy.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

from procpool import Instance, ProcessWasmPool

MODULE = Path(__file__).with_suffix(".wasm")
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


def paint_file(instance: Instance, source: Path, target: Path, radius: int) -> None:
    """In a worker: paint one picture.

    Raises:
        OSError: it cannot be read or written; Pillow's UnidentifiedImageError is one.
        MemoryError: the guest has no room for it.
    """
    with Image.open(source) as opened:
        picture = ImageOps.exif_transpose(opened).convert("RGB")  # as the camera was held
    pixels = picture.tobytes()
    given = instance.call("room", 2 * len(pixels))
    if not given:
        raise MemoryError(f"the guest has no room for {picture.width} x {picture.height} pixels twice")
    made = given + len(pixels)
    instance.memory[given:made] = pixels
    instance.call("paint", given, made, *picture.size, radius)
    Image.frombytes("RGB", picture.size, instance.memory[made : made + len(pixels)]).save(target)


def paint_folder(sources: Sequence[Path], targets: Sequence[Path], radius: int) -> dict[Path, BaseException]:
    """Paint them all, with a bar of progress on a terminal; which failed, and why."""
    with ProcessWasmPool(MODULE, recycle_memory=64 << 20) as pool:  # bytes: what a huge picture took is given back
        radii = [radius] * len(sources)
        painted = pool.map(paint_file, sources, targets, radii, return_exceptions=True, progress=sys.stderr.isatty())
        return {source: result for source, result in zip(sources, painted, strict=True) if result is not None}


def main() -> int:
    parser = argparse.ArgumentParser(description="Make every photograph in a folder look painted.")
    parser.add_argument("photographs", type=Path)
    parser.add_argument("paintings", type=Path, help="the folder to write to, under the same names; it is made if need be")
    parser.add_argument("--radius", type=int, default=4, help="of the brush, in pixels")
    options = parser.parse_args()

    if not options.photographs.is_dir():
        parser.error(f"{options.photographs} is no folder")
    if options.paintings.exists() and options.paintings.samefile(options.photographs):
        parser.error("the paintings would take the place of the photographs; name another folder")
    sources = sorted(path for path in options.photographs.iterdir() if path.suffix.lower() in SUFFIXES)
    options.paintings.mkdir(parents=True, exist_ok=True)
    failed = paint_folder(sources, [options.paintings / path.name for path in sources], options.radius)
    for path, error in failed.items():
        print(f"{path}: {type(error).__name__}: {error}", file=sys.stderr)
    print(f"{len(sources) - len(failed)} of {len(sources)} pictures are in {options.paintings}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
