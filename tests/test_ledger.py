"""Who owns which job in a cluster: step by step, and at random against a model of nodes that obey."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field

import pytest

from procpool.cluster.client.ledger import BEGUN_NS, FRAME_NS, Ledger, Orders
from procpool.cluster.client.pace import Pace

EXAMPLES = max(1, int(30 * float(os.environ.get("PROCPOOL_MODEL", "1"))))


@dataclass(eq=False)
class Work:
    number: int
    kind: str = "add"
    items: int = 1
    nbytes: int = 100
    priority: int = 0
    retries: int = 0


def sent(orders: Orders) -> list[tuple[int, bool]]:
    return [(number, begins) for number, (_, begins) in orders.send.items()]


def ledger_of(*lanes: int) -> Ledger:
    ledger = Ledger()
    for number, count in enumerate(lanes):
        ledger.join(f"n{number}", count)
    return ledger


def test_unknown_work_is_begun_one_per_worker_and_held_as_much() -> None:
    ledger = ledger_of(2)
    for number in range(10):
        ledger.add(Work(number))
    orders = ledger.share()["n0"]
    assert sent(orders) == [(0, True), (1, True), (2, False), (3, False)]
    assert ledger.queued == 6
    assert ledger.answered("n0", 0, FRAME_NS * 4).number == 0  # type: ignore[union-attr]
    orders = ledger.share()["n0"]
    assert orders.begin == [2]
    assert sent(orders) == [(4, False)]


def test_small_work_is_begun_by_the_frame() -> None:
    ledger = ledger_of(1)
    ledger.pace.measured("add", 1, FRAME_NS // 100)
    for number in range(1000):
        ledger.add(Work(number))
    orders = ledger.share()["n0"]
    begun = sum(begins for _, begins in sent(orders))
    assert begun == BEGUN_NS // (FRAME_NS // 100)
    assert len(sent(orders)) - begun == 100


def test_the_least_loaded_gets_the_next() -> None:
    ledger = ledger_of(1, 3)
    for number in range(4):
        ledger.add(Work(number))
    orders = ledger.share()
    assert len(sent(orders["n0"])) == 1
    assert len(sent(orders["n1"])) == 3


def test_what_one_holds_another_with_nothing_to_do_begins() -> None:
    ledger = ledger_of(1)
    for number in range(2):
        ledger.add(Work(number))
    assert sent(ledger.share()["n0"]) == [(0, True), (1, False)]
    ledger.join("late", 1)
    orders = ledger.share()
    assert orders["n0"].drop == [1]
    assert sent(orders["late"]) == [(1, True)]
    assert ledger.held("n0") == (0, 1)


def test_a_lost_node_fails_what_it_had_begun_and_the_rest_runs_elsewhere() -> None:
    ledger = ledger_of(1)
    for number in range(3):
        ledger.add(Work(number, retries=int(number == 5)))
    ledger.share()
    loss = ledger.lose("n0")
    assert [unit.number for unit in loss.failed] == [0]
    assert not loss.fenced
    ledger.join("n1", 1)
    assert sent(ledger.share()["n1"]) == [(1, True), (2, False)]


def test_what_a_node_that_has_left_did_not_answer_has_not_begun() -> None:
    ledger = ledger_of(1)
    for number in range(3):
        ledger.add(Work(number))
    ledger.share()
    ledger.hush("n0", False)
    loss = ledger.lose("n0", finished=True)
    assert not loss.failed and not loss.fenced
    ledger.join("n1", 3)
    assert [number for number, _ in sent(ledger.share()["n1"])] == [0, 1, 2]


def test_with_retries_it_waits_behind_the_fence() -> None:
    ledger = ledger_of(1)
    ledger.add(Work(0, retries=1))
    ledger.share()
    loss = ledger.lose("n0")
    assert [(unit.number, unit.retries) for unit in loss.fenced] == [(0, 0)]
    assert not ledger.queued
    ledger.requeue(loss.fenced)
    ledger.join("n1", 1)
    assert sent(ledger.share()["n1"]) == [(0, True)]
    assert [unit.number for unit in ledger.lose("n1").failed] == [0]


def test_a_silent_node_keeps_what_it_has_begun_and_gives_back_the_rest() -> None:
    ledger = ledger_of(1)
    for number in range(2):
        ledger.add(Work(number))
    ledger.share()
    ledger.hush("n0", False)
    orders = ledger.share()["n0"]
    assert orders.drop == [1] and not orders.send
    assert ledger.queued == 1
    assert ledger.answered("n0", 0, 5) is not None
    ledger.hush("n0", True)
    assert sent(ledger.share()["n0"]) == [(1, True)]


def test_a_node_that_has_grown_begins_more() -> None:
    ledger = ledger_of(1)
    for number in range(4):
        ledger.add(Work(number))
    assert sent(ledger.share()["n0"]) == [(0, True), (1, False)]
    ledger.resize("n0", 2)
    orders = ledger.share()["n0"]
    assert (orders.begin, sent(orders)) == ([1], [(2, False), (3, False)])
    ledger.resize("n0", 1)
    assert ledger.lanes == 1 and not ledger.share()


def test_what_nobody_wants_is_dropped_wherever_it_is() -> None:
    ledger = ledger_of(1)
    for number in range(4):
        ledger.add(Work(number))
    ledger.share()  # 0 begun, 1 held, 2 and 3 queued
    assert all(ledger.forget(number) for number in (0, 1, 2))
    assert not ledger.forget(2)
    orders = ledger.share()["n0"]
    assert orders.drop == [0, 1]
    assert sent(orders) == [(3, True)]
    assert ledger.answered("n0", 0, 5) is None, "it had ended there before it heard"


def test_higher_priority_goes_first_and_order_is_kept() -> None:
    ledger = Ledger()
    for number, priority in enumerate((0, 0, 5, 5)):
        ledger.add(Work(number, priority=priority))
    ledger.join("n0", 4)
    assert [number for number, _ in sent(ledger.share()["n0"])] == [2, 3, 0, 1]


def test_a_node_that_answers_what_it_may_not_begin_is_no_sound_node() -> None:
    ledger = ledger_of(1)
    for number in range(2):
        ledger.add(Work(number))
    ledger.share()
    with pytest.raises(ValueError, match="not to begin"):
        ledger.answered("n0", 1, 5)


def test_large_arguments_are_not_piled_up() -> None:
    ledger = ledger_of(1)
    ledger.pace.measured("add", 1, 1)
    for number in range(2000):
        ledger.add(Work(number, nbytes=64 << 20))
    assert sent(ledger.share()["n0"]) == [(0, True), (1, False)]


def test_a_pace_believes_bad_news_at_once_and_good_news_slowly() -> None:
    everywhere = Pace()
    here = Pace(everywhere)
    assert here.cost("x") is None
    here.measured("x", 10, 1000)
    assert here.cost("x") == everywhere.cost("x") == 100
    assert Pace(everywhere).cost("x") == 100
    here.measured("x", 1, 150)
    assert here.cost("x") == 150
    here.measured("x", 1, 50)
    assert here.cost("x") == 100
    for number in range(2000):
        here.measured(number, 1, 1)
    assert here.cost("x") is None, "what was not seen for long is forgotten"


@dataclass
class Obeying:
    """A node that does what it is told."""

    held: dict[int, Work] = field(default_factory=dict)
    begun: dict[int, Work] = field(default_factory=dict)

    def obey(self, orders: Orders, ran: list[int]) -> None:
        for number in orders.drop:
            self.held.pop(number, None)
            self.begun.pop(number, None)
        for number in orders.begin:
            unit = self.held.pop(number)
            self.begun[number] = unit
            ran.append(number)
        for number, (unit, begins) in orders.send.items():
            assert number not in self.held and number not in self.begun
            assert isinstance(unit, Work)
            (self.begun if begins else self.held)[number] = unit
            if begins:
                ran.append(number)


@pytest.mark.parametrize("seed", range(EXAMPLES))
def test_every_unit_ends_once_and_none_begins_twice(seed: int) -> None:
    rng = random.Random(seed)
    ledger, nodes, ran = Ledger(), {}, []
    ended: dict[int, str] = {}
    numbers, names = 0, 0
    works: dict[int, Work] = {}
    again: dict[int, int] = {}

    def share() -> None:
        for name, orders in ledger.share().items():
            nodes[name].obey(orders, ran)

    for step in range(400):
        winding_up = step > 300
        dice = rng.random()
        if dice < 0.35 and not winding_up:
            for _ in range(rng.randrange(1, 30)):
                kind = rng.choice("abc")
                work = Work(
                    numbers, kind, rng.randrange(1, 50), rng.choice((10, 1 << 20)), rng.randrange(2), rng.choice((0, 0, 2))
                )
                works[numbers] = work
                again[numbers] = work.retries
                ledger.add(work)
                numbers += 1
        elif dice < 0.75:
            for name, node in nodes.items():
                for number in rng.sample(sorted(node.begun), rng.randrange(len(node.begun) + 1)):
                    del node.begun[number]
                    unit = ledger.answered(name, number, rng.randrange(1, 40_000_000))
                    assert unit is works[number]
                    assert number not in ended
                    ended[number] = "answered"
        elif dice < 0.82 and nodes and (len(nodes) > 1 or not winding_up):
            name = rng.choice(sorted(nodes))
            loss = ledger.lose(name)
            node = nodes.pop(name)
            assert {unit.number for unit in loss.failed + loss.fenced} == set(node.begun), "known exactly"
            for unit in loss.failed:
                assert unit.number not in ended
                ended[unit.number] = "lost"
            ledger.requeue(loss.fenced)
        elif dice < 0.88 or not nodes:
            ledger.join(f"n{names}", rng.randrange(1, 5))
            nodes[f"n{names}"] = Obeying()
            names += 1
        elif dice < 0.94 and works:
            number = rng.choice(sorted(works))
            assert ledger.forget(number) == (number not in ended)
            ended.setdefault(number, "forgotten")
        elif dice < 0.97 and nodes:
            ledger.hush(rng.choice(sorted(nodes)), rng.random() < 0.5)
        elif nodes:
            ledger.resize(rng.choice(sorted(nodes)), rng.randrange(1, 5))
        share()
        assert ledger.queued + ledger.away + len(ended) == numbers
        assert ledger.lanes == sum(node.lanes for node in ledger._nodes.values() if node.taking)
    for name in nodes:
        ledger.hush(name, True)
    for _ in range(10_000):
        share()
        busy = [(name, number) for name, node in nodes.items() for number in node.begun]
        if not busy:
            break
        for name, number in busy:
            del nodes[name].begun[number]
            assert ledger.answered(name, number, 1000) is not None
            ended[number] = "answered"
    assert len(ended) == numbers, "every unit ends"
    assert not ledger.queued and not ledger.away
    assert not any(node.held for node in nodes.values())
    for number, retries in again.items():
        assert ran.count(number) <= 1 + retries, "no unit begins more often than it may"
