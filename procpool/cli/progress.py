"""A bar on a terminal, and lines that keep clear of it."""

from __future__ import annotations

import contextlib
import itertools
import math
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

from ..supervisor.events import PoolEvent
from .output import put

#: The longest time for which lines are kept back while others come, in seconds.
FLUSH_SECONDS = 0.1
#: For how long a module is compiled before that is shown.
UNSHOWN_SECONDS = 0.3
#: From here on a bar counts in thousands and millions.
LARGE = 100_000


class Progress:
    """A bar on a terminal, where tqdm is installed; otherwise nothing.  ``with Progress(total) as advance``.

    Args:
        total: how many there will be; None if nobody knows.
        unit: of what.
        quiet: show nothing, for the terminal is in use.
    """

    def __init__(self, total: int | None, unit: str = "calls", quiet: bool = False) -> None:
        self._bar: Any = None
        if sys.stderr.isatty() and not quiet:
            try:
                from tqdm import tqdm
            except ImportError:
                return
            # It vanishes in the end, for what follows says it better.
            style: dict[str, Any] = {
                "unit": f" {unit}",
                "unit_scale": (total or 0) >= LARGE,
                "dynamic_ncols": True,
                "leave": False,
            }
            self._bar = tqdm(total=total, file=sys.stderr, **style)

    def __enter__(self) -> Callable[[int], Any]:
        return (lambda count: None) if self._bar is None else self._bar.update

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.close()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Keep the bar out of the way of what is printed meanwhile."""
        if self._bar is None or self._bar.disable or not sys.stdout.isatty():
            yield
            return
        self._bar.clear()
        try:
            yield
        finally:
            self._bar.refresh()


class Lines:
    """Lines for standard output, a few at a time, beside a bar.  ``with Lines(progress) as advance``."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._held: list[str] = []
        self._flushed = -math.inf

    def __enter__(self) -> Callable[[int], Any]:
        return self._progress.__enter__()

    def __exit__(self, *exc: object) -> None:
        self._progress.__exit__(*exc)
        self.flush()

    def write(self, text: str) -> None:
        """Print whole lines, soon."""
        if text:
            self._held.append(text)
        if perf_counter() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Print what there is.  Before any wait for input: who is to write it may wait for these lines."""
        if self._held:
            with self._progress.aside():
                put("".join(self._held))
            self._held.clear()
            self._flushed = perf_counter()


class Compiling:
    """A sign of life on a terminal while a module is compiled.  ``with Compiling() as compiling``, which announces it.

    Nobody can say how long it will take.  What takes but a moment is not shown.
    """

    def __init__(self) -> None:
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._message = ""

    def __enter__(self) -> Compiling:
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def announce(self, kind: str, pid: int | None, message: str) -> None:
        """As told by whoever compiles."""
        if kind == "compiled":
            self._over.set()
        elif kind == "compiling" and sys.stderr.isatty():
            self._message = message
            if self._thread is None:
                self._thread = threading.Thread(target=self._show, daemon=True)
                self._thread.start()

    def hear(self, event: PoolEvent) -> None:
        """The same, as a pool's ``on_event``."""
        self.announce(event.kind, event.pid, event.message)

    def _show(self) -> None:
        begun = perf_counter()
        if self._over.wait(UNSHOWN_SECONDS):
            return
        for sign in itertools.cycle("|/-\\"):
            width = shutil.get_terminal_size().columns
            sys.stderr.write(f"\r{f'{sign} {perf_counter() - begun:.0f} s: {self._message}':.{width - 1}}")
            sys.stderr.flush()
            if self._over.wait(FLUSH_SECONDS):
                break
        sys.stderr.write("\r\x1b[K")  # it vanishes, as a bar does
        sys.stderr.flush()
