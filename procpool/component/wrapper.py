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

from dataclasses import dataclass

import wasmtime

from ..binary import framed, named, unsigned
from . import wit
from .binary import PREAMBLE, leading, read_world, sections_between
from .entry import KINDS, Entry
from .layout import BASE, CHUNK, MOST_PARAMS, flat_params, flat_results, placed


@dataclass(frozen=True)
class Wrapped:
    """A wrapper and what it exports."""

    wasm: bytes
    entries: dict[str, Entry]  #: by the names of the world's functions
    drops: dict[wit.Resource, str]  #: the exports that take the handle of a resource and drop it


class CannotWrap(Exception):
    """The component is of a kind that has no wrapper; its values go through the C API one by one."""


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


def wrap(component: bytes, world: wit.World | None = None) -> Wrapped:
    """A component with a wrapper around.

    Args:
        world: the component's, if it has been read.

    Raises:
        CannotWrap: it imports something after it has defined something of its own, or has functions that are asynchronous.
    """
    world = world or read_world(component)
    for function in world.exports:
        if function.asynchronous:
            raise CannotWrap(f"{function} is asynchronous")
    return _Wrapper(component, world).wrapped()


#: The memory of the wrapper, and its allocator, which gives out what follows the last allocation.  What it holds is written
#: over by its digits, and these by what they mean, so that neither takes room of its own.
_MEMORY = f"""
(module
  (memory (export "memory") 1)
  (global $end (export "end") (mut i32) (i32.const {BASE}))
  (func $reserve (param $end i64)
    (local $missing i64)
    (local.set $missing
      (i64.sub (i64.shr_u (i64.add (local.get $end) (i64.const 0xffff)) (i64.const 16)) (i64.extend_i32_u (memory.size))))
    (if (i64.gt_s (local.get $missing) (i64.const 0))
      (then
        (if (i32.eq (i32.const -1) (memory.grow (i32.wrap_i64 (local.get $missing))))
          (then (unreachable))))))
  (func (export "realloc") (param $old i32) (param $size i32) (param $align i32) (param $new i32) (result i32)
    (local $at i32)
    (local $end i64)
    (if (i32.and (i32.ne (local.get $old) (i32.const 0))
                 (i32.eq (i32.add (local.get $old) (local.get $size)) (global.get $end)))
      (then (local.set $at (local.get $old)))
      (else
        (local.set $at
          (i32.and (i32.sub (i32.add (global.get $end) (local.get $align)) (i32.const 1))
                   (i32.sub (i32.const 0) (local.get $align))))))
    (local.set $end (i64.add (i64.extend_i32_u (local.get $at)) (i64.extend_i32_u (local.get $new))))
    (call $reserve (local.get $end))
    (if (i32.and (i32.ne (local.get $old) (i32.const 0)) (i32.ne (local.get $old) (local.get $at)))
      (then
        (memory.copy (local.get $at) (local.get $old)
          (select (local.get $size) (local.get $new) (i32.lt_u (local.get $size) (local.get $new))))))
    (global.set $end (i32.wrap_i64 (local.get $end)))
    (local.get $at))
  (func (export "reset") (param i32) (global.set $end (i32.const {BASE})))

  (func (export "decode") (param $from i32) (param $size i32)
    (local $to i32)
    (local $last i32)
    (local $word i64)
    (local.set $to (i32.const {BASE}))
    (local.set $last (i32.add (local.get $from) (local.get $size)))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $from) (local.get $last)))
        (local.set $word (i64.load (local.get $from)))
        (local.set $word
          (i64.add (i64.and (local.get $word) (i64.const 0x0f0f0f0f0f0f0f0f))
                   (i64.mul (i64.and (i64.shr_u (local.get $word) (i64.const 6)) (i64.const 0x0101010101010101))
                            (i64.const 9))))
        (local.set $word
          (i64.and (i64.or (i64.shl (local.get $word) (i64.const 4)) (i64.shr_u (local.get $word) (i64.const 8)))
                   (i64.const 0x00ff00ff00ff00ff)))
        (local.set $word
          (i64.and (i64.or (local.get $word) (i64.shr_u (local.get $word) (i64.const 8))) (i64.const 0x0000ffff0000ffff)))
        (i64.store32 (local.get $to) (i64.or (local.get $word) (i64.shr_u (local.get $word) (i64.const 16))))
        (local.set $to (i32.add (local.get $to) (i32.const 4)))
        (local.set $from (i32.add (local.get $from) (i32.const 8)))
        (br $next))))

  (func (export "encode") (param $size i32) (result i32)
    (local $from i32)
    (local $to i32)
    (local $word i64)
    (local.set $size (i32.and (i32.add (local.get $size) (i32.const {CHUNK - 1})) (i32.const {-CHUNK})))
    (local.set $from (i32.add (i32.const {BASE}) (local.get $size)))
    (call $reserve (i64.add (i64.const {BASE}) (i64.shl (i64.extend_i32_u (local.get $size)) (i64.const 1))))
    (local.set $to (i32.add (local.get $from) (local.get $size)))
    (block $done
      (loop $next
        (br_if $done (i32.le_u (local.get $from) (i32.const {BASE})))
        (local.set $from (i32.sub (local.get $from) (i32.const 4)))
        (local.set $to (i32.sub (local.get $to) (i32.const 8)))
        (local.set $word (i64.load32_u (local.get $from)))
        (local.set $word
          (i64.and (i64.or (local.get $word) (i64.shl (local.get $word) (i64.const 16))) (i64.const 0x0000ffff0000ffff)))
        (local.set $word
          (i64.and (i64.or (local.get $word) (i64.shl (local.get $word) (i64.const 8))) (i64.const 0x00ff00ff00ff00ff)))
        (local.set $word
          (i64.and (i64.or (i64.shr_u (local.get $word) (i64.const 4)) (i64.shl (local.get $word) (i64.const 8)))
                   (i64.const 0x0f0f0f0f0f0f0f0f)))
        (i64.store (local.get $to)
          (i64.add
            (i64.add (local.get $word) (i64.const 0x3030303030303030))
            (i64.mul
              (i64.and (i64.shr_u (i64.add (local.get $word) (i64.const 0x0606060606060606)) (i64.const 4))
                       (i64.const 0x0101010101010101))
              (i64.const 0x27))))
        (br $next)))
    (i32.shl (local.get $size) (i32.const 1))))
"""


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


