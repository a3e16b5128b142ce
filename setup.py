"""The one thing that pyproject.toml cannot say: the README as a package index shows it.

In the repository and in the source distribution, its links lead to files beside it.  A package index has only the text.  So
there, links and pictures lead to the address named "Source" in [project.urls], if there is one, and links are plain words
with the file's name if there is none: no address is made up.
"""

import re
import sys
from pathlib import Path

from setuptools import setup

if sys.version_info >= (3, 11):
    import tomllib
else:
    from setuptools.compat.py310 import tomllib

ROOT = Path(__file__).parent
_PICTURE = re.compile(r"<picture>.*?</picture>\n?|!\[[^\]]*\]\((?!https?:)[^)]*\)\n?|<img [^>]*>\n?", re.S)
_LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|#)([^)]*)\)")


def readme(text: str, source: str | None) -> str:
    """The README for readers who have no files beside it."""
    if source is not None:
        text = re.sub(r'((?:src|srcset)=")(?!https?:)', rf"\1{source}/", text)
        return re.sub(r"(\]\()(?!https?:|#)", rf"\1{source}/", text)
    text = _LINK.sub(r"\1 (`\2`)", _PICTURE.sub("", text))
    return f"{text}\nThe files that are named here are in the source distribution.\n"


if __name__ == "__main__":
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"].get("urls", {})
    setup(
        long_description=readme((ROOT / "README.md").read_text(), urls.get("Source")),
        long_description_content_type="text/markdown",
    )
