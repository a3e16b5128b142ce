"""Values of components as text: WAVE, the text format of WIT's values, and JSON.

One reader takes both, as the type says what is meant: a record is ``{name: "a", size: 1}`` in WAVE and has its names in
quotes in JSON; a case is ``circle(2.0)`` or ``{"circle": 2.0}``; flags are ``{read, write}`` or ``["read", "write"]``.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import struct
from collections.abc import Callable
from typing import Any, NoReturn

from ..errors import BadArguments
from . import wit
from .arguments import normalised
from .values import Err, Ok, Some, camel, class_of, snake

_SPACE = re.compile(r"(?:\s+|//[^\n]*)*")
_LABEL = re.compile(r"%?[A-Za-z][A-Za-z0-9]*(?:-[A-Za-z0-9]+)*")
_NUMBER = re.compile(r"-?(?:inf|nan|Infinity|NaN|[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)(?![\w.])")
_PLAIN = re.compile(r'[^"\'\\]+')
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0", '"': '"', "'": "'", "\\": "\\", "/": "/"}
_HEX = re.compile(r"[0-9a-fA-F]{1,6}\}")
_UNIT = re.compile(r"[0-9a-fA-F]{4}")
_KEYWORDS = {"true", "false", "inf", "nan", "some", "none", "ok", "err"}


def parse(text: str, type_: wit.Type, what: str = "the text") -> Any:
    """The value that a text in WAVE or JSON stands for.

    Args:
        what: what it is for, for the text of an exception.

    Raises:
        BadArguments: it is no value of the type.
        ArgumentOutOfRange: a number in it does not fit.
    """
    reader = _Reader(text, what)
    value = reader.value(type_)
    reader.skip()
    if reader.at < len(text):
        reader.fail("the end")
    return normalised(what, value, type_)


def parse_argument(text: str, type_: wit.Type, what: str = "the argument") -> Any:
    """As `parse`, but text that does not begin with a quotation mark is a string as it is, where a string is expected."""
    if type_ == wit.Primitive("string") and not text.lstrip().startswith('"'):
        return normalised(what, text, type_)
    return parse(text, type_, what)


class _Reader:
    def __init__(self, text: str, what: str) -> None:
        self._text = text
        self._what = what
        self.at: int = 0

    def skip(self) -> None:
        found = _SPACE.match(self._text, self.at)
        if found is not None:
            self.at = found.end()

    def fail(self, expected: object) -> NoReturn:
        rest = self._text[self.at : self.at + 20]
        seen = f"{rest!r}" if rest else "the end"
        raise BadArguments(f"{self._what}: expected {expected} at character {self.at}, got {seen}")

    def take(self, word: str) -> bool:
        """Whether that is next; steps over it."""
        self.skip()
        if not self._text.startswith(word, self.at):
            return False
        self.at += len(word)
        return True

    def need(self, word: str) -> None:
        if not self.take(word):
            self.fail(repr(word))

    def matched(self, pattern: re.Pattern[str], expected: object) -> str:
        self.skip()
        found = pattern.match(self._text, self.at)
        if found is None:
            self.fail(expected)
        self.at = found.end()
        return found[0]

    def next_is(self, characters: str) -> bool:
        self.skip()
        return self._text[self.at : self.at + 1] in tuple(characters)

    def word(self, expected: object) -> str:
        """A label, or a string instead."""
        if self.next_is('"'):
            return self.text('"')
        return self.matched(_LABEL, expected).removeprefix("%")

    def several(self, end: str, one: Callable[[], object]) -> None:
        """What is separated by commas, up to the end."""
        while not self.take(end):
            one()
            if not self.take(","):
                self.need(end)
                return

    def value(self, type_: wit.Type) -> Any:
        return _READERS[type(type_)](self, type_)

    def text(self, mark: str) -> str:
        if mark == '"' and self.take('"""'):
            return self._lines()
        self.need(mark)
        made = []
        while not self._text.startswith(mark, self.at):
            made.append(self._piece(mark))
        self.at += 1
        # JSON has characters beyond the first 65,536 as two halves.
        return "".join(made).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")

    def _piece(self, mark: str) -> str:
        found = _PLAIN.match(self._text, self.at)
        if found is not None:
            self.at = found.end()
            return found[0]
        if self.at >= len(self._text):
            self.fail(repr(mark))
        char = self._text[self.at]
        self.at += 1
        return self._escape() if char == "\\" else char

    def _escape(self) -> str:
        char = self._text[self.at : self.at + 1]
        self.at += 1
        if char != "u":
            if char not in _ESCAPES:
                self.at -= 1
                self.fail("what can follow a backslash")
            return _ESCAPES[char]
        braced = self._text.startswith("{", self.at)
        self.at += braced
        found = (_HEX if braced else _UNIT).match(self._text, self.at)
        code = int(found[0].rstrip("}"), 16) if found else 0x110000
        if found is None or code > 0x10FFFF:
            self.fail("the number of a character")
        self.at = found.end()
        return chr(code)

    def _lines(self) -> str:
        """A string over several lines, each indented as its end is."""
        end = self._text.find('"""', self.at)
        if end < 0:
            self.fail('\'"""\'')
        first, *lines = self._text[self.at : end].split("\n")
        if first or not lines:
            self.fail("a new line")
        self.at = end + 3
        indent = lines.pop()
        if indent.strip(" ") or any(line and not line.startswith(indent) for line in lines):
            self.fail("lines that are indented as the end of the string")
        return "\n".join(line[len(indent) :] for line in lines)


