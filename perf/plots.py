"""The figures as pictures, readable without colour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .report import Figure, groups, machine, shown
from .ways import FLOOR, OURS

_MARKERS = "osD^vPX*"
_LINES = ("-", "--", ":", "-.")
_PER_PICTURE = 6


def draw(figures: list[Figure], directory: Path) -> None:
    """Write bars for what stands alone, and curves for what grows.

    Raises:
        ImportError: matplotlib is not installed; names the extra.
    """
    try:
        import matplotlib
    except ImportError:
        raise ImportError("pictures need matplotlib: pip install 'procpool[perf]'") from None
    matplotlib.use("Agg")
    grouped = groups(figures)
    curves = {what: group for what, group in grouped.items() if len({figure.at for figure in group} - {None}) > 1}
    bars = {what: group for what, group in grouped.items() if what not in curves}
    names = list(bars)
    for page, start in enumerate(range(0, len(names), _PER_PICTURE), 1):
        _bars({what: bars[what] for what in names[start : start + _PER_PICTURE]}, directory / f"bars-{page}.png")
    if curves:
        _curves(curves, directory / "curves.png")


def _bars(grouped: dict[str, list[Figure]], target: Path) -> None:
    from matplotlib import pyplot

    heights = [len(group) + 1.8 for group in grouped.values()]
    picture, axes = pyplot.subplots(
        len(grouped), 1, figsize=(11, 0.3 * sum(heights) + 1), height_ratios=heights, layout="constrained", squeeze=False
    )
    for axis, (what, group) in zip(axes[:, 0], grouped.items(), strict=True):
        group = group[::-1]
        medians = [figure.median for figure in group]
        spread = [[f.median - f.least for f in group], [f.most - f.median for f in group]]
        drawn = axis.barh(range(len(group)), medians, xerr=spread, color="white", edgecolor="black", height=0.7)
        for bar, figure in zip(drawn, group, strict=True):
            bar.set_hatch({OURS: "////", FLOOR: "...."}.get(figure.role, ""))
        axis.set_yticks(range(len(group)), [figure.way for figure in group], fontsize=8)
        axis.bar_label(drawn, [f" {shown(f.median, f.unit)}" for f in group], fontsize=8, padding=4)
        positive = [median for median in medians if median > 0]
        if positive and len(positive) == len(medians) and max(positive) > 30 * min(positive):
            axis.set_xscale("log")
        axis.margins(x=0.15)
        _title(axis, f"{what}: {group[0].unit}s, less is better")
    _finish(picture, target)


def _curves(grouped: dict[str, list[Figure]], target: Path) -> None:
    from matplotlib import pyplot

    columns = 2
    rows = -(-len(grouped) // columns)
    picture, axes = pyplot.subplots(rows, columns, figsize=(12, 3.4 * rows + 0.6), layout="constrained", squeeze=False)
    places = [axis for row in axes for axis in row]
    for axis, (what, group) in zip(places, grouped.items(), strict=False):
        for number, way in enumerate(dict.fromkeys(figure.way for figure in group)):
            points = sorted((f.at or 0, f.median, f.least, f.most) for f in group if f.way == way)
            xs, ys = [p[0] for p in points], [p[1] for p in points]
            spread = [[p[1] - p[2] for p in points], [p[3] - p[1] for p in points]]
            style = _LINES[number % len(_LINES)] + _MARKERS[number % len(_MARKERS)]
            axis.errorbar(xs, ys, yerr=spread, fmt=style, color="black", markersize=4, linewidth=1, label=way)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel(what.rpartition(", by ")[2] if ", by " in what else "n", fontsize=8)
        axis.set_ylabel({"second": "seconds", "byte": "bytes"}.get(group[0].unit, group[0].unit), fontsize=8)
        axis.legend(fontsize=7)
        axis.grid(True, which="major", linewidth=0.3)
        _title(axis, what)
    for axis in places[len(grouped) :]:
        axis.set_visible(False)
    _finish(picture, target)


def _title(axis: Any, text: str) -> None:
    axis.set_title(text, fontsize=9, loc="left")
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)


def _finish(picture: Any, target: Path) -> None:
    command = f"python -m perf --plots {target.parent}"
    legend = "hatched: procpool; dotted: floors; lines: least to most"
    picture.suptitle(f"{command}   ({legend})\n{machine()}", fontsize=8)
    picture.savefig(target, dpi=80)
