"""What a thread of a worker needs to run a component."""

from __future__ import annotations

from typing import NamedTuple

import wasmtime
from wasmtime.component import Component

from ... import wire
from ...component.program import ComponentProgram
from ..arena import Arena
from ..payloads import Payloads
from ..streams import Streams
from ..traffic import Replies, Running
from .access import ComponentAccess
from .command import ComponentCommand
from .holder import ComponentHolder
from .instance import ComponentInstance
from .instantiator import ComponentInstantiator


class Equipment(NamedTuple):
    """As the job loop wants it."""

    instances: ComponentHolder
    surface: ComponentInstance
    commands: ComponentCommand
    access: ComponentAccess
    prints: bool  #: whether the guest can


def prepare(program: ComponentProgram) -> None:
    """Import what a component's instances need, and not all do."""
    if program.imports:
        from . import hosting  # noqa: F401


def equipment(
    engine: wasmtime.Engine,
    component: Component,
    settings: wire.Settings,
    environment: wire.Environment,
    running: Running,
    streams: Streams,
    arena: Arena,
    payloads: Payloads,
    replies: Replies,
) -> Equipment:
    """What serves one instance of a component."""
    program = settings.program
    assert isinstance(program, ComponentProgram)
    instantiator = ComponentInstantiator(engine, component, program, settings.limits, environment, running)
    instances = ComponentHolder(instantiator, settings, arena, streams)
    surface = instantiator.surface = ComponentInstance(instances, program)
    commands = ComponentCommand(instantiator, payloads, streams, settings.exports)
    return Equipment(instances, surface, commands, ComponentAccess(instances, streams), environment.wasi is not None)
