"""What the README shows, runs."""

from __future__ import annotations

import os
import re

import pytest
from conftest import FIXTURES

README = FIXTURES.parent / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_example(example: str, monkeypatch: pytest.MonkeyPatch, nothing_left: None) -> None:
    monkeypatch.chdir(README.parent)
    exec(compile(example, os.fspath(README), "exec"), {"__name__": "example"})


def test_ci_runs_the_command_that_the_readme_gives() -> None:
    (command,) = re.findall(r"<!-- test-command -->\n```sh\n(.*)\n```", README.read_text())
    assert "pytest" in command and "<!-- test-command -->" in (README.parent / ".ci" / "run").read_text()
