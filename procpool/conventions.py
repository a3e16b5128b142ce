"""How modules pass bytes and text: what each compiler's glue agrees on, as data.

WebAssembly passes numbers.  Bytes go into the guest's memory, and their address is passed.  Who allocates, who frees, how
long the bytes are and how text is encoded is an agreement between a module and its caller, and there are five in use:

* ``"wasm-bindgen"`` (Rust): the callee owns its arguments, the caller its results.  A result comes in a return block of
  16 bytes on the module's own stack, or as several values; a ``Result`` brings an error beside it.
* ``"assemblyscript"``: objects that the guest collects, text in UTF-16.
* ``"emscripten"`` (C and C++): text ends with a NUL.  The caller owns its arguments, and text that comes back is not freed.
* ``"tinygo"``: address and length packed into an i64, address first; the caller owns its arguments and results.
* ``"c"``: any pair of exports that allocate and free; the caller owns its arguments and what the export has allocated.

`crossing` does what they say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeVar, get_args

from .binary import FuncType
from .checks import is_int, shown
from .errors import UnknownExport

T = TypeVar("T", str, str | None)

#: The conventions that have a name.
ConventionName = Literal["wasm-bindgen", "assemblyscript", "emscripten", "tinygo", "c"]
#: The largest power of two that an i32 is.
_MOST_ALIGN = 1 << 30
#: Who frees a block.  ``"guest"`` is the callee, or a collector.
Owner = Literal["caller", "guest"]


def check_align(value: object) -> None:
    """ValueError if the value is no alignment."""
    if not is_int(value, 1, _MOST_ALIGN) or value & value - 1:
        raise ValueError(f"align must be a power of two up to {_MOST_ALIGN}, in bytes; got {shown(value)}")


@dataclass(frozen=True)
class Convention:
    """How a module takes and returns bytes and text.

    Names of exports may be alternatives, ``"malloc|_malloc"``, of which the first that is exported is meant.  One with a
    ``*`` stands for the only function whose name and signature fit it.

    Raises:
        ValueError: ``align`` is no power of two, or ``encoding`` none that Python knows for text.
    """

    name: str
    alloc: str  #: allocates: (size), or (size, alignment); of objects (size, class)
    free: str | None  #: frees: (address), or (address, size), or (address, size, alignment); None if nothing does
    marks: tuple[str, ...] = ()  #: exports by which the convention is known; all of them are there
    memory: str = "memory"  #: the exported memory
    align: int = 8  #: bytes; the alignment to ask for, a power of two
    arguments: Owner = "caller"  #: who frees what was allocated for arguments
    results: Owner = "caller"  #: who frees bytes and text that come back by address and length
    encoding: str = "utf-8"  #: of text
    #: bytes are address and length, and so is text; or text is an address, and ends with a NUL; or both are objects
    text: Literal["sized", "terminated", "object"] = "sized"
    #: how bytes and text come back unless the caller says; see :class:`BytesFunction`
    returns: Literal["packed", "pair", "pointer", "string", "object"] | None = None
    block: int = 8  #: bytes of the block for ``returns="pointer"``
    optional: bool = False  #: whether address 0 is no bytes at all
    fallible: bool = False  #: whether, after what is returned, an error and whether there is one may follow
    stack: str | None = None  #: moves the stack pointer by so many bytes, and returns it; holds the block
    #: what allocates on the stack where nothing else allocates: saves the stack pointer, allocates, restores it
    frame: tuple[str, str, str] | None = None
    pin: str | None = None  #: keeps an object from being collected; ``free`` ends that
    collect: str | None = None  #: collects what is not used any more
    buffers: Literal["Uint8Array", "ArrayBuffer"] = "Uint8Array"  #: of objects: what bytes become
    classes: str = "__rtti_base"  #: of objects: the global with the address of what there is to know of each class
    errors: tuple[str, str] | None = None  #: the table of error values, and what frees an entry

    def __post_init__(self) -> None:
        check_align(self.align)
        try:
            "".encode(self.encoding)
        except (LookupError, ValueError, TypeError):
            known = "one that Python knows for text, such as 'utf-8' or 'latin-1'"
            raise ValueError(f"encoding must be {known}; got {shown(self.encoding)}") from None

    def __str__(self) -> str:
        return self.name

    @classmethod
    def named(cls, name: ConventionName) -> Convention:
        """The convention of that name, to be changed by :func:`dataclasses.replace`.

        Raises:
            ValueError: there is none.
        """
        if not isinstance(name, str) or name not in _KNOWN:
            known = ", ".join(map(repr, get_args(ConventionName)))
            raise ValueError(f"convention must be {known}, a Convention, or None to look at the exports; got {shown(name)}")
        return _KNOWN[name]

    @classmethod
    def of(cls, exports: Mapping[str, Any]) -> Convention:
        """The one that a module follows, by its exports: those of a pool, or of :func:`inspect`.

        Raises:
            UnknownExport: the exports do not tell; says what was looked for, and what to name.
        """
        return cls.recognised(exports).found(exports)

    @classmethod
    def recognised(cls, exports: Mapping[str, Any]) -> Convention:
        """The one whose marks are there; ``"c"``, which has none, if there are no others."""
        functions = _functions(exports)
        return next(each for each in _KNOWN.values() if all(_matches(mark, functions) for mark in each.marks))

    def found(self, exports: Mapping[str, Any]) -> Convention:
        """The same with the names that a module has.

        Raises:
            UnknownExport: a name it needs is not exported, or several would do.
        """
        functions = _functions(exports)
        alloc, free = self._name("alloc", self.alloc, functions), self._name("free", self.free, functions)
        frame = None
        if self.frame is not None and alloc not in functions:
            save, reserve, restore = (_first(each, functions) for each in self.frame)
            if save and reserve and restore:
                alloc, free, frame = reserve, None, (save, reserve, restore)
        if not self.marks:  # nothing else says that this is the convention
            for keyword, name in (("alloc", alloc), ("free", free)):
                if name is not None and name not in functions:
                    raise self.lacking(keyword, name, functions)
        return replace(
            self,
            alloc=alloc,
            free=free,
            stack=_first(self.stack, functions),
            frame=frame,
            pin=_first(self.pin, functions),
            collect=_first(self.collect, functions),
            errors=self.errors if self.errors is not None and self.errors[0] in exports else None,
        )

    def within(self, scope: str) -> Convention:
        """The same where the exports are known with that before their names, as a linked module's are."""

        def known(name: Any) -> Any:
            if isinstance(name, tuple):
                return tuple(map(known, name))
            return None if name is None else scope + name

        names = ("alloc", "free", "memory", "stack", "frame", "pin", "collect", "classes", "errors")
        return replace(self, **{field: known(getattr(self, field)) for field in names})

    def _name(self, keyword: str, wanted: T, functions: Mapping[str, FuncType]) -> str | T:
        """The one function that is meant; the alternatives as they are if none is there, as it may never be needed."""
        if wanted is None or wanted in functions:
            return wanted
        for alternative in wanted.split("|"):
            found = _matches(alternative, functions)
            if len(found) > 1:
                raise UnknownExport(
                    f"the module follows the convention {self.name!r}, and any of {', '.join(map(repr, found))} could be"
                    f" its function to {_PURPOSE[keyword]} with; name it ({keyword}=...)"
                )
            if found:
                return found[0]
        return wanted

    def lacking(self, keyword: str, wanted: str, functions: Iterable[str]) -> UnknownExport:
        """What to raise when the function of that keyword is needed and not there."""
        looked = " or ".join(map(repr, wanted.split("|")))
        names = sorted(functions)
        more = f" and {len(names) - 12} more" if len(names) > 12 else ""
        return UnknownExport(
            f"the module exports no function {looked} to {_PURPOSE[keyword]} with, by the convention {self.name!r}; it"
            f" exports {', '.join(map(repr, names[:12]))}{more}.  Name its own ({keyword}=...{_NOT_AT_ALL[keyword]}), or"
            " another convention (convention=...)"
        )


