"""Resources of components: they live in one instance, and so on one lease."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from component_texts import COUNTER
from conftest import DEADLINE

from procpool import BadArguments, ProcessWasmPool, Resource


@pytest.fixture(scope="module")
def counters() -> Iterator[ProcessWasmPool]:
    with ProcessWasmPool(COUNTER, 2) as pool:
        pool.wait_ready(DEADLINE)
        yield pool


def test_a_lease_makes_uses_gives_and_drops_them(counters: ProcessWasmPool) -> None:
    with counters.instance(discard=True) as lease:
        first, second = (lease.call("counter.new", n) for n in (41, 42))
        assert isinstance(first, Resource) and first.owner is lease
        assert [lease.call("counter.get", each) for each in (first, second, first)] == [41, 42, 41]
        assert lease.call("end", first) == 41
        with pytest.raises(BadArguments, match="given"):
            lease.call("counter.get", first)
        gone = lease.call("dropped")
        with second:
            assert lease.call("dropped") == gone
        assert lease.call("dropped") == 42  # the last one
        second.close()
        assert lease.call("dropped") == 42  # the last one


def test_they_are_of_no_use_elsewhere(counters: ProcessWasmPool) -> None:
    with counters.instance(discard=True) as lease, counters.instance(discard=True) as other:
        counter = lease.call("counter.new", 1)
        other.call("counter.new", 2)
        with pytest.raises(BadArguments, match="another lease"):
            other.call("counter.get", counter)
        with pytest.raises(TypeError):
            pickle.dumps(counter)
        for give in (counters.call, counters.submit):
            with pytest.raises(BadArguments, match="lease"):
                give("counter.get", counter)
        with pytest.raises(BadArguments, match="lease"):
            list(counters.map("counter.new", [1]))
    counter.close()  # it is gone with its instance


def test_a_callable_uses_them_beside_the_instance(counters: ProcessWasmPool) -> None:
    def count(instance: Any, start: int) -> tuple[int, int]:
        before = instance.call("dropped")
        with instance.call("counter.new", start) as counter:
            value = instance.call("counter.get", counter)
        return value, instance.call("dropped") - before

    assert counters.submit(count, 7).result(DEADLINE) == (7, 7)  # it adds them up
    with pytest.raises(TypeError, match=r"counter|lease"):
        counters.submit(lambda instance: instance.call("counter.new", 1)).result(DEADLINE)
