"""The functions of a component as a pool calls them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .. import wire
from ..checks import shown
from ..errors import UnknownExport
from ..supervisor.jobs.call import Callee, Job
from . import wit
from .program import ComponentProgram
from .scalars import ScalarCodec
from .wrapper import Entry, entry_of, is_scalar

if TYPE_CHECKING:
    from ..supervisor.lane import Lane, Memory

#: Bytes of a result up to which it is unpacked where the answer is heard, which every worker waits for.
SMALL = 4096


class ComponentCallee(Callee):
    """An exported function of a component."""

    def __init__(self, index: int, function: wit.Function, packing: Any) -> None:
        super().__init__(index, packing)
        self.function = function
        self._sized = is_scalar(function)

    def frame(self, kind: int, slots: bytes, context: bytes, flags: int = 0) -> bytes:
        if self._sized:
            return super().frame(kind, slots, context, flags)
        if context:
            flags |= wire.HAS_CONTEXT
        return wire.JOB.pack(len(context) + len(slots), self.index, kind, flags) + context + slots

    def job(self, frame: bytes, limit: float | None = None) -> Job:
        return ComponentCall(self.name, frame, self.unpack, limit)


class ComponentCall(Job):
    """A submitted call of a component's function.

    What it returns may be large and of many objects, so only small results are unpacked by who hears the answers.  An
    error that the function has returned ends the job as an exception.
    """

    def answered(self, lane: Lane, memory: Memory, status: int, payload: bytes) -> Sequence[Job]:
        if status != wire.OK:
            self.report(status, payload)
        elif len(payload) <= SMALL:
            self._load(payload)
        else:
            self.post(lambda: self._load(payload))
        return ()

    def _load(self, payload: bytes) -> None:
        try:
            result = self.read(payload)
        except Exception as error:
            self.fail(error)
        else:
            self.succeed(result)


class _Stub:
    formats = ("", "")
    plain: frozenset[type] = frozenset()

    def __init__(self, function):
        self.export = function.name

    def pack(self, args):
        return args[0]

    def unpack(self, data, offset=0):
        return bytes(data[offset:])


class ComponentFunctions(Mapping[str, ComponentCallee]):
    """All of a component, by name.

    Args:
        program: the component.
    """

    def __init__(self, program: ComponentProgram) -> None:
        self._functions: dict[str, ComponentCallee] = {}
        for function in program.world.exports:
            packing = ScalarCodec(function) if is_scalar(function) else _Stub(function)
            self._functions[function.name] = ComponentCallee(len(self._functions), function, packing)

    @property
    def signatures(self) -> tuple[tuple[str, Entry], ...]:
        """What a worker has to know, by index."""
        return tuple((name, entry_of(callee.function, callee.index)) for name, callee in self._functions.items())

    def find(self, name: object) -> ComponentCallee:
        """The function that a name stands for.

        Raises:
            UnknownExport: there is none, or there are several; says which are near.
            TypeError: it is no name.
        """
        if not isinstance(name, str):
            raise TypeError(f"expected the name of an export, got {shown(name)}")
        found = self._functions.get(name)
        if found is None:
            raise UnknownExport(f"the component exports no function {shown(name)}")
        return found

    def __getitem__(self, name: str) -> ComponentCallee:
        return self._functions[name]

    def __iter__(self) -> Any:
        return iter(self._functions)

    def __len__(self) -> int:
        return len(self._functions)


def component_functions(program: ComponentProgram) -> ComponentFunctions:
    """The functions of a component."""
    return ComponentFunctions(program)
