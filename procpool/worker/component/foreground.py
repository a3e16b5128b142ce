"""A command that is a component, for the process that runs it in the foreground."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import wasmtime
from wasmtime.component import Component

from ... import wire
from ...component.imports import resolve
from ...component.program import ComponentProgram
from ...component.wasi import RUN
from ...component.wrapper import entry_of
from ...errors import UnknownExport
from ...imports import OnMissing
from ...wasi import Spec
from ..traffic import Running
from .command import run_command
from .instantiator import ComponentInstantiator


def command_of(
    engine: wasmtime.Engine,
    component: Component,
    program: ComponentProgram,
    limits: wire.GuestLimits,
    wasi: Spec,
    on_missing: OnMissing,
) -> tuple[ComponentInstantiator, Callable[[wasmtime.WasiConfig], int]]:
    """What makes its instance, and what runs it: what it sees -> its exit code.

    Raises:
        UnknownExport: it is no command.
        MissingImport, BadImport: it wants something that nobody gives.
    """
    world = program.world
    number = next((at for at, each in enumerate(world.exports) if RUN.fullmatch(each.name)), None)
    if number is None:
        raise UnknownExport("the component is no command: it exports no wasi:cli/run; is it a library, to be called?")
    environment = wire.Environment(resolve(program, {}, True, on_missing), wasi=wasi)
    made = ComponentInstantiator(engine, component, program, limits, environment, Running(engine))
    return made, partial(run_command, made, entry_of(world.exports[number], number))
