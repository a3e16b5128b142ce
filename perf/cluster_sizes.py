"""Where a cluster bends: a simulation of 10, 100 and 1,000 hosts, with what was measured on one machine.

    python -m perf.cluster_sizes

The ledger and the pace are the very ones that the client runs: what is simulated is the clock, the network, and the nodes.
The client is one process with one interpreter, so everything that it does comes one after the other; so does what its
network card sends.  A node works off what it may begin, on as many workers as it has.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from procpool.cluster.client.ledger import Ledger
from procpool.cluster.client.maps import MOST_OBJECTS, frame_sizes, may_read, most_frame_bytes


class Costs(NamedTuple):
    """What was measured, in seconds; docs/cluster.md has the machine and the commands."""

    message: float = 300e-6  #: the client's own time for a frame and its answer, beside their items
    item: float = 60e-9  #: to pack an item of Python ints, and unpack its result
    way: float = 250e-6  #: from the client to a node, or back
    bytes_per_second: float = 1.25e9  #: of the client's network card: 10 Gbit/s
    compile_bytes_per_second: float = 10e6  #: of a module, on one host


class Load(NamedTuple):
    """What is mapped."""

    name: str
    seconds: float  #: that an item takes a worker
    spread: float  #: of that, as the sigma of a log-normal distribution
    width: int  #: bytes of an item's arguments and results


LOADS = (
    Load("1 us items", 1e-6, 0.0, 12),
    Load("1 ms items", 1e-3, 0.5, 12),
    Load("100 ms items", 0.1, 0.5, 12),
    Load("100 ms items, some stragglers", 0.1, 1.5, 12),
)


@dataclass(eq=False)
class Frame:
    """A unit of the ledger."""

    number: int
    items: int
    nbytes: int
    kind: Hashable = "map"
    priority: int = 0
    retries: int = 0


@dataclass
class Node:
    """A host: so many workers, each with the moment from which it is free."""

    workers: list[float]
    speed: float
    held: dict[int, Frame] = field(default_factory=dict)


class Simulation:
    """A map over a cluster."""

    def __init__(self, hosts: int, workers: int, load: Load, costs: Costs, seconds: float, rng: random.Random) -> None:
        self._load, self._costs, self._rng = load, costs, rng
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._ledger = Ledger()
        self._nodes: dict[str, Node] = {}
        for number in range(hosts):
            # Hosts are not alike: a tenth is half as fast as the others.
            self._nodes[f"n{number}"] = Node([0.0] * workers, 0.5 if number % 10 == 9 else 1.0)
            self._ledger.join(f"n{number}", workers)
        capacity = sum(workers * node.speed for node in self._nodes.values())
        # No more than the client can feed in that time, or the last rows would take for ever.
        fed = int(seconds / (costs.item + costs.message * load.seconds / (0.05 * workers)))
        self.total = max(hosts * workers, min(int(seconds * capacity / load.seconds), fed))
        self.ideal = self.total * load.seconds / capacity
        self._hosts, self._lanes = hosts, hosts * workers
        self._sizes = frame_sizes(hosts, self._lanes, max(1, min(MOST_OBJECTS, most_frame_bytes(hosts) // load.width)))
        self._left, self._ahead, self._numbers = self.total, 0, itertools.count()
        self._client_free = self._card_free = 0.0
        self.client_busy = 0.0
        self.frames = 0
        self.most_bytes = self._bytes = 0

    def run(self) -> float:
        """Seconds that it takes."""
        self._turn()
        while self._events:
            self._now, _, happen = heapq.heappop(self._events)
            happen()
        assert not self._left and not self._ahead, "every item ends"
        return self._now

    def _at(self, when: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), happen))

    def _client_works(self, seconds: float) -> float:
        """When the client is done with something more."""
        self._client_free = max(self._client_free, self._now) + seconds
        self.client_busy += seconds
        return self._client_free

    def _turn(self) -> None:
        while self._left and may_read(self._hosts, self._lanes, self._sizes.known, self._ahead, self._bytes):
            items = min(self._sizes.next(self._left), self._left)
            self._left -= items
            self._ahead += 1
            frame = Frame(next(self._numbers), items, items * self._load.width)
            self._bytes += frame.nbytes
            self.most_bytes = max(self.most_bytes, self._bytes)
            self._ledger.add(frame)
        for name, orders in self._ledger.share().items():
            node = self._nodes[name]
            for number in orders.drop:
                node.held.pop(number, None)
            for number in orders.begin:
                self._at(self._now + self._costs.way, partial(self._begin, node, name, number))
            for unit, begins in orders.send.values():
                assert isinstance(unit, Frame)
                packed = self._client_works(self._costs.message / 2 + unit.items * self._costs.item / 2)
                self._card_free = max(self._card_free, packed) + unit.nbytes / self._costs.bytes_per_second
                node.held[unit.number] = unit
                if begins:
                    arrives = self._card_free + self._costs.way
                    self._at(arrives, partial(self._begin, node, name, unit.number))

    def _begin(self, node: Node, name: str, number: int) -> None:
        frame = node.held.pop(number, None)
        if frame is None:
            return
        # The node's own pool shares a frame out evenly, down to single items.
        parts = min(len(node.workers), frame.items)
        spent = ends = 0.0
        for part in range(parts):
            items = frame.items // parts + (part < frame.items % parts)
            each = sum(self._lasts() for _ in range(items)) if items < 20 else items * self._load.seconds
            each /= node.speed
            spent += each
            free = heapq.heappop(node.workers)
            ends = max(ends, max(free, self._now) + each)
            heapq.heappush(node.workers, max(free, self._now) + each)
        self._at(ends + self._costs.way, lambda: self._answered(name, frame, spent))

    def _lasts(self) -> float:
        spread = self._load.spread
        return self._load.seconds * (self._rng.lognormvariate(-spread * spread / 2, spread) if spread else 1.0)

    def _answered(self, name: str, frame: Frame, spent: float) -> None:
        done = self._client_works(self._costs.message / 2 + frame.items * self._costs.item / 2)
        self._at(done, lambda: self._taken(name, frame, spent))

    def _taken(self, name: str, frame: Frame, spent: float) -> None:
        assert self._ledger.answered(name, frame.number, int(spent * 1e9)) is not None
        self._sizes.measured(frame.items, int(spent * 1e9))
        self._ahead -= 1
        self._bytes -= frame.nbytes
        self.frames += 1
        self._turn()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m perf.cluster_sizes", description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--workers", type=int, default=16, help="of each host (default 16)")
    parser.add_argument("--seconds", type=float, default=5.0, help="that an ideal cluster would need (default 5)")
    options = parser.parse_args()
    costs = Costs()
    print("| what | hosts | of the ideal | the client is busy | frames a second | MiB under way |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for load, hosts in itertools.product(LOADS, options.hosts):
        simulation = Simulation(hosts, options.workers, load, costs, options.seconds, random.Random(1))
        took = simulation.run()
        print(
            f"| {load.name} | {hosts:,} | {simulation.ideal / took:.0%} | {simulation.client_busy / took:.0%}"
            f" | {simulation.frames / took:,.0f} | {simulation.most_bytes / 2**20:,.1f} |"
        )
    print("\n| module | hosts | it is everywhere after | and compiled |\n| --- | ---: | ---: | ---: |")
    size = 10e6
    for hosts in options.hosts:
        sent = hosts * size / costs.bytes_per_second
        print(f"| 10 MB | {hosts:,} | {sent:.2f} s | {sent + size / costs.compile_bytes_per_second:.2f} s |")


if __name__ == "__main__":
    main()
