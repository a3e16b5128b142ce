"""The figures as a picture: a bar per way, the spread as a line; logarithmic where one way is many times another."""

from __future__ import annotations

from pathlib import Path

from .sidebyside import Result, describe_machine


def draw(results: list[Result], target: Path) -> None:
    """Write all measurements to one picture.

    Raises:
        ImportError: matplotlib is not installed; names the extra.
    """
    try:
        import matplotlib
    except ImportError:
        raise ImportError("pictures need matplotlib: pip install 'procpool[perf]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    themes: dict[str, list[Result]] = {}
    for result in results:
        themes.setdefault(result.what, []).append(result)
    heights = [len(group) + 1.6 for group in themes.values()]
    figure, axes = pyplot.subplots(
        len(themes), 1, figsize=(11, 0.3 * sum(heights)), height_ratios=heights, layout="constrained", squeeze=False
    )
    for axis, (what, group) in zip(axes[:, 0], themes.items(), strict=True):
        group = group[::-1]
        medians = [result.median for result in group]
        spread = [
            [result.median - result.least for result in group],
            [result.most - result.median for result in group],
        ]
        ours = ["procpool" in result.way or "forked" in result.way for result in group]
        bars = axis.barh(range(len(group)), medians, xerr=spread, color="white", edgecolor="black", height=0.7)
        for bar, mine in zip(bars, ours, strict=True):
            if mine:  # told apart without colour
                bar.set_hatch("////")
        axis.set_yticks(range(len(group)), [result.way for result in group], fontsize=8)
        axis.bar_label(bars, [f" {result.median:,.3g}" for result in group], fontsize=8, padding=4)
        if max(medians) > 30 * min(medians):
            axis.set_xscale("log")
        axis.margins(x=0.15)
        axis.set_title(f"{what}, {group[0].unit} (less is better)", fontsize=9, loc="left")
        axis.tick_params(axis="x", labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"python -m perf --picture {target.name}\n{describe_machine()}; hatched: procpool", fontsize=8)
    figure.savefig(target, dpi=90)
