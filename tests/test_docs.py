"""What README and the site show, runs; and what they name, exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT, Part, blocks, missing, pages, parts, run

PAGES = {page: (ROOT / page).read_text() for page in pages()}
PARTS = [part for page, text in PAGES.items() for part in parts(page, text)]
#: Seconds after which a page is given up.  They are quick; a loaded machine, and npm, are not.
PATIENCE = 300


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for PATH in which ``python`` and ``procpool`` are those under test."""
    directory = tmp_path_factory.mktemp("bin")
    for name, arguments in (("python", ""), ("procpool", "-m procpool")):
        program = directory / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        program.chmod(0o755)
    return directory


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_blocks_run(part: Part, programs: Path, tmp_path: Path, nothing_left: None) -> None:
    if part.needs is not None and (why := missing(part.needs)):
        pytest.skip(why)
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "pages.py", part.page, part.title],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout
