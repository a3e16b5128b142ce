"""Values of WIT's types as the C API has them, one by one: what host functions of a component take and return."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ...checks import shown
from ...component import wit
from ...component.arguments import normalised
from ...component.entry import KINDS
from ...component.values import Err, Ok, Some, cases_of, class_of, constant, snake
from ...raw import c

#: Those of aggregates, behind those of numbers; see ``wasmtime/component/val.h``.
_STRING, _LIST, _RECORD, _TUPLE, _VARIANT, _ENUM, _OPTION, _RESULT, _FLAGS = range(12, 21)
_FIELDS = {
    **{"bool": "boolean", "char": "character"},
    **{name: name for name in ("s8", "u8", "s16", "u16", "s32", "u32", "s64", "u64", "f32", "f64")},
}
_WORDS = ctypes.sizeof(c.wasmtime_component_val_t)


class NoValue(TypeError):
    """Raised for what is no value of a type."""


# -- from the guest ------------------------------------------------------------------------------------------------


def lift(type_: wit.Type, given: Any) -> Any:
    """A value that the guest has passed; it stays the guest's."""
    of = given.of
    match type_:
        case wit.Primitive("string"):
            return _text(of.string)
        case wit.Primitive("char"):
            return chr(of.character)
        case wit.Primitive(name):
            return getattr(of, _FIELDS[name])
        case wit.List(wit.Primitive("u8")):
            return _octets(of.list)
        case wit.List(element):
            return [lift(element, of.list.data[at]) for at in range(of.list.size)]
        case wit.Tuple(items):
            return tuple(lift(each, of.tuple.data[at]) for at, each in enumerate(items))
        case wit.Record():
            fields = enumerate(type_.fields)
            return class_of(type_)(**{snake(name): lift(each, of.record.data[at].val) for at, (name, each) in fields})
        case wit.Variant():
            label = _text(of.variant.discriminant)
            at, payload = next((at, each) for at, (name, each) in enumerate(type_.cases) if name == label)
            made = cases_of(type_)[at]
            return made() if payload is None else made(lift(payload, of.variant.val.contents))
        case wit.Enum():
            return class_of(type_)(_text(of.enumeration))
        case wit.Flags():
            made = class_of(type_)
            value = made(0)
            for at in range(of.flags.size):
                value |= made[constant(_text(of.flags.data[at]))]
            return value
        case wit.Option(some):
            if not of.option:
                return None
            value = lift(some, of.option.contents)
            return Some(value) if isinstance(some, wit.Option) else value
        case wit.Result(ok, error):
            payload = ok if of.result.is_ok else error
            value = None if payload is None else lift(payload, of.result.val.contents)
            return Ok(value) if of.result.is_ok else Err(value)
    raise NoValue(f"a {type_} cannot be passed to Python")


def _text(name: Any) -> str:
    return ctypes.string_at(name.data, name.size).decode()


def _octets(values: Any) -> bytes:
    # The byte of each value is the first of its second word.
    if not values.size:
        return b""
    return ctypes.string_at(ctypes.cast(values.data, ctypes.c_void_p), values.size * _WORDS)[8::_WORDS]


# -- to the guest --------------------------------------------------------------------------------------------------


