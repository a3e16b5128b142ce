"""Whether a caller and its worker wait awake or asleep, and for how long.  Knows no clock and no worker.

Going to sleep costs a wake-up: 3 us on one machine, 40 us on the next of the same make, and on a loaded one it depends on
who else runs.  Waiting awake costs processor time, and gains nothing when the other side cannot run meanwhile.

* The *toll* is what a call costs more because both sides sleep; it is measured, always.  Nobody waits awake for longer than
  about that, so waiting costs at most about twice what the best choice would have cost (the ski rental problem).
* One side decides for both: the caller, when it sends a call by the pipe.  Were each to try by itself, each would find the
  other asleep, and give up: a bad equilibrium, however good conditions are.
* Only calls that follow each other within a toll are tried.  After a longer pause both sleep: the system wakes a worker on
  the core of the caller, which it expects to sleep, and there it would wait for a caller that waits awake.
* Whether there is a core for either side is not asked but tried.  A try lasts until somebody waits in vain, and then some
  calls sleep.  They are few if those of the try, the last included, took less time each than calls do that sleep: on a
  loaded machine both sides may run for a while, and then not.  Otherwise they are twice as many as last time, but never
  more than MOST_PAUSE.  So from any state, when conditions are good, calls are hot again after at most so many and a few.
"""

from __future__ import annotations

from typing import Final, Literal

Outcome = Literal["slept", "answered", "missed"]

#: So many calls are measured before the first try.
FIRST_CALLS: Final = 8
#: The toll is taken for at most this, in nanoseconds: nobody stays awake for longer.
MOST_TOLL: Final = 500_000
#: The caller of one that sleeps waits so many tolls awake: the worker's wake-up is in it, and the call.
PATIENCE: Final = 1.5
#: Calls that sleep after a try that failed, at first and at most.
FIRST_PAUSE: Final = 4
MOST_PAUSE: Final = 256


class Pauses:
    """How many calls do without what has failed; twice as many after each further failure, up to MOST_PAUSE."""

    def __init__(self) -> None:
        self._left = 0
        self._next = FIRST_PAUSE

    def lasts(self) -> bool:
        """Whether the call that is made now is one of them."""
        if self._left > 0:
            self._left -= 1
            return True
        return False

    def failed(self) -> None:
        """It has not paid."""
        self._left = self._next
        self._next = min(2 * self._next, MOST_PAUSE)

    def worked(self) -> None:
        """It has."""
        self._next = FIRST_PAUSE


class Spinning:
    """What one worker's callers have learnt."""

    def __init__(self) -> None:
        self._toll = float(MOST_TOLL)
        self._measured = 0
        self._pause = 0
        self._next_pause = FIRST_PAUSE
        self._run_ns = 0.0
        self._slept = 0.0  # how long a call takes whose two sides sleep
        self._gap = 0.0  # how long its caller does something else before the next
        self._began = self._ended = 0
        self._calls = 0
        self._try_began = self._try_calls = 0  # since the last call by the pipe that was a try
        self._failed = False  # with the last call

    @property
    def toll_ns(self) -> float:
        """What sleeping costs, for each call."""
        return self._toll

    def rests(self) -> bool:
        """Whether a call that goes by the pipe may be made without a look at the clock: the next try is far off."""
        if self._pause > FIRST_CALLS:
            self._pause -= 1
            return True
        return False

    def begin(self, now: int, calls: int, heard: int = 0, sleeps: bool = True) -> bool:
        """A call goes by the pipe; whether it is a try: its caller waits awake, and the worker for the next one.

        Args:
            now: nanoseconds, by the clock of all these times.
            calls: how many the worker has finished.  If any were hot since the last `end`, the worker has waited in vain
                since then, so this one comes late.
            heard: when the last call ended that another thread heard of.
            sleeps: the caller can sleep until the answer.  Where none can, the toll is taken from tries, too low by a
                wake-up.
        """
        ended = self._ended if calls == self._calls else heard
        late = now - ended >= self._toll
        if calls == self._calls:
            self._gap += (min(now - ended, MOST_TOLL) - self._gap) / 4
        if self._failed:
            self._judge(now, calls)
        self._began = now
        if self._pause:
            self._pause -= 1
            return False
        if late or (sleeps and self._measured < FIRST_CALLS) or self._run_ns >= self._toll:
            return False
        self._try_began, self._try_calls = now, calls
        return True

    def end(self, now: int, calls: int, run_ns: int, outcome: Outcome) -> None:
        """It has ended: by itself it took so long, and its caller slept, or was answered awake, or waited in vain."""
        self._run_ns = run_ns
        self._ended, self._calls = now, calls
        if outcome == "slept" or (outcome == "answered" and self._measured < FIRST_CALLS):
            self._measure(now - self._began, run_ns)
        elif outcome == "missed" and run_ns < self._toll:  # not because the call itself takes long
            self.missed()

    def missed(self) -> None:
        """A call that was posted was not answered within a toll."""
        self._failed = True
        self._pause = 1  # at least: the next call says how long this one took

    def _judge(self, now: int, calls: int) -> None:
        """A try has ended with the call before this one."""
        self._failed = False
        until = self._ended if calls == self._calls else now
        each = (until - self._try_began) / max(1, calls - self._try_calls) - self._gap
        if each < self._slept:
            self._next_pause = FIRST_PAUSE
        self._pause = self._next_pause
        self._next_pause = min(2 * self._next_pause, MOST_PAUSE)

    def _measure(self, took: float, run_ns: int) -> None:
        """A mean that follows what is low sooner: much can delay a call, and nothing hurries it."""
        self._slept += (took - self._slept) / (4 if self._measured else 1)
        toll = min(max(took - run_ns, 0.0), MOST_TOLL)
        if self._measured:
            toll = self._toll + (toll - self._toll) / (4 if toll < self._toll else 8)
        self._toll = toll
        self._measured += 1
