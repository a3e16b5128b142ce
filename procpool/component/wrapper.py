"""A component around a component, through which values go as bytes.

wasmtime's C API hands values over as trees of tagged unions: a ``list<u8>`` takes 32 bytes and a conversion for each byte.
Strings are the exception, as they are copied as a whole, which is fast where they are ASCII.  So the user's component is
nested in one of ours that exports, for each function of the inner one, a function from string to string.  They hold, in
hexadecimal digits, the values as the canonical ABI lays them out in memory, an *image*.

An image of arguments always comes to lie at the same address, as nothing else is allocated before it, so its pointers are
right when it is made.  All that the inner function returns is allocated behind the place of its result, which begins at
that address as well, so one string holds it all.

The code here runs in a component instance that calls the inner one and is never called by it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ..binary import named, unsigned
from . import wit
from .binary import imported_interfaces, leading, read_world, sections_between
from .entry import KINDS, Entry
from .hosted import can_serve, serving
from .layout import BASE, MOST_PARAMS, flat_params, flat_results, placed
from .writing import COMPONENT, FUNCTION, IMAGES, INSTANCE, TYPE, ComponentWriter


@dataclass(frozen=True)
class Wrapped:
    """A wrapper and what it exports."""

    wasm: bytes
    entries: dict[str, Entry]  #: by the names of the world's functions
    drops: dict[wit.Resource, str]  #: the exports that take the handle of a resource and drop it
    #: by the names of functions that the component imports: the import of the wrapper that serves it, from image to image
    hosts: dict[str, str] = field(default_factory=dict)


#: The type of a function that takes a handle.
_OF_HANDLE = b"\x40" + unsigned(1) + named("handle") + b"\x79" + b"\1\0"


class CannotWrap(Exception):
    """The component is of a kind that has no wrapper."""


def is_scalar(function: wit.Function) -> bool:
    """Whether it takes and gives nothing but numbers, and not too many."""
    if len(function.params) > MOST_PARAMS:
        return False
    return all(isinstance(each, wit.Primitive) and each.name in KINDS for each in function.types)


def entry_of(function: wit.Function, number: int) -> Entry:
    """How a function is called in the wrapper.

    Args:
        number: of the function among the world's exports.
    """
    if not is_scalar(function):
        return Entry(f"f{number}", True)
    kinds = tuple(KINDS[str(type_)] for _, type_ in function.params)
    return Entry(f"f{number}", False, kinds, None if function.result is None else KINDS[str(function.result)])


def drop_of(number: int) -> Entry:
    """How a handle is dropped in the wrapper.

    Args:
        number: of its resource among those of the world's exports, `wit.resources`.
    """
    return Entry(f"d{number}", False, (KINDS["u32"],))


def host_of(number: int) -> str:
    """The import of the wrapper that serves a function which the component imports.

    Args:
        number: of the function among the world's imports.
    """
    return f"procpool-host{number}"


def wrap(component: bytes, world: wit.World | None = None, hosted: Callable[[str], bool] = lambda name: False) -> Wrapped:
    """A component with a wrapper around.

    Args:
        world: the component's, if it has been read.
        hosted: whether an interface, or a function at the root, that the component imports is served by functions of
            Python's.  Then these take and give images, and the wrapper imports them at its root; see `Wrapped.hosts`.  It
            still imports the originals, and does not use them.  What deals with resources is not served so.

    Raises:
        CannotWrap: it imports something after it has defined something of its own, or has functions that are asynchronous.
    """
    world = world or read_world(component)
    for function in world.exports:
        if function.asynchronous:
            raise CannotWrap(f"{function} is asynchronous")
    return _Wrapper(component, world, hosted).wrapped()


def _calls(functions: list[wit.Function]) -> str:
    """A module that imports lowered functions and exports what calls them with images."""
    imports, bodies = [], []
    for number, function in enumerate(functions):
        params, results = flat_params(function), flat_results(function)
        taken = ("i32",) if params is None else params
        signature = "".join(f" (param {each})" for each in (*taken, *(("i32",) if results is None else ())))
        if results:
            signature += f" (result {results[0]})"
        imports.append(f'(import "inner" "{number}" (func $inner{number}{signature}))')
        given = [f"({each}.load (i32.const {BASE + 8 * at}))" for at, each in enumerate(params or ())]
        given += [f"(i32.const {BASE})"] * ((params is None) + (results is None))
        call = f"(call $inner{number} {' '.join(given)})"
        size = 8 if results else 0
        if results is None:
            assert function.result is not None
            size = placed(function.result, False)[0]
        bodies.append(f"""
  (func (export "{number}") (param i32 i32) (result i32)
    (call $decode (local.get 0) (local.get 1))
    (global.set $end (i32.const {BASE + size}))
    {f"({results[0]}.store (i32.const {BASE}) {call})" if results else call}
    (i32.store (i32.const 0) (i32.const {BASE}))
    (i32.store (i32.const 4) (call $encode (i32.sub (global.get $end) (i32.const {BASE}))))
    (i32.const 0))""")
    return f"""
