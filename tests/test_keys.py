"""Keys and their tokens: equal keys share one, and a key's own code runs nowhere but where it is held."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest
from conftest import DEADLINE
from hypothesis import given
from hypothesis import strategies as st

from procpool.supervisor.keys import Keys


class Key:
    """Compares by value, and does something first."""

    def __init__(self, value: int, act: Any = lambda: None) -> None:
        self.value = value
        self.act = act

    def __hash__(self) -> int:
        return 7  # so that all are compared

    def __eq__(self, other: object) -> bool:
        self.act()
        return isinstance(other, Key) and other.value == self.value


def fail() -> None:
    raise ZeroDivisionError


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=60))
def test_as_a_table_of_counts(steps: list[tuple[bool, int]]) -> None:
    keys, model = Keys(), dict[int, list[int]]()
    remembered: dict[int, int] = {}
    for hold, value in steps:
        tokens = model.setdefault(value, [])
        if hold:
            token = keys.hold(Key(value))
            assert token == remembered.setdefault(value, token), "also of a key that nobody held for a while"
            tokens.append(token)
        elif tokens:
            keys.release(tokens.pop())
        assert len(keys) == sum(bool(tokens) for tokens in model.values())


def test_a_bounded_number_is_remembered_of_those_that_nobody_holds() -> None:
    keys = Keys(most=2)
    held = keys.hold("held")
    tokens = {}
    for name in "abcd":
        tokens[name] = keys.hold(name)
        keys.release(tokens[name])
    assert keys.hold("d") == tokens["d"] and keys.hold("c") == tokens["c"] and keys.hold("held") == held
    assert keys.hold("a") > max(tokens.values()), "forgotten, and its token is not used again"


def test_equal_keys_of_other_types_are_one() -> None:
    keys = Keys()
    assert keys.hold(1) == keys.hold(1.0) == keys.hold(True) and len(keys) == 1
    assert keys.hold(-1) != keys.hold(-2), "they have the same hash"


def test_what_cannot_be_compared_is_refused_at_once() -> None:
    keys = Keys()
    with pytest.raises(TypeError, match="unhashable"):
        keys.hold([])  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError):
        keys.hold(Key(1, fail))
    assert not len(keys)


def test_a_key_that_turns_bad_later_harms_nobody() -> None:
    keys = Keys()
    bad = Key(1)
    token = keys.hold(bad)
    bad.act = fail
    other = keys.hold(7)  # of the same hash: int leaves the comparison to the other
    assert other != token
    keys.release(token)
    keys.release(other)
    assert not len(keys)
    with pytest.raises(KeyError):
        keys.release(token)


def test_a_comparison_may_use_the_keys_itself_and_wait() -> None:
    keys = Keys()
    keys.hold(Key(1))
    assert keys.hold(Key(2, lambda: keys.release(keys.hold(Key(3))))) > 0
    entered, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        entered.set()
        assert go_on.wait(DEADLINE)

    slow = threading.Thread(target=keys.hold, args=(Key(4, wait),))
    slow.start()
    assert entered.wait(DEADLINE)
    keys.release(keys.hold(Key(5)))  # while the other compares
    go_on.set()
    slow.join(DEADLINE)
    assert not slow.is_alive() and len(keys) == 3


def test_many_threads(seed: int = 5) -> None:
    keys = Keys()
    owners: dict[int, int] = {}  # token -> value
    wrong: list[Any] = []

    def work(number: int) -> None:
        rng = random.Random(seed + number)
        for _ in range(2000):
            value = rng.randrange(4)
            token = keys.hold(Key(value))
            if owners.setdefault(token, value) != value:
                wrong.append((token, value))
            keys.release(token)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()
    assert not wrong and not len(keys)


def test_a_forgotten_key_leaves_those_of_equal_hash() -> None:
    keys = Keys(most=1)
    held = keys.hold(Key(1))
    for value in (2, 3, 4):
        keys.release(keys.hold(Key(value)))
    assert keys.hold(Key(1)) == held
    assert keys.hold(Key(2)) > held, "forgotten"
