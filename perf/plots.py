"""The figures as pictures: one message each, on light and on dark.

A picture shows few ways, chosen for its message; the table has them all.  Times span powers of ten, so their axes are
logarithmic, say so, and carry dots: on such an axis the length of a bar means nothing.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .report import Figure, groups, shown

#: By name of the way: its figure, or those of its curve.
Told = dict[str, list[Figure]]


@dataclass(frozen=True)
class Theme:
    """The colours of a page."""

    name: str
    page: str
    text: str
    quiet: str  #: of what is not the message
    ours: str


THEMES = (
    Theme("light", "#ffffff", "#1f2328", "#8a929b", "#0969da"),
    Theme("dark", "#0d1117", "#e6edf3", "#7d8590", "#4ea1ff"),
)


@dataclass(frozen=True)
class Picture:
    """One picture.

    Attributes:
        name: of its files.
        what: what it measures, as in the table.
        title: from the figures to the message, in one or two lines.
        ways: which ways it shows, as in the table, and what they are called here.  Ours begin with "procpool".
        by: what the ways are compared by: what the horizontal axis counts.  None for a dot per way.
        axis: what the axis of the figures says.
        linear: the axis of the figures begins at 0.
    """

    name: str
    what: str
    title: Callable[[Told], str]
    ways: dict[str, str]
    axis: str
    by: str | None = None
    linear: bool = False


POOLS = {
    "ProcessPoolExecutor (spawn)": "ProcessPoolExecutor",
    "multiprocessing.Pool (spawn)": "multiprocessing.Pool",
    "loky": "loky",
    "mpire": "mpire",
}
EXECUTOR = "ProcessPoolExecutor"
#: Texts stay texts, in the reader's own fonts: that makes small files, and nearly all fonts are narrower than the one that
#: the room for them is measured by.
_FONT, _FONTS = "DejaVu Sans", "'DejaVu Sans', Verdana, Helvetica, Arial, sans-serif"
STYLE = {"svg.fonttype": "none", "font.family": _FONT, "font.size": 15}


def _at(told: Told, name: str, place: float | None = None) -> Figure:
    """The figure of a way, at a place of its curve."""
    # The table gives places to six digits.
    return next(figure for figure in told[name] if place is None or math.isclose(figure.at or 0.0, place, rel_tol=1e-5))


def _short(figure: Figure) -> str:
    return _micro(shown(float(f"{figure.median:.2g}"), figure.unit))


def _micro(text: str) -> str:
    return text.replace(" us", " µs")


def _against(what: str, place: float | None = None) -> Callable[[Told], str]:
    """A title that sets ours beside the executor of the standard library, at a place of their curves."""

    def title(told: Told) -> str:
        ours, theirs = _short(_at(told, "procpool", place)), _short(_at(told, EXECUTOR, place))
        return f"{what} {ours} in procpool,\n{theirs} in ProcessPoolExecutor"

    return title


def _cheap_from(told: Told) -> str:
    cheap = min(figure.at or 0.0 for figure in told["procpool"] if figure.median < 1.05)
    return f"From {_micro(shown(cheap, 'second'))} an item on,\na map costs next to nothing"


def _memory_of_one(told: Told) -> str:
    def each(name: str) -> str:
        (first, least), *_, (last, most) = sorted((figure.at or 0.0, figure.median) for figure in told[name])
        return f"{(most - least) / (last - first) / 2**20:.0f} MiB"

    return f"One worker more takes {each('procpool')} in procpool,\n{each(EXECUTOR)} in ProcessPoolExecutor"


def _fixed(title: str) -> Callable[[Told], str]:
    return lambda told: title


PICTURES = (
    Picture(
        "latency",
        'blocking call("add", 1, 2)',
        _against("A blocking call takes"),
        {
            "os.pipe ping-pong, two cores": "(a byte there and back)",
            "procpool call": "procpool",
            "in-process, no pool": "wasmtime, no pool",
            "threads": "threads",
            **POOLS,
        },
        "time per call (log scale)",
    ),
    Picture(
        "submit",
        "submit 10,000 adds and gather them, each",
        _against("A small job takes"),
        {
            "procpool submit": "procpool",
            "in-process, no pool": "wasmtime, no pool",
            "threads": "threads",
            "joblib": "joblib",
            **POOLS,
        },
        "time per job, of 10,000 submitted (log scale)",
    ),
    Picture(
        "map",
        "map add over 1,000,000 Python ints, each",
        _against("An item of a map takes"),
        {
            "map(operator.add), in-process": "(Python's own map and add)",
            "procpool map": "procpool",
            "ProcessPoolExecutor (spawn), chunksize 1000": EXECUTOR,
            "multiprocessing.Pool (spawn), of 100,000": "multiprocessing.Pool",
            "loky, of 100,000": "loky",
            "joblib, of 100,000": "joblib",
            "mpire, of 100,000": "mpire",
        },
        "time per item, of a map of add (log scale)",
    ),
    Picture(
        "long-jobs",
        "64 jobs of 4 ms",
        _fixed("Long jobs: any pool will do,\nand threads as well"),
        {"in-process, no pool": "wasmtime, no pool", "procpool submit": "procpool", "threads": "threads", **POOLS},
        "time for 64 jobs of 4 ms on two cores",
        linear=True,
    ),
    Picture(
        "map-size",
        "map add over n Python ints, each",
        _fixed("The more items a map has,\nthe less each of them costs"),
        {"ProcessPoolExecutor (spawn)": EXECUTOR, "procpool map": "procpool"},
        "time per item (log)",
        by="items of the map (log scale)",
    ),
    Picture(
        "item-time",
        "map of items that take x seconds, over running them on all workers without any cost",
        _cheap_from,
        {"procpool map, default chunks": "procpool"},
        "time, over the work (log)",
        by="time that one item takes (log scale)",
    ),
    Picture(
        "start",
        "first result of a small module, by workers",
        _against("Eight workers start within", 8),
        {"ProcessPoolExecutor (spawn)": EXECUTOR, "procpool (forkserver)": "procpool"},
        "time to the first result",
        by="workers",
        linear=True,
    ),
    Picture(
        "memory",
        "memory of all processes of an idle pool (USS), by workers",
        _memory_of_one,
        {"ProcessPoolExecutor (spawn)": EXECUTOR, "procpool (forkserver)": "procpool"},
        "memory of all processes",
        by="workers",
        linear=True,
    ),
    Picture(
        "payload",
        "bytes in and out, one blocking job, by size",
        _against("8 MiB in and out take", 2**23),
        {
            "ProcessPoolExecutor (spawn)": EXECUTOR,
            "procpool submit": "procpool",
            "memcpy, four times": "(copying, four times)",
        },
        "time there and back (log)",
        by="bytes in, and out again (log scale)",
    ),
)


def draw(figures: list[Figure], directory: Path) -> list[Path]:
    """Write each picture for which there are figures, on light and on dark; which files they are.

    The same figures give the same files.

    Raises:
        ImportError: matplotlib is not installed; names the extra.
        KeyError: there are figures for a picture, and none of a way that it shows.
    """
    try:
        import matplotlib
    except ImportError:
        raise ImportError("pictures need matplotlib: pip install 'procpool[perf]'") from None
    grouped = groups(figures)
    written = []
    for picture in PICTURES:
        if picture.what not in grouped:
            continue
        for theme in THEMES:
            target = directory / f"{picture.name}-{theme.name}.svg"
            with matplotlib.rc_context(STYLE | {"svg.hashsalt": picture.name}):
                svg = io.StringIO()
                drawn = sheet(picture, grouped[picture.what], theme)
                drawn.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
            target.write_text(svg.getvalue().replace(f"'{_FONT}'", _FONTS))
            written.append(target)
    return written


def sheet(picture: Picture, group: list[Figure], theme: Theme) -> Any:
    """A picture as a ``matplotlib.figure.Figure``."""
    from matplotlib.figure import Figure as Sheet

    missing = set(picture.ways) - {figure.way for figure in group}
    if missing:
        raise KeyError(f"{picture.what}: no figures of {', '.join(sorted(missing))}")
    told = {name: [figure for figure in group if figure.way == way] for way, name in picture.ways.items()}
    drawn = Sheet(figsize=(8, 4.5), layout="constrained", facecolor=theme.page)
    drawn.get_layout_engine().set(w_pad=0.12, h_pad=0.08)
    axis = drawn.subplots()
    axis.set_facecolor(theme.page)
    axis.tick_params(colors=theme.text, length=0)
    axis.spines[:].set_visible(False)
    axis.grid(True, axis="x" if picture.by is None else "both", color=theme.quiet, alpha=0.35, linewidth=1)
    axis.set_axisbelow(True)
    if picture.by is None:
        _draw_dots(axis, picture, {name: line[0] for name, line in told.items()}, theme)
    else:
        _draw_curves(axis, picture, told, theme)
    axis.minorticks_off()
    axis.xaxis.label.set_color(theme.text)
    axis.yaxis.label.set_color(theme.text)
    drawn.suptitle(picture.title(told), x=0.02, ha="left", color=theme.text, fontsize=19, fontweight="bold")
    return drawn


def _draw_dots(axis: Any, picture: Picture, told: dict[str, Figure], theme: Theme) -> None:
    """A dot per way, and a line from the least to the most."""
    names = sorted(told, key=lambda name: told[name].median)
    for place, name in enumerate(names):
        figure, ours = told[name], _ours(name)
        colour = theme.ours if ours else theme.quiet
        axis.hlines(place, figure.least, figure.most, color=colour, linewidth=4, alpha=0.5)
        axis.plot(figure.median, place, "D" if ours else "o", color=colour, markersize=15 if ours else 11)
        axis.annotate(
            _micro(shown(figure.median, figure.unit)) if picture.linear else _short(figure),
            (max(figure.median, figure.most), place),
            (13 if ours else 10, 0),
            textcoords="offset points",
            va="center",
            **_lettering(name, theme),
        )
    axis.set_yticks(range(len(names)), names)
    for label, name in zip(axis.get_yticklabels(), names, strict=True):
        label.set(**_lettering(name, theme))
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlabel(picture.axis)
    _scale(axis.xaxis, [figure.median for figure in told.values()], picture.linear, told[names[0]].unit)
    low, high = axis.get_xlim()
    axis.set_xlim(low, high * (1.15 if picture.linear else (high / low) ** 0.12))


def _draw_curves(axis: Any, picture: Picture, told: Told, theme: Theme) -> None:
    """A curve per way."""
    for name, line in told.items():
        points = sorted((figure.at or 0.0, figure.median) for figure in line)
        ours = _ours(name)
        style = {"marker": "D" if ours else "o", "markersize": 9, "linewidth": 4 if ours else 3}
        if name.startswith("("):  # no pool, but what none can beat
            style |= {"marker": "s", "linestyle": "--"}
        axis.plot(*zip(*points, strict=True), color=theme.ours if ours else theme.quiet, label=name, **style)
    figures = [figure for line in told.values() for figure in line]
    _scale(axis.yaxis, [figure.median for figure in figures], picture.linear, figures[0].unit)
    places = sorted({figure.at or 0.0 for figure in figures})
    if picture.linear:
        few = [place for place in places if place == places[0] or place > places[-1] / 10]
        axis.set_xticks(few, [f"{place:g}" for place in few])
    elif picture.what.endswith("by size"):
        axis.set_xscale("log")
        axis.set_xticks(places, map(_bytes, places))
    else:
        _scale(axis.xaxis, places, False, "second" if places[0] < 1 else "")
    axis.set_xlabel(picture.by)
    axis.set_ylabel(picture.axis)
    if len(told) > 1:
        legend = axis.legend(frameon=False, handlelength=1.5)
        for text, name in zip(legend.get_texts(), told, strict=True):
            text.set(**_lettering(name, theme))


def _scale(axis: Any, values: Sequence[float], linear: bool, unit: str) -> None:
    """Ticks with their units: round numbers from 0, or powers of ten on a logarithmic scale."""
    set_limits = getattr(axis.axes, f"set_{axis.axis_name}lim")
    if linear:
        step = _round(max(values) / 4 / _BASE.get(unit, 1.0)) * _BASE.get(unit, 1.0)
        ticks = [step * number for number in range(int(max(values) / step) + 1)]
        axis.set_ticks(ticks, [_said(tick, unit) for tick in ticks])
        set_limits(0, max(values) * 1.08)
        return
    getattr(axis.axes, f"set_{axis.axis_name}scale")("log")
    low, high = math.floor(math.log10(min(values)) + 0.05), math.ceil(math.log10(max(values)) - 0.05)
    powers = range(low, high + 1, 1 + (high - low) // 6)
    axis.set_ticks([10.0**power for power in powers], [_said(10.0**power, unit) for power in powers])
    set_limits(min(10.0**low, *values) / 1.5, max(10.0**high, *values) * 1.5)


#: What linear ticks are round numbers of.
_BASE = {"byte": 2.0**20, "second": 1e-3}


def _round(value: float) -> float:
    """1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= value)


def _said(value: float, unit: str) -> str:
    if unit == "integer":  # a ratio
        return f"{value:g} x"
    if not unit:
        return f"{value:,.0f}"
    return _micro(shown(value, unit)) if value else "0"


def _bytes(size: float) -> str:
    name, factor = next((name, factor) for name, factor in (("MiB", 2**20), ("KiB", 2**10), ("B", 1)) if size >= factor)
    return f"{size / factor:.0f} {name}"


def _lettering(name: str, theme: Theme) -> dict[str, str]:
    return {"color": theme.ours, "fontweight": "bold"} if _ours(name) else {"color": theme.text, "fontweight": "normal"}


def _ours(name: str) -> bool:
    return name.startswith("procpool")
