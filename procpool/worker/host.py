"""Host functions: Python that the guest calls."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from ..binary import SCALARS, FuncType, Import
from ..checks import shown
from ..codec import Codec
from ..errors import BadArguments, add_note

#: The Python type that a result usually has, and how it lies in its slot.
QUICK: dict[str, tuple[type, str]] = {"i32": (int, "<i"), "i64": (int, "<q"), "f32": (float, "<f"), "f64": (float, "<d")}


class HostCalls:
    """What happens in the host functions of one instance at a time.

    An exception cannot pass through wasm: the trampoline keeps it here, has the guest trap, and whoever called the guest
    raises it.  Each worker has its own, and keeps them by thread, for the threads of a group share it: one that is being
    stopped must not take what another raised.
    """

    def __init__(self) -> None:
        self._raised: dict[int, BaseException] = {}  # by the identifier of the thread that called the guest
        self.ended: BaseException | None = None  #: what ended the group of threads: all of them trap, and this is why
        self.making = False  #: an instance is being made: it has no exports yet
        self.caller: Any = None  #: then, the caller of the host function that runs, as ffi knows it
        #: a guest call has failed since the instance was made; if somebody caught that, it is dirty
        self.failed: bool = False

    def keep(self, error: BaseException, name: str) -> None:
        """A host function has raised; the guest traps for it.  The exception says from now on which import it was for."""
        add_note(error, f"raised by the host function for {name}")
        self._raised[threading.get_ident()] = error

    def take(self) -> BaseException | None:
        """The exception that made the guest trap, if one did."""
        self.failed = True
        return self._raised.pop(threading.get_ident(), self.ended)


class HostFunction:
    """A function that the user gave for an import, with how to read its arguments and write its result."""

    def __init__(self, needed: Import, function: Callable[..., Any]) -> None:
        assert isinstance(needed.type, FuncType)
        self.names: tuple[str, str] = needed.names  #: of the import, for the linker
        self.name: str = f"{needed.module}.{needed.name}"  #: likewise, for people
        self.signature: FuncType = needed.type
        self._function = function
        #: it takes or returns some
        self.references: bool = not SCALARS.issuperset(self.signature.params + self.signature.results)

    @cached_property
    def taken(self) -> Codec:
        """Reads its arguments, if it takes no references."""
        return Codec(self.name, FuncType(results=self.signature.params))

    @cached_property
    def _returned(self) -> Codec:
        """A codec whose parameters are the function's results: it checks and packs what the function returned."""
        return Codec(self.name, FuncType(params=self.signature.results))

    def bound(self, instance: Any) -> Callable[..., Any]:
        """What to call with the arguments: with ``wants_instance``, the instance goes first."""
        if not getattr(self._function, "_procpool_wants_instance", False):
            return self._function
        function = self._function

        def with_instance(*args: Any) -> Any:
            return function(instance, *args)

        return with_instance

    def quick_result(self) -> tuple[type, Callable[[Any, Any], bool]] | None:
        """A type and a writer for results of just that type, the ordinary ones; the writer says whether one fitted."""
        if len(self.signature.results) != 1 or self.signature.results[0] not in QUICK:
            return None
        kind, format = QUICK[self.signature.results[0]]
        write = struct.Struct(format).pack_into

        def try_write(values: Any, result: Any) -> bool:
            try:
                write(values, 0, result)
            except (struct.error, OverflowError):  # an unsigned number, or one to complain about
                return False
            return True

        return kind, try_write

    def packed(self, result: Any) -> bytes:
        """A returned value as slots.

        Raises:
            TypeError, OverflowError: it does not fit; names the function, what it returned, and the type expected.
        """
        values = self.values(result)
        try:
            return self._returned.pack(tuple(values))
        except BadArguments as error:
            raise self.misfit(result, ", ".join(self.signature.results), error) from None

    def values(self, result: Any) -> Sequence[Any]:
        """A returned value as one for each result.

        Raises:
            TypeError: there are more or fewer.
        """
        results = self.signature.results
        if not results:
            if result is None:
                return ()
            raise self.misfit(result, "nothing, so it must return None")
        values = (result,) if len(results) == 1 else result
        if not isinstance(values, (tuple, list)) or len(values) != len(results):
            raise self.misfit(result, f"a tuple of {len(results)} ({', '.join(results)})")
        return values

    def misfit(self, result: Any, expected: str, cause: BaseException | None = None) -> Exception:
        """What to raise for a result that does not fit: an OverflowError if that is why, else a TypeError."""
        kind = OverflowError if isinstance(cause, OverflowError) else TypeError
        return kind(
            f"the host function {self.name} returned {shown(result)}; its import {self.signature} expects {expected}"
        )
