"""The pictures of the docs: that they are there, are those of the table, and can be drawn again from figures."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pyperf
import pytest
from conftest import FIXTURES

from perf import plots, report

ROOT = FIXTURES.parent
STORED = ROOT / "docs" / "plots"
NAMES = {f"{picture.name}-{theme.name}.svg" for picture in plots.PICTURES for theme in plots.THEMES}
#: Bytes; a README has several.
MOST = 20_000


def table() -> list[report.Figure]:
    return report.read_table((ROOT / "docs" / "measurements.md").read_text())


def told(picture: plots.Picture, figures: list[report.Figure]) -> plots.Told:
    return {
        name: [figure for figure in figures if (figure.what, figure.way) == (picture.what, way)]
        for way, name in picture.ways.items()
    }


def texts(svg: Path) -> str:
    root = ElementTree.fromstring(svg.read_text())
    return "\n".join("".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text"))


def test_pictures_that_the_docs_name_exist() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    named = {name for page in pages for name in re.findall(r"plots/([\w.-]+\.\w+)", page.read_text())}
    assert named, "no page shows a picture"
    assert named <= {path.name for path in STORED.iterdir()}


def test_all_pictures_are_stored_and_nothing_else() -> None:
    assert {path.name for path in STORED.iterdir()} == NAMES
    assert all(path.stat().st_size < MOST for path in STORED.iterdir())


@pytest.mark.parametrize("picture", plots.PICTURES, ids=lambda picture: picture.name)
def test_a_stored_picture_says_what_the_table_says(picture: plots.Picture) -> None:
    title = picture.title(told(picture, table()))
    for theme in plots.THEMES:
        shown = texts(STORED / f"{picture.name}-{theme.name}.svg")
        again = "python -m perf --from docs/measurements.md --plots docs/plots"
        assert title in shown, f"the table has changed; draw again by {again}"
        assert all(name in shown for name in picture.ways.values() if len(picture.ways) > 1)
        assert picture.axis in shown and (picture.by or "") in shown


@pytest.mark.parametrize("picture", plots.PICTURES, ids=lambda picture: picture.name)
def test_nothing_is_cut_off_and_no_labels_overlap(picture: plots.Picture) -> None:
    group = report.groups(table())[picture.what]
    with matplotlib.rc_context(plots.STYLE):
        sheet = plots.sheet(picture, group, plots.THEMES[0])
        sheet.draw_without_rendering()
    axis = sheet.axes[0]
    labels = [label for label in (*axis.get_xticklabels(), *axis.get_yticklabels()) if label.get_text()]
    for text in (*sheet.texts, *axis.texts, *labels, axis.xaxis.label, axis.yaxis.label, sheet._suptitle):
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0, f"{text.get_text()!r} is cut off"
        assert box.x1 <= sheet.bbox.x1 and box.y1 <= sheet.bbox.y1, f"{text.get_text()!r} is cut off"
    for one, other in pairwise(labels):
        assert not one.get_window_extent().overlaps(other.get_window_extent()), (one.get_text(), other.get_text())


def small_suite() -> pyperf.BenchmarkSuite:
    """Two values of each way that is shown."""
    benchmarks = []
    for number, figure in enumerate(table()):
        if not any(picture.what == figure.what for picture in plots.PICTURES):
            continue
        described = {"name": f"{number}", "procpool_what": figure.what, "procpool_way": figure.way, "unit": figure.unit}
        described |= {"procpool_role": "peer"} | ({} if figure.at is None else {"procpool_at": repr(figure.at)})
        values = (max(figure.least, 1e-12), max(figure.most, 1e-12))
        benchmarks.append(pyperf.Benchmark([pyperf.Run(values, metadata=described, collect_metadata=False)]))
    return pyperf.BenchmarkSuite(benchmarks)


def test_all_pictures_are_drawn_from_a_json_without_a_warning(tmp_path: Path) -> None:
    source, target = tmp_path / "figures.json", tmp_path / "drawn"
    small_suite().dump(str(source))
    command = [sys.executable, "-W", "error", "-m", "perf", "--from", str(source), "--table", str(tmp_path / "table.md")]
    done = subprocess.run([*command, "--plots", str(target)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name for path in target.iterdir()} == NAMES
    for picture in plots.PICTURES:
        light, dark = (target / f"{picture.name}-{theme.name}.svg" for theme in plots.THEMES)
        assert texts(light) == texts(dark) != ""
        colours = [set(re.findall("#[0-9a-f]{6}", path.read_text())) for path in (light, dark)]
        assert plots.THEMES[0].page in colours[0] and plots.THEMES[1].page in colours[1]
        assert plots.THEMES[0].page not in colours[1]


def test_drawing_again_changes_nothing(tmp_path: Path) -> None:
    figures = [figure for figure in table() if figure.what == plots.PICTURES[0].what]
    first = [path.read_bytes() for path in plots.draw(figures, tmp_path)]
    assert len(first) == 2
    assert first == [path.read_bytes() for path in plots.draw(figures, tmp_path)]


def test_a_way_that_is_missing_is_named(tmp_path: Path) -> None:
    figures = [figure for figure in table() if figure.what == plots.PICTURES[0].what and figure.way != "loky"]
    with pytest.raises(KeyError, match=r"blocking call.*no figures of loky"):
        plots.draw(figures, tmp_path)


def test_a_table_is_read_as_it_was_written() -> None:
    figures = report.read(small_suite())
    read = report.read_table(report.table(figures))
    assert [(figure.what, figure.way, figure.unit) for figure in read] == [(f.what, f.way, f.unit) for f in figures]
    for one, other in zip(read, figures, strict=True):
        assert one.median == pytest.approx(other.median, rel=0.006)
        assert one.at == (None if other.at is None else pytest.approx(other.at, rel=1e-5))
        assert (one.least, one.most) == pytest.approx((other.least, other.most), rel=0.006)
        assert one.least <= one.median <= one.most
        assert other.median == statistics.median((other.least, other.most))


@pytest.mark.parametrize(("value", "text"), [(9.997e-4, "1 ms"), (0.25, "250 ms"), (4.42e-6, "4.42 us"), (2e-10, "0.2 ns")])
def test_figures_for_people(value: float, text: str) -> None:
    assert report.shown(value, "second") == text
