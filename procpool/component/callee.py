"""The functions of a component as a pool calls them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import wire
from ..supervisor.jobs.call import Callee, Job
from . import wit
from .names import Functions
from .packing import Packing
from .program import ComponentProgram
from .wrapper import Entry, entry_of

if TYPE_CHECKING:
    from ..supervisor.lane import Lane, Memory

#: Bytes of a result up to which it is unpacked where the answer is heard, which every worker waits for.
SMALL = 4096


class ComponentCallee(Callee):
    """An exported function of a component."""

    def __init__(self, index: int, function: wit.Function) -> None:
        packing = Packing(function)
        super().__init__(index, packing)
        self.function = function
        self._sized = bool(packing.plain)
        if not self._sized:
            self.takes = _takes_none

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


def _takes_none(types: object) -> bool:
    return False


class ComponentFunctions:
    """The functions of a component.

    Args:
        program: the component.
    """

    def __init__(self, program: ComponentProgram) -> None:
        functions = program.world.exports
        self._names = Functions(functions)
        #: by their full names
        self.by_name: dict[str, ComponentCallee] = {
            each.name: ComponentCallee(index, each) for index, each in enumerate(functions)
        }

    @property
    def signatures(self) -> tuple[tuple[str, Entry], ...]:
        """What a worker has to know, by index."""
        return tuple((name, entry_of(each.function, each.index)) for name, each in self.by_name.items())

    def find(self, name: object) -> ComponentCallee:
        """The function that a name stands for, be it the shortest.

        Raises:
            UnknownExport: there is none, or there are several; says which are near.
            TypeError: it is no name.
        """
        return self.by_name[self._names.find(name).name]
