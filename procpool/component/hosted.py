"""A component between the user's one and functions of Python's that it imports, through which values go as bytes.

It exports the functions that the user's component wants, with their types, and imports as many that take an image and give
one.  It is a component of its own, beside that of the user's: one around that may not be called by what is in it.

The image of arguments has slots for what comes as core values, and what these point to behind.  Arguments that are too many
for that lie in memory, where the slots end.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..binary import named, unsigned
from . import wit
from .layout import BASE, MOST_PARAMS, flat_params, flat_results
from .writing import FUNCTION, IMAGES, TYPE, ComponentWriter

#: Bytes for slots at the beginning of an image of arguments.
SLOTS = 8 * MOST_PARAMS

_PRIMITIVES = {name: bytes((0x7F - index,)) for index, name in enumerate(wit.PRIMITIVES[:13])}


def serving(functions: Sequence[wit.Function], types: Sequence[wit.Type]) -> bytes:
    """The component.

    Args:
        functions: those that it exports as ``f0``, ``f1`` and so on; it imports ``h0``, ``h1`` and so on, which serve them.
        types: are exported as ``i0``, ``i1`` and so on.
    """
    out = ComponentWriter()
    images = out.type(IMAGES)
    hosts = [out.imported(f"h{number}", images) for number in range(len(functions))]
    out.have_memory(BASE + SLOTS)
    exports = [f"{word}{number}" for word in "fr" for number in range(len(functions))]
    cores = out.core(_receivers(functions), [out.lower(host) for host in hosts], exports)
    written = _Types(out)
    for number, function in enumerate(functions):
        type_ = written.function(function)
        lifted = out.lift(cores[number], type_, cores[len(functions) + number])
        out.exported(FUNCTION, f"f{number}", lifted)
    for number, each in enumerate(types):
        out.exported(TYPE, f"i{number}", written.index(each))
    return out.wasm


def _receivers(functions: Sequence[wit.Function]) -> str:
    """The text of a module of functions as core code calls them, and for each one that frees what it returned."""
    imports, bodies = [], []
    for number, function in enumerate(functions):
        params, results = flat_params(function), flat_results(function)
        taken = "".join(f" (param {each})" for each in (("i32",) if params is None else params))
        given = ("i32",) if results is None else results
        stores = (f"({each}.store (i32.const {BASE + 8 * at}) (local.get {at}))" for at, each in enumerate(params or ()))
        value = (
            f"(i32.const {BASE})" if results is None else "".join(f"({each}.load (i32.const {BASE}))" for each in results)
        )
        imports.append(f'(import "inner" "{number}" (func $host{number} (param i32 i32 i32)))')
        bodies.append(f"""
  (func (export "f{number}"){taken}{"".join(f" (result {each})" for each in given)}
    {" ".join(stores)}
    (call $host{number} (i32.const {BASE}) (call $send) (i32.const 0))
    (call $receive)
    {value})
  (func (export "r{number}"){"".join(f" (param {each})" for each in given)}
    (global.set $end (i32.const {BASE + SLOTS})))""")
    return f"""
(module
  (import "memory" "memory" (memory 1))
  (import "memory" "end" (global $end (mut i32)))
  (import "memory" "decode" (func $decode (param i32 i32)))
  (import "memory" "encode" (func $encode (param i32) (result i32)))
  {" ".join(imports)}
  (func $send (result i32)
    (call $encode (i32.sub (global.get $end) (i32.const {BASE})))
    (global.set $end (i32.const {BASE})))
  (func $receive
    (call $decode (i32.load (i32.const 0)) (i32.load (i32.const 4))))
  {"".join(bodies)})
"""


class _Types:
    """Writes types, each once; those with names are exported, as the types of functions have to be."""

    def __init__(self, out: ComponentWriter) -> None:
        self._out = out
        self._known: dict[wit.Type, int] = {}

    def index(self, type_: wit.Type) -> int:
        """The index of a type."""
        found = self._known.get(type_)
        if found is None:
            found = self._out.type(self._definition(type_))
            if isinstance(type_, wit.Named):
                found = self._out.exported(TYPE, f"t{found}", found)
            self._known[type_] = found
        return found

    def function(self, function: wit.Function) -> int:
        """The index of a function's type."""
        params = b"".join(named(name) + self._value(type_) for name, type_ in function.params)
        result = b"\1\0" if function.result is None else b"\0" + self._value(function.result)
        return self._out.type(b"\x40" + unsigned(len(function.params)) + params + result)

    def _value(self, type_: wit.Type) -> bytes:
        if isinstance(type_, wit.Primitive):
            return _PRIMITIVES[type_.name]
        return _signed(self.index(type_))

    def _optional(self, type_: wit.Type | None) -> bytes:
        return b"\0" if type_ is None else b"\1" + self._value(type_)

    def _definition(self, type_: wit.Type) -> bytes:
        match type_:
            case wit.Primitive(name):
                return _PRIMITIVES[name]
            case wit.Record(fields=fields):
                return b"\x72" + unsigned(len(fields)) + b"".join(named(name) + self._value(each) for name, each in fields)
            case wit.Variant(cases=cases):
                several = b"".join(named(name) + self._optional(each) + b"\0" for name, each in cases)
                return b"\x71" + unsigned(len(cases)) + several
            case wit.Enum(labels=labels) | wit.Flags(labels=labels):
                form = b"\x6d" if isinstance(type_, wit.Enum) else b"\x6e"
                return form + unsigned(len(labels)) + b"".join(map(named, labels))
            case wit.List(element, None):
                return b"\x70" + self._value(element)
            case wit.List(element, length):
                return b"\x67" + self._value(element) + unsigned(length or 0)
            case wit.Map(key, value):
                return b"\x63" + self._value(key) + self._value(value)
            case wit.Tuple(items):
                return b"\x6f" + unsigned(len(items)) + b"".join(map(self._value, items))
            case wit.Option(some):
                return b"\x6b" + self._value(some)
            case wit.Result(ok, error):
                return b"\x6a" + self._optional(ok) + self._optional(error)
        raise AssertionError(f"{type_} cannot be served")


def _signed(number: int) -> bytes:
    """A signed LEB128 of a natural number."""
    encoded = bytearray()
    while number >= 0x40:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def can_serve(item: object) -> bool:
    """Whether functions and types of an interface are such that this component can stand for it: without resources."""
    if isinstance(item, wit.Resource):
        return False
    types = item.types if isinstance(item, wit.Function) else (item,)
    if isinstance(item, wit.Function) and item.asynchronous:
        return False
    return not any(
        isinstance(each, (wit.Handle, wit.Channel)) or each == wit.Primitive("error-context")
        for each in wit.within(types)  # type: ignore[arg-type]
    )
