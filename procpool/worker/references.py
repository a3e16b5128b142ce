"""References in host functions.

Host functions run in the worker, beside the instance, so references need not travel.  An ``externref`` is a Python object:
a host function makes one by returning it, and gets the same object back from the guest.  Any other reference is the
guest's own; Python gets it as an opaque `Reference`.
"""

from __future__ import annotations

from typing import Any

EXTERN, FUNCTION, COLLECTED = "extern", "function", "collected"

_HEAPS = {
    **dict.fromkeys(("extern", "noextern"), EXTERN),
    **dict.fromkeys(("func", "nofunc"), FUNCTION),
    **dict.fromkeys(("any", "eq", "i31", "struct", "array", "none"), COLLECTED),
}


def heap_of(type_: str) -> str | None:
    """Which of the three kinds of references a type is; None for one that Python cannot hold (``exnref``, ``(ref 7)``)."""
    return _HEAPS.get(type_.removeprefix("(ref ").removeprefix("null ").removesuffix(")").removesuffix("ref"))


class Reference:
    """A reference of the guest's, as a host function gets it.

    It can be kept, and returned by a host function to the instance it came from, for as long as that lives.
    """

    __slots__ = ("raw", "store", "type")

    def __init__(self, type_: str, store: int, raw: Any) -> None:
        self.type = type_  #: in the words of the text format
        self.store = store  #: the mark of the store it belongs to
        self.raw = raw

    def __repr__(self) -> str:
        return f"<Reference {self.type}>"

    def __reduce__(self) -> Any:
        raise TypeError(f"a reference of the type {self.type} belongs to one instance and cannot leave its worker")
