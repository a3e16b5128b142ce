"""Arguments that do not fit as they are: converts what may be taken for a value of the type, and explains the rest."""

from __future__ import annotations

import operator
import struct
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from ..checks import shown
from ..errors import ArgumentOutOfRange, BadArguments
from . import wit
from .values import Err, Ok, Resource, Some, camel, cases_of, class_of, constant, snake

_BITS = {f"{sign}{bits}": (sign, bits) for sign in "su" for bits in (8, 16, 32, 64)}


def refused_count(function: wit.Function, args: tuple[Any, ...]) -> BadArguments:
    """What to raise for a wrong number of arguments."""
    count = len(function.params)
    return BadArguments(
        f"{function.label} takes {count} argument{'s'[: count != 1]}, {function.signature}, got {len(args)}"
    )


def normalised(what: str, value: Any, type_: wit.Type) -> Any:
    """A value as exactly what stands for one of its type.

    Args:
        what: what it is for, for the text of an exception.

    Raises:
        BadArguments: it cannot be taken for one.
        ArgumentOutOfRange: it is a number that does not fit.
    """
    return _CONVERTERS[type(type_)](what, value, type_)


def _refuse(what: str, value: Any, type_: wit.Type, hint: str = "") -> NoReturn:
    raise BadArguments(f"{what} is {shown(value)}, expected {type_}{hint and f', so {hint}'}")


def _primitive(what: str, value: Any, type_: wit.Primitive) -> Any:
    if type_.name in _BITS:
        return _integer(what, value, type_)
    if type_.name in ("f32", "f64"):
        return _real(what, value, type_)
    if type_.name == "bool":
        if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):  # numpy's is no subclass
            return bool(value)
        _refuse(what, value, type_, "True or False")
    if not isinstance(value, str) or (type_.name == "char" and len(value) != 1):
        _refuse(what, value, type_, "a str" + (" of one character" if type_.name == "char" else ""))
    try:
        value.encode()
    except UnicodeEncodeError:
        _refuse(what, value, type_, "text without surrogates, which are halves of characters")
    return str(value)


def _integer(what: str, value: Any, type_: wit.Primitive) -> int:
    if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):
        _refuse(what, value, type_, "an int, and a bool is not a number here")
    try:
        number = operator.index(value)
    except TypeError:
        _refuse(what, value, type_, "an int")
    sign, bits = _BITS[type_.name]
    least, most = (0, (1 << bits) - 1) if sign == "u" else (-(1 << bits - 1), (1 << bits - 1) - 1)
    if not least <= number <= most:
        raise ArgumentOutOfRange(f"{what} is {shown(value)}, out of range for {type_} (from {least} to {most})")
    return number


def _real(what: str, value: Any, type_: wit.Primitive) -> float:
    is_bool = isinstance(value, bool) or type(value).__name__ in ("bool", "bool_")
    if is_bool or isinstance(value, (str, bytes)) or not (hasattr(value, "__float__") or hasattr(value, "__index__")):
        _refuse(what, value, type_, "a float or an int")
    try:
        word = "<f" if type_.name == "f32" else "<d"
        (real,) = struct.unpack(word, struct.pack(word, float(value)))
    except OverflowError:
        raise ArgumentOutOfRange(f"{what} is {shown(value)}, too large for {type_}") from None
    except (TypeError, ValueError):
        _refuse(what, value, type_, "a float or an int")
    return float(real)


def _record(what: str, value: Any, type_: wit.Record) -> Any:
    names = {snake(name): (name, each) for name, each in type_.fields}
    made = {}
    if isinstance(value, Mapping):
        given = {(key.replace("-", "_") if isinstance(key, str) else key): key for key in value}
        unknown = [key for name, key in given.items() if name not in names and f"{name}_" not in names]
        if unknown:
            raise BadArguments(f"{what} has the key {shown(unknown[0])}, which is no field of {type_}: {', '.join(names)}")
        if len(given) < len(value):
            raise BadArguments(f"{what} has a field twice, with '_' and with '-': {', '.join(map(shown, value))}")
        for name in names:
            key = given.get(name, given.get(name.rstrip("_")))
            if key is None:
                raise BadArguments(f"{what} has no {name!r}, which is a field of {type_}: {', '.join(names)}")
            made[name] = value[key]
    else:
        for name in names:
            try:
                made[name] = getattr(value, name)
            except AttributeError:
                _refuse(what, value, type_, f"a {camel(type_.label)}, or a dict with {', '.join(map(repr, names))}")
    converted = [normalised(f"{what}.{name}", made[name], each) for name, (_, each) in names.items()]
    return class_of(type_)(*converted)