def _primitive(reader: _Reader, type_: wit.Primitive) -> Any:
    if type_.name == "bool":
        word = reader.matched(_LABEL, "true or false")
        if word not in ("true", "false"):
            reader.at -= len(word)
            reader.fail("true or false")
        return word == "true"
    if type_.name == "string":
        return reader.text('"') if reader.next_is('"') else reader.fail("a string in quotation marks")
    if type_.name == "char":
        return reader.text('"' if reader.next_is('"') else "'")
    number = reader.matched(_NUMBER, f"a number, {type_}")
    if type_.name in ("f32", "f64"):
        return float(number)
    try:
        return int(number)
    except ValueError:
        reader.at -= len(number)
        reader.fail(f"an integer, {type_}")


def _record(reader: _Reader, type_: wit.Record) -> Any:
    reader.need("{")
    made: dict[str, Any] = {}
    known = {snake(name): (name, each) for name, each in type_.fields}

    def one() -> None:
        name = snake(reader.word("the name of a field"))
        if name not in known or name in made:
            reader.fail(f"other fields than {name!r}: {', '.join(name for name, _ in type_.fields)}")
        reader.need(":")
        made[name] = reader.value(known[name][1])

    if reader.take(":"):
        reader.need("}")
    else:
        reader.several("}", one)
    for name, (_, each) in known.items():
        if name not in made and isinstance(each, wit.Option):
            made[name] = None
    return made


def _variant(reader: _Reader, type_: wit.Variant) -> Any:
    cases = dict(type_.cases)
    if reader.take("{"):
        made = _case(reader, type_, cases, ":")
        reader.need("}")
        return made
    return _case(reader, type_, cases, "(")


def _case(reader: _Reader, type_: wit.Variant, cases: dict[str, wit.Type | None], before: str) -> Any:
    name = reader.word(f"a case of {type_}")
    if name not in cases:
        reader.fail(f"another case than {name!r}: {', '.join(cases)}")
    cls = getattr(class_of(type_), camel(name))
    payload = cases[name]
    if payload is None:
        if before == ":":
            reader.need(":")
            reader.need("null")
        return cls()
    reader.need(before)
    made = cls(reader.value(payload))
    if before == "(":
        reader.need(")")
    return made


def _enum(reader: _Reader, type_: wit.Enum) -> Any:
    return reader.word(f"one of {', '.join(type_.labels)}")