(module
  (import "memory" "memory" (memory 1))
  (import "memory" "end" (global $end (mut i32)))
  (import "memory" "decode" (func $decode (param i32 i32)))
  (import "memory" "encode" (func $encode (param i32) (result i32)))
  {" ".join(imports)}
  {"".join(bodies)})
"""


class _Wrapper:
    """Writes the wrapper."""

    def __init__(self, component: bytes, world: wit.World, hosted: Callable[[str], bool]) -> None:
        begins = leading(component)
        for number, _, _ in sections_between(component, begins.end, len(component)):
            if number == 10:
                raise CannotWrap("it imports something after it has defined something of its own")
        count = {sort: len(begins.scope.space(sort)) for sort in (FUNCTION, TYPE, COMPONENT, INSTANCE)}
        self._out = ComponentWriter(component[8 : begins.end], count)
        self._component = component
        self._world = world
        self._hosted = hosted
        #: what the component imports, by name: sort and index
        self._imports: dict[str, tuple[int, int]] = {name: (sort, index) for name, sort, index in begins.imports}
        self._inner: int = -1  # the instance of the user's component
        self._instances: dict[str, int] = {}  # those of interfaces that it exports

    def wrapped(self) -> Wrapped:
        """The whole."""
        out = self._out
        hosts = self._serve()
        self._inner = out.instance(out.component(self._component), self._imports)
        functions = {each.name: self._alias(each) for each in self._world.exports}
        called = [each for each in self._world.exports if not is_scalar(each)]
        if called:
            out.have_memory(BASE)
            lowered = [out.lower(functions[each.name]) for each in called]
            cores = out.core(_calls(called), lowered, [str(number) for number in range(len(called))])
            images = out.type(IMAGES)
            for each, core in zip(called, cores, strict=True):
                functions[each.name] = out.lift(core, images, out.reset)
        entries = {each.name: entry_of(each, number) for number, each in enumerate(self._world.exports)}
        for name, entry in entries.items():
            out.exported(FUNCTION, entry.export, functions[name])
        drops = self._drops()
        return Wrapped(out.wasm, entries, drops, hosts)

    def _serve(self) -> dict[str, str]:
        """Have what is hosted come from a component that passes images."""
        interfaces = {
            name: items
            for name, items in imported_interfaces(self._component).items()
            if self._hosted(name) and all(map(can_serve, items.values()))
        }
        alone = [
            each for each in self._world.imports if each.interface is None and self._hosted(each.name) and can_serve(each)
        ]
        items = [*alone, *(item for each in interfaces.values() for item in each.values())]
        functions = [item for item in items if isinstance(item, wit.Function)]
        if not functions:
            return {}
        types = [item for item in items if not isinstance(item, (wit.Function, wit.Resource))]
        out = self._out
        images = out.type(IMAGES)
        hosts = {each.name: host_of(number) for number, each in enumerate(self._world.imports) if each in functions}
        assert len(hosts) == len(functions)
        given = {f"h{number}": (FUNCTION, out.imported(hosts[each.name], images)) for number, each in enumerate(functions)}
        served = out.instance(out.component(serving(functions, types)), given)
        made: dict[int, tuple[int, int]] = {}  # by the id of an item
        for sort, word, several in ((FUNCTION, "f", functions), (TYPE, "i", types)):
            for number, item in enumerate(several):
                made[id(item)] = sort, out.alias(sort, served, f"{word}{number}")
        self._imports |= {each.name: made[id(each)] for each in alone}
        for name, each in interfaces.items():
            self._imports[name] = INSTANCE, out.instance_of({label: made[id(item)] for label, item in each.items()})
        return hosts

    def _interface(self, name: str) -> int:
        """The instance of an interface that the component exports."""
        if name not in self._instances:
            self._instances[name] = self._out.alias(INSTANCE, self._inner, name)
        return self._instances[name]

    def _alias(self, function: wit.Function) -> int:
        instance = self._inner if function.interface is None else self._interface(function.interface)
        return self._out.alias(FUNCTION, instance, function.raw_label)

    def _drops(self) -> dict[wit.Resource, str]:
        """An export for each resource that the component's exports deal with."""
        drops: dict[wit.Resource, str] = {}
        out, resources = self._out, wit.resources(self._world.exports)
        signature = out.type(_OF_HANDLE) if resources else -1
        for resource in resources:
            drop = out.lift(out.drop(self._resource(resource)), signature, None)
            drops[resource] = f"d{len(drops)}"
            out.exported(FUNCTION, drops[resource], drop)
        return drops

    def _resource(self, resource: wit.Resource) -> int:
        """The index of its type."""
        interface, _, label = resource.name.rpartition("#")
        if resource.imported and not interface:
            return self._imports[label][1]
        if resource.imported:
            instance = self._imports[interface][1]
        else:
            instance = self._interface(interface) if interface else self._inner
        return self._out.alias(TYPE, instance, label)
