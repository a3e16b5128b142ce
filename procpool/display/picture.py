"""A report as one picture, by matplotlib."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

from ..worktime import in_words

if TYPE_CHECKING:
    from ..worktime import PoolReport

#: Of middle lightness: all have contrast enough on white and on black.
_TEXT = "#808080"
_COLOURS = {"starting": "#c08a3e", "working": "#4f8fd0", "waiting": "#9a9a9a"}
_HATCHES = {"starting": "...", "working": "", "waiting": "////"}  # for who sees no colours


def report_picture(report: PoolReport) -> Any:
    """How long the jobs took (above), and what each worker did with its time (below).

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("report.plot() needs matplotlib: pip install 'procpool[plot]'") from None
    rows = max(len(report.workers), 1)

    class Picture(Figure):  # type: ignore[misc]
        """A notebook shows it without being told to.  Not of pyplot, which would keep it and may want a screen."""

        def _repr_png_(self) -> bytes:
            drawn = io.BytesIO()
            self.savefig(drawn, format="png")
            return drawn.getvalue()

    figure = Picture(figsize=(7, 3.8 + 0.25 * rows), layout="constrained")
    figure.patch.set_alpha(0)
    above, below = figure.subplots(2, 1, height_ratios=(8, 2 + rows))
    _draw_jobs(above, report)
    _draw_workers(below, report)
    for axis in (above, below):
        axis.patch.set_alpha(0)
        axis.tick_params(colors=_TEXT, which="both")
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(_TEXT)
        axis.xaxis.label.set_color(_TEXT)
        axis.yaxis.label.set_color(_TEXT)
    figure.legend(ncols=len(_COLOURS), loc="outside lower center", frameon=False, labelcolor=_TEXT)
    return figure


def _draw_jobs(axis: Any, report: PoolReport) -> None:
    jobs = report.jobs
    axis.set_title(f"{jobs.count:,} jobs took {in_words(jobs.mean)} on average", loc="left", color=_TEXT)
    axis.set_ylabel("jobs")
    stretches = [stretch for stretch in jobs.histogram() if stretch[2]]
    if not stretches:
        axis.set(xlabel="time a job took", xticks=[], yticks=[])
        return
    places = [math.sqrt(start * end) for start, end, _ in stretches]
    counts = [count for *_, count in stretches]
    axis.vlines(places, 0.5, counts, color=_COLOURS["working"], linewidth=3)
    axis.plot(places, counts, "o", color=_COLOURS["working"], markersize=8)
    axis.set(xscale="log", yscale="log", ylim=(0.5, 3 * max(counts)))
    axis.set_xlabel(f"time a job took; dashed: half of them at most {in_words(jobs.percentile(50))}")
    axis.axvline(jobs.percentile(50), color=_TEXT, linestyle="--", linewidth=1)
    low, high = math.floor(math.log10(stretches[0][0] or 1e-12)), math.ceil(math.log10(stretches[-1][1]))
    ticks = [10.0**power for power in range(low, high + 1, 1 + (high - low) // 8)]
    axis.set_xticks(ticks, [in_words(tick) for tick in ticks])
    counted = [10**power for power in range(len(str(max(counts))))]
    axis.set_yticks(counted, [f"{count:,}" for count in counted])
    axis.minorticks_off()


def _draw_workers(axis: Any, report: PoolReport) -> None:
    axis.set_title(f"The workers were busy for {report.busy:.0%} of their time", loc="left", color=_TEXT)
    axis.set(xlabel="seconds", ylabel="worker")
    names = [str(worker.pid or f"gone ({number})") for number, worker in enumerate(report.workers, 1)]
    lefts = [0.0] * len(names)
    for kind, colour in _COLOURS.items():
        widths = [getattr(worker, kind) for worker in report.workers]
        style = {"color": colour, "hatch": _HATCHES[kind], "edgecolor": "white", "linewidth": 0}
        axis.barh(names, widths, left=lefts, label=kind, **style)
        lefts = [left + width for left, width in zip(lefts, widths, strict=True)]
    axis.invert_yaxis()