def _flags(reader: _Reader, type_: wit.Flags) -> Any:
    made: list[str] = []
    end = "]" if reader.take("[") else "}"
    if end == "}":
        reader.need("{")
    reader.several(end, lambda: made.append(reader.word(f"some of {', '.join(type_.labels)}")))
    return made


def _list(reader: _Reader, type_: wit.List) -> Any:
    made: list[Any] = []
    reader.need("[")
    reader.several("]", lambda: made.append(reader.value(type_.element)))
    return made


def _tuple(reader: _Reader, type_: wit.Tuple) -> Any:
    end = ")" if reader.take("(") else "]"
    if end == "]":
        reader.need("[")
    made = []
    for at, each in enumerate(type_.items):
        if at:
            reader.need(",")
        made.append(reader.value(each))
    reader.take(",")
    reader.need(end)
    return tuple(made)


def _map(reader: _Reader, type_: wit.Map) -> Any:
    made: dict[Any, Any] = {}
    pair = wit.Tuple((type_.key, type_.value))

    def entry() -> None:
        key = reader.value(type_.key)
        reader.need(":")
        made[key] = reader.value(type_.value)

    if reader.take("{"):
        reader.several("}", entry)
    else:
        reader.need("[")
        reader.several("]", lambda: made.update([reader.value(pair)]))
    return made


def _keyword(reader: _Reader, *words: str) -> str | None:
    """The next word, if it is one of these."""
    reader.skip()
    found = _LABEL.match(reader._text, reader.at)
    if found is None or found[0] not in words:
        return None
    reader.at = found.end()
    return found[0]


def _option(reader: _Reader, type_: wit.Option) -> Any:
    nested = isinstance(type_.some, wit.Option)
    if nested and reader.take("{"):
        if reader.word("some") != "some":
            reader.fail("some")
        reader.need(":")
        value = reader.value(type_.some)
        reader.need("}")
        return Some(value)
    word = _keyword(reader, "some", "none", "null")
    if word == "some":
        reader.need("(")
        value = reader.value(type_.some)
        reader.need(")")
    elif word:
        return None
    else:
        value = reader.value(type_.some)
    return Some(value) if nested else value


def _result(reader: _Reader, type_: wit.Result) -> Any:
    braced = reader.take("{")
    word = _keyword(reader, "ok", "err", "error") if not braced else reader.word("ok or err")
    if word not in ("ok", "err", "error"):
        if braced or type_.ok is None:
            reader.fail("ok or err")
        return Ok(reader.value(type_.ok))
    cls: Any = Ok if word == "ok" else Err
    payload = type_.ok if word == "ok" else type_.error
    before, after = (":", "}") if braced else ("(", ")")
    if payload is None:
        if braced:
            reader.need(":")
            reader.need("null")
            reader.need("}")
        return cls()
    reader.need(before)
    made = cls(reader.value(payload))
    reader.need(after)
    return made


def _no_text(reader: _Reader, type_: wit.Type) -> NoReturn:
    raise BadArguments(f"{reader._what}: a value of the type {type_} cannot be written as text")


_READERS: dict[type, Callable[[_Reader, Any], Any]] = {
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
    wit.Handle: _no_text,
    wit.Channel: _no_text,
}


def show(value: Any, type_: wit.Type | None) -> str:
    """A value in WAVE, on one line; that of a function without result is nothing."""
    if type_ is None:
        return ""
    match type_:
        case wit.Primitive(name):
            return _shown_primitive(value, name)
        case wit.Record():
            fields = ((name, each, getattr(value, snake(name))) for name, each in type_.fields)
            shown = [
                f"{_label(name)}: {show(one, each)}"
                for name, each, one in fields
                if not (isinstance(each, wit.Option) and one is None)
            ]
            return f"{{{', '.join(shown) or ':'}}}"
        case wit.Variant():
            return _shown_case(type(value).__case__, dict(type_.cases)[type(value).__case__], getattr(value, "value", None))
        case wit.Enum():
            return _label(value.value)
        case wit.Flags():
            return f"{{{', '.join(_label(label) for at, label in enumerate(type_.labels) if value.value >> at & 1)}}}"
        case wit.List():
            return f"[{', '.join(show(one, type_.element) for one in value)}]"
        case wit.Tuple():
            return f"({', '.join(show(one, each) for one, each in zip(value, type_.items, strict=True))})"
        case wit.Map():
            return f"[{', '.join(f'({show(key, type_.key)}, {show(one, type_.value)})' for key, one in value.items())}]"
        case wit.Option():
            if value is None:
                return "none"
            return f"some({show(value.value if isinstance(type_.some, wit.Option) else value, type_.some)})"
        case wit.Result():
            name = "ok" if isinstance(value, Ok) else "err"
            payload = type_.ok if name == "ok" else type_.error
            return name if payload is None else f"{name}({show(value.value, payload)})"
    return repr(value)


