"""When callers and workers wait awake: the rule, on a model of two of them and the cores that they run on."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest

from procpool.supervisor.spinning import (
    FIRST_CALLS,
    MOST_PAUSE,
    MOST_TOLL,
    PATIENCE,
    Spinning,
)

US = 1000
HOT = 1 * US  # a call between two who are awake
AROUND = 5 * US  # what a call by the pipe takes beside the wake-ups
WAKE_UPS = [2 * US, 10 * US, 50 * US, 200 * US]


@dataclass
class Machine:
    """A caller and a worker.  With ``cores`` of 1, the one can only run when the other sleeps."""

    wake: int
    cores: int = 2
    slices: int = 0  # nanoseconds for which both sides have a core, and then for as long not
    run: int = 0  # what the call itself takes
    spinning: Spinning = field(default_factory=Spinning)
    now: int = 10**9
    calls: int = 0
    awake_until: int = 0
    burnt: int = 0  # nanoseconds that somebody has waited awake in vain
    hot: int = 0

    def call(self) -> int:
        """Make one; nanoseconds that it took."""
        start = self.now
        if self.slices:
            self.cores = 2 - self.now // self.slices % 2
        if self.awake_until >= self.now:
            self._hot()
        else:
            self._by_pipe()
        self.calls += 1
        return self.now - start

    def idle(self, nanoseconds: int) -> None:
        self.burnt += max(0, min(self.awake_until - self.now, nanoseconds))
        self.now += nanoseconds

    def _hot(self) -> None:
        patience = int(self.spinning.toll_ns)
        if self.cores > 1 and self.run <= patience:
            self.now += HOT + self.run
            self.awake_until = self.now + patience
            self.hot += 1
            return
        # The caller gives up, and then the worker runs and has to wake it.
        self.spinning.missed()
        self.burnt += patience
        self.now += patience + (0 if self.cores > 1 else self.run) + self.wake + AROUND
        if self.slices:  # the worker gets its core back when others have had it
            self.now += self.slices - self.now % self.slices
        self.awake_until = 0

    def _by_pipe(self) -> None:
        until_answer = self.wake + AROUND + self.run
        if self.spinning.rests():
            self.now += until_answer + self.wake
            return
        tries = self.spinning.begin(self.now, self.calls)
        toll = self.spinning.toll_ns
        patience = int(toll * PATIENCE)
        if tries and self.cores > 1 and until_answer <= patience:
            self.now += until_answer
            self.awake_until = self.now + int(toll)
            outcome = "answered"
        elif tries:
            self.burnt += patience
            self.now += max(until_answer, patience) + self.wake
            self.awake_until = 0
            outcome = "missed"
        else:
            self.now += until_answer + self.wake
            self.awake_until = 0
            outcome = "slept"
        self.spinning.end(self.now, self.calls + 1, self.run, outcome)


def states() -> list[Spinning]:
    """Whatever may have been learnt before: of each number, the least and the most and something between."""
    made = []
    for toll, measured, pause, streak in itertools.product(
        (2.0 * US, 20.0 * US, float(MOST_TOLL)), (0, FIRST_CALLS, 10**6), (0, 1, MOST_PAUSE), (4, MOST_PAUSE)
    ):
        state = Spinning()
        state._toll, state._measured, state._pause, state._next_pause = toll, measured, pause, streak
        made.append(state)
    return made


@pytest.mark.parametrize("wake", WAKE_UPS)
def test_when_there_are_cores_calls_get_hot_from_any_state_and_stay_so(wake: int) -> None:
    for state in states():
        machine = Machine(wake, spinning=state)
        for _ in range(MOST_PAUSE + FIRST_CALLS + 32):
            machine.call()
        taken = [machine.call() for _ in range(1000)]
        assert taken == [HOT] * 1000, vars(state)


@pytest.mark.parametrize("wake", WAKE_UPS)
def test_on_one_core_waiting_awake_costs_next_to_nothing(wake: int) -> None:
    """Sleeping is best there, and each try burns a toll."""
    for state in states():
        state._toll = min(state._toll, 3.0 * wake)  # one that was learnt on a slower machine is unlearnt below
        machine = Machine(wake, cores=1, spinning=state)
        for _ in range(2 * MOST_PAUSE):
            machine.call()
        taken = sum(machine.call() for _ in range(20_000)) / 20_000
        assert taken <= 1.02 * (2 * wake + AROUND), vars(state)


@pytest.mark.parametrize("wake", WAKE_UPS)
def test_when_a_machine_gets_loaded_and_quiet_again_calls_follow(wake: int) -> None:
    machine = Machine(wake)
    for _ in range(100):
        machine.call()
    for _ in range(3):
        machine.cores = 1
        loaded = [machine.call() for _ in range(5000)]
        assert sum(loaded[1000:]) / 4000 <= 1.05 * (2 * wake + AROUND)
        machine.cores = 2
        for _ in range(MOST_PAUSE + 32):
            machine.call()
        assert machine.call() == HOT


@pytest.mark.parametrize("wake", WAKE_UPS)
@pytest.mark.parametrize("slices", [300 * US, 3_000 * US])
def test_where_both_sides_run_for_a_while_only_what_is_faster_is_done(wake: int, slices: int) -> None:
    machine = Machine(wake, slices=slices)
    for _ in range(5000):
        machine.call()
    machine.hot = 0
    taken = [machine.call() for _ in range(50_000)]
    slept = 2 * wake + AROUND
    assert sum(taken) / len(taken) <= 1.05 * slept
    if slices > 100 * slept:
        assert machine.hot > 25_000, "hundreds of hot calls are worth the wait for the next slice"


@pytest.mark.parametrize("wake", WAKE_UPS)
def test_a_call_that_takes_long_is_slept_through(wake: int) -> None:
    """Of 10,000 calls of 5 ms, what is burnt is no more than a few tolls."""
    machine = Machine(wake, run=5_000 * US)
    for _ in range(10_000):
        machine.call()
    assert machine.burnt <= 10 * MOST_TOLL


@pytest.mark.parametrize("wake", WAKE_UPS)
def test_long_calls_leave_short_ones_hot(wake: int) -> None:
    machine = Machine(wake)
    for run in (0, 5_000 * US, 0):
        machine.run = run
        for _ in range(MOST_PAUSE + 64):
            machine.call()
    assert machine.call() == HOT


@pytest.mark.parametrize("wake", WAKE_UPS)
def test_between_calls_that_are_far_apart_both_sleep(wake: int) -> None:
    machine = Machine(wake)
    for _ in range(2000):
        assert machine.call() == 2 * wake + AROUND
        machine.idle(2_000 * US)
    assert machine.burnt == 0


@pytest.mark.parametrize("wake", WAKE_UPS)
def test_bursts_are_hot_but_for_their_first_two_calls(wake: int) -> None:
    machine = Machine(wake)

    def burst() -> list[int]:
        taken = [machine.call() for _ in range(20)]
        machine.idle(2_000 * US)
        return taken

    for _ in range(50):
        burst()
    machine.burnt = 0
    for _ in range(100):
        assert burst() == [2 * wake + AROUND, wake + AROUND, *[HOT] * 18]
    assert machine.burnt <= 100 * machine.spinning.toll_ns, "the worker waits once per burst"


def test_a_toll_that_noise_has_raised_comes_down_again() -> None:
    spinning = Spinning()
    for toll in [30 * US] * 20 + [10_000 * US] * 3 + [30 * US] * 10:
        spinning.begin(0, 0)
        spinning.end(toll, 1, 0, "slept")
    assert spinning.toll_ns < 45 * US
