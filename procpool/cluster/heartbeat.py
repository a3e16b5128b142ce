"""How long a node may work, and from when on nobody need wait for it: two state machines, one for each side.

The node beats and the client acknowledges.  An acknowledged beat lets the node work for ``lease`` seconds, counted from
when the *node* sent it.  The client heard it later than that, so when ``lease`` seconds have passed there, they have passed
on the
node: no clocks are compared, and an acknowledgement that the network delivers late prolongs nothing.  What is added on the
client's side is the time that a node takes to stop its workers, and for clocks that do not run equally fast.

Neither machine has a clock: whoever asks says what time it is.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

#: Beats in a lease.
BEATS = 6
#: Looks at a node in a lease.
LOOKS = 20
#: The part of a lease for which a node is only doubted that seems silent.
_DOUBTS = 10
#: What the client waits beyond a lease: seconds in which a node kills its workers, and the share by which clocks may
#: differ.
STOPPING = 0.75
DRIFT = 0.01


class Tenure:
    """The node's side: until when it may work."""

    def __init__(self, lease: float, now: float) -> None:
        self.lease = lease
        self.until: float = now + lease  #: when its lease is over, unless more is acknowledged
        self._sent: deque[tuple[int, float]] = deque()  # beats without an acknowledgement
        self._number = 0
        self._over = False

    @property
    def interval(self) -> float:
        """Seconds from one beat to the next."""
        return self.lease / BEATS

    def beat(self, now: float) -> int:
        """The number of a beat that is sent now."""
        self._number += 1
        self._sent.append((self._number, now))
        return self._number

    def acknowledged(self, number: int) -> None:
        """The client has heard that beat, and so all before it."""
        while self._sent and self._sent[0][0] <= number:
            _, at = self._sent.popleft()
            self.until = max(self.until, at + self.lease)

    def remaining(self, now: float) -> float:
        """Seconds for which it may still work.  Once there are none, there never are any again."""
        self._over = self._over or now >= self.until
        return 0.0 if self._over else self.until - now


class Vigil:
    """The client's side, for one node.

    It is looked at twice before a node is thought ill of: what the node has said may be there and not read yet, when who
    reads was busy.
    """

    def __init__(self, lease: float, now: float) -> None:
        self._lease = lease
        self._heard = now
        self._given_up = False
        self._doubted: tuple[bool, float] | None = None  # whether it seemed gone, or only silent, and since when

    def heard(self, now: float) -> bool:
        """A beat has come; whether to acknowledge it."""
        if not self._given_up:
            self._heard = now
            self._doubted = None
        return not self._given_up

    @property
    def silent_at(self) -> float:
        """When it becomes so silent that it is sent nothing more."""
        return self._heard + self._lease / 2

    @property
    def safe_at(self) -> float:
        """When it has certainly stopped working, if nothing is acknowledged from now on."""
        return self._heard + self._lease * (1 + DRIFT) + STOPPING

    def look(self, now: float) -> Literal["well", "silent", "gone"]:
        """How it is.  Once it has certainly stopped, it is acknowledged no more."""
        if self._given_up:
            return "gone"
        gone = now >= self.safe_at
        if not gone and now < self.silent_at:
            return "well"
        if self._doubted is None or self._doubted[0] != gone:
            self._doubted = gone, now
        if now < self._doubted[1] + self._lease / _DOUBTS:
            return "silent" if gone else "well"
        self._given_up = gone
        return "gone" if gone else "silent"

    def give_up(self) -> None:
        """Acknowledge nothing more, whatever still comes."""
        self._given_up = True
