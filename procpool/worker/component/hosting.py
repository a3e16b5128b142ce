"""Functions of the user's that a component calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import wasmtime
import wasmtime.component

from ...component import wit
from ...component.codec import ComponentCodec
from ...component.errors import WasmResultError
from ...component.values import Err, Ok
from ...component.wasi import ROOT, WASI
from ...component.wrapper import host_of
from ...errors import BadArguments
from ..ffi.components import define, define_unused
from ..host import HostCalls


def define_imports(
    linker: wasmtime.component.Linker, world: wit.World, given: Mapping[Any, Any], surface: Any, calls: HostCalls
) -> list[Any]:
    """Have the user's functions serve what a component imports.

    Args:
        given: functions by `(None, (interface, name))`, as `component.imports.resolve` gives them.
        surface: what those get first that want the instance.
        calls: where their exceptions are kept.

    Returns:
        What must live as long as the linker and its instances.
    """
    alive: list[Any] = []
    with linker.root() as root:
        for number, function in enumerate(world.imports):
            run = given.get((None, (function.interface or ROOT, function.raw_label)))
            if run is not None:
                alive.append(define(root, host_of(number), _served(function, run, surface, calls)))
        # The wrapper imports the originals as well.
        originals: dict[str, list[str]] = {name: [] for name in world.needs if WASI.fullmatch(name) is None}
        for function in world.imports:
            if function.interface in originals:
                originals[function.interface].append(function.raw_label)
        alone = {function.name for function in world.imports if function.interface is None}
        for name, labels in originals.items():
            if name in alone:
                define_unused(root, name)
                continue
            with root.add_instance(name) as instance:
                for label in labels:
                    define_unused(instance, label)
    return alive


def _served(
    function: wit.Function, given: Callable[..., Any], surface: Any, calls: HostCalls
) -> Callable[[bytes], bytes | None]:
    """What calls the user's function with the image of its arguments, and returns that of its result; None if it failed."""
    codec = ComponentCodec(function)
    run = given
    if getattr(given, "_procpool_wants_instance", False):

        def run(*args: Any) -> Any:
            return given(surface, *args)

    def call(image: bytes) -> bytes | None:
        try:
            returned = _returned(run, codec.unpack_arguments(image), function.result)
            try:
                return codec.pack_result(returned)
            except BadArguments as error:
                raise TypeError(f"the host function {function.name} returned no {function.result}: {error}") from None
        except BaseException as error:
            calls.keep(error, function.name)
            return None

    return call


def _returned(run: Callable[..., Any], values: tuple[Any, ...], result: wit.Type | None) -> Any:
    """What the function has returned; of one that returns a ``result``, as such: an error may have been raised."""
    if not isinstance(result, wit.Result):
        return run(*values)
    try:
        returned = run(*values)
    except WasmResultError as error:
        return Err(error.payload)
    return returned if isinstance(returned, (Ok, Err)) else Ok(returned)
