"""Callables on their way: known again by identity, kept by nobody, forgotten in time."""

from __future__ import annotations

import functools
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from conftest import DEADLINE
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from procpool import BytesFunction, FuncType, ProcessWasmPool, wire
from procpool.supervisor.jobs.shipped import FunctionsSent, Shipped, Shipper
from procpool.wire import values
from procpool.worker.payloads import Payloads
from procpool.worker.shipped import ShippedFunctions


class Box:
    """All boxes are equal."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Box)

    def __hash__(self) -> int:
        return 1

    def get(self, instance: Any = None) -> int:
        return self.n

    def __call__(self, instance: Any = None) -> int:
        return self.n


def plain(instance: Any = None) -> int:
    return 1


def value_of(shipped: Shipped) -> Any:
    return pickle.loads(shipped.pickle)(None)


def test_equal_callables_are_not_the_same() -> None:
    shipper = Shipper({})
    assert [value_of(shipper.ship(Box(n).get)) for n in range(5)] == [0, 1, 2, 3, 4]
    assert [value_of(shipper.ship(Box(n))) for n in range(5)] == [0, 1, 2, 3, 4]


def test_in_a_pool_too(kernels: ProcessWasmPool) -> None:
    box, results = Box(0), []
    for n in range(5):
        box.n = n
        results.append(kernels.submit(box.get).result(DEADLINE))
    assert results == [0, 1, 2, 3, 4]
    assert [kernels.submit(Box(n).get).result(DEADLINE) for n in range(5)] == [0, 1, 2, 3, 4]


def test_what_holds_state_is_sent_as_it_is_now() -> None:
    shipper, box, items = Shipper({}), Box(0), [0]
    part = functools.partial(max, items)
    for n in range(3):
        box.n, items[0] = n, n
        assert value_of(shipper.ship(box.get)) == value_of(shipper.ship(box)) == n
        assert pickle.loads(shipper.ship(part).pickle)() == n


def test_a_function_is_sent_as_it_was_when_first_seen() -> None:
    shipper, items = Shipper({}), [0]

    def first(instance: Any) -> int:
        return items[0]

    shipped = shipper.ship(first)
    items[0] = 1
    assert shipper.ship(first) is shipped and value_of(shipped) == 0
    assert shipper.ship(Box) is shipper.ship(Box)
    shipper = Shipper(dict.fromkeys(("f", "alloc", "free"), FuncType()))
    assert shipper.ship(BytesFunction("f", returns=3)) is shipper.ship(BytesFunction("f", returns=3))
    assert shipper.ship(BytesFunction("f", returns=4)) is not shipper.ship(BytesFunction("f", returns=3))


def test_nothing_is_kept_alive() -> None:
    shipper = Shipper({})

    def closure(box: Box) -> Callable[..., int]:
        return lambda instance: box.n

    makers: list[Callable[[Box], Any]] = [
        closure,
        lambda box: box,
        lambda box: box.get,
        lambda box: functools.partial(plain, box),
    ]
    for make in makers:
        box = Box(1)
        alive = weakref.ref(box)
        shipper.ship(make(box))
        del box
        gc.collect()
        assert alive() is None
    assert not shipper._seen


def recursive() -> Callable[..., int]:
    def count(instance: Any, n: int = 3) -> int:
        return n and count(instance, n - 1)

    return count


def test_a_recursive_function_goes_too() -> None:
    shipper, function = Shipper({}), recursive()
    alive = weakref.ref(function)
    shipper.ship(function)
    del function
    gc.collect()
    assert alive() is None and not shipper._seen


def test_a_new_function_in_an_old_one_s_place() -> None:
    shipper = Shipper({})
    for n in range(2000):
        assert value_of(shipper.ship(eval(f"lambda instance: {n}"))) == n


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (plain, "plain"),
        (Box(1).get, "Box.get"),
        (Box(1), "Box"),
        (Box, "Box"),
        (functools.partial(plain, "x" * 1000), "partial of plain"),
        (BytesFunction("sum"), "sum"),
    ],
)
def test_names_are_short(function: Any, name: str) -> None:
    exports = dict.fromkeys(("sum", "alloc", "free"), FuncType())
    assert Shipper(exports).ship(function).name == name


# -- forgetting --------------------------------------------------------------------------------------------------------

_MOST, _MOST_BYTES = 4, 400


def shipped_of(n: int) -> Shipped:
    """The n-th of some functions, of sizes that differ widely."""
    shipped = Shipped.__new__(Shipped)
    shipped.name, shipped.pickle = f"f{n}", b"%3d" % n + b"x" * (0, 50, 110, 390, 500)[n % 5]
    shipped.digest = b"%16d" % n
    return shipped


class WhatWorkersKnow(RuleBasedStateMachine):
    """The books of the parent against a worker that does as its frames say, and some it never sees."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = FunctionsSent(_MOST, _MOST_BYTES)
        self.pipe: list[tuple[Shipped, bool, list[bytes]]] = []  # sent, and not begun
        self.begun = 0  # and not answered
        self.begun_digests: list[bytes] = []
        self.worker: dict[bytes, int] = {}

    @rule(n=st.integers(0, 11))
    def send(self, n: int) -> None:
        shipped = shipped_of(n)
        carries, forget = self.sent.send(shipped)
        in_flight = {frame[0].digest for frame in self.pipe} | set(self.begun_digests)
        assert not in_flight & set(forget) and shipped.digest not in forget and len(set(forget)) == len(forget)
        self.pipe.append((shipped, carries, forget))

    @precondition(lambda self: self.pipe)
    @rule()
    def begin(self) -> None:
        shipped, carries, forget = self.pipe.pop(0)
        for digest in forget:
            del self.worker[digest]  # a KeyError is a failure: it was to forget what it did not know
        if carries:
            assert shipped.digest not in self.worker
            self.worker[shipped.digest] = len(shipped.pickle)
        assert shipped.digest in self.worker
        self.begun_digests.append(shipped.digest)

    @precondition(lambda self: self.begun_digests)
    @rule()
    def answer(self) -> None:
        self.begun_digests.pop(0)
        self.sent.answered()

    @precondition(lambda self: self.pipe)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        for _ in range(data.draw(st.integers(1, len(self.pipe)))):
            self.pipe.pop()
            self.sent.undo()

    @invariant()
    def the_books_say_what_the_worker_will_know(self) -> None:
        known = dict(self.worker)
        for shipped, carries, forget in self.pipe:
            for digest in forget:
                del known[digest]
            if carries:
                known[shipped.digest] = len(shipped.pickle)
        assert set(known) == set(self.sent._known) and sum(known.values()) == self.sent._bytes
        if not self.pipe and not self.begun_digests and known:
            self.sent.send(shipped_of(0))
            assert len(self.sent) <= _MOST and self.sent._bytes <= _MOST_BYTES + 3
            self.sent.undo()
            assert set(known) == set(self.sent._known)


