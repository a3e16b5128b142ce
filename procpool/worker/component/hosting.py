"""Functions of the user's that a component calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import wasmtime
import wasmtime.component

from ...component import wit
from ...component.errors import WasmResultError
from ...component.values import Err, Ok
from ...component.wasi import ROOT, WASI
from ...errors import BadArguments
from ..ffi.component_values import NoValue, lift, lower
from ..ffi.components import define
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
    functions: dict[str, list[wit.Function]] = {name: [] for name in world.needs if not WASI.fullmatch(name)}
    for function in world.imports:
        interface = function.interface or ROOT
        if (None, (interface, function.raw_label)) in given:
            functions.setdefault(interface, []).append(function)
    with linker.root() as root:
        for interface, members in functions.items():
            served = [(each, _served(each, given[None, (interface, each.raw_label)], surface, calls)) for each in members]
            if interface == ROOT:
                alive += [define(root, each.raw_label, call) for each, call in served]
            elif members or interface not in {each.name for each in world.imports}:
                with root.add_instance(interface) as instance:
                    alive += [define(instance, each.raw_label, call) for each, call in served]
    return alive


def _served(
    function: wit.Function, given: Callable[..., Any], surface: Any, calls: HostCalls
) -> Callable[[Any, Any], bool]:
    """What calls the user's function with the values that the guest has passed; whether that went well."""
    types = [type_ for _, type_ in function.params]
    result = function.result
    run = given
    if getattr(given, "_procpool_wants_instance", False):

        def run(*args: Any) -> Any:
            return given(surface, *args)

    def call(args: Any, results: Any) -> bool:
        try:
            values = [lift(type_, args[at]) for at, type_ in enumerate(types)]
            returned = _returned(run, values, result)
            try:
                if result is not None:
                    lower(result, returned, results[0])
                elif returned is not None:
                    raise NoValue(f"{returned!r} is not None")
            except (NoValue, BadArguments) as error:
                raise TypeError(f"the host function {function.name} returned no {result}: {error}") from None
        except BaseException as error:
            calls.keep(error, function.name)
            return False
        return True

    return call


def _returned(run: Callable[..., Any], values: list[Any], result: wit.Type | None) -> Any:
    """What the function has returned; of one that returns a ``result``, as such: an error may have been raised."""
    if not isinstance(result, wit.Result):
        return run(*values)
    try:
        returned = run(*values)
    except WasmResultError as error:
        return Err(error.payload)
    return returned if isinstance(returned, (Ok, Err)) else Ok(returned)
