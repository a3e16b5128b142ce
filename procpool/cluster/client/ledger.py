"""Who owns which job: the one place that knows.  Pure: no descriptors, no clock, no lock.

A unit (a job, or a stretch of a map) is *queued* with the client, *sent* to a node, *begun* there, and answered.  A node
begins what the client has said it may begin, and nothing else.  So what is sent and not begun can be taken back at any time
without asking: it will never run there.  And when a node is lost, what may have begun is known exactly, whatever the
network
has swallowed: begun and not reported counts as begun.

A node is let begin as much as keeps its workers busy for a moment (`BEGUN_NS`), and holds about as much again (`SENT_NS`),
so that the next permission finds its arguments there.  What takes longer than that is begun one per worker.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from .pace import Pace

#: Nanoseconds of work per worker in a frame: long against the milliseconds that a frame costs, short against the seconds
#: that anybody waits for.
FRAME_NS = 50_000_000
#: Nanoseconds of work per worker that a node may have begun: the frame that runs, and one that is about to.
BEGUN_NS = FRAME_NS * 3 // 2
#: And that it holds beside that.
SENT_NS = FRAME_NS
#: Bytes of arguments that a node has of each, where that is more than one unit for each worker.
MOST_BYTES = 32 << 20


class Unit(Protocol):
    """What goes to a node as one: a job, or a stretch of a map."""

    number: int  #: its own, and the later the larger
    kind: Hashable  #: what it is alike with in what an item takes
    items: int
    nbytes: int  #: of its arguments
    priority: int
    retries: int  #: how often it may still be begun again after its node was lost


@dataclass
class Orders:
    """What to tell one node, in this order."""

    drop: list[int] = field(default_factory=list)  #: forget these, or stop them
    begin: list[int] = field(default_factory=list)  #: these were sent, and may begin
    send: dict[int, tuple[Unit, bool]] = field(default_factory=dict)  #: by number, with whether it may begin at once

    def __bool__(self) -> bool:
        return bool(self.drop or self.begin or self.send)

    def withdraw(self, number: int) -> None:
        """It is not for this node any more."""
        if self.send.pop(number, None) is None:
            self.drop.append(number)


@dataclass
class Loss:
    """What a lost node leaves behind; what it had not begun is queued again."""

    failed: list[Unit]  #: begun, and not to be begun again
    fenced: list[Unit]  #: begun, and to be begun again by `requeue`, when the node has certainly stopped


class _Holding:
    """What one node holds."""

    def __init__(self, name: str, lanes: int, pace: Pace) -> None:
        self.name = name
        self.lanes = lanes
        self.pace = pace
        self.taking = True
        self.sent: dict[int, tuple[Unit, float]] = {}
        self.begun: dict[int, tuple[Unit, float]] = {}
        self.sent_ns = self.begun_ns = 0.0
        self.sent_bytes = self.begun_bytes = 0
        self.orders = Orders()
        self.version = 0  #: of its entry among the loads

    @property
    def idle(self) -> bool:
        """Whether it could begin what another only holds."""
        return self.taking and len(self.begun) < self.lanes and not self.sent

    @property
    def load(self) -> float:
        return (self.begun_ns + self.sent_ns) / self.lanes

    @property
    def may_begin(self) -> bool:
        enough = self.begun_ns >= BEGUN_NS * self.lanes or self.begun_bytes >= MOST_BYTES
        return self.taking and (len(self.begun) < self.lanes or not enough)

    @property
    def may_hold(self) -> bool:
        """Whether it takes a unit beyond those that it begins at once."""
        return self.taking and self.sent_ns < SENT_NS * self.lanes and self.sent_bytes < MOST_BYTES

    def cost(self, unit: Unit) -> float:
        known = self.pace.cost(unit.kind)
        return float(BEGUN_NS) if known is None else known * unit.items

    def begin(self, unit: Unit, cost: float) -> None:
        self.begun[unit.number] = unit, cost
        self.begun_ns += cost
        self.begun_bytes += unit.nbytes

    def hold(self, unit: Unit, cost: float) -> None:
        self.sent[unit.number] = unit, cost
        self.sent_ns += cost
        self.sent_bytes += unit.nbytes

    def let_go(self, number: int) -> Unit | None:
        """Take a unit that was sent and not begun off the books."""
        unit, cost = self.sent.pop(number, (None, 0.0))
        if unit is not None:
            self.sent_ns -= cost
            self.sent_bytes -= unit.nbytes
        return unit

    def finish(self, number: int) -> Unit | None:
        """Take a begun unit off the books."""
        unit, cost = self.begun.pop(number, (None, 0.0))
        if unit is not None:
            self.begun_ns = self.begun_ns - cost if self.begun else 0.0
            self.begun_bytes -= unit.nbytes
        return unit


class Ledger:
    """All units that have not ended, and where they are.

    What a step costs does not depend on how many nodes there are: it looks at those to which something has happened.
    """

    def __init__(self) -> None:
        self.pace: Pace = Pace()  #: of all nodes together
        self.lanes: int = 0  #: workers of all nodes that take work; other threads read it
        self._queues: dict[int, deque[Unit]] = {}  # by priority
        self._queued: dict[int, Unit] = {}  # what is in a queue and not here has been withdrawn
        self._nodes: dict[str, _Holding] = {}
        self._where: dict[int, _Holding] = {}
        self._touched: dict[str, _Holding] = {}  # since `share`
        self._loads: list[tuple[float, str, int]] = []  # a heap; an entry of another version than its node's is void
        self._versions = itertools.count(1)
        self._idle: dict[str, _Holding] = {}

    # -- asking --------------------------------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """How many units no node holds."""
        return len(self._queued)

    @property
    def away(self) -> int:
        """How many units nodes hold."""
        return len(self._where)

    def held(self, name: str) -> tuple[int, int]:
        """How many units a node has been sent and has not begun, and has begun."""
        node = self._nodes.get(name)
        return (0, 0) if node is None else (len(node.sent), len(node.begun))

    def unbegun(self) -> list[Unit]:
        """All that no node may have begun."""
        return [*self._queued.values(), *(unit for node in self._nodes.values() for unit, _ in node.sent.values())]

    # -- units ---------------------------------------------------------------------------------------------------------

    def add(self, unit: Unit) -> None:
        """Queue it behind the others of its priority."""
        self._queued[unit.number] = unit
        self._queues.setdefault(unit.priority, deque()).append(unit)

    def requeue(self, units: Iterable[Unit]) -> None:
        """Queue units before the others of their priority, the earliest first."""
        for unit in sorted(units, key=lambda unit: unit.number, reverse=True):
            self._queued[unit.number] = unit
            self._queues.setdefault(unit.priority, deque()).appendleft(unit)

    def forget(self, number: int) -> bool:
        """Nobody wants it any more, wherever it is; whether it was there."""
        if self._queued.pop(number, None) is not None:
            return True
        node = self._where.pop(number, None)
        if node is None:
            return False
        if node.let_go(number) is None:
            node.finish(number)
        node.orders.withdraw(number)
        self._touch(node)
        return True

    def answered(self, name: str, number: int, nanoseconds: int) -> Unit | None:
        """A node has answered a unit, which took a worker so long; None if it is none of its any more."""
        node = self._nodes.get(name)
        if node is None or self._where.get(number) is not node:
            return None
        unit = node.finish(number)
        if unit is None:
            raise ValueError(f"the node answered unit {number}, which it was not to begin")
        del self._where[number]
        self._touch(node)
        if nanoseconds:
            node.pace.measured(unit.kind, unit.items, nanoseconds)
        return unit

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def join(self, name: str, lanes: int) -> None:
        """A node takes work, with so many workers."""
        self._nodes[name] = _Holding(name, lanes, Pace(self.pace))
        self.lanes += lanes
        self._touch(self._nodes[name])

    def resize(self, name: str, lanes: int) -> None:
        """A node has another number of workers."""
        node = self._nodes[name]
        if node.taking:
            self.lanes += lanes - node.lanes
        node.lanes = lanes
        self._touch(node)

    def hush(self, name: str, taking: bool) -> None:
        """Give a node nothing more, and take back what it has not begun; or go on giving."""
        node = self._nodes[name]
        if node.taking != taking:
            node.taking = taking
            self.lanes += node.lanes if taking else -node.lanes
        self._touch(node)
        if not taking:
            for number in node.sent:
                node.orders.withdraw(number)
            self.requeue(self._take_back(node))

    def lose(self, name: str, finished: bool = False) -> Loss:
        """A node is no more.

        Args:
            finished: it has answered all that it has begun, so what was not answered has not begun.
        """
        node = self._nodes.pop(name)
        if node.taking:
            self.lanes -= node.lanes
        self._touched.pop(name, None)
        self._idle.pop(name, None)
        if finished:
            for unit, cost in node.begun.values():
                node.hold(unit, cost)
            node.begun.clear()
        self.requeue(self._take_back(node))
        loss = Loss([], [])
        for number, (unit, _) in node.begun.items():
            del self._where[number]
            if unit.retries > 0:
                unit.retries -= 1
                loss.fenced.append(unit)
            else:
                loss.failed.append(unit)
        return loss

    def _take_back(self, node: _Holding) -> list[Unit]:
        units = [unit for unit, _ in node.sent.values()]
        for unit in units:
            node.let_go(unit.number)
            del self._where[unit.number]
        return units

    # -- sharing out ---------------------------------------------------------------------------------------------------

    def share(self) -> dict[str, Orders]:
        """What to tell which node now."""
        for node in self._touched.values():
            self._let_begin(node)
            self._enter(node)
        self._hand_out()
        if not self._queued and self._idle:
            self._level()
        told = {name: node.orders for name, node in self._touched.items() if node.orders}
        for name, node in self._touched.items():
            if name in told:
                node.orders = Orders()
            self._enter(node)
        self._touched.clear()
        return told

    def _touch(self, node: _Holding) -> None:
        self._touched[node.name] = node

    def _enter(self, node: _Holding) -> None:
        """Note how loaded it is now, and whether it is idle."""
        node.version = next(self._versions)
        if node.may_begin or node.may_hold:
            heapq.heappush(self._loads, (node.load, node.name, node.version))
        if len(self._loads) > 4 * len(self._nodes) + 64:
            self._loads = [entry for entry in self._loads if self._valid(entry)]
            heapq.heapify(self._loads)
        if node.idle:
            self._idle[node.name] = node
        else:
            self._idle.pop(node.name, None)

    def _valid(self, entry: tuple[float, str, int]) -> bool:
        node = self._nodes.get(entry[1])
        return node is not None and node.version == entry[2]

    def _let_begin(self, node: _Holding) -> None:
        while node.sent and node.may_begin:
            number = next(iter(node.sent))
            _, cost = node.sent[number]
            unit = node.let_go(number)
            assert unit is not None
            node.begin(unit, cost)
            node.orders.begin.append(number)

    def _hand_out(self) -> None:
        """Give what is queued to the nodes, the least loaded first."""
        while self._loads and self._queued:
            entry = heapq.heappop(self._loads)
            if self._valid(entry):
                node = self._nodes[entry[1]]
                self._give(node, self._next())
                self._enter(node)

    def _give(self, node: _Holding, unit: Unit) -> None:
        self._where[unit.number] = node
        self._touch(node)
        begins = node.may_begin and not node.sent
        (node.begin if begins else node.hold)(unit, node.cost(unit))
        node.orders.send[unit.number] = unit, begins

    def _next(self) -> Unit:
        while True:
            priority = max(self._queues)
            queue = self._queues[priority]
            unit = queue.popleft() if queue else None
            if not queue:
                del self._queues[priority]
            if unit is not None and self._queued.get(unit.number) is unit:
                del self._queued[unit.number]
                return unit

    def _level(self) -> None:
        """Nothing is queued: have nodes with nothing to do begin what others only hold."""
        full = [node for node in self._nodes.values() if node.sent]
        for node in list(self._idle.values()) if full else []:
            while full and len(node.begun) < node.lanes:
                richest = max(full, key=lambda each: each.load)
                number = next(reversed(richest.sent))
                unit = richest.let_go(number)
                assert unit is not None
                richest.orders.withdraw(number)
                self._touch(richest)
                self._give(node, unit)
                if not richest.sent:
                    full.remove(richest)
