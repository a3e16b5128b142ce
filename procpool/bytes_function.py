"""Exports that take and return bytes or text, called as if WebAssembly had such values.

How bytes get in and out is the module's :class:`Convention`; which it is, its exports tell.  Where the convention leaves
open how an export returns bytes, ``returns`` says:

* ``returns=n``, a number: the export's last parameter is the address of an output buffer of n bytes.
* ``"packed"``: the export returns one i64, the address in its upper and the length in its lower 32 bits.
* ``"pair"``: the export returns two i32s, address and length (a multi-value result).
* ``"pointer"``: the export's first parameter is the address of a block, where it stores address and length (what C, and
  Rust on wasm32, make of a struct result).
* ``"string"``: the export returns the address of text that ends with a NUL, and keeps it.
* ``None``: as the convention has it, if ``result`` says that bytes or text come back.  Otherwise what the export returns is
  returned as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from .binary import FuncType, MemoryType
from .checks import is_int, shown
from .conventions import Convention, ConventionName, check_align
from .crossing import run
from .errors import UnknownExport

#: How an export returns bytes; see the module's documentation.
Returns = int | Literal["packed", "pair", "pointer", "string"] | None
#: What an export returns.
Result = type[bytes] | type[str] | type[int] | None

#: Different ones that are known at once; programs have a handful.
_MOST_CALLS = 256
_SHAPES = ("packed", "pair", "pointer", "string")
#: What the type of an export has where it returns bytes, by how.
_TAKES = {
    "packed": "one i64",
    "pair": "two i32",
    "pointer": "an i32 as the first parameter",
    "string": "one i32",
    "object": "one i32",
}
#: Stands for what the convention has.
_ITS_OWN = ""


@dataclass(frozen=True)
class BytesFunction:
    """A callable for ``pool.submit`` and ``pool.map``: bytes-like and ``str`` arguments go into the guest's memory.

    They may stand anywhere among numbers.  Each becomes what the convention makes of it, mostly address and length.  None
    is the convention's null.

    Args:
        export: the export to call.
        returns: how it returns bytes, see the module's documentation.
        alloc: the export that allocates: takes a size, or a size and an alignment, and returns an address.  By default the
            convention's own, as are the next ones.
        free: the export that frees: takes an address, or an address and a size, or both and an alignment; None to free
            nothing.  What is freed is what the convention says that the caller owns.
        memory: the exported memory.
        align: the alignment to ask for, in bytes, where ``alloc`` takes one; a power of two.  By default the convention's.
        convention: its name, or a :class:`Convention`; None to recognise it by the module's exports.
        result: ``bytes``, ``str``, or ``int`` for a number that a wasm-bindgen function returns in a ``Result``.  By
            default bytes if ``returns`` is given, and otherwise what the export returns as it is.

    Raises:
        ValueError: an option is none of these.
    """

    export: str
    returns: Returns = None
    alloc: str = _ITS_OWN
    free: str | None = _ITS_OWN
    memory: str = _ITS_OWN
    align: int | None = None
    convention: ConventionName | Convention | None = None
    result: Result = None

    def __post_init__(self) -> None:
        known = isinstance(self.returns, str) and self.returns in _SHAPES
        if self.returns is not None and not known and not is_int(self.returns, 0):
            choice = ", ".join(map(repr, _SHAPES))
            raise ValueError(f"returns must be {choice}, a number of bytes, or None; got {shown(self.returns)}")
        if self.result not in (None, bytes, str, int):
            raise ValueError(f"result must be bytes, str, int or None; got {shown(self.result)}")
        for name in ("alloc", "free", "memory"):
            value = getattr(self, name)
            if not isinstance(value, str) and (name != "free" or value is not None):
                raise ValueError(f"{name} must be the name of an export, got {shown(value)}")
        if self.align is not None:
            check_align(self.align)
        if self.convention is not None and not isinstance(self.convention, Convention):
            Convention.named(self.convention)

    def __str__(self) -> str:
        return self.export

    def following(self, exports: Mapping[str, Any]) -> BytesCall:
        """What is to be done in a module with these exports.

        Raises:
            UnknownExport: the module has no such export, or does not export what the convention needs.
            ValueError: the convention leaves open how bytes are returned, or does not let one choose; or the export's type
                is none that returns them so.
        """
        signature = exports.get(self.export)
        if not isinstance(signature, FuncType):
            raise UnknownExport(f"the module exports no function {self.export!r}")
        convention = self._named(exports)
        returns: Any = self.returns
        if convention.text == "object" and returns is not None:
            raise ValueError(f"by the convention {convention.name!r}, {self.export} returns an object; leave out returns=")
        if returns is None and (self.result in (bytes, str) or (self.result is int and convention.fallible)):
            returns = convention.returns
            if returns is None:
                raise ValueError(
                    f"the convention {convention.name!r} leaves open how {self.export}{signature} returns"
                    f" {self.result.__name__}; say returns=..."
                )
            if returns == "pointer" and signature.results:  # what does not fit into one value comes as several
                returns = None if self.result is int and len(signature.results) == 1 else "pair"
        if isinstance(returns, str) and not _fits(signature, returns, self.result):
            wide = any(isinstance(type_, MemoryType) and type_.is_64 for type_ in exports.values())
            raise ValueError(self._unfit(signature, convention, returns, wide))
        return BytesCall(self.export, signature, convention, returns, self.result)

    def _unfit(self, signature: FuncType, convention: Convention, returns: str, wide: bool) -> str:
        said = f"returns={returns!r} takes" if self.returns else f"the convention {convention.name!r} has a result in"
        fitting = [repr(shape) for shape in _SHAPES if shape != returns and _fits(signature, shape, self.result)]
        if signature.params[-1:] == ("i32",):
            fitting.append("a number of bytes")
        if wide:  # an i64 that would fit may well be an address there
            hint = "of a module with a 64-bit memory, call_bytes takes arguments, and returns=<number of bytes>"
        elif fitting:
            hint = f"returns={' or '.join(fitting)} would fit"
        else:
            hint = "without returns= and result=, it can be called"
        return f"{self.export}{signature} does not return bytes or text that way: {said} {_TAKES[returns]}; {hint}"

    def _named(self, exports: Mapping[str, Any]) -> Convention:
        """The convention, with the names of the module that has the export."""
        scope = _scope(self.export, exports)
        own = {name.removeprefix(scope): type_ for name, type_ in exports.items() if name.startswith(scope)}
        given = self.convention
        if given is None:
            given = Convention.recognised(own)
        elif not isinstance(given, Convention):
            given = Convention.named(given)
        alloc, memory = self.alloc.removeprefix(scope), self.memory.removeprefix(scope)
        free = None if self.free is None else self.free.removeprefix(scope)
        for keyword, name in (("alloc", alloc), ("free", free)):
            if name and name not in own:
                raise given.lacking(keyword, name, own)
        named = replace(
            given,
            alloc=alloc or given.alloc,
            free=given.free if free == _ITS_OWN else free,
            memory=memory or given.memory,
            align=given.align if self.align is None else self.align,
        ).found(own)
        return named.within(scope) if scope else named

    def __call__(self, instance: Any, *args: Any) -> Any:
        """Run in a worker, beside an instance.

        Raises:
            MemoryError: the guest's allocator returned 0.
            GuestError: the export returned an error.
            Whatever calling the export raises.
        """
        return instance.bytes_calls.of(self)(instance, *args)


def bytes_function(export: str, convention: Mapping[str, Any]) -> BytesFunction:
    """What `call_bytes` and its like are to call, by their keywords.

    Raises:
        TypeError: a keyword is none of theirs.
        ValueError: as `BytesFunction`.
    """
    keywords = [field.name for field in fields(BytesFunction)[1:]]
    for name in convention:
        if name not in keywords:
            raise TypeError(f"a call with bytes has no keyword {name!r}; it has {', '.join(keywords)}, and timeout")
    return BytesFunction(export, **convention)


def _scope(export: str, exports: Mapping[str, Any]) -> str:
    """What the exports begin with that are of the linked module with that export; empty if it has no memory of its own.

    What has none works in the main module's, and so with what that allocates.
    """
    dots = [at + 1 for at, letter in enumerate(export) if letter == "."]
    scopes = (export[:at] for at in dots)
    return next((scope for scope in scopes if isinstance(exports.get(f"{scope}memory"), MemoryType)), "")


def _fits(signature: FuncType, returns: str, result: Result) -> bool:
    """Whether an export of that type can return bytes, text or a number in that way."""
    results = signature.results
    if returns == "pointer":
        return signature.params[:1] == ("i32",)
    if returns == "pair":  # behind the number, or address and length, there may be an error
        return len(results) > 1 and all(kind == "i32" for kind in results[result is int :])
    return results == (("i64",) if returns == "packed" else ("i32",))


@dataclass(frozen=True)
class BytesCall:
    """A `BytesFunction` for one module: nothing is left to be looked up in the worker."""

    export: str
    signature: FuncType
    convention: Convention  #: with the module's names
    returns: int | str | None  #: where the bytes of the result are
    result: Result

    def __str__(self) -> str:
        return self.export

    def __call__(self, instance: Any, *args: Any) -> Any:
        """Run in a worker; see `BytesFunction`."""
        return run(instance, self, args)


class CallTable:
    """The calls of one module: each is looked up once, for that takes longer than most calls.

    Any number of threads may use one.
    """

    def __init__(self, exports: Mapping[str, Any]) -> None:
        self._exports = exports
        self._known: dict[BytesFunction, BytesCall] = {}

    def of(self, function: BytesFunction) -> BytesCall:
        """The call that a function is here.

        Raises:
            As `BytesFunction.following`.
        """
        try:
            call = self._known.get(function)
        except TypeError:  # an option that cannot be hashed, and is of no use either
            return function.following(self._exports)
        if call is None:
            call = function.following(self._exports)
            if len(self._known) >= _MOST_CALLS:
                self._known.clear()
            self._known[function] = call
        return call