_PURPOSE = {"alloc": "allocate", "free": "free"}
_NOT_AT_ALL = {"alloc": "", "free": "; None frees nothing"}
#: In this order they are looked for: the last has no marks.
_KNOWN: dict[str, Convention] = {
    "wasm-bindgen": Convention(
        "wasm-bindgen",
        # Newer releases number what only the glue uses, so that only the signatures tell.
        alloc="__wbindgen_malloc|__wbindgen_export*(i32, i32) -> (i32)",
        free="__wbindgen_free|__wbindgen_export*(i32, i32, i32) -> ()",
        marks=("__wbindgen_*",),
        align=1,
        arguments="guest",
        returns="pointer",
        block=16,
        optional=True,
        fallible=True,
        stack="__wbindgen_add_to_stack_pointer",
        errors=("__wbindgen_externrefs", "__externref_table_dealloc"),
    ),
    "assemblyscript": Convention(
        "assemblyscript",
        alloc="__new",
        free="__unpin",
        marks=("__new", "__pin", "__unpin"),
        results="guest",
        encoding="utf-16-le",
        text="object",
        returns="object",
        pin="__pin",
        collect="__collect",
    ),
    "emscripten": Convention(
        "emscripten",
        alloc="malloc|_malloc",
        free="free|_free",
        marks=("stackSave|stackAlloc|stackRestore|_malloc|_emscripten_stack_alloc|emscripten_stack_get_current",),
        text="terminated",
        returns="string",
        frame=(
            "stackSave|emscripten_stack_get_current",
            "stackAlloc|_emscripten_stack_alloc",
            "stackRestore|_emscripten_stack_restore",
        ),
    ),
    "tinygo": Convention(
        "tinygo",
        alloc="malloc",
        free="free",
        marks=("malloc", "free", "asyncify_start_unwind|syscall.seek|go_scheduler"),
        returns="packed",
    ),
    "c": Convention("c", alloc="alloc|malloc", free="free|dealloc"),
}


def _functions(exports: Mapping[str, Any]) -> dict[str, FuncType]:
    return {name: type_ for name, type_ in exports.items() if isinstance(type_, FuncType)}


def _matches(alternatives: str, functions: Mapping[str, FuncType]) -> list[str]:
    found: list[str] = []
    for each in alternatives.split("|"):
        if each in functions:
            found.append(each)
        elif "*" in each:
            start, told = each.partition("*")[0], "(" in each
            likely = [name for name in functions if name.startswith(start)]
            found += [name for name in likely if fnmatchcase(f"{name}{functions[name]}" if told else name, each)]
    return found


def _first(alternatives: str | None, functions: Mapping[str, FuncType]) -> str | None:
    return next(iter(_matches(alternatives or "", functions)), None)
