"""The recipe of docs/howto-pytest.md: its files, run as it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import DEADLINE, FIXTURES

#: Seconds that a test run may take, which has interpreters to start.
PATIENCE = 15 * DEADLINE
PAGE = FIXTURES.parent / "docs" / "howto-pytest.md"
FILES = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL))


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_the_recipe(options: tuple[str, ...], tmp_path: Path, nothing_left: None) -> None:
    assert set(FILES) == {"conftest.py", "test_counter.py"}
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0 and "6 passed" in done.stdout, done.stdout + done.stderr
