"""What a thread of a worker needs to run the guest: it differs between core modules and components."""

from __future__ import annotations

from typing import Any, NamedTuple

import wasmtime

from .. import wire
from .access import Access
from .arena import Arena
from .holder import InstanceHolder
from .instance import Instance
from .instantiator import Instantiator
from .payloads import Payloads
from .snapshot import Snapshot
from .streams import Streams
from .traffic import Replies, Running
from .wasi_run import CommandRunner


class Surroundings(NamedTuple):
    """What is there before."""

    engine: wasmtime.Engine
    settings: wire.Settings
    environment: wire.Environment
    running: Running
    streams: Streams
    arena: Arena
    payloads: Payloads
    replies: Replies


class Equipment(NamedTuple):
    """As the job loop wants it."""

    instances: Any
    surface: Any
    commands: Any
    access: Any
    prints: bool  #: whether the guest can
    deterministic: bool = False  #: its clock and random numbers are made by Python code


def of_modules(modules: list[wasmtime.Module], snapshot: Snapshot | None, around: Surroundings) -> Equipment:
    """What serves one instance of core modules that are linked."""
    settings, streams, arena, payloads = around.settings, around.streams, around.arena, around.payloads
    program = settings.program
    instantiator = Instantiator(around.engine, modules, program, settings.limits, around.environment, around.running)
    instantiator.snapshot = snapshot
    instances = InstanceHolder(instantiator, settings, arena, streams)
    surface = instantiator.surface = Instance(instances, settings.exports, {**program.storage, **program.exports})
    alone, pickles = settings.instances == 1, settings.guest.pickles
    commands = CommandRunner(instantiator, instances, payloads, around.replies, streams, alone, pickles)
    access = Access(instances, surface, arena, payloads, streams)
    return Equipment(instances, surface, commands, access, instantiator.prints, instantiator.deterministic is not None)
