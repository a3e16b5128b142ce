"""A collection that keeps nothing alive, and may be changed while it is walked through."""

from __future__ import annotations

import gc

from procpool.weak import WeakBag


class Thing:
    """Something that can be referred to weakly, and is equal to all its like."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Thing)

    __hash__ = None  # type: ignore[assignment]


def test_members_come_and_go_while_it_is_walked_through() -> None:
    bag = WeakBag[Thing]()
    things = [Thing() for _ in range(3)]
    for thing in things:
        bag.add(thing)
    seen = 0
    for thing in bag:
        seen += 1
        bag.discard(thing)
        later = Thing()
        bag.add(later)
    assert seen == 3
    assert len(bag) == 1
    assert [each is later for each in bag] == [True]


def test_it_keeps_nothing_alive() -> None:
    bag = WeakBag[Thing]()
    kept, dropped = Thing(), Thing()
    bag.add(kept)
    bag.add(dropped)
    bag.discard(Thing())
    assert len(bag) == 2
    del dropped
    gc.collect()
    assert [each is kept for each in bag] == [True]
    assert len(bag) == 1
