"""The client's end of one connection to one node."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

from ...printable import printable
from .. import wire
from ..heartbeat import Vigil
from .backend import Link, Member
from .known_functions import KnownFunctions
from .ledger import Orders
from .units import Travels

if TYPE_CHECKING:
    from .conductor import Conductor, Demand


class Session:
    """What is known of one node, from the attempt to reach it to its end."""

    def __init__(self, conductor: Conductor, member: Member, demand: Demand) -> None:
        self.member = member
        self.workers: int = 0  #: that its pool has
        self.host: wire.Host | None = None  #: what is installed there
        self.leaving: bool = False  #: it begins nothing more
        self.silent: bool = False  #: it has not been heard for so long that it is given nothing
        self._conductor = conductor
        self._demand = demand
        self._link: Link | None = None
        self._vigil: Vigil | None = None
        self._functions = KnownFunctions()
        self._over = False
        self._hear: dict[str, Callable[..., None]] = {
            wire.NEED: self._send_modules,
            wire.READY: self._ready,
            wire.REFUSED: self._refused,
            wire.ANSWERS: self._answers,
            wire.BEAT: self._beat,
            wire.EVENT: self._event,
            wire.LOG: self._log,
            wire.TOLD: self._told,
            wire.LEAVING: self._leaving,
            wire.ENDED: self._ended,
            wire.BROKEN: self.cut,
        }

    @property
    def serving(self) -> bool:
        """Whether it has a pool and may be given something."""
        return bool(self.workers) and not self._over

    @property
    def state(self) -> Literal["starting", "serving", "silent", "leaving"]:
        """For people."""
        if not self.workers:
            return "starting"
        if self.leaving:
            return "leaving"
        return "silent" if self.silent else "serving"

    # -- to the node ---------------------------------------------------------------------------------------------------

    def say(self, *sayings: wire.Saying) -> None:
        """Tell it something."""
        if self._link is not None and not self._over:
            self._link.send(sayings)

    def give(self, orders: Orders, units: Mapping[int, Travels], forget: Callable[[int], None]) -> None:
        """Tell it what the ledger has decided.

        Args:
            forget: called with the number of a unit that nobody wants any more.
        """
        sayings: list[wire.Saying] = []
        if orders.drop:
            sayings.append([wire.DROP, orders.drop])
        if orders.begin:
            sayings.append([wire.BEGIN, orders.begin])
        packed = []
        for number, (_, begins) in orders.send.items():
            unit = units[number]
            travels = unit.packed(begins)
            if travels is None:
                forget(number)
                continue
            function = unit.function
            if function is not None and self._functions.use(function):
                sayings.append([wire.FUNCTION, function.digest, printable(function.name), function.pickle])
            packed.append(travels)
        if packed:
            sayings.append([wire.UNITS, packed])
        forgotten = self._functions.forget()
        if forgotten:
            sayings.append([wire.FORGET, forgotten])
        if sayings:
            self.say(*sayings)

    def resize(self, workers: int) -> None:
        """Have its pool have so many workers."""
        self.workers = workers
        self.say([wire.RESIZE, workers])

    def end(self, finish: bool) -> None:
        """Have it finish what it has begun, or stop that, and end."""
        if self._link is None:  # it has been told nothing yet; when it can be, the link is closed
            self._part("the pool has ended", expected=True)
        else:
            self.say([wire.END, finish])

    def drop(self) -> None:
        """Be done with it, whatever it does."""
        self._over = True
        if self._link is not None:
            self._link.close()

    # -- time ----------------------------------------------------------------------------------------------------------

    def keep_time(self, now: float) -> None:
        """Notice silence; to be called `LOOKS` times in a lease."""
        vigil = self._vigil
        if vigil is None or self._over:
            return
        how = vigil.look(now)
        if how == "gone":
            self._part(f"nothing was heard of it for {self._demand.lease:g} s and more", now)
        elif how == "silent" and not self.silent:
            self._hush(True, f"nothing was heard of the node on {self.member.name} for {self._demand.lease / 2:g} s")

    # -- from the node: Listener ---------------------------------------------------------------------------------------

    def linked(self, link: Link) -> None:
        """See `Listener`."""
        self._link = link
        self._vigil = Vigil(self._demand.lease, monotonic())
        if self._over:
            link.close()

    def heard(self, sayings: Sequence[wire.Saying]) -> None:
        """See `Listener`."""
        for kind, *details in sayings:
            if self._over:
                return
            try:
                self._hear[kind](*details)
            except Exception as error:  # no sound node says that
                self._part(f"it said what no sound node says: {error!r}")
                return
        self._conductor.look()

    def cut(self, reason: str) -> None:
        """See `Listener`."""
        if not self._over:
            self._part(reason)

    def _part(self, reason: str, safe_at: float | None = None, expected: bool = False) -> None:
        self._over = True
        if self._link is not None:
            self._link.close()
        if not self.workers:
            gone = self._conductor.withdrawn if expected else self._conductor.refused
            gone(self, reason)
            return
        assert self._vigil is not None
        self._vigil.give_up()
        self._conductor.parted(self, reason, self._vigil.safe_at if safe_at is None else safe_at, expected)

    def _hush(self, silent: bool, why: str) -> None:
        self.silent = silent
        if self.workers:
            self._conductor.journal.note("node_silent" if silent else "node_heard", self.member, why)
            self._conductor.hushed(self, silent or self.leaving)

    def _send_modules(self, digests: Sequence[str]) -> None:
        for digest in digests:
            self.say([wire.BLOB, digest, self._demand.modules[digest]])

    def _ready(self, host: Sequence[str], workers: int) -> None:
        assert self._vigil is not None
        self._vigil.heard(monotonic())  # its time began before it said so
        self.silent = False
        self.host, self.workers = wire.Host(*host), workers
        self._conductor.joined(self, workers, wire.Host.here().differs(self.host))
        if self.leaving:  # it was told to go while it started
            self._conductor.hushed(self, True)

    def _refused(self, reason: str, raised: bytes) -> None:
        self.drop()
        self._conductor.refused(self, reason, raised)

    def _answers(self, answers: Sequence[Sequence[Any]]) -> None:
        for answer in answers:
            self._conductor.answered(self, wire.Answer(*answer))

    def _beat(self, number: int) -> None:
        assert self._vigil is not None
        if self._vigil.heard(monotonic()):
            self.say([wire.ACK, number])
            if self.silent:
                self._hush(False, f"the node on {self.member.name} is heard again")

    def _event(self, kind: Any, pid: int | None, message: str) -> None:
        self._conductor.journal.note(kind, self.member, message, pid)

    def _log(self, payload: bytes) -> None:
        self._conductor.journal.log(payload, self.member)

    def _told(self, question: int, payload: bytes) -> None:
        self._conductor.told(question, pickle.loads(payload))

    def _leaving(self, reason: str) -> None:
        self.leaving = True
        if self.workers:
            self._conductor.hushed(self, True)

    def _ended(self, reason: str) -> None:
        self._part(reason, monotonic(), expected=True)
