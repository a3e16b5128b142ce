"""What the user allows."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a pool's workers and queue may grow to."""

    kill_grace: float  #: seconds from an interrupt to the kill
    max_pending: int | None  #: jobs in the queue
    full_timeout: float | None  #: seconds to wait when it is full; 0 to raise at once, None for ever
    max_tasks_per_worker: float  #: calls by direct call or submit, or in batches
    max_worker_memory: int | None  #: bytes, resident
    min_workers: int | None = None  #: processes to keep when there is little to do; None to keep all
    idle_expiry: float = math.inf  #: seconds after which what is unused goes: processes beyond those, instances
    prewarm: int = 1  #: instances per process that stay however long they are unused
    round_robin: bool = False  #: take idle workers in turn, not the last used one
    retries: int = 0  #: how often a job is run again whose worker died
