"""How long many things took, in little memory: a histogram whose steps grow with the values."""

from __future__ import annotations

#: Steps from each power of two to the next.  A value is known to within half a step: 1.6 %.
_STEPS = 32
_STEP_BITS = _STEPS.bit_length() - 1
#: Values are kept in picoseconds: an item of a map may take less than a nanosecond.
_PER_NANOSECOND = 1_000
_PER_SECOND = 1_000_000_000_000


class Durations:
    """How long jobs, and items of maps, took.  What was timed together counts with its mean.

    One thread records; any may copy at the same time.
    """

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}  # by step
        self._nanoseconds = 0

    # -- recording -----------------------------------------------------------------------------------------------------

    def record(self, count: int, nanoseconds: int) -> None:
        """So many took that long together."""
        if count > 0:
            nanoseconds = max(nanoseconds, 0)  # workers say how many, and may say anything
            step = _step(nanoseconds * _PER_NANOSECOND // count)
            self._counts[step] = self._counts.get(step, 0) + count
            self._nanoseconds += nanoseconds

    def add(self, other: Durations) -> None:
        """Count those of another too."""
        # One operation of the interpreter: whoever records does not come in between.
        for step, count in other._counts.copy().items():
            self._counts[step] = self._counts.get(step, 0) + count
        self._nanoseconds += other._nanoseconds

    def minus(self, earlier: Durations) -> Durations:
        """Those that have come since, of which ``earlier`` was a copy."""
        rest = Durations()
        rest._counts = {
            step: left for step, count in self._counts.items() if (left := count - earlier._counts.get(step, 0)) > 0
        }
        rest._nanoseconds = self._nanoseconds - earlier._nanoseconds
        return rest

    # -- asking --------------------------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self._counts.copy().values())

    @property
    def total(self) -> float:
        """How long they took together, in seconds."""
        return self._nanoseconds / 1e9

    @property
    def mean(self) -> float:
        """How long they took on average, in seconds; 0 if there were none."""
        return self.total / max(self.count, 1)

    def percentile(self, percent: float) -> float:
        """How long at most so many per cent of them took, in seconds, to within 1.6 %; 0 if there were none.

        0 is the shortest, 50 the median, 100 the longest.

        Raises:
            ValueError: not from 0 to 100.
        """
        if not 0 <= percent <= 100:
            raise ValueError(f"a percentile is from 0 to 100, got {percent!r}")
        counts = sorted(self._counts.copy().items())
        rank, passed = percent / 100 * sum(count for _, count in counts), 0
        for step, count in counts:
            passed += count
            if passed >= rank:
                return (_least(step) + _least(step + 1)) / 2 / _PER_SECOND
        return 0.0

    def histogram(self) -> list[tuple[float, float, int]]:
        """(from, to, how many), from the shortest to the longest: seconds, each stretch twice as long as the one before."""
        doubled: dict[int, int] = {}
        for step, count in self._counts.copy().items():
            doubled[step // _STEPS] = doubled.get(step // _STEPS, 0) + count
        if not doubled:
            return []
        return [
            (_least(n * _STEPS) / _PER_SECOND, _least((n + 1) * _STEPS) / _PER_SECOND, doubled.get(n, 0))
            for n in range(min(doubled), max(doubled) + 1)
        ]

    def __repr__(self) -> str:
        if not self.count:
            return "<Durations of nothing>"
        half, most = self.percentile(50), self.percentile(100)
        return f"<Durations of {self.count}: mean {self.mean:.3g} s, median {half:.3g} s, longest {most:.3g} s>"


def _step(picoseconds: int) -> int:
    """The number of the step that a value is in."""
    shift = max(0, picoseconds.bit_length() - 1 - _STEP_BITS)
    return (shift << _STEP_BITS) + (picoseconds >> shift)


def _least(step: int) -> int:
    """The least value in a step."""
    shift = max(0, (step >> _STEP_BITS) - 1)
    return (step - (shift << _STEP_BITS)) << shift
