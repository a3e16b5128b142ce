"""What a map may be told."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ..checks import boolean, positive, seconds, shown
from ..deadline import Deadline

#: Told (items done, items in all or None if that is not known).
Progress = Callable[[int, "int | None"], object]
#: numpy's names for what may become of values in a cast; see ``ProcessWasmPool.map_array``.
Casting = Literal["no", "equiv", "safe", "same_kind", "unsafe"]


@dataclass(frozen=True)
class MapOptions:
    """What all maps may be told; see ``ProcessWasmPool.map``."""

    deadline: Deadline = Deadline.NEVER  #: until when results may be waited for
    chunksize: int | None = None
    buffersize: int | None = None
    item_timeout: float | None = None  #: seconds that one item may run; None for any number
    return_exceptions: bool = False
    ordered: bool = True
    progress: bool | Progress = False

    @classmethod
    def checked(
        cls,
        timeout: Any = None,
        chunksize: Any = None,
        buffersize: Any = None,
        item_timeout: Any = None,
        return_exceptions: Any = False,
        ordered: Any = True,
        progress: Any = False,
        *,
        default_item_timeout: float | None = None,
    ) -> MapOptions:
        """What a user gave.

        Raises:
            ValueError: a size is no positive int, or a time is not positive.
            TypeError: something else is not of its type.
        """
        if not isinstance(progress, bool) and not callable(progress):
            raise TypeError(f"progress must be True, False or a callable, got {shown(progress)}")
        limit = default_item_timeout if item_timeout is None else seconds("item_timeout", item_timeout)
        return cls(
            Deadline.after(timeout),
            positive("chunksize", chunksize),
            positive("buffersize", buffersize),
            None if limit == math.inf else limit,
            boolean("return_exceptions", return_exceptions),
            boolean("ordered", ordered),
            progress,
        )
