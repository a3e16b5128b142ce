"""The functions of a component as a pool calls them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import WeakKeyDictionary, ref

from .. import wire
from ..errors import BadArguments, LeaseEnded, PoolClosed, WorkerCrashed
from ..supervisor.jobs.call import ANY_SIZE, Callee, Job
from . import wit
from .codec import WrapHandle
from .entry import Entry
from .names import Functions
from .packing import Packing, resources_in
from .program import ComponentProgram
from .values import Resource
from .wrapper import drop_of, entry_of

if TYPE_CHECKING:
    from ..supervisor.lane import Lane, Memory
    from ..supervisor.lease import Lease

#: Bytes of a result up to which it is unpacked where the answer is heard, which every worker waits for.
SMALL = 4096


class ComponentCallee(Callee):
    """An exported function of a component."""

    def __init__(self, index: int, function: wit.Function, wrap: WrapHandle = Resource) -> None:
        packing = Packing(function, wrap)
        super().__init__(index, packing)
        self.function = function
        self._sized = bool(packing.plain)
        if not self._sized:
            self.takes: Callable[[Iterable[type]], bool] = _takes_none
            self._reply_size = ANY_SIZE

    def frame(self, kind: int, slots: bytes, context: bytes, flags: int = 0) -> bytes:
        if self._sized:
            return super().frame(kind, slots, context, flags)
        if context:
            flags |= wire.HAS_CONTEXT
        return wire.JOB.pack(len(context) + len(slots), self.index, kind, flags) + context + slots

    def awaiting(self, frame: bytes, limit: float | None = None) -> Job:
        return ComponentCall(self.name, frame, self.results, limit)


class PinnedCallee(ComponentCallee):
    """A function that takes or returns handles of resources, which live in one instance: a lease alone can call it.

    Args:
        drops: resource -> the index of the function that drops a handle of it.
    """

    def __init__(self, index: int, function: wit.Function, drops: Mapping[wit.Resource, int]) -> None:
        super().__init__(index, function)
        self._drops = drops
        self._leased: WeakKeyDictionary[Lease, ComponentCallee] = WeakKeyDictionary()
        self.pack: Callable[[tuple[Any, ...]], bytes] = self._refuse

    def _refuse(self, args: tuple[Any, ...]) -> NoReturn:
        raise BadArguments(
            f"{self.name} passes a resource, which lives in one instance: call it by a lease (with pool.instance() as"
            " lease: lease.call(...)), or beside the instance, in a function given to submit"
        )

    def leased(self, lease: Lease) -> ComponentCallee:
        found = self._leased.get(lease)
        if found is None:
            owner = ref(lease)

            def drop(resource: wit.Resource, handle: int) -> None:
                held = owner()
                if held is not None:
                    with contextlib.suppress(LeaseEnded, WorkerCrashed, PoolClosed):  # then it is gone already
                        held._call(DropCallee(self._drops[resource], resource), (handle,))

            def wrap(handle: int, resource: wit.Resource) -> Resource:
                return Resource(handle, resource, owner(), partial(drop, resource))

            found = self._leased[lease] = ComponentCallee(self.index, self.function, wrap)
            found.pack = partial(_pack_own, found.pack, owner)
        return found


def _pack_own(pack: Callable[[tuple[Any, ...]], bytes], owner: ref[Lease], args: tuple[Any, ...]) -> bytes:
    """The arguments, if their resources are of that lease: handles are numbers, and another's may exist here too."""
    for each in resources_in(args):
        if each.owner is not owner():
            raise BadArguments(f"this {each.resource.label} lives in the instance of another lease, or of none any more")
    return pack(args)


class DropCallee(Callee):
    """The function that drops a handle of a resource."""

    def __init__(self, index: int, resource: wit.Resource) -> None:
        super().__init__(index, Packing(wit.Function(f"drop {resource.label}", (("handle", wit.Primitive("u32")),), None)))


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


def _takes_none(types: Iterable[type]) -> bool:
    return False


class ComponentFunctions:
    """The functions of a component.

    Args:
        program: the component.
    """

    def __init__(self, program: ComponentProgram) -> None:
        functions = program.world.exports
        self._names = Functions(functions)
        self._resources = wit.resources(functions)
        drops = {each: index for index, each in enumerate(self._resources, len(functions))}
        #: by their full names
        self.by_name: dict[str, ComponentCallee] = {}
        for index, each in enumerate(functions):
            pinned = wit.resources([each])
            self.by_name[each.name] = PinnedCallee(index, each, drops) if pinned else ComponentCallee(index, each)

    @property
    def signatures(self) -> tuple[tuple[str, Entry], ...]:
        """What a worker has to know, by index."""
        called = tuple((name, entry_of(each.function, each.index)) for name, each in self.by_name.items())
        return called + tuple((f"drop {each.label}", drop_of(index)) for index, each in enumerate(self._resources))

    def find(self, name: object) -> ComponentCallee:
        """The function that a name stands for, be it the shortest.

        Raises:
            UnknownExport: there is none, or there are several; says which are near.
            TypeError: it is no name.
        """
        return self.by_name[self._names.find(name).name]
