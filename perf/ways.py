"""Ways of doing one thing, and how pyperf times them.

A *theme* is a script with a list of ways; alone it is an ordinary pyperf script:

    python -m perf.latency --fast -o latency.json

``python -m perf`` runs the ways of a theme in turns, round by round, so that the noise of a shared machine hits all alike.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from time import perf_counter
from typing import Any

import pyperf

#: Runs a way a number of times, and says how many seconds that took; or a figure of another unit, times that number.
Timed = Callable[[int], float]

#: Stands for a figure of 0, which pyperf refuses.
NOTHING = 1e-12

FLOOR, OURS, PEER = "floor", "procpool", "peer"


@dataclass(frozen=True)
class Way:
    """One way of doing one thing.

    Attributes:
        what: the thing: what figures are compared within.
        name: the way.
        make: sets it up, gives what is timed, and takes it down.
        loops: how many runs make one value; a value should take some tens of milliseconds.
        inner: how many items one run does; figures are per item.
        unit: pyperf's "second", "byte" or "integer".
        role: a floor (what nothing can be faster than), ours, or a peer.
        needs: modules that must be installed.
        at: its place on the x axis, for figures that are curves.
        once: it takes so long that one value has to do.
    """

    what: str
    name: str
    make: Callable[[], AbstractContextManager[Timed]]
    loops: int = 1
    inner: int = 1
    unit: str = "second"
    role: str = OURS
    needs: tuple[str, ...] = ()
    at: float | None = None
    once: bool = False

    @property
    def title(self) -> str:
        """The name of its pyperf benchmark."""
        place = "" if self.at is None else f" @ {self.at:g}"
        return f"{self.what}: {self.name}{place}"

    def missing(self) -> list[str]:
        """Which of the modules it needs are not installed."""
        return [name for name in self.needs if find_spec(name) is None]


def timed(run: Callable[[], object]) -> Timed:
    """Time calls of a function."""

    def time(loops: int) -> float:
        started = perf_counter()
        for _ in range(loops):
            run()
        return perf_counter() - started

    return time


def figure(measure: Callable[[], float]) -> Timed:
    """A figure that is no time, or a time that is only part of a run."""
    return lambda loops: sum(max(measure(), NOTHING) for _ in range(loops))


def plain(run: Callable[[], object]) -> Callable[[], AbstractContextManager[Timed]]:
    """For a way that needs no setting up."""

    @contextmanager
    def make() -> Iterator[Timed]:
        yield timed(run)

    return make


def within(
    surroundings: Callable[[], AbstractContextManager[Any]], use: Callable[[Any], Timed]
) -> Callable[[], AbstractContextManager[Timed]]:
    """For a way that is a use of something set up, such as a pool."""

    @contextmanager
    def make() -> Iterator[Timed]:
        with surroundings() as thing:
            yield use(thing)

    return make


def run(theme: str, ways: Sequence[Way]) -> None:
    """Be the script of a theme."""
    runner = pyperf.Runner(program_args=("-m", theme), add_cmdline_args=_pass_on)
    runner.argparser.add_argument("--only", action="append", metavar="TITLE", help="a benchmark to run (may be repeated)")
    options = runner.parse_args()
    chosen = [way for way in ways if not options.only or way.title in options.only]
    with contextlib.ExitStack() as made:
        for way in chosen:
            if way.missing():
                if not options.worker:  # said once, by the process that starts the others
                    print(f"{way.title}: skipped, {', '.join(way.missing())} is not installed", file=sys.stderr)
                continue
            runner.bench_time_func(
                way.title, _once(way, made), inner_loops=way.inner, metadata={"unit": way.unit, **_metadata(way)}
            )


def _pass_on(command: list[str], options: Any) -> None:
    for title in options.only or ():
        command += ["--only", title]


def _metadata(way: Way) -> dict[str, Any]:
    described = {"procpool_what": way.what, "procpool_way": way.name, "procpool_role": way.role}
    if way.at is not None:
        described["procpool_at"] = repr(way.at)
    return described


def _once(way: Way, made: contextlib.ExitStack) -> Timed:
    """Set up in the process that measures, when it first does."""
    ready: list[Timed] = []

    def time(loops: int) -> float:
        if not ready:
            ready.append(made.enter_context(way.make()))
        return ready[0](loops)

    return time
