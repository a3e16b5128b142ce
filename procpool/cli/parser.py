"""How words become options: for all commands alike."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from ..printable import printable

EXIT_CODES = """\
exit codes:
  0    all is well
  1    the guest failed: it trapped, ran out of time or fuel, or took its worker down; or results cannot be written
  2    the request was wrong: an option, the module, the export, an argument or a row
  3    with --keep-going: some rows failed, and all the others are done
  130  interrupted by Ctrl-C
  run ends with the program's own exit code, or 134 if it trapped and 124 if it ran out of time.
"""

_NUMBER = r"-?(0x[0-9a-f]+|(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf|infinity|nan)"
_NEGATIVE = re.compile(rf"(?=-){_NUMBER}(:{_NUMBER}){{0,2}}", re.IGNORECASE)


class Parser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong."""

    def __init__(self, **given: Any) -> None:
        # No abbreviations: one that is clear today may have two meanings when there are more options.
        ours = {"allow_abbrev": False, "epilog": EXIT_CODES, "formatter_class": argparse.RawDescriptionHelpFormatter}
        everything: dict[str, Any] = ours | given
        super().__init__(**everything)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {printable(message)}; see {self.prog} --help\n")


def apart(words: Sequence[str]) -> list[str]:
    """The words, with a space before those that argparse would wrongly take for options.

    Those are negative numbers and ranges such as -4e5, -inf and -5:5, and all that comes behind ``--``.
    """
    end = words.index("--") if "--" in words else len(words)
    before = [f" {word}" if _NEGATIVE.fullmatch(word) else word for word in words[:end]]
    return before + [f" {word}" if word.startswith("-") else word for word in words[end + 1 :]]


def word(text: str) -> str:
    """A word as it was before :func:`apart`."""
    return text[1:] if text.startswith(" -") else text
