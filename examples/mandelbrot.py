"""A picture of the Mandelbrot set on every core: numpy arrays in, a numpy array out, the loop over the points in wasm.

Run it:  python examples/mandelbrot.py mandelbrot.png

It computes the picture with one worker and then with one per CPU, and prints how much faster that was.  Try a place of your
own with --center and --width.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy
from numpy.typing import NDArray
from PIL import Image

from procpool import ProcessWasmPool
from procpool.options import usable_cpus

MODULE = Path(__file__).with_suffix(".wasm")
ROUNDS = 3


def points(center: complex, width: float, columns: int, rows: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The real parts, a row, and the imaginary parts, a column: broadcast, they are the picture's points."""
    pixel = width / columns
    re = center.real + (numpy.arange(columns) - columns / 2) * pixel
    im = center.imag - (numpy.arange(rows) - rows / 2) * pixel
    return re, im[:, None]


def measure(workers: int, re: NDArray[Any], im: NDArray[Any], limit: int) -> tuple[NDArray[Any], float]:
    """The steps each point takes to escape, and the seconds that this took: the least of some rounds, as of timeit."""
    times = []
    with ProcessWasmPool(MODULE, workers=workers) as pool:
        pool.wait_ready()  # what is measured is the work, not the start of processes
        for _ in range(ROUNDS):
            start = perf_counter()
            steps: NDArray[Any] = pool.map_array("escape", re, im, limit)
            times.append(perf_counter() - start)
    return steps, min(times)


def colours(steps: NDArray[Any], limit: int) -> NDArray[Any]:
    """RGB: waves of blue and gold, slower the more steps it took; black for what never escapes."""
    phase = 2 * numpy.pi * numpy.sqrt(steps)[..., None] / 6 + numpy.array([2.6, 2.1, 1.4])
    rgb: NDArray[Any] = (127.5 * (1 - numpy.cos(phase))).astype(numpy.uint8)
    rgb[steps == limit] = 0
    return rgb


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the Mandelbrot set, and measure how well that runs in parallel.")
    parser.add_argument("picture", type=Path, help="the PNG to write")
    parser.add_argument("--center", type=complex, default=-0.7436 + 0.1318j)
    parser.add_argument("--width", type=float, default=0.006, help="of the region, in the plane")
    parser.add_argument("--size", type=int, nargs=2, default=(1200, 800), metavar=("COLUMNS", "ROWS"))
    parser.add_argument("--limit", type=int, default=3000, help="steps after which a point is taken to stay")
    parser.add_argument("--workers", type=int, default=usable_cpus())
    options = parser.parse_args()

    re, im = points(options.center, options.width, *options.size)
    _, alone = measure(1, re, im, options.limit)
    print(f"{re.size * im.size:,} points with 1 worker: {alone:.2f} s")
    steps, together = measure(options.workers, re, im, options.limit)
    print(f"with {options.workers} workers: {together:.2f} s, {alone / together:.2f} times as fast")
    Image.fromarray(colours(steps, options.limit)).save(options.picture)
    print(f"the picture is in {options.picture}")


if __name__ == "__main__":
    main()
