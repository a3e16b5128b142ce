"""How long things take a node, by the latest measurements."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

#: Different things whose cost is known.
_MOST = 1024


class Pace:
    """What one item of each kind takes a worker, in nanoseconds.

    Args:
        elsewhere: asked for what has not been measured here.
    """

    def __init__(self, elsewhere: Pace | None = None) -> None:
        self._elsewhere = elsewhere
        self._known: OrderedDict[Hashable, float] = OrderedDict()

    def measured(self, kind: Hashable, items: int, nanoseconds: int) -> None:
        """So many items of a kind took a worker so long together."""
        latest = max(nanoseconds / max(items, 1), 1.0)
        before = self._known.pop(kind, None)
        # What takes longer than was thought is believed at once: to hold too much costs more than to ask once more.
        self._known[kind] = latest if before is None else max((before + latest) / 2, min(latest, 2 * before))
        if len(self._known) > _MOST:
            self._known.popitem(last=False)
        if self._elsewhere is not None:
            self._elsewhere.measured(kind, items, nanoseconds)

    def cost(self, kind: Hashable) -> float | None:
        """Nanoseconds per item; None if nobody has measured it."""
        known = self._known.get(kind)
        return self._elsewhere.cost(kind) if known is None and self._elsewhere is not None else known