def _variant(what: str, value: Any, type_: wit.Variant) -> Any:
    classes = cases_of(type_)
    for (_, payload), case in zip(type_.cases, classes, strict=True):
        if value is case and payload is None:
            return case()
        if type(value) is case:
            return case() if payload is None else case(normalised(f"{what}.value", value.value, payload))
    known = ", ".join(
        f"{each.__qualname__}({'' if payload is None else payload})"
        for each, (_, payload) in zip(classes, type_.cases, strict=True)
    )
    _refuse(what, value, type_, f"one of {known}")


def _enum(what: str, value: Any, type_: wit.Enum) -> Any:
    cls = class_of(type_)
    if type(value) is cls:
        return value
    if isinstance(value, str) and constant(value) in cls.__members__:
        return cls[constant(value)]
    _refuse(
        what, value, type_, f"one of {', '.join(f'{cls.__name__}.{member}' for member in cls.__members__)}, or its name"
    )


def _flags(what: str, value: Any, type_: wit.Flags) -> Any:
    cls = class_of(type_)
    if type(value) is cls:
        return value
    made = cls(0)
    if isinstance(value, (list, tuple, set, frozenset)):
        for each in value:
            if isinstance(each, str) and constant(each) in cls.__members__:
                each = cls[constant(each)]
            if type(each) is not cls:
                _refuse(what, each, type_, f"some of {', '.join(map(constant, type_.labels))}")
            made |= each
        return made
    _refuse(what, value, type_, f"a {cls.__name__} of {' | '.join(map(constant, type_.labels))}")


def _list(what: str, value: Any, type_: wit.List) -> Any:
    if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable):
        _refuse(what, value, type_, "bytes" if type_.element == wit.Primitive("u8") else "a list")
    # An array's own numbers are shown with the names of their types.
    values = value.tolist() if hasattr(value, "tolist") else list(value)
    if not isinstance(values, list):  # an array without dimensions is one number
        _refuse(what, value, type_, "a list")
    if type_.length is not None and len(values) != type_.length:
        raise BadArguments(f"{what} has {len(values)} elements, expected {type_}")
    made = [normalised(f"{what}[{index}]", each, type_.element) for index, each in enumerate(values)]
    return bytes(made) if type_.element == wit.Primitive("u8") else made


def _tuple(what: str, value: Any, type_: wit.Tuple) -> Any:
    if not isinstance(value, (tuple, list)):
        _refuse(what, value, type_, "a tuple")
    if len(value) != len(type_.items):
        raise BadArguments(f"{what} has {len(value)} items, expected {len(type_.items)}: {type_}")
    return tuple(normalised(f"{what}[{at}]", *each) for at, each in enumerate(zip(value, type_.items, strict=True)))


def _map(what: str, value: Any, type_: wit.Map) -> Any:
    if not isinstance(value, Mapping):
        _refuse(what, value, type_, "a dict")
    return {
        normalised(f"{what}'s key", key, type_.key): normalised(f"{what}[{shown(key)}]", each, type_.value)
        for key, each in value.items()
    }


def _option(what: str, value: Any, type_: wit.Option) -> Any:
    if value is None:
        return None
    if not isinstance(type_.some, wit.Option):
        return normalised(what, value, type_.some)
    if not isinstance(value, Some):
        _refuse(what, value, type_, "None, or a Some of what is an option itself")
    return Some(normalised(f"{what}.value", value.value, type_.some))


def _result(what: str, value: Any, type_: wit.Result) -> Any:
    for cls, payload in ((Ok, type_.ok), (Err, type_.error)):
        if isinstance(value, cls):
            if payload is not None:
                return cls(normalised(f"{what}.value", value.value, payload))
            if value.value is None:
                return cls()
    _refuse(what, value, type_, f"an Ok({type_.ok or ''}) or Err({type_.error or ''})")


def _handle(what: str, value: Any, type_: wit.Handle) -> Any:
    if not isinstance(value, Resource) or value.resource != type_.resource:
        _refuse(what, value, type_, f"a {type_.resource.label} that a call with the same lease returned")
    try:
        value.handle  # noqa: B018
    except ValueError as error:
        raise BadArguments(f"{what}: {error}") from None
    return value


def _channel(what: str, value: Any, type_: wit.Channel) -> Any:
    raise BadArguments(f"{what} is of the type {type_}, which cannot be passed")


_CONVERTERS: dict[type, Any] = {
    wit.Primitive: _primitive,
    wit.Record: _record,
    wit.Variant: _variant,
    wit.Enum: _enum,
    wit.Flags: _flags,
    wit.List: _list,
    wit.Tuple: _tuple,
    wit.Map: _map,
    wit.Option: _option,
    wit.Result: _result,
    wit.Handle: _handle,
    wit.Channel: _channel,
}
