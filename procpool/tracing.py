"""OpenTelemetry, where the program uses it: the caller's trace goes on in the worker.

Nothing is imported here that the program has not imported itself.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


def present() -> bool:
    """Whether the program uses it."""
    return "opentelemetry.trace" in sys.modules


def carrier() -> dict[str, str] | None:
    """The active span as text to send along; None if there is none."""
    if not present():
        return None
    from opentelemetry import propagate, trace

    if not trace.get_current_span().get_span_context().is_valid:
        return None
    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers


@contextlib.contextmanager
def span(headers: dict[str, str], name: str) -> Iterator[None]:
    """Run a job as a child of the span that `carrier` took down."""
    try:
        from opentelemetry import context, propagate, trace
    except ImportError:  # the worker's import path is the parent's, but the package may have gone
        yield
        return
    token = context.attach(propagate.extract(headers))
    try:
        with trace.get_tracer("procpool").start_as_current_span(name):
            yield
    finally:
        context.detach(token)
