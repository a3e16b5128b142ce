"""The seam between a cluster's client and the engine that carries it: what is asked of the engine, and what it tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ..wire import Saying


class Member(NamedTuple):
    """A host that could have a node."""

    host: str  #: its address, which tells hosts apart
    address: str  #: where the engine reaches the process that the node would live in
    workers: int  #: worker processes that the node should have
    name: str  #: for people


class Link(Protocol):
    """A connection to a node."""

    def send(self, sayings: Sequence[Saying]) -> None:
        """Send these as one message.  What is lost, is told by `Listener.cut`."""

    def close(self) -> None:
        """Send no more, and hear no more."""


class Listener(Protocol):
    """Told of one connection, in the engine's thread."""

    def linked(self, link: Link) -> None:
        """It is there."""

    def heard(self, sayings: Sequence[Saying]) -> None:
        """The node has said this."""

    def cut(self, reason: str) -> None:
        """There is no connection, or none any more.  Told once, and last."""


class Crowd(Protocol):
    """Told of the hosts there are, in the engine's thread."""

    def members(self, members: Mapping[str, Member]) -> None:
        """All hosts of now, by their addresses."""

    def scheduler(self, well: bool, message: str) -> None:
        """The engine's own coordinator cannot be reached, or can be again."""

    def gone(self, reason: str) -> None:
        """The engine has ended, and nothing comes or goes any more.  Told last."""


class Backend(Protocol):
    """An engine.  It has one thread, in which it tells all it tells."""

    def start(self, crowd: Crowd) -> None:
        """Begin to tell of members.  Blocks until the engine is ready.

        Raises:
            What the engine does when it cannot be used.
        """

    def post(self, code: Callable[[], object]) -> None:
        """Have something quick run in the engine's thread soon.  From any thread; takes no lock."""

    def later(self, seconds: float, code: Callable[[], object]) -> Callable[[], None]:
        """Have it run there after so long; what cancels that.  In the engine's thread."""

    def open(self, member: Member, hello: Mapping[str, Any], listener: Listener) -> None:
        """Begin a session with a member, with what the node is to be told first.  In the engine's thread."""

    def close(self) -> None:
        """Tell nothing more.  From any thread."""
