"""Measures how fast an export is called: one call at a time, on one worker, and on all of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from statistics import median
from time import perf_counter
from typing import Any

from ..pool import ProcessWasmPool

#: Rounds on one worker, and on all of them.  They take turns, so that what else the machine does hits both.
ROUNDS = 5
#: Which part of the time goes to calls one at a time.
LATENCY_SHARE = 0.25
#: Calls one at a time: so many at least, and the most that are remembered.
LEAST_CALLS, MOST_CALLS = 5, 100_000
#: Maps of so many calls grow no further: they cost memory for their arguments.
MOST_AT_ONCE = 2_000_000


@dataclass
class Figures:
    """What was measured.  Rates are calls a second, and latencies seconds."""

    workers: int
    latencies: list[float] = field(default_factory=list)  #: of blocking calls, one at a time, in ascending order
    one: list[float] = field(default_factory=list)  #: rates of one worker, round by round
    all: list[float] = field(default_factory=list)  #: rates of all of them in the same rounds
    per_worker: list[float] = field(default_factory=list)  #: rates of each of them, over all rounds

    @property
    def speedups(self) -> list[float]:
        """How many times as fast all workers were as one, round by round."""
        return [many / one for many, one in zip(self.all, self.one, strict=False)]

    @property
    def rate(self) -> float:
        """Of all workers: the median over the rounds."""
        return median(self.all)

    def latency(self, percent: float) -> float | None:
        """The latency that so many percent of the calls do not exceed; None if there were too few calls to tell."""
        calls = len(self.latencies)
        if calls * (100 - percent) < 100 and percent > 50:
            return None
        return self.latencies[min(int(calls * percent / 100), calls - 1)]


class Bench:
    """Calls an export with the same arguments again and again.

    Args:
        pool: of as many workers as are to be measured.
        one: a pool of one, or None to compare with nothing.
        seconds: how long to measure, about; a round has one call per worker at least.
        progress: told as steps are done.
    """

    @staticmethod
    def steps(comparing: bool) -> int:
        """How many steps there will be: the latencies, and a trial and the rounds of each pool."""
        return 1 + (1 + comparing) * (1 + ROUNDS)

    def __init__(
        self,
        pool: ProcessWasmPool,
        one: ProcessWasmPool | None,
        export: str,
        args: Sequence[Any],
        seconds: float,
        progress: Callable[[int], Any],
    ) -> None:
        self._pool, self._one = pool, one
        self._export, self._args = export, args
        self._seconds = seconds
        self._progress = progress
        self._round = seconds * (1 - LATENCY_SHARE) / ((1 if one is None else 2) * ROUNDS)

    def run(self) -> Figures:
        """Measure.

        Raises:
            Whatever a call raises.
        """
        began = perf_counter()
        self._pool.wait_ready()
        figures = Figures(len(self._pool.stats().workers))
        figures.latencies = sorted(self._one_at_a_time())
        self._progress(1)
        loads = [(_Load(self._pool, figures.workers, self._export, self._args), figures.all)]
        if self._one is not None:
            loads.append((_Load(self._one, 1, self._export, self._args), figures.one))
        for load, _ in loads:
            load.round(self._round)  # not counted: it finds how many calls to give at once, and warms the workers up
            self._progress(1)
        before, busy = self._calls_by_worker(), loads[0][0].seconds
        for turn in range(ROUNDS):
            for load, rates in loads if turn % 2 else loads[::-1]:
                rates.append(load.round(self._round))
                self._progress(1)
            if perf_counter() - began > 2 * self._seconds:  # calls are long, and there is a figure
                break
        after, busy = self._calls_by_worker(), loads[0][0].seconds - busy
        figures.per_worker = [(calls - before.get(pid, 0)) / busy for pid, calls in after.items()]
        return figures

    def _one_at_a_time(self) -> list[float]:
        call, export, args = self._pool.call, self._export, self._args
        call(export, *args)  # not counted: the first one in an instance
        latencies: deque[float] = deque(maxlen=MOST_CALLS)
        end = perf_counter() + self._seconds * LATENCY_SHARE
        now = perf_counter()
        while now < end or len(latencies) < LEAST_CALLS:
            call(export, *args)
            latencies.append(-now + (now := perf_counter()))
        return list(latencies)

    def _calls_by_worker(self) -> dict[int, int]:
        return {worker.pid: worker.calls for worker in self._pool.stats().workers if worker.pid is not None}


class _Load:
    """Keeps a pool busy with maps, each of so many calls that its beginning and end do not count for much.

    Each is of a multiple of the workers, so that none of them is left alone at the end.
    """

    def __init__(self, pool: ProcessWasmPool, workers: int, export: str, args: Sequence[Any]) -> None:
        self._pool, self._export, self._args = pool, export, args
        self._calls = workers
        self.seconds = 0.0  #: spent in all

    def round(self, seconds: float) -> float:
        """Map for about so long; calls a second."""
        done, spent = 0, 0.0
        while spent < 0.8 * seconds:
            took = self._map()
            done += self._calls
            spent += took
            if took < seconds / 4 and self._calls < MOST_AT_ONCE:
                self._calls *= max(2, min(10, int(seconds / 2 / took)))
        self.seconds += spent
        return done / spent

    def _map(self) -> float:
        """Call the export so many times; how long that took."""
        columns = [[arg] * self._calls for arg in self._args]
        started = perf_counter()
        if columns:
            results = self._pool.map(self._export, *columns)
        else:
            results = self._pool.starmap(self._export, repeat((), self._calls))
        deque(results, 0)
        return perf_counter() - started
