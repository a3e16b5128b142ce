"""What a notebook shows: tables that take the page's colours, and a real kernel that runs a small notebook."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import nbformat
import pytest
from conftest import DEADLINE, FIXTURES, KERNELS
from nbclient import NotebookClient

from procpool import ProcessWasmPool
from procpool.display.html import pool_html, stats_html
from procpool.stats import PoolStats, WorkerStats


class Table(HTMLParser):
    """The texts of a table's cells, row by row, and the widths of its bars; refuses tags that are not closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.text = ""
        self.styles: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    @property
    def bars(self) -> list[float]:
        widths = (re.search(r"(?<![a-z-])width:([0-9.]+)%", style) for style in self.styles)
        return [float(width[1]) for width in widths if width]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open.append(tag)
        self.styles += [value or "" for name, value in attrs if name == "style"]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "td" in self._open or "th" in self._open:
            self.rows[-1][-1] += data


def has_no_colours_of_its_own(table: Table) -> bool:
    return not re.search(
        r"#[0-9a-f]{3}|rgb|\b(white|black|gr[ae]y|red|green|blue)\b", " ".join(table.styles), re.IGNORECASE
    )


def test_a_pool_is_a_row_per_worker(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=2) as pool:
        pool.wait_ready(DEADLINE)
        for _ in range(10):
            pool.call("add", 1, 2)
        pids = [str(worker.pid) for worker in pool.stats().workers]
        for shown in (pool, pool.stats()):
            table = Table(shown._repr_html_())
            assert table.rows[0] == ["worker", "state", "memory", "calls"]
            assert [row[0] for row in table.rows[1:]] == pids
            assert all(row[1] == "idle" and row[2].endswith(" MiB") for row in table.rows[1:])
            assert max(table.bars) == 100, "of the one that did most"
            assert len(table.bars) == 2
            assert has_no_colours_of_its_own(table)
        assert "<ProcessWasmPool kernels.wasm workers=2" in Table(pool._repr_html_()).text
        assert "calls 10" in Table(pool.stats()._repr_html_()).text
        report = Table(pool.report()._repr_html_())
        assert report.rows[0] == ["worker", "calls", "starting", "working", "waiting", "busy"]
        assert [row[0] for row in report.rows[1:]] == pids
        assert has_no_colours_of_its_own(report)
    assert Table(pool._repr_html_()).text == "<ProcessWasmPool kernels.wasm closed>"
    assert Table(pool.report()._repr_html_()).rows[1][0] == "gone"


def test_a_bar_is_as_long_as_its_share() -> None:
    rows = tuple(WorkerStats(pid, "busy", calls, 2**20) for pid, calls in ((1, 400), (2, 100), (None, 0)))
    counters = dict.fromkeys(list(PoolStats.__dataclass_fields__)[1:], 0)
    table = Table(stats_html(PoolStats(workers=rows, **counters)))
    assert table.bars == [100, 25, 0]
    assert [row[-1].strip() for row in table.rows[1:]] == ["400", "100", "0"]
    assert table.rows[3][0] == "(none yet)"


def test_what_a_name_contains_is_no_html() -> None:
    assert "<script>" not in pool_html("<ProcessWasmPool <script>alert(1)</script>.wasm>", None)
    assert Table(pool_html("<ProcessWasmPool <b>&amp;.wasm>", None)).text == "<ProcessWasmPool <b>&amp;.wasm>"


CELLS = [
    "import procpool; pool = procpool.ProcessWasmPool('kernels.wasm', workers=2); pool.wait_ready(); pool",
    "print(sum(pool.map('add', range(1000), range(1000), progress=True)))",
    "pool.stats()",
    "pool.report()",
    "pool.report().plot()",
    "print(await pool.acall('add', 1, 2))",
    "pool.shutdown(); pool",
]


@pytest.fixture(scope="module")
def outputs() -> list[Any]:
    """What the cells of a notebook put out, run by a kernel of its own."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    client = NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(FIXTURES)}})
    client.execute()
    return [[output for output in cell.outputs if output.get("name") != "stderr"] for cell in notebook.cells]


def test_a_notebook_shows_tables_and_a_picture(outputs: list[Any]) -> None:
    first, _, stats, report, plot, awaited, closed = outputs
    for shown in (first, stats, report):
        assert len(Table(shown[0].data["text/html"]).rows) == 3, "a head and two workers"
    assert "1,000 jobs took" in report[0].data["text/html"]
    assert plot[0].data["image/png"]
    assert awaited[0].text == "3\n", "in the loop that the kernel runs"
    assert "closed" in closed[0].data["text/html"] and "closed" in closed[0].data["text/plain"]


def test_progress_is_a_widget(outputs: list[Any]) -> None:
    bar = next(output for output in outputs[1] if "data" in output)
    assert "application/vnd.jupyter.widget-view+json" in bar.data
    assert next(output.text for output in outputs[1] if output.get("name") == "stdout") == "999000\n"
