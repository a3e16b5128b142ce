"""When something must be done: made first thing in every public method, and passed down instead of a number of seconds."""

from __future__ import annotations

import math
from time import monotonic
from typing import Any, ClassVar, NamedTuple

from .checks import seconds as checked_seconds

#: The longest single wait, in seconds.  select, poll and locks refuse those of more than some 24 days.
LONGEST_WAIT = 86400.0


class _Moment(NamedTuple):
    at: float
    seconds: float


class Deadline(_Moment):
    """A moment in the time of time.monotonic, or never.

    Attributes:
        at: the moment in seconds; math.inf for never.
        seconds: how far ahead it was when it was made, for messages.
    """

    __slots__ = ()

    NEVER: ClassVar[Deadline]

    @classmethod
    def after(cls, seconds: Any, default: float | None = None, name: str = "timeout") -> Deadline:
        """The moment so many seconds from now.

        Args:
            seconds: any real number: a float, a Decimal, one of numpy's; math.inf for never; None for the default.
            default: seconds, checked before; None for never.
            name: of the argument, for the text of an exception.

        Raises:
            TypeError: ``seconds`` is no real number.
            ValueError: it is nan, 0 or negative.
        """
        if seconds is None:
            if default is None:
                return cls.NEVER
            seconds = default
        elif type(seconds) is not float or not seconds > 0:
            seconds = checked_seconds(name, seconds)
        return cls.NEVER if seconds == math.inf else cls(monotonic() + seconds, seconds)

    @property
    def limit(self) -> float | None:
        """The moment, or None for never."""
        return None if self.at == math.inf else self.at

    def remaining(self) -> float | None:
        """Seconds to wait for it, at least 0, or None for never.

        At most a day, so whoever waits must look at :meth:`passed` afterwards, and wait again.
        """
        if self.at == math.inf:
            return None
        return min(max(0.0, self.at - monotonic()), LONGEST_WAIT)

    def passed(self) -> bool:
        """Whether the moment has come."""
        return self.at <= monotonic()

    def sooner(self, other: Deadline) -> Deadline:
        """The earlier of the two."""
        return self if self.at <= other.at else other


Deadline.NEVER = Deadline(math.inf, math.inf)
