"""A component's functions for Python code beside its instance: imported when such code first calls one."""

from __future__ import annotations

from functools import partial

from ...component import wit
from ...component.names import Functions
from ...component.packing import Packing
from ...component.values import Resource
from .holder import ComponentHolder


class BesideFunctions:
    """How each is called.

    Args:
        instances: whose functions.
        world: of the component.
        owner: what resources belong to.
    """

    def __init__(self, instances: ComponentHolder, world: wit.World, owner: object) -> None:
        self._instances = instances
        self._names = Functions(world.exports)
        self._owner = owner
        self._indexes = {each.name: index for index, each in enumerate(world.exports)}
        self._drops = {each: index for index, each in enumerate(wit.resources(world.exports), len(world.exports))}
        self._packings: dict[str, Packing] = {}

    def find(self, name: str) -> tuple[int, Packing]:
        """The index of a function, and how its values are packed.

        Raises:
            UnknownExport: there is none of that name.
        """
        function = self._names.find(name)
        packing = self._packings.get(function.name)
        if packing is None:
            packing = self._packings[function.name] = Packing(function, self._resource)
        return self._indexes[function.name], packing

    def _resource(self, handle: int, resource: wit.Resource) -> Resource:
        return Resource(handle, resource, self._owner, partial(self._drop, resource))

    def _drop(self, resource: wit.Resource, handle: int) -> None:
        function = self._instances.function(self._drops[resource])
        function.params[:] = handle.to_bytes(8, "little")
        function.run()
