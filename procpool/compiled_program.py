"""A module, and those that are linked to it, compiled for the workers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .artifact import CompiledModule
from .compilation import Announce, compile_module, unheard
from .engine import EngineSettings
from .errors import BadImport
from .imports import Renames
from .linking import link
from .module import ModuleSource, by_name, naming
from .program import Program

if TYPE_CHECKING:
    from .component.program import CompiledComponent


@dataclass(frozen=True)
class CompiledProgram:
    """Modules that are linked together, each compiled."""

    program: Program
    artifacts: tuple[int, ...]  #: file descriptors, one for each part of the program; the owner closes them
    sources: dict[str | None, bytes]  #: SHA-256 of what each module was compiled from; the main one's under None

    def close(self) -> None:
        """Close the descriptors."""
        for fd in self.artifacts:
            os.close(fd)


def compile_program(
    source: ModuleSource,
    modules: Mapping[str, ModuleSource] | None,
    renames: Renames,
    cache: bool,
    settings: EngineSettings,
    announce: Announce = unheard,
    patience: float = 60.0,
    inner: bool = False,
) -> CompiledProgram | CompiledComponent:
    """Compile a module, and those that are linked to it.  The arguments are those of `compile_module`.

    Raises:
        InvalidModule, OSError, TypeError: as `compile_module`; of a linked module, the message says which.
        BadImport: they cannot be linked.
    """
    compiled: dict[str | None, CompiledModule] = {}
    with contextlib.ExitStack() as on_failure:
        for name, each in by_name(source, modules).items():
            compiled[name] = naming(name, lambda one: compile_module(one, cache, settings, announce, patience, inner), each)
            on_failure.callback(os.close, compiled[name].artifact)
        if compiled[None].is_component:
            from .component.program import CompiledComponent, component_program

            one = compiled[None]
            if len(compiled) > 1:
                raise BadImport("modules= links core modules, and this is a component: compose components beforehand")
            found = CompiledComponent(component_program(one.outline), (one.artifact,), {None: one.source})
            on_failure.pop_all()
            return found
        for name, linked in compiled.items():
            if linked.is_component:
                raise BadImport(f"modules[{name!r}] is a component; a core module can be linked with core modules alone")
        interfaces = {name: each.interface for name, each in compiled.items() if name is not None}
        program = link(compiled[None].interface, interfaces, renames)
        on_failure.pop_all()
    artifacts = tuple(compiled[part.name].artifact for part in program.parts)
    return CompiledProgram(program, artifacts, {name: each.source for name, each in compiled.items()})
