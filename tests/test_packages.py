"""Modules as the world ships them: each section of docs/packages.md, with the package that it is about.

Where there is no registry, they are skipped.  ``PROCPOOL_PACKAGES=required`` makes that a failure, and
``PROCPOOL_PACKAGES=all`` tries those that take minutes to compile as well.
"""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from conftest import DEADLINE
from packages import NotFetched, Package, Store, locked, required, with_large
from pages import ROOT, Part, parts
from test_docs import PACKAGES as PAGE
from test_docs import PAGES, programs, run_page

TEXT = PAGES[PAGE]
SECTIONS = [part for part in parts(PAGE, TEXT) if part.needs is not None]
#: Seconds after which a section is given up: a module of 75 MB takes minutes to compile, on a loaded machine many.
COMPILING = 1800
__all__ = ["programs"]  # the fixture


def lines_of(part: Part) -> int:
    """How many lines of code a section has: those that are neither blank nor a comment."""
    code = "".join(block.body for block in part.blocks if block.language == "python")
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in code.splitlines())


def packages_of(part: Part) -> list[Package]:
    assert part.needs is not None
    lock = locked()
    return [lock[name] for name in part.needs.split(", ")]


def install(package: Package, content: Path, directory: Path) -> None:
    """Where `npm install` and `pip install --target .` would put it."""
    if package.registry == "npm":
        (directory / "node_modules" / package.name).parent.mkdir(parents=True, exist_ok=True)
        (directory / "node_modules" / package.name).symlink_to(content)
    else:
        for top in content.iterdir():
            (directory / top.name).symlink_to(top)


@pytest.mark.parametrize("part", SECTIONS, ids=lambda part: part.title)
def test_package_does_its_job(part: Part, store: Store, programs: Path, tmp_path: Path, nothing_left: None) -> None:
    needed = packages_of(part)
    if any(package.large for package in needed) and not with_large():
        pytest.skip("takes minutes to compile when it is new; PROCPOOL_PACKAGES=all runs it")
    try:
        for package in needed:
            install(package, store.unpacked(package), tmp_path)
    except NotFetched as reason:
        if required():
            raise
        pytest.skip(str(reason))
    done = run_page(part.page, part.title, programs, tmp_path, COMPILING)
    assert done.returncode == 0, done.stdout


def test_the_page_has_all_that_is_locked_and_counts_its_lines() -> None:
    assert sorted(name for part in SECTIONS for name in (part.needs or "").split(", ")) == sorted(locked())
    table = re.findall(r"^\| (.+?) \|.*\| (\d+) \|$", TEXT, re.M)
    assert {title: int(now) for title, now in table} == {part.title: lines_of(part) for part in SECTIONS}


# -- fetching, without a registry ------------------------------------------------------------------------------------------


def a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, integrity: str = "") -> Package:
    """One that a client of the test's delivers; how often it was asked is in the file `asked`."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "a.wasm").write_bytes(b"\0asm")
    archive = tmp_path / "a-1.tgz"
    with tarfile.open(archive, "w:gz") as made:
        made.add(tmp_path / "package", "package")
    client(tmp_path, monkeypatch, f"echo once >> {tmp_path}/asked; cp {archive} .")
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    return Package("npm", "@scope/a", "1", integrity or f"sha512-{digest}", large=False)


def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str) -> None:
    programs = tmp_path / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "npm").write_text(f"#!/bin/sh\n{does}\n")
    (programs / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")


def test_a_package_is_fetched_once_by_all_that_want_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, cache = a_package(tmp_path, monkeypatch), tmp_path / "cache"
    cache.mkdir()
    code = f"""if 1:
        import sys
        sys.path.insert(0, {str(ROOT / "tests")!r})
        from pathlib import Path
        from packages import Package, Store
        print(Store(Path({str(cache)!r})).unpacked({package!r}) / "a.wasm")
    """
    wanting = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    found = {process.communicate(timeout=DEADLINE)[0].strip() for process in wanting}
    assert found == {str(cache / "@scope+a@1" / "a.wasm")} and Path(*found).read_bytes() == b"\0asm"
    assert (tmp_path / "asked").read_text() == "once\n"
    assert sorted(entry.name for entry in cache.iterdir()) == ["@scope+a@1", "@scope+a@1.lock"]


def test_a_package_that_is_not_what_was_locked_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = a_package(tmp_path, monkeypatch, integrity="sha512-AAAA")
    with pytest.raises(AssertionError, match=r"@scope/a 1 is sha512-.*and packages\.lock has sha512-AAAA"):
        Store(tmp_path).unpacked(package)
    assert not (tmp_path / "@scope+a@1").exists()


def test_what_cannot_be_had_says_why_and_is_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = a_package(tmp_path, monkeypatch)
    client(tmp_path, monkeypatch, f"echo once >> {tmp_path}/asked; echo 'npm error network request failed' >&2; exit 1")
    store = Store(tmp_path)
    for _ in range(2):
        with pytest.raises(NotFetched, match="@scope/a: npm does not deliver: npm error network request failed"):
            store.unpacked(package)
    assert (tmp_path / "asked").read_text() == "once\n"
    client(tmp_path, monkeypatch, "echo 'npm error code E404' >&2; exit 1")
    store = Store(tmp_path)
    with pytest.raises(NotFetched, match="E404"):
        store.unpacked(package)
    assert not store.silent, "it may have the others"
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(NotFetched, match="@scope/a: npm is not installed"):
        Store(tmp_path).unpacked(package)
