"""The site: ``python -m sphinx -W -n docs docs/_build``, after ``pip install '.[docs]'``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import procpool

project = "procpool"
author = copyright = "the procpool authors"
version = release = procpool.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.intersphinx", "sphinx_copybutton"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "plots"]
nitpicky = True

# -- pages -----------------------------------------------------------------------------------------------------------------
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
myst_all_links_external = False
highlight_language = "text"
copybutton_prompt_text = "$ "  # what is copied is what is typed
copybutton_only_copy_prompt_lines = True
copybutton_line_continuation_character = "\\"

# -- the reference, from docstrings ----------------------------------------------------------------------------------------
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
#: Links into the standard library are written without asking anybody: a build needs no network.
intersphinx_mapping: dict[str, Any] = {}

# -- how it looks: nothing is fetched from elsewhere -----------------------------------------------------------------------
html_theme = "furo"
pygments_dark_style = "github-dark"  # the theme's own underlines names of modules, as if they were links
html_title = "procpool"
html_static_path = ["_static"]
html_css_files = ["procpool.css"]
html_theme_options = {"navigation_with_keys": True}
html_copy_source = False
html_show_sphinx = False

#: Where public names live, to where they are documented: annotations and docstrings use the former.
_PUBLIC = {
    f"{value.__module__}.{value.__qualname__}": f"procpool.{name}"
    for name, value in ((name, getattr(procpool, name)) for name in procpool.__all__)
    if hasattr(value, "__qualname__")
}
#: Names of annotations that stand for what the text says: the standard library's, and aliases and parts of our own.
nitpick_ignore_regex = [(r"py:.*", r"(?!procpool\.[A-Z]).*")]


def _public_name(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """A reference to where a public name is defined leads to where it is documented."""
    target = node.get("reftarget", "")
    for inner, public in _PUBLIC.items():
        if target == inner or target.startswith(f"{inner}."):
            found = public + target[len(inner) :]
            return env.get_domain("py").resolve_xref(env, node["refdoc"], app.builder, "obj", found, node, contnode)
    return None


#: Pages that stand beside the README, where people look for them, and are pages of the site too.
_FROM_ROOT = {
    "changes": "CHANGELOG.md",
    "contributing": "CONTRIBUTING.md",
    "security": "SECURITY.md",
    "examples": "examples/README.md",
}


def _from_root(app: Any, docname: str, source: list[str]) -> None:
    """Such a page's text, with the links that it has here."""
    if docname in _FROM_ROOT:
        path = Path(app.srcdir).parent / _FROM_ROOT[docname]
        app.env.note_dependency(str(path))
        source[0] = path.read_text().replace("](docs/", "](")
        for page, file in _FROM_ROOT.items():
            source[0] = source[0].replace(f"]({file})", f"]({page}.md)")
        if docname == "examples":  # they can be had from the site
            source[0] = re.sub(r"\]\((\w+\.py)\)", r"](../examples/\1)", source[0])


def _sentences_of_raises(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """What a Raises section says in sentences, not by an exception's name, goes behind it."""
    if "Raises:" not in lines:
        return
    start = end = lines.index("Raises:") + 1
    while end < len(lines) and (not lines[end] or lines[end].startswith(" ")):
        end += 1
    entries = re.split(r"^(?=    \S)", "\n".join(lines[start:end]), flags=re.M)[1:]
    named = [entry for entry in entries if re.match(r"    [\w.]+(, [\w.]+)*:\s", entry)]
    said = [" ".join(entry.split()) for entry in entries if entry not in named]
    kept = "".join(f"{entry.rstrip()}\n" for entry in named).splitlines()
    lines[start - 1 : end] = [*(["Raises:", *kept, ""] if named else []), *(f"{sentence}\n" for sentence in said), ""]
    lines[:] = "\n".join(lines).splitlines()


#: Classes that users make themselves; of the others, they need not know how.
_CONSTRUCTED = {
    "ProcessWasmPool",
    "ClusterWasmPool",
    "BytesFunction",
    "Convention",
    "WasiConfig",
    "FuncType",
    "GlobalType",
    "MemoryType",
    "TableType",
}


#: A ParamSpec as its own repr writes it, which Sphinx cannot parse.
_PARAMETERS = re.compile(r"(?:~typing\.)?~([A-Z])\b")


def _signature(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    if what in ("class", "exception") and name.rpartition(".")[2] not in _CONSTRUCTED:
        return None, None
    if signature:
        signature = _PARAMETERS.sub(r"\1", signature)
    return signature, returns


#: Stands for a colon in the comment of an attribute while napoleon, who takes what is before it for a type, looks.
_COLON = "\ue000"


def _hide_colons(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    if what == "attribute":
        lines[:] = [line.replace(":", _COLON) for line in lines]
    elif what == "property" and lines:  # behind the first, there are sections
        lines[0] = lines[0].replace(":", _COLON)


def _show_colons(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = [line.replace(_COLON, ":") for line in lines]


def setup(app: Any) -> None:
    app.connect("missing-reference", _public_name)
    app.connect("source-read", _from_root)
    app.connect("autodoc-process-docstring", _sentences_of_raises, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", _hide_colons, priority=401)
    app.connect("autodoc-process-docstring", _show_colons, priority=600)
    app.connect("autodoc-process-signature", _signature)
