"""Functions of the user's that a component calls, by images of their arguments and results."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from wasmtime.component import Linker, LinkerInstance

from ...component import wit
from ...component.codec import ComponentCodec
from ...component.errors import WasmResultError
from ...component.program import ComponentProgram
from ...component.values import Err
from ...component.wasi import ROOT, own
from ..ffi.components import define, define_unused
from ..host import HostCalls

if TYPE_CHECKING:
    from ...component.imports import Found


def define_imports(linker: Linker, program: ComponentProgram, given: Found, surface: Any, calls: HostCalls) -> list[Any]:
    """Have the user's functions serve what a component imports.

    Args:
        given: the functions, as `component.imports.resolve` gives them.
        surface: what those get first that want the instance.
        calls: where their exceptions are kept.

    Returns:
        What must live as long as the linker and its instances.
    """
    alive: list[Any] = []
    with linker.root() as root:
        for function in program.world.imports:
            name = program.served.get(function.name)
            if name is not None:
                user = given[None, (function.interface or ROOT, function.raw_label)]
                alive.append(define(root, name, _served(function, user, surface, calls)))
        _define_originals(root, program.world)
    return alive


def _define_originals(root: LinkerInstance, world: wit.World) -> None:
    """The wrapper still imports what is served, and does not use it.

    wasmtime could define whatever is unknown.  But it would take WASI's interfaces for that, where the component wants
    another patch version of them than the linker has.
    """
    labels: dict[str, list[str]] = {name: [] for name in world.needs if own(name)}
    for function in world.imports:
        if function.interface is None:
            del labels[function.name]
            define_unused(root, function.name)
        elif function.interface in labels:
            labels[function.interface].append(function.raw_label)
    for name, several in labels.items():
        with root.add_instance(name) as instance:
            for label in several:
                define_unused(instance, label)


def _served(
    function: wit.Function, given: Callable[..., Any], surface: Any, calls: HostCalls
) -> Callable[[bytes], bytes | None]:
    """What calls the user's function: the image of its arguments -> that of its result; None if it has failed."""
    codec = ComponentCodec(function)
    first = (surface,) if getattr(given, "_procpool_wants_instance", False) else ()
    fails = isinstance(function.result, wit.Result)

    def call(image: bytes) -> bytes | None:
        try:
            try:
                with surface.waiting():
                    returned = given(*first, *codec.unpack_arguments(image))
            except WasmResultError as error:
                if not fails:
                    raise
                returned = Err(error.payload)
            return codec.pack_result(returned)
        except BaseException as error:
            calls.keep(error, function.name)
            return None

    return call
