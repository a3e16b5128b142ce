"""What the holder of a lease does with an instance of a component, by wire: give it back."""

from __future__ import annotations

from ..streams import Streams
from .holder import ComponentHolder


class ComponentAccess:
    """Runs the operations of ACCESS frames; see `worker.access` for those of core modules."""

    def __init__(self, instances: ComponentHolder, streams: Streams) -> None:
        self._instances = instances
        self._streams = streams

    def run(self, operation: str, *args: object) -> None:
        """Run one.

        Raises:
            LookupError: a component has no such thing.
        """
        if operation != "end":
            raise LookupError(f"an instance of a component has no {operation!r}: its memories are its own")
        (discard,) = args
        if discard:
            self._instances.discard()
        else:
            self._instances.settle()
            self._streams.end_lines()
