"""What README and the site show, runs; and what they name, exists."""

from __future__ import annotations

import inspect
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT, Part, missing, pages, parts

import procpool
from procpool import ProcessWasmPool, errors
from procpool.cluster import ClusterWasmPool
from procpool.supervisor import printed
from procpool.supervisor.events import LEVELS

PAGES = {page: (ROOT / page).read_text() for page in pages()}
#: What test_packages.py runs, because it takes a registry.
PACKAGES = "docs/packages.md"
PARTS = [
    part
    for page, text in PAGES.items()
    for part in parts(page, text)
    if not part.idle and not (page == PACKAGES and part.needs)
]
README = PAGES["README.md"]
#: Seconds after which a page is given up.  They are quick; a loaded machine, and npm, are not.
PATIENCE = 300
#: How many blocks of a page are not run.  Each says why; one more is to be thought about.
NOT_RUN = {
    "README.md": 3,
    "CONTRIBUTING.md": 4,
    "docs/tutorial.md": 1,
    "docs/packages.md": 1,
    "docs/performance.md": 2,
    "docs/cluster.md": 1,
    "docs/howto/components.md": 4,
    "examples/README.md": 1,
}


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for PATH in which ``python`` and ``procpool`` are those under test."""
    directory = tmp_path_factory.mktemp("bin")
    for name, arguments in (("python", ""), ("procpool", "-m procpool")):
        program = directory / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        program.chmod(0o755)
    return directory


def run_page(
    page: str | Path, title: str, programs: Path, directory: Path, patience: float = PATIENCE
) -> subprocess.CompletedProcess[str]:
    """Run a part of a page as a program."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    command = [sys.executable, ROOT / "tests" / "pages.py", page, title]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.run(command, cwd=directory, env=environment, text=True, timeout=patience, **streams)


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_blocks_run(part: Part, programs: Path, tmp_path: Path, nothing_left: None) -> None:
    if part.needs is not None and (why := missing(part.needs)):
        pytest.skip(why)
    done = run_page(part.page, part.title, programs, tmp_path)
    assert done.returncode == 0, done.stdout


def test_blocks_that_are_not_run_are_counted() -> None:
    found = {
        page: sum(block.not_run is not None for part in parts(page, text) for block in part.blocks)
        for page, text in PAGES.items()
    }
    assert {page: count for page, count in found.items() if count} == NOT_RUN


@pytest.mark.parametrize(
    ("block", "says"),
    [
        ("```python\nassert 1 + 1 == 3\n```", 'page.md", line 2'),
        ("```python\nx = 1\n```\ntext\n```python\nassert x == 2\n```", "line 6"),
        ("```console\n$ false\n```", "exited with code 1"),
        ("```console\n$ echo one; echo two\none\nthree\n```", "printed"),
        ("```console\n$ echo one\none ... more\n```", "printed"),
        ("```console\n$ echo one \\\n      two\none two\n$ false\n```", "'false'"),
        ("```ruby\n1\n```", "nothing says what to do with a block of ruby"),
        ("```\n1\n```", "nothing says what to do with a block of no language"),
        ("<!-- file: a.py -->\n```python\nx = 1\n```\n```python\nimport a\nassert a.x == 2\n```", "line 7"),
        ("<!-- not run: why -->\n```python\n1 / 0\n```\n```python\n[][0]\n```", "IndexError"),
    ],
)
def test_a_block_that_is_wrong_fails(block: str, says: str, programs: Path, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(f"{block}\n")
    done = run_page(tmp_path / "page.md", "", programs, tmp_path)
    assert done.returncode != 0 and says in done.stdout, done.stdout


def test_a_section_that_needs_something_stands_apart() -> None:
    text = "# T\n```python\n1\n```\n## A\n<!-- needs: nosuchtool -->\n```python\n2\n```\n### B\n```python\n3\n```\n## C\n```python\n4\n```\n"
    whole, apart = parts("page.md", text)
    assert [block.body for block in whole.blocks] == ["1\n", "4\n"]
    assert (apart.title, apart.needs, [block.body for block in apart.blocks]) == ("A", "nosuchtool", ["2\n", "3\n"])
    assert missing("nosuchtool") == "nosuchtool is not installed" and missing("python3") is None
    assert missing("import nosuchmodule") is not None and missing("import json") is None


def test_the_name_of_a_file_is_said_before_its_content() -> None:
    for page, text in PAGES.items():
        for mark in re.finditer(r"\n\n<!-- file: (\S+) -->\n", text):
            assert f"`{mark[1]}`" in text[: mark.start()].rpartition("\n\n")[2], f"{page} says nowhere what {mark[1]} is"


# -- what is named ---------------------------------------------------------------------------------------------------------


def test_every_exception_has_its_cause_and_cure() -> None:
    headings = re.findall(r"^### (\w+)$", PAGES["docs/troubleshooting.md"], re.M)
    assert sorted(headings) == sorted(errors.__all__)


@pytest.mark.parametrize("page", PAGES)
def test_what_is_named_exists(page: str) -> None:
    """Attributes of ``pool``, ``lease`` and ``procpool``, and keywords of the pool's methods, as the text names them."""
    text = PAGES[page]
    for name in re.findall(r"\bpool\.([a-z]\w*)", text):
        if f"pool.{name}" not in ("pool.py", "pool.apply", "pool.imap", "pool.join", "pool.close", "pool.map_async"):
            known = any(hasattr(each, name) for each in (ProcessWasmPool, ClusterWasmPool)) or name in (
                "exports",
                "imports",
                "apply_async",
                "imap_unordered",
            )
            assert known, f"{page} names pool.{name}"
    for name in re.findall(r"\blease\.([a-z]\w*)", text):
        assert hasattr(procpool.Lease, name) or name in ("globals", "exports", "py"), f"{page} names lease.{name}"
    for name in re.findall(r"\bprocpool\.(\w+)\b(?! =)", text):
        path = ROOT / "procpool" / name
        exists = hasattr(procpool, name) or path.exists() or path.with_suffix(".py").exists()
        assert exists or f"procpool.{name}" == printed.logger.name, f"{page} names procpool.{name}"


def test_every_public_name_has_its_place_in_the_reference() -> None:
    text = "".join(text for page, text in PAGES.items() if page.startswith("docs/reference/"))
    documented = re.findall(r"^\.\. (?:auto\w+|py:data):: procpool\.(\w+)$", text, re.M)
    assert sorted({*documented, "__version__"}) == sorted({*procpool.__all__, "errors", "bytes_function", "conventions"})


def test_the_layout_names_every_module_in_its_place() -> None:
    layout = PAGES["docs/rationale.md"].partition("<!-- layout -->\n```text\n")[2].partition("```")[0]
    named, directory = set(), ROOT
    for line in layout.splitlines():
        if line.startswith("procpool/"):
            directory = ROOT / line.split()[0]
        elif line:
            named |= {directory / f"{name}.py" for name in line.strip().partition("  ")[0].split(", ")}
    ours = {path for path in (ROOT / "procpool").rglob("*.py") if not path.name.startswith("_")}
    assert {str(path.relative_to(ROOT)) for path in named ^ ours} == set()


def test_every_kind_of_event_is_listed() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([A-Z]+) \|$", PAGES["docs/reference/watching.md"], re.M)
    assert rows == [(kind, logging.getLevelName(level)) for kind, level in LEVELS.items()]


def test_every_option_of_the_pool_is_explained_in_a_page() -> None:
    text = "".join(PAGES.values())
    options = set(inspect.signature(ProcessWasmPool).parameters) - {"src"}
    assert {option for option in options if not re.search(rf"\b{option}\b", text)} == set()


def test_links_to_files_lead_somewhere() -> None:
    """Sphinx looks at those of the site; these are for who reads the files where they lie."""
    for page, text in PAGES.items():
        text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text) + re.findall(
            r'(?:src|srcset)="(?!https?:)([^"]+)"', text
        ):
            assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


# -- the README ------------------------------------------------------------------------------------------------------------


def test_the_readme_is_short_and_loses_first() -> None:
    assert len(README.splitlines()) <= 159
    rows = re.findall(r"^\|.*\| ([^|]+) \|$", README.partition("<!-- perf -->")[2].partition("<!-- /perf -->")[0], re.M)[2:]
    assert 6 <= len(rows) <= 8
    slower = [row.endswith("slower") for row in rows]
    assert slower[0] and slower == sorted(slower, reverse=True)


def test_the_figures_of_the_readme_are_those_of_the_measurements() -> None:
    table = README.partition("<!-- perf -->")[2].partition("<!-- /perf -->")[0]
    figures = re.findall(r"^\|[^|]+\| (\d[^|]+) \| (\d[^|]+) \|", table, re.M)
    assert len(figures) >= 6
    for figure in sum(figures, ()):
        assert f"| {figure} |" in PAGES["docs/measurements.md"], figure


def test_ci_runs_the_commands_that_the_readme_gives() -> None:
    for name, program in (("test", "pytest"), ("main", "procpool")):
        (command,) = re.findall(rf"<!-- {name}-command -->\n```sh\n(.*)\n```", README)
        assert program in command
        done = subprocess.run(["bash", "-c", _CI_READS.format(name)], cwd=ROOT, text=True, stdout=subprocess.PIPE)
        assert done.stdout.rstrip("\n") == command


_CI_READS = """eval "$(sed -n '/^readme_command/,/^}}/p' .ci/run)"; readme_command {}"""
