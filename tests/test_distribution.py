"""What is built for a package index: complete metadata, links that lead somewhere, and a source whose tests run."""

from __future__ import annotations

import email
import email.message
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from pages import ROOT

sys.path.insert(0, str(ROOT))
from setup import readme

#: Pythons that are promised.
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]


def _files() -> set[str]:
    """What belongs to the project, from the root: all but what tools have made."""
    made = {"build", "dist", "_build", "results", "__pycache__"}
    found = set()
    for directory, names, files in os.walk(ROOT):
        names[:] = [
            name
            for name in names
            if name not in made and not name.endswith(".egg-info") and (name[0] != "." or name in (".ci", ".github"))
        ]
        found |= {str((Path(directory) / file).relative_to(ROOT)) for file in files}
    return {file for file in found if file[0] != "." or file.startswith((".ci/", ".github/"))}


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A source distribution, unpacked, and the wheel built from it."""
    pytest.importorskip("build", reason="the test extra has it")
    directory = tmp_path_factory.mktemp("dist")
    source = directory / "checkout"
    for file in _files():  # building leaves files behind, and not in the checkout
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, source / file)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(directory), str(source)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    (sdist,), (wheel,) = directory.glob("*.tar.gz"), directory.glob("*.whl")
    with tarfile.open(sdist) as archive:
        archive.extractall(directory / "unpacked", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (unpacked,) = (directory / "unpacked").iterdir()
    return unpacked, wheel


@pytest.fixture(scope="module")
def metadata(distributions: tuple[Path, Path]) -> email.message.Message:
    with zipfile.ZipFile(distributions[1]) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(wheel.read(name))


def test_the_source_distribution_has_every_file(distributions: tuple[Path, Path]) -> None:
    unpacked = distributions[0]
    there = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    assert sorted(_files() - there) == []


def test_the_wheel_has_the_package_alone(distributions: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(distributions[1]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "procpool").rglob("*.py")} | {"procpool/py.typed"}
    assert names == package


def test_the_tests_of_the_source_distribution_run(distributions: tuple[Path, Path]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(distributions[0])}
    environment.pop("PYTEST_XDIST_WORKER", None)
    for arguments in (["--collect-only", "tests"], ["tests/test_binary.py", "tests/test_bytes.py", "tests/test_codec.py"]):
        done = subprocess.run(
            [*command, *arguments],
            cwd=distributions[0],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-5000:]


def test_metadata_is_complete(metadata: email.message.Message) -> None:
    assert metadata["License-Expression"] == "MIT" and metadata["License-File"] == "LICENSE"
    assert metadata["Author"] and metadata["Summary"] and metadata["Keywords"]
    classifiers = metadata.get_all("Classifier") or []
    versions = [c.rpartition(" ")[2] for c in classifiers if re.search(r":: 3\.\d+$", c)]
    assert versions == PYTHONS and metadata["Requires-Python"] == f">={PYTHONS[0]}"
    assert not any(c.startswith("License ::") for c in classifiers)  # an SPDX expression replaces it


def test_what_an_index_shows_has_no_link_to_a_file(metadata: email.message.Message) -> None:
    text = metadata.get_payload()
    assert isinstance(text, str) and metadata["Description-Content-Type"] == "text/markdown"
    assert "# procpool" in text and "tutorial (`docs/tutorial.md`)" in text
    assert re.findall(r"\]\((?!https?:|#)|(?:src|srcset)=", text) == []


def test_links_lead_to_the_source_where_its_address_is_known() -> None:
    text = '[a](docs/a.md) [b](https://x.org/b) [c](#c)\n<img alt="d" src="docs/d.svg">\n![e](docs/e.png)\n'
    assert readme(text, "https://h.org/tree") == (
        "[a](https://h.org/tree/docs/a.md) [b](https://x.org/b) [c](#c)\n"
        '<img alt="d" src="https://h.org/tree/docs/d.svg">\n![e](https://h.org/tree/docs/e.png)\n'
    )
    assert readme(text, None).startswith("a (`docs/a.md`) [b](https://x.org/b) [c](#c)\n\nThe files")


def test_every_place_names_the_same_pythons() -> None:
    tox = (ROOT / "tox.ini").read_text()
    assert re.findall(r"py3(\d+)", tox.partition("env_list")[2].partition("\n")[0]) == [
        v.partition(".")[2] for v in PYTHONS
    ]
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    (matrix,) = re.findall(r"python: \[(.*)\]", workflow)
    assert re.findall(r'"(3\.\d+)"', matrix) == PYTHONS


def test_the_workflow_runs_what_ci_runs_and_measures_what_the_tests_reach() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    before, _, coverage = workflow.partition("\n  coverage:\n")
    assert re.findall(r"^ +- run: (.*)$", before, re.M) == [".ci/run"]
    assert re.findall(r"^ +- run: (.*)$", coverage, re.M) == ["python -m pip install tox", "python -m tox -e coverage"]
    tox = (ROOT / "tox.ini").read_text().partition("[testenv:coverage]")[2].partition("[testenv:")[0]
    assert "commands = bash .ci/coverage\n" in tox
    assert "\nPYTHON=$python .ci/coverage-states\n" in (ROOT / ".ci" / "run").read_text()
    coverage = (ROOT / ".ci" / "coverage").read_text()
    left_out = coverage.partition("again=(")[2].partition(")")[0].split()
    assert [name for name in left_out if not (ROOT / "tests" / f"test_{name}.py").exists()] == []
    for script in (".ci/run", ".ci/coverage", ".ci/coverage-states"):
        assert os.access(ROOT / script, os.X_OK), script