def lower(type_: wit.Type, value: Any, to: Any) -> None:
    """Write a value for the guest, which owns it from then on.

    Raises:
        NoValue: it is none of that type.  What was written by then is a value of some kind.
    """
    to.kind, of = KINDS["bool"], to.of  # until there is a whole one
    match type_:
        case wit.Primitive("string"):
            if not isinstance(value, str):
                raise NoValue(f"{shown(value)} is no str")
            of.string = _name(value)
            to.kind = _STRING
        case wit.Primitive(name):
            number = normalised("it", value, type_)
            setattr(of, _FIELDS[name], ord(number) if name == "char" else number)
            to.kind = KINDS[name]
        case wit.List(element, length):
            _lower_list(element, length, value, to)
        case wit.Tuple(items):
            if not isinstance(value, (tuple, list)) or len(value) != len(items):
                raise NoValue(f"{shown(value)} is no tuple of {len(items)}")
            c.wasmtime_component_valtuple_new_uninit(of.tuple, len(items))
            to.kind = _TUPLE
            _fill(of.tuple.data, zip(items, value, strict=True), len(items))
        case wit.Record():
            _lower_record(type_, value, to)
        case wit.Variant():
            classes = cases_of(type_)
            if type(value) not in classes:
                raise NoValue(f"{shown(value)} is no case of the variant {type_.label}")
            label, payload = type_.cases[classes.index(type(value))]
            made = None if payload is None else _boxed(payload, value.value)
            of.variant.discriminant, of.variant.val = _name(label), made
            to.kind = _VARIANT
        case wit.Enum():
            given = value if isinstance(value, str) else getattr(value, "value", None)
            if given not in type_.labels:
                raise NoValue(f"{shown(value)} is none of the enum {type_.label}")
            of.enumeration = _name(given)
            to.kind = _ENUM
        case wit.Flags():
            made = class_of(type_)
            if not isinstance(value, made):
                raise NoValue(f"{shown(value)} is none of the flags {type_.label}")
            labels = [label for label in type_.labels if made[constant(label)] in value]
            c.wasmtime_component_valflags_new_uninit(of.flags, len(labels))
            for at, label in enumerate(labels):
                of.flags.data[at] = _name(label)
            to.kind = _FLAGS
        case wit.Option(some):
            inner = value.value if isinstance(some, wit.Option) and isinstance(value, Some) else value
            of.option = None if value is None else _boxed(some, inner)
            to.kind = _OPTION
        case wit.Result(ok, error):
            if not isinstance(value, (Ok, Err)):
                raise NoValue(f"{shown(value)} is neither an Ok nor an Err")
            payload = ok if isinstance(value, Ok) else error
            made = None if payload is None else _boxed(payload, value.value)
            of.result.is_ok, of.result.val = isinstance(value, Ok), made
            to.kind = _RESULT
        case _:
            raise NoValue(f"a {type_} cannot be passed from Python")


def _lower_list(element: wit.Type, length: int | None, value: Any, to: Any) -> None:
    if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable):
        raise NoValue(f"{shown(value)} is no list")
    octets = isinstance(element, wit.Primitive) and element.name == "u8"
    if octets and isinstance(value, (bytes, bytearray, memoryview)):
        items: Any = bytes(value)
    else:
        items, octets = list(value), False
    if length is not None and len(items) != length:
        raise NoValue(f"{shown(value)} has {len(items)} elements, and not {length}")
    c.wasmtime_component_vallist_new_uninit(to.of.list, len(items))
    to.kind = _LIST
    if not octets:
        _fill(to.of.list.data, ((element, each) for each in items), len(items))
    elif items:
        raw = bytearray(len(items) * _WORDS)
        raw[0::_WORDS] = bytes((KINDS["u8"],)) * len(items)
        raw[8::_WORDS] = items
        ctypes.memmove(to.of.list.data, bytes(raw), len(raw))


def _lower_record(type_: wit.Record, value: Any, to: Any) -> None:
    read: Callable[[str], Any]
    if isinstance(value, Mapping):
        read = value.__getitem__
    else:
        read = lambda name: getattr(value, name)  # noqa: E731
    try:
        values = [read(snake(name)) for name, _ in type_.fields]
    except (KeyError, AttributeError) as error:
        raise NoValue(f"{shown(value)} is no {type_.label}: {error}") from None
    record = to.of.record
    c.wasmtime_component_valrecord_new_uninit(record, len(values))
    for at, (name, _) in enumerate(type_.fields):
        record.data[at].name = _name(name)
        record.data[at].val.kind = KINDS["bool"]
    to.kind = _RECORD
    for at, ((_, each), one) in enumerate(zip(type_.fields, values, strict=True)):
        lower(each, one, record.data[at].val)


def _fill(data: Any, typed: Iterable[tuple[wit.Type, Any]], count: int) -> None:
    for at in range(count):
        data[at].kind = KINDS["bool"]
    for at, (type_, value) in enumerate(typed):
        lower(type_, value, data[at])


def _boxed(type_: wit.Type, value: Any) -> Any:
    made = c.wasmtime_component_val_t()
    try:
        lower(type_, value, made)
    except BaseException:
        c.wasmtime_component_val_delete(ctypes.byref(made))
        raise
    return c.wasmtime_component_val_new(ctypes.byref(made))


def _name(text: str) -> Any:
    data = text.encode()  # which raises what says it best
    made = c.wasm_name_t()
    c.wasm_byte_vec_new(ctypes.byref(made), len(data), ctypes.create_string_buffer(data, len(data) or 1))
    return made
