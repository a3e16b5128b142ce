"""Log records of a worker go to the parent's logging."""

from __future__ import annotations

import logging
import threading

from .. import wire
from ..job_context import current_context
from .traffic import Replies

_own = threading.local()  # the channel of the thread's own instance


class _Forwarder(logging.Handler):
    def __init__(self, replies: Replies) -> None:
        super().__init__()
        self._replies = replies

    def emit(self, record: logging.LogRecord) -> None:
        try:
            record.baggage = dict(current_context().baggage)
            replies = getattr(_own, "replies", self._replies)
            replies.flush(wire.reply(wire.LOG, wire.record_to_bytes(record)))
        except OSError:  # the parent is gone, and we are about to be
            pass
        except Exception:
            self.handleError(record)


def forward_logs(replies: Replies, levels: tuple[tuple[str, int], ...]) -> None:
    """Send all records to the parent, at the levels its loggers had when the pool was made.

    Args:
        replies: the channel for threads that have none of their own.
        levels: logger names, "" for the root, and their levels.
    """
    for name, level in levels:
        logging.getLogger(name or None).setLevel(level)
    logging.getLogger().addHandler(_Forwarder(replies))


def attach_logs(replies: Replies) -> None:
    """Send what the calling thread logs through this channel, in the order of its replies."""
    _own.replies = replies