def _label(name: str) -> str:
    return f"%{name}" if name in _KEYWORDS else name


def _shown_case(name: str, payload: wit.Type | None, value: Any) -> str:
    return _label(name) if payload is None else f"{_label(name)}({show(value, payload)})"


def _shown_primitive(value: Any, name: str) -> str:
    if name == "bool":
        return "true" if value else "false"
    if name in ("f32", "f64"):
        if not math.isfinite(value):
            return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
        return _shortest(value) if name == "f32" else repr(float(value))
    if name == "char":
        return f"'{_escaped(value, chr(39))}'"
    return f'"{_escaped(value, chr(34))}"' if name == "string" else str(int(value))


def _shortest(value: float) -> str:
    """The fewest digits that say which f32 it is."""
    (narrow,) = struct.unpack("<f", struct.pack("<f", value))
    for digits in range(1, 10):
        short = float(f"{value:.{digits}g}")
        with contextlib.suppress(OverflowError):  # rounded up beyond the largest
            if struct.unpack("<f", struct.pack("<f", short)) == (narrow,):
                return repr(short)
    return repr(value)


def _escaped(text: str, mark: str) -> str:
    names = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\", mark: f"\\{mark}"}
    return "".join(names.get(c, c if c.isprintable() else f"\\u{{{ord(c):x}}}") for c in text)


def to_json(value: Any, type_: wit.Type | None) -> Any:
    """A value as JSON has it, for `json.dumps`.

    `parse` makes the value of it again.  A case is an object of one name, as a result is; a char is a string; flags are a
    list of names; a map whose keys are strings is an object, any other a list of pairs.  JSON has no number for NaN or
    infinity, which Python writes nevertheless.
    """
    match type_:
        case wit.Record():
            return {name: to_json(getattr(value, snake(name)), each) for name, each in type_.fields}
        case wit.Variant():
            name = type(value).__case__
            payload = dict(type_.cases)[name]
            return name if payload is None else {name: to_json(value.value, payload)}
        case wit.Enum():
            return value.value
        case wit.Flags():
            return [label for at, label in enumerate(type_.labels) if value.value >> at & 1]
        case wit.List():
            return [to_json(one, type_.element) for one in value]
        case wit.Tuple():
            return [to_json(one, each) for one, each in zip(value, type_.items, strict=True)]
        case wit.Map(wit.Primitive("string")):
            return {key: to_json(one, type_.value) for key, one in value.items()}
        case wit.Map():
            return [[to_json(key, type_.key), to_json(one, type_.value)] for key, one in value.items()]
        case wit.Option():
            if value is None or not isinstance(type_.some, wit.Option):
                return None if value is None else to_json(value, type_.some)
            return {"some": to_json(value.value, type_.some)}
        case wit.Result():
            name, payload = ("ok", type_.ok) if isinstance(value, Ok) else ("err", type_.error)
            return {name: None if payload is None else to_json(value.value, payload)}
        case wit.Handle() | wit.Channel():
            return repr(value)
    return value


def json_text(value: Any, type_: wit.Type | None) -> str:
    """A value in JSON, on one line."""
    return json.dumps(to_json(value, type_), ensure_ascii=False)
