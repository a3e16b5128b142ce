"""Writes the binaries of components, and the memory in which images lie."""

from __future__ import annotations

from collections.abc import Mapping

import wasmtime

from ..binary import framed, named, unsigned
from .binary import PREAMBLE
from .layout import BASE

FUNCTION, TYPE, COMPONENT, INSTANCE = 1, 3, 4, 5
#: The sorts as they are written; a core module has two bytes.
SORTS = {0: b"\0\x11", FUNCTION: b"\1", TYPE: b"\3", COMPONENT: b"\4", INSTANCE: b"\5"}
_STRING = b"\x73"
#: The type of a function from image to image.
IMAGES = b"\x40" + unsigned(1) + named("image") + _STRING + b"\0" + _STRING

#: The memory of the wrapper, and its allocator, which gives out what follows the last allocation.  What it holds is written
#: over by its digits, and these by what they mean, so that neither takes room of its own.
_MEMORY = """
(module
  (memory (export "memory") 1)
  (global $end (export "end") (mut i32) (i32.const FIRST))
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
  (func (export "reset") (param i32) (global.set $end (i32.const FIRST)))

  (func (export "decode") (param $from i32) (param $size i32)
    (local $to i32)
    (local $last i32)
    (local $word i64)
    (local.set $to (i32.const BASE))
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
    (local.set $size (i32.and (i32.add (local.get $size) (i32.const 3)) (i32.const -4)))
    (local.set $from (i32.add (i32.const BASE) (local.get $size)))
    (call $reserve (i64.add (i64.const BASE) (i64.shl (i64.extend_i32_u (local.get $size)) (i64.const 1))))
    (local.set $to (i32.add (local.get $from) (local.get $size)))
    (block $done
      (loop $next
        (br_if $done (i32.le_u (local.get $from) (i32.const BASE)))
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


def memory(first: int) -> str:
    """The text of the module of the memory.

    Args:
        first: the address of the first allocation.
    """
    return _MEMORY.replace("FIRST", str(first)).replace("BASE", str(BASE))


class ComponentWriter:
    """A component that is being written, section by section.

    Args:
        begins: what it begins with, behind the preamble.
        count: how many there are of each sort by then.
    """

    def __init__(self, begins: bytes = b"", count: Mapping[int, int] | None = None) -> None:
        self._out: list[bytes] = [PREAMBLE, begins]
        self._next: dict[int, int] = {FUNCTION: 0, TYPE: 0, COMPONENT: 0, INSTANCE: 0, **(count or {})}
        self._core_functions = 0
        #: what a function needs whose values lie in the memory, after `have_memory`
        self.options: bytes = b""
        self.reset: int = -1  #: the core function that frees all

    @property
    def wasm(self) -> bytes:
        """The component."""
        return b"".join(self._out)

    def section(self, number: int, *entries: bytes) -> None:
        """Add a section, if it has entries."""
        if entries:
            self._out.append(framed(number, unsigned(len(entries)) + b"".join(entries)))

    def new(self, sort: int) -> int:
        """The index of what has just been added."""
        self._next[sort] += 1
        return self._next[sort] - 1

    def new_core_function(self) -> int:
        """Likewise."""
        self._core_functions += 1
        return self._core_functions - 1

    def module(self, text: str) -> None:
        """Add a core module."""
        self._out.append(framed(1, bytes(wasmtime.wat2wasm(text))))

    def component(self, wasm: bytes) -> int:
        """Add a component."""
        self._out.append(framed(4, wasm))
        return self.new(COMPONENT)

    def type(self, definition: bytes) -> int:
        """Add a type."""
        self.section(7, definition)
        return self.new(TYPE)

    def imported(self, name: str, type_: int) -> int:
        """Import a function of a type."""
        self.section(10, b"\0" + named(name) + b"\1" + unsigned(type_))
        return self.new(FUNCTION)

    def instance(self, component: int, args: Mapping[str, tuple[int, int]]) -> int:
        """Instantiate a component with items of these sorts and indices."""
        given = b"".join(named(name) + SORTS[sort] + unsigned(index) for name, (sort, index) in args.items())
        self.section(5, b"\0" + unsigned(component) + unsigned(len(args)) + given)
        return self.new(INSTANCE)

    def instance_of(self, items: Mapping[str, tuple[int, int]]) -> int:
        """An instance that exports these items."""
        given = b"".join(b"\0" + named(name) + SORTS[sort] + unsigned(index) for name, (sort, index) in items.items())
        self.section(5, b"\1" + unsigned(len(items)) + given)
        return self.new(INSTANCE)

    def alias(self, sort: int, instance: int, name: str) -> int:
        """What an instance exports."""
        self.section(6, SORTS[sort] + b"\0" + unsigned(instance) + named(name))
        return self.new(sort)

    def exported(self, sort: int, name: str, index: int) -> int:
        """Export; what is exported has an index of its own."""
        self.section(11, b"\0" + named(name) + SORTS[sort] + unsigned(index) + b"\0")
        return self.new(sort)

    def have_memory(self, first: int) -> None:
        """Add the memory, which is the first core instance.  Nothing of core modules may be there before."""
        self.module(memory(first))
        self.section(2, b"\0" + unsigned(0) + unsigned(0))
        known = ((b"\2", "memory"), (b"\0", "realloc"), (b"\0", "reset"))
        self.section(6, *(b"\0" + sort + b"\1" + unsigned(0) + named(name) for sort, name in known))
        realloc, self.reset = self.new_core_function(), self.new_core_function()
        self.options = b"\3" + unsigned(0) + b"\4" + unsigned(realloc)

    def core(self, text: str, functions: list[int], exports: list[str]) -> list[int]:
        """Add and instantiate a core module that imports the memory, and core functions from ``"inner"`` by number.

        It comes after `have_memory`, once.

        Returns:
            What it exports.
        """
        self.module(text)
        given = b"".join(named(str(number)) + b"\0" + unsigned(core) for number, core in enumerate(functions))
        self.section(2, b"\1" + unsigned(len(functions)) + given)
        args = b"".join(named(name) + b"\x12" + unsigned(index) for index, name in enumerate(("memory", "inner")))
        self.section(2, b"\0" + unsigned(1) + unsigned(2) + args)
        self.section(6, *(b"\0\0\1" + unsigned(2) + named(name) for name in exports))
        return [self.new_core_function() for _ in exports]

    def lower(self, function: int) -> int:
        """A core function that calls a function, with values in the memory."""
        self.section(8, b"\1\0" + unsigned(function) + unsigned(2) + self.options)
        return self.new_core_function()

    def lift(self, core: int, type_: int, reset: int | None) -> int:
        """A function made of a core one.

        Args:
            reset: the core function to be called afterwards; without one, no values are in the memory.
        """
        options = unsigned(0) if reset is None else unsigned(3) + self.options + b"\5" + unsigned(reset)
        self.section(8, b"\0\0" + unsigned(core) + options + unsigned(type_))
        return self.new(FUNCTION)

    def drop(self, resource: int) -> int:
        """A core function that drops a handle of a resource."""
        self.section(8, b"\3" + unsigned(resource))
        return self.new_core_function()