FUNCTION, TYPE, COMPONENT, INSTANCE = 1, 3, 4, 5
#: The sorts as they are written; a core module has two bytes.
_SORTS = {0: b"\0\x11", FUNCTION: b"\1", TYPE: b"\3", COMPONENT: b"\4", INSTANCE: b"\5"}
_STRING = b"\x73"
_UTF8 = b"\0"


class _Wrapper:
    """Writes the wrapper, section by section."""

    def __init__(self, component: bytes, world: wit.World) -> None:
        self._begins = leading(component)
        for number, _, _ in sections_between(component, self._begins.end, len(component)):
            if number == 10:
                raise CannotWrap("it imports something after it has defined something of its own")
        self._component = component
        self._world = world
        scope = self._begins.scope
        self._next = {sort: len(scope.space(sort)) for sort in (FUNCTION, TYPE, COMPONENT, INSTANCE)}
        self._core_functions = 0
        self._out: list[bytes] = [PREAMBLE, component[8 : self._begins.end]]
        self._inner: int = -1  # the instance of the user's component
        self._instances: dict[str, int] = {}  # those of interfaces that it exports
        self._functions: dict[str, int] = {}

    def _section(self, number: int, *entries: bytes) -> None:
        if entries:
            self._out.append(framed(number, unsigned(len(entries)) + b"".join(entries)))

    def _new(self, sort: int) -> int:
        self._next[sort] += 1
        return self._next[sort] - 1

    def _new_core_function(self) -> int:
        self._core_functions += 1
        return self._core_functions - 1

    def wrapped(self) -> Wrapped:
        """The whole."""
        entries: dict[str, Entry] = {}
        self._instantiate()
        for function in self._world.exports:
            self._functions[function.name] = self._alias(function)
        called = [function for function in self._world.exports if not is_scalar(function)]
        cores = self._callers(called)
        for number, function in enumerate(self._world.exports):
            index = self._functions[function.name]
            if function in called:
                index = self._lift(cores[called.index(function)])
            entry = entries[function.name] = entry_of(function, number)
            self._export(entry.export, index)
        drops = self._drops()
        return Wrapped(b"".join(self._out), entries, drops)

    def _instantiate(self) -> None:
        self._out.append(framed(4, self._component))
        self._new(COMPONENT)
        args = [named(name) + _SORTS[sort] + unsigned(index) for name, sort, index in self._begins.imports]
        self._section(5, b"\0" + unsigned(self._next[COMPONENT] - 1) + unsigned(len(args)) + b"".join(args))
        self._inner = self._new(INSTANCE)

    def _interface(self, name: str) -> int:
        """The instance of an interface that the component exports."""
        if name not in self._instances:
            self._section(6, _SORTS[INSTANCE] + b"\0" + unsigned(self._inner) + named(name))
            self._instances[name] = self._new(INSTANCE)
        return self._instances[name]

    def _alias(self, function: wit.Function) -> int:
        instance = self._inner if function.interface is None else self._interface(function.interface)
        self._section(6, _SORTS[FUNCTION] + b"\0" + unsigned(instance) + named(function.raw_label))
        return self._new(FUNCTION)

    def _callers(self, functions: list[wit.Function]) -> list[int]:
        """Core functions that call these with images."""
        if not functions:
            return []
        for text in (_MEMORY, _calls(functions)):
            self._out.append(framed(1, bytes(wasmtime.wat2wasm(text))))
        self._section(2, b"\0" + unsigned(0) + unsigned(0))  # instance 0, of the memory
        self._section(
            6,
            *(
                b"\0" + sort + b"\1" + unsigned(0) + named(name)
                for sort, name in ((b"\2", "memory"), (b"\0", "realloc"), (b"\0", "reset"))
            ),
        )
        realloc, self._reset = self._new_core_function(), self._new_core_function()
        self._memory = b"\3" + unsigned(0) + b"\4" + unsigned(realloc)
        lowered = []
        for function in functions:
            self._section(8, b"\1\0" + unsigned(self._functions[function.name]) + unsigned(2) + self._memory)
            lowered.append(self._new_core_function())
        given = b"".join(named(str(number)) + b"\0" + unsigned(core) for number, core in enumerate(lowered))
        self._section(2, b"\1" + unsigned(len(lowered)) + given)  # instance 1, of what is lowered
        args = b"".join(named(name) + b"\x12" + unsigned(index) for index, name in enumerate(("memory", "inner")))
        self._section(2, b"\0" + unsigned(1) + unsigned(2) + args)  # instance 2, of what calls
        self._section(6, *(b"\0\0\1" + unsigned(2) + named(str(number)) for number in range(len(lowered))))
        self._section(7, b"\x40" + unsigned(1) + named("image") + _STRING + b"\0" + _STRING)
        self._signature = self._new(TYPE)
        return [self._new_core_function() for _ in lowered]

    def _lift(self, core: int) -> int:
        options = unsigned(4) + self._memory + b"\5" + unsigned(self._reset) + _UTF8
        self._section(8, b"\0\0" + unsigned(core) + options + unsigned(self._signature))
        return self._new(FUNCTION)

    def _export(self, name: str, index: int) -> None:
        self._section(11, b"\0" + named(name) + _SORTS[FUNCTION] + unsigned(index) + b"\0")
        self._new(FUNCTION)

    def _drops(self) -> dict[wit.Resource, str]:
        """An export for each resource that the component's exports deal with."""
        drops: dict[wit.Resource, str] = {}
        signature = -1
        for resource in wit.resources(self._world.exports):
            if not drops:
                self._section(7, b"\x40" + unsigned(1) + named("handle") + b"\x79" + b"\1\0")
                signature = self._new(TYPE)
            self._section(8, b"\3" + unsigned(self._resource(resource)))
            self._section(8, b"\0\0" + unsigned(self._new_core_function()) + unsigned(0) + unsigned(signature))
            drops[resource] = f"d{len(drops)}"
            self._export(drops[resource], self._new(FUNCTION))
        return drops

    def _resource(self, resource: wit.Resource) -> int:
        """The index of its type."""
        interface, _, label = resource.name.rpartition("#")
        imports = {(name, sort): index for name, sort, index in self._begins.imports}
        if resource.imported and not interface:
            return imports[label, TYPE]
        if resource.imported:
            instance = imports[interface, INSTANCE]
        else:
            instance = self._interface(interface) if interface else self._inner
        self._section(6, _SORTS[TYPE] + b"\0" + unsigned(instance) + named(label))
        return self._new(TYPE)
