"""Tables for notebooks.  They take the colours of the page, so they can be read on light and on dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from ..worktime import in_words, jobs_in_words

if TYPE_CHECKING:
    from ..stats import PoolStats
    from ..worktime import PoolReport

_CELL = "padding:.15em .6em;text-align:"
_TRACK = "display:inline-block;width:8em;height:.7em;border:1px solid currentColor;line-height:0;vertical-align:middle"
_FILLED = "display:inline-block;height:100%;background:currentColor;opacity:.65"


def pool_html(title: str, stats: PoolStats | None) -> str:
    """A pool: what its ``repr`` says, and what its workers do, if that is known."""
    return f"<div><code>{escape(title)}</code>{'' if stats is None or not stats.workers else _workers(stats)}</div>"


def stats_html(stats: PoolStats) -> str:
    """What a pool is doing: its counters, and a row per worker with a bar for its share of the calls."""
    counters = {
        "busy": stats.busy,
        "idle": stats.idle,
        "waiting jobs": stats.pending,
        "leased": stats.leased,
        "calls": stats.calls,
        "failed": stats.failed,
        "timeouts": stats.timeouts,
        "retried": stats.retried,
        "crashed": stats.crashed,
        "killed": stats.killed,
    }
    said = " · ".join(f"{name} <b>{count:,}</b>" for name, count in counters.items())
    return f"<div><div>{said}</div>{_workers(stats)}</div>"


def report_html(report: PoolReport) -> str:
    """What the workers have done with their time: a row per worker with a bar for the share in which it worked."""
    rows = [
        (
            str(worker.pid or "gone"),
            f"{worker.calls:,}",
            in_words(worker.starting),
            in_words(worker.working),
            in_words(worker.waiting),
            _bar(worker.busy, f"{worker.busy:.0%}"),
        )
        for worker in report.workers
    ]
    said = f"{jobs_in_words(report.jobs)} The workers were busy for {report.busy:.0%} of their time."
    heads = ("worker", "calls", "starting", "working", "waiting", "busy")
    return f"<div><div>{escape(said)}</div>{_table(heads, rows)}</div>"


def _workers(stats: PoolStats) -> str:
    most = max((worker.calls for worker in stats.workers), default=0)
    rows = [
        (
            str(worker.pid or "(none yet)"),
            escape(worker.state),
            f"{worker.rss / 2**20:.1f} MiB",
            _bar(worker.calls / most if most else 0.0, f"{worker.calls:,}"),
        )
        for worker in stats.workers
    ]
    return _table(("worker", "state", "memory", "calls"), rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the cells are HTML."""
    first = "".join(_cell("th", number, len(heads), head) for number, head in enumerate(heads))
    rest = "".join(f"<tr>{''.join(_cell('td', n, len(row), cell) for n, cell in enumerate(row))}</tr>" for row in rows)
    style = "border-collapse:collapse;margin:.3em 0;font-variant-numeric:tabular-nums;background:none;color:inherit"
    return f'<table style="{style}"><thead><tr>{first}</tr></thead><tbody>{rest}</tbody></table>'


def _cell(kind: str, number: int, cells: int, inner: str) -> str:
    # The bar comes last, and is read from the left.
    return f'<{kind} style="{_CELL}{"left" if number in (0, cells - 1) else "right"}">{inner}</{kind}>'


def _bar(share: float, label: str) -> str:
    width = f"{100 * min(max(share, 0.0), 1.0):.1f}%"
    return f'<span style="{_TRACK}"><span style="{_FILLED};width:{width}"></span></span> {escape(label)}'
