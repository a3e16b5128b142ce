"""Components for tests: made from text, and called in this process as a worker calls them."""

from __future__ import annotations

from binascii import hexlify, unhexlify
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import wasmtime
from wasmtime.component import Component, Linker

from procpool.component import wit
from procpool.component.binary import read_world
from procpool.component.codec import ComponentCodec
from procpool.component.names import Functions
from procpool.component.values import Types
from procpool.component.wrapper import wrap

ENGINE = wasmtime.Engine()

#: A core module with a memory, an allocator that never frees, and what gives back what it gets.
CORE = """
(core module $m
  (memory (export "memory") 2)
  (global $end (mut i32) (i32.const 1024))
  (func $realloc (export "realloc") (param i32 i32 i32 i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.sub (i32.add (global.get $end) (local.get 2)) (i32.const 1))
                            (i32.sub (i32.const 0) (local.get 2))))
    (global.set $end (i32.add (local.get $at) (local.get 3)))
    (loop $more
      (if (i32.gt_u (global.get $end) (i32.mul (memory.size) (i32.const 65536)))
        (then (if (i32.ne (memory.grow (i32.const 16)) (i32.const -1)) (then (br $more)))
              (unreachable))))
    (memory.copy (local.get $at) (local.get 0)
      (select (local.get 1) (local.get 3) (i32.lt_u (local.get 1) (local.get 3))))
    (local.get $at))
  (func (export "reset") (param i32) (global.set $end (i32.const 1024)))
  (func (export "pair") (param i32 i32) (result i32)
    (i32.store (i32.const 16) (local.get 0)) (i32.store (i32.const 20) (local.get 1)) (i32.const 16))
  (func (export "behind") (param i32) (result i32) (i32.add (local.get 0) (i32.const 136)))
  (func (export "i32") (param i32) (result i32) (local.get 0))
  (func (export "i64") (param i64) (result i64) (local.get 0))
  (func (export "f32") (param f32) (result f32) (local.get 0))
  (func (export "f64") (param f64) (result f64) (local.get 0))
  (func (export "nothing")))
(core instance $i (instantiate $m))
"""

#: How a function of `CORE` is lifted.
OPTIONS = '(memory (core memory $i "memory")) (realloc (core func $i "realloc")) (post-return (core func $i "reset"))'


def lifted(core: str, options: str = OPTIONS) -> str:
    return f'(canon lift (core func $i "{core}") {options})'


def made(text: str) -> bytes:
    """The binary of a component."""
    return bytes(wasmtime.wat2wasm(text))


def served(function: wit.Function, given: Callable[..., Any]) -> Callable[..., str]:
    """What calls a function of Python's as the wrapper does."""
    codec = ComponentCodec(function)

    def serve(_: object, digits: str) -> str:
        result = given(*codec.unpack_arguments(unhexlify(digits)))
        return hexlify(codec.pack_result(result)).decode()

    return serve


class Instance:
    """An instance of a component in its wrapper.

    Args:
        define: gives the linker what the component imports.
        hosts: functions that it imports, by their full names.
    """

    def __init__(
        self,
        wasm: bytes,
        define: Callable[[Linker], object] = lambda linker: None,
        hosts: Mapping[str, Callable[..., Any]] = MappingProxyType({}),
    ) -> None:
        self.world: wit.World = read_world(wasm)
        self.types = Types(self.world)
        hosted = {name.rpartition("#")[0] or name for name in hosts}
        self.wrapped = wrap(wasm, self.world, hosted.__contains__)
        self._functions = Functions(self.world.exports)
        self._store = wasmtime.Store(ENGINE)
        linker = Linker(ENGINE)
        define(linker)
        component = Component(ENGINE, self.wrapped.wasm)
        functions = {function.name: function for function in self.world.imports}
        with linker.root() as root:
            for name, known in self.wrapped.hosts.items():
                root.add_func(known, served(functions[name], hosts[name]))
        if hosts:
            linker.define_unknown_imports_as_traps(component)
        self._instance = linker.instantiate(self._store, component)

    def codec(self, name: str) -> ComponentCodec:
        return ComponentCodec(self._functions.find(name))

    def raw(self, name: str, image: bytes) -> bytes:
        """Call with an image; the image of the result."""
        entry = self.wrapped.entries[self._functions.find(name).name]
        assert entry.image, "numbers need no image"
        called = self._instance.get_func(self._store, entry.export)
        assert called is not None
        result = called(self._store, hexlify(image).decode())
        called.post_return(self._store)
        return unhexlify(result)

    def call(self, name: str, *args: Any) -> Any:
        codec = self.codec(name)
        entry = self.wrapped.entries[codec.function.name]
        if not entry.image:
            called = self._instance.get_func(self._store, entry.export)
            assert called is not None
            result = called(self._store, *args)
            called.post_return(self._store)
            return result
        return codec.unpack(self.raw(name, codec.pack(args)))

    def drop(self, resource: Any) -> None:
        called = self._instance.get_func(self._store, self.wrapped.drops[resource.resource])
        assert called is not None
        called(self._store, resource.handle)
        called.post_return(self._store)
