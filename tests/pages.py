"""Pages of the documentation as programs: what their code blocks say, run in the order in which a reader meets them.

A page is Markdown.  Its fenced blocks are steps, by their language:

* ``python``: run in the page's one namespace, which is a ``__main__`` as a script has it.
* ``console``: each line after ``$ `` is run by bash.  What follows it is what it prints, where ``...`` stands for anything;
  with nothing there, what it prints does not matter.  It has to end with exit code 0.
* ``text``, and what Sphinx makes of ``{eval-rst}``, ``{toctree}`` and ``{image}``: no program, and so nothing to run.

A comment right before a block says what a reader does not need to see:

* ``<!-- file: NAME -->``: the block, of any language, is the content of that file.
* ``<!-- not run: REASON -->``: it cannot be run in a test.  How many there are is counted.

A section that begins with ``<!-- needs: TOOL -->`` is a part of its own, with its own namespace and directory, and is left
out where there is no such tool.  All else of a page is one part.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
_FENCE = re.compile(
    r"^(?P<indent> *)(?P<ticks>`{3,})(?P<language>[^`\n]*)\n(?P<body>.*?)^(?P=indent)(?P=ticks)[ ]*$", re.M | re.S
)
NO_CODE = ("text", "{eval-rst}", "{toctree}", "{image}")
_HEADING = re.compile(r"^(#+) (.*)$", re.M)
_COMMAND = re.compile(r"<!-- (main|test)-command -->\s*\Z")
_MARK = re.compile(r"<!-- (file|not run): ((?:(?!-->).)*) -->\s*\Z", re.S)


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: str  #: its path from the root of the checkout
    line: int  #: of the page, of the first line inside
    language: str
    body: str
    file: str | None = None  #: what it is the content of
    not_run: str | None = None  #: why

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass
class Part:
    """Blocks that are run together, in a process and a directory of their own."""

    page: str
    title: str = ""
    needs: str | None = None
    blocks: list[Block] = field(default_factory=list)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to run."""
        return all(block.not_run is not None or block.language.split(" ")[0] in NO_CODE for block in self.blocks)

    def __str__(self) -> str:
        return f"{self.page}#{self.title}" if self.title else self.page


def pages() -> list[str]:
    """Every page, by its path from the root: those a reader of a checkout meets first, and the site's."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "examples" / "README.md"]
    return sorted(str(path.relative_to(ROOT)) for path in found if "_build" not in path.parts)


def blocks(page: str, text: str) -> Iterator[tuple[int, Block]]:
    """The blocks of a page, with where each begins in its text."""
    for fence in _FENCE.finditer(text):
        before = text[: fence.start()]
        mark = _MARK.search(before)
        kind, value = mark.groups() if mark else (None, None)
        if _COMMAND.search(before):
            kind, value = "not run", "it is what CI runs"
        indent = len(fence["indent"])
        yield (
            fence.start(),
            Block(
                page,
                text.count("\n", 0, fence.start("body")) + 1,
                fence["language"].strip(),
                "".join(line[indent:] if line.strip() else "\n" for line in fence["body"].splitlines(keepends=True)),
                value if kind == "file" else None,
                value if kind == "not run" else None,
            ),
        )


def parts(page: str, text: str) -> list[Part]:
    """What of a page is run together; the page itself first."""
    whole = Part(page)
    found, fences = [whole], [(fence.start(), fence.end()) for fence in _FENCE.finditer(text)]
    headings = [h for h in _HEADING.finditer(text) if not any(start < h.start() < end for start, end in fences)]
    apart: list[tuple[int, int, Part]] = []
    for at, heading in enumerate(headings):
        needs = re.match(r"\s*<!-- needs: (.*?) -->", text[heading.end() :])
        if needs:
            level = len(heading[1])
            ends = (later.start() for later in headings[at + 1 :] if len(later[1]) <= level)
            part = Part(page, heading[2], needs[1])
            apart.append((heading.start(), next(ends, len(text)), part))
            found.append(part)
    for at, block in blocks(page, text):
        owner = next((part for start, end, part in apart if start <= at < end), whole)
        owner.blocks.append(block)
    return [part for part in found if part.blocks]


def missing(tool: str) -> str | None:
    """Why the tool cannot be used here; None if it can."""
    if tool.startswith("import "):
        return None if importlib.util.find_spec(tool.split()[1]) else f"{tool.split()[1]} is not installed"
    program, _, target = tool.partition(" for ")
    if shutil.which(program) is None:
        return f"{program} is not installed"
    if target:  # of rustc
        command = ["rustc", "--print", "target-libdir", "--target", target]
        libraries = subprocess.run(command, capture_output=True, text=True).stdout.strip()
        if not os.path.isdir(libraries):
            return f"{program} has no target {target} installed"
    return None


def run(part: Part) -> None:
    """Run the blocks of a part in the current directory; raises what the first failing one does."""
    sys.path[0] = ""  # as for a script here
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main  # cloudpickle takes what is defined here along by value, as it does for a script
    for block in part.blocks:
        if block.not_run is not None:
            continue
        if block.file is not None:
            Path(block.file).parent.mkdir(parents=True, exist_ok=True)
            Path(block.file).write_text(block.body)
        elif block.language == "python":
            # With so many lines before it, tracebacks name lines of the page.
            exec(compile("\n" * (block.line - 1) + block.body, ROOT / block.page, "exec"), main.__dict__)
        elif block.language == "console":
            _run_console(block)
        elif block.language.split(" ")[0] not in NO_CODE:
            raise AssertionError(f"{block}: nothing says what to do with a block of {block.language or 'no language'}")


def _run_console(block: Block) -> None:
    for command in re.split(r"^\$ ", block.body, flags=re.M)[1:]:
        command = command.replace("\\\n", "")
        line, _, expected = command.partition("\n")
        done = subprocess.run(
            ["bash", "-c", line], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert done.returncode == 0, f"{block}: {line!r} exited with code {done.returncode}:\n{done.stdout}"
        if expected.strip():
            pattern = re.escape(expected.strip()).replace(re.escape("..."), ".*")
            assert re.fullmatch(pattern, done.stdout.strip(), re.S), (
                f"{block}: {line!r} printed\n{done.stdout}\nand not\n{expected}"
            )


if __name__ == "__main__":
    page, title = sys.argv[1:]
    (chosen,) = (part for part in parts(page, (ROOT / page).read_text()) if part.title == title)
    run(chosen)
