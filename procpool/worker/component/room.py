"""What a thread of a worker needs to run a component."""

from __future__ import annotations

from wasmtime.component import Component

from ...component.program import ComponentProgram
from ..equipment import Equipment, Surroundings
from .access import ComponentAccess
from .command import ComponentCommand
from .holder import ComponentHolder
from .instance import ComponentInstance
from .instantiator import ComponentInstantiator


def prepare(program: ComponentProgram) -> None:
    """Import what a component's instances need, and not all do."""
    if program.imports:
        from . import hosting  # noqa: F401


def of_component(component: Component, around: Surroundings) -> Equipment:
    """What serves one instance of a component."""
    settings, streams, wasi = around.settings, around.streams, around.environment.wasi
    program = settings.program
    assert isinstance(program, ComponentProgram)
    instantiator = ComponentInstantiator(
        around.engine, component, program, settings.limits, around.environment, around.running
    )
    instances = ComponentHolder(instantiator, settings, around.arena, streams)
    surface = instantiator.surface = ComponentInstance(instances, program)
    commands = ComponentCommand(instantiator, around.payloads, streams, settings.exports)
    return Equipment(instances, surface, commands, ComponentAccess(instances, streams), wasi is not None)