WhatWorkersKnow.TestCase.settings = settings(max_examples=100, stateful_step_count=60)
TestWhatWorkersKnow = WhatWorkersKnow.TestCase


def test_the_least_recently_sent_goes_first() -> None:
    sent = FunctionsSent(most=2)
    a, b, c = map(shipped_of, range(3))
    for shipped, expected in (
        (a, (True, [])),
        (b, (True, [])),
        (a, (False, [])),
        (c, (True, [b.digest])),
        (b, (True, [a.digest])),
    ):
        assert sent.send(shipped) == expected
        sent.answered()


def call_of(shipped: Shipped, carries: bool, forget: list[bytes], *args: Any) -> bytes:
    return b"".join([*shipped.parts(carries, forget, 0), values.dump(args).inline()])


def no_slot(number: int, size: int) -> memoryview:
    raise AssertionError


def test_a_worker_forgets_what_it_is_told_to() -> None:
    functions = ShippedFunctions(None, Payloads(-1, 0, 0))  # type: ignore[arg-type]
    shipper, sent = Shipper({}), FunctionsSent(most=3)
    for n in range(20):
        shipped = shipper.ship(functools.partial(pow, n + 1))
        carries, forget = sent.send(shipped)
        # The instance, None, goes first: pow(n + 1, None, ...) fails, and is known nevertheless.
        with pytest.raises(TypeError):
            functions.run(call_of(shipped, carries, forget, 2))
        sent.answered()
        assert set(functions._functions) == set(sent._known) and len(sent) <= 3
    shipped = shipper.ship(plain)
    assert values.detach(functions.run(call_of(shipped, True, [])), no_slot, pickled=True).load() == 1
    assert values.detach(functions.run(call_of(shipped, False, [])), no_slot, pickled=True).load() == 1
    for payload in (
        b"",
        call_of(shipped_of(1), False, []),
        call_of(shipped, True, [])[:50],
        wire.SHIPPED_HEAD.pack(b"", 0, 0, 9),
    ):
        with pytest.raises(wire.CorruptStream):
            functions.run(payload)


def test_what_is_forgotten_is_gone() -> None:
    functions = ShippedFunctions(None, Payloads(-1, 0, 0))  # type: ignore[arg-type]
    first, second = Shipper({}).ship(functools.partial(plain, 1)), Shipper({}).ship(plain)
    with pytest.raises(TypeError):
        functions.run(call_of(first, True, []))
    alive = weakref.ref(functions._functions[first.digest])
    functions.run(call_of(second, True, [first.digest]))
    gc.collect()
    assert alive() is None


class Picky:
    def __reduce__(self) -> Any:
        return int, ("not a number",)

    def __call__(self) -> None:
        pass


def test_a_function_that_does_not_unpickle_fails_each_time() -> None:
    functions = ShippedFunctions(None, Payloads(-1, 0, 0))  # type: ignore[arg-type]
    shipped = Shipper({}).ship(Picky())
    for carries in (True, False, False):
        with pytest.raises(ValueError):
            functions.run(call_of(shipped, carries, []))
