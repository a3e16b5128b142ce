"""Python values to images and back: what converts them is put together once per function, from its WIT types.

Each type has a *form*, which knows the words of the module struct for the numbers that a value consists of in place.  To
pack, forms list these numbers, and put what they point to behind; one call of struct writes them.  To unpack, one call of
struct reads the numbers, and forms make values of them.

Packing trusts the arguments and fails on those that do not fit.  Only then they are gone through one by one, which converts
what may be taken for a value of the type and says what is wrong with the rest; see `procpool.component.arguments`.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Callable, Sequence
from functools import cached_property
from operator import attrgetter, itemgetter
from typing import Any, Literal

from ..checks import shown
from ..errors import BadArguments
from . import wit
from .arguments import normalised, refused_count
from .errors import BadImage, WasmResultError
from .hosted import SLOTS
from .image import Input, Output
from .layout import (
    BASE,
    CHUNK,
    MOST_BYTES,
    aligned,
    cases,
    discriminant_size,
    fields,
    flags_size,
    flat_params,
    payload_at,
    placed,
    record_size,
)
from .values import Err, Ok, Resource, Some, cases_of, class_of, snake

#: How lists of numbers come out of a call.
Numbers = Literal["list", "array", "numpy"]

#: The words of struct for numbers; and so the type codes of arrays.
NUMBERS = {
    **{"s8": "b", "u8": "B", "s16": "h", "u16": "H", "s32": "i", "u32": "I", "s64": "q", "u64": "Q", "f32": "f", "f64": "d"}
}
_SIZED = {1: "B", 2: "H", 4: "I", 8: "Q"}
_PLAIN = frozenset((int, float, bytes))
_INTEGERS = frozenset((int,))
_REALS = frozenset((int, float))

#: Makes the object for a handle that came out of a call.
WrapHandle = Callable[[int, wit.Resource], Any]


class Form:
    """How values of a type are represented, in one of the two layouts."""

    format: str = ""  #: of the numbers in place, for struct, padded to the whole size
    count: int = 1  #: of these numbers
    #: whether the numbers are the values
    direct: bool = False
    size: int = 0  #: bytes in place
    alignment: int = 1

    def put(self, value: Any, output: Output, numbers: list[Any]) -> None:
        """Append the numbers of a value, and put what they point to into the output.

        Raises:
            Exception: of any kind, if the value does not fit.
        """
        raise NotImplementedError

    def take(self, numbers: Sequence[Any], at: int, image: Input) -> Any:
        """The value whose numbers begin there.

        Raises:
            BadImage: they are none of a value.
        """
        raise NotImplementedError


class _Number(Form):
    direct = True

    def __init__(self, word: str) -> None:
        self.format = word

    def put(self, value: Any, output: Output, numbers: list[Any]) -> None:
        numbers.append(value)

    def take(self, numbers: Sequence[Any], at: int, image: Input) -> Any:
        return numbers[at]


class _Bool(Form):
    format = "B"

    def put(self, value: Any, output: Output, numbers: list[Any]) -> None:
        if value is not True and value is not False:
            raise TypeError
        numbers.append(int(value))

    def take(self, numbers: Sequence[Any], at: int, image: Input) -> bool:
        return bool(numbers[at])


class _Char(Form):
    format = "I"

    def put(self, value: Any, output: Output, numbers: list[Any]) -> None:
        code = ord(value)
        if 0xD800 <= code < 0xE000 or not isinstance(value, str):
            raise ValueError
        numbers.append(code)

    def take(self, numbers: Sequence[Any], at: int, image: Input) -> str:
        code = numbers[at]
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            raise BadImage(f"{code:#x} is no character")
        return chr(code)


class _Text(Form):
    format, count = "II", 2

    def put(self, value: Any, output: Output, numbers: list[Any]) -> None:
        encoded = str.encode(value)
        numbers += output.put(encoded, 1), len(encoded)

    def take(self, numbers: Sequence[Any], at: int, image: Input) -> str:
        size = numbers[at + 1]
        start = image.region(numbers[at], size, 1)
        try:
            return str(image.data[start : start + size], "utf-8")
        except UnicodeDecodeError as error:
            raise BadImage(f"a string is not UTF-8: {error}") from None


class _Enum(Form):
    def __init__(self, type_: wit.Enum) -> None:
        self.format = _SIZED[discriminant_size(len(type_.labels))]
        self._members: tuple[Any, ...] = tuple(class_of(type_).__members__.values())
        self._index = {member: index for index, member in enumerate(self._members)}

    def put(self, value: Any, output: Output, numbers: list[Any]) -> None:
        numbers.append(self._index[value])

    def take(self, numbers: Sequence[Any], at: int, image: Input) -> Any:
        return self._members[_case(numbers[at], self._members)]


class _Flags(Form):
    def __init__(self, type_: wit.Flags) -> None:
        self.format = _SIZED[flags_size(len(type_.labels))]
        self._class = class_of(type_)
        self._known = (1 << len(type_.labels)) - 1

    def put(self, value: Any, output: Output, numbers: list[Any]) -> None:
        if type(value) is not self._class:
            raise TypeError
        numbers.append(value.value & self._known)

    def take(self, numbers: Sequence[Any], at: int, image: Input) -> Any:
        return self._class(numbers[at] & self._known)


class _Handle(Form):
    format = "I"

    def __init__(self, type_: wit.Handle, wrap: WrapHandle) -> None:
        self._type = type_
        self._wrap = wrap

    def put(self, value: Any, output: Output, numbers: list[Any]) -> None:
        if not isinstance(value, Resource) or value.resource != self._type.resource:
            raise TypeError
        numbers.append(value.handle)
        if self._type.owned:
            output.given.append(value)

    def take(self, numbers: Sequence[Any], at: int, image: Input) -> Any:
        return self._wrap(numbers[at], self._type.resource)


class _Record(Form):
    """Several values in a row; what they make is said by a class that inherits."""

    def __init__(self, forms: Sequence[Form], size: int, alignment: int) -> None:
        self.forms = tuple(forms)
        self.size, self.alignment = size, alignment
        self.count = sum(form.count for form in forms)
        self.all_direct: bool = all(form.direct for form in forms)
        self.format = padded(self.forms, size)
        starts = [sum(form.count for form in forms[:index]) for index in range(len(forms))]
        self._parts = tuple((form.take, start) for form, start in zip(forms, starts, strict=True))

    def put_all(self, values: Sequence[Any], output: Output, numbers: list[Any]) -> None:
        if self.all_direct:
            if len(values) != self.count:
                raise ValueError
            numbers += values
        else:
            for form, value in zip(self.forms, values, strict=True):
                form.put(value, output, numbers)

    def take_all(self, numbers: Sequence[Any], at: int, image: Input) -> Sequence[Any]:
        if self.all_direct:
            return numbers[at : at + self.count]
        return tuple([take(numbers, at + start, image) for take, start in self._parts])


class _Fields(_Record):
    """A record."""

    def __init__(self, type_: wit.Record, forms: Sequence[Form], size: int, alignment: int) -> None:
        super().__init__(forms, size, alignment)
        self._class = class_of(type_)
        self._names = tuple(snake(name) for name, _ in type_.fields)
        many = len(self._names) > 1
        self._attributes = attrgetter(*self._names) if many else lambda value: (getattr(value, self._names[0]),)
        self._items = itemgetter(*self._names) if many else lambda value: (value[self._names[0]],)

    def put(self, value: Any, output: Output, numbers: list[Any]) -> None:
        if type(value) is dict:
            if len(value) != len(self._names):
                raise ValueError
            self.put_all(self._items(value), output, numbers)
        else:
            self.put_all(self._attributes(value), output, numbers)

    def take(self, numbers: Sequence[Any], at: int, image: Input) -> Any:
        made = object.__new__(self._class)
        made.__dict__.update(zip(self._names, self.take_all(numbers, at, image), strict=True))
        return made


class _Tuple(_Record):
    def put(self, value: Any, output: Output, numbers: list[Any]) -> None:
        if not isinstance(value, (tuple, list)):
            raise TypeError
        self.put_all(value, output, numbers)

    def take(self, numbers: Sequence[Any], at: int, image: Input) -> tuple[Any, ...]:
        return tuple(self.take_all(numbers, at, image))


class _FixedList(_Tuple):
    def take(self, numbers: Sequence[Any], at: int, image: Input) -> Any:
        return list(self.take_all(numbers, at, image))


class _FixedBytes(_FixedList):
    def take(self, numbers: Sequence[Any], at: int, image: Input) -> Any:
        return bytes(self.take_all(numbers, at, image))

    def put(self, value: Any, output: Output, numbers: list[Any]) -> None:
        self.put_all(tuple(memoryview(value).cast("B")), output, numbers)


class _Cases(Form):
    """A case, and the payload's bytes; which value has which case is said by a class that inherits."""

    count = 2

    def __init__(self, forms: Sequence[Form | None], payloads: tuple[wit.Type | None, ...], slots: bool) -> None:
        at, size, self.alignment = payload_at(payloads, slots)
        self.size = aligned(at + size, self.alignment)
        tag = discriminant_size(len(payloads))
        self.format = f"{_SIZED[tag]}{at - tag}x{self.size - at}s"
        self._packers = [None if form is None else (form.put, struct.Struct("<" + form.format).pack) for form in forms]
        self._takers = [
            None if form is None else (form.take, struct.Struct("<" + form.format).unpack_from) for form in forms
        ]

    def put_case(self, case: int, payload: Any, output: Output, numbers: list[Any]) -> None:
        packer = self._packers[case]
        if packer is None:
            numbers += case, b""
            return
        put, pack = packer
        inner: list[Any] = []
        put(payload, output, inner)
        if not _PLAIN.issuperset(map(type, inner)):
            raise TypeError
        numbers += case, pack(*inner)

    def take_case(self, numbers: Sequence[Any], at: int, image: Input) -> tuple[int, Any]:
        """The case, and the payload; None for a case that has none."""
        case = _case(numbers[at], self._takers)
        taker = self._takers[case]
        if taker is None:
            return case, None
        take, unpack = taker
        return case, take(unpack(numbers[at + 1]), 0, image)


class _Variant(_Cases):
    def __init__(self, type_: wit.Variant, forms: Sequence[Form | None], slots: bool) -> None:
        super().__init__(forms, tuple(payload for _, payload in type_.cases), slots)
        self._classes = cases_of(type_)
        self._index = {each: index for index, each in enumerate(self._classes)}

    def put(self, value: Any, output: Output, numbers: list[Any]) -> None:
        self.put_case(self._index[type(value)], value.__dict__.get("value"), output, numbers)

    def take(self, numbers: Sequence[Any], at: int, image: Input) -> Any:
        case, payload = self.take_case(numbers, at, image)
        made = object.__new__(self._classes[case])
        if self._takers[case] is not None:
            made.__dict__["value"] = payload
        return made


class _Option(_Cases):
    def put(self, value: Any, output: Output, numbers: list[Any]) -> None:
        self.put_case(0 if value is None else 1, value, output, numbers)

    def take(self, numbers: Sequence[Any], at: int, image: Input) -> Any:
        return self.take_case(numbers, at, image)[1]


class _OptionOfOption(_Cases):
    def put(self, value: Any, output: Output, numbers: list[Any]) -> None:
        if value is None:
            self.put_case(0, None, output, numbers)
        elif type(value) is Some:
            self.put_case(1, value.value, output, numbers)
        else:
            raise TypeError

    def take(self, numbers: Sequence[Any], at: int, image: Input) -> Any:
        case, value = self.take_case(numbers, at, image)
        return Some(value) if case else None


class _Result(_Cases):
    def put(self, value: Any, output: Output, numbers: list[Any]) -> None:
        case = (Ok, Err).index(type(value))
        if self._packers[case] is None and value.value is not None:
            raise TypeError
        self.put_case(case, value.value, output, numbers)

    def take(self, numbers: Sequence[Any], at: int, image: Input) -> Any:
        case, value = self.take_case(numbers, at, image)
        return Err(value) if case else Ok(value)


class _Bytes(Form):
    format, count = "II", 2

    def put(self, value: Any, output: Output, numbers: list[Any]) -> None:
        if type(value) is not bytes:
            value = _content(value, "B", (1, "Bc"))
        numbers += output.put(value, 1), len(value)

    def take(self, numbers: Sequence[Any], at: int, image: Input) -> bytes:
        size = numbers[at + 1]
        start = image.region(numbers[at], size, 1)
        return bytes(image.data[start : start + size])


class _Numbers(Form):
    """A list of numbers."""

    format, count = "II", 2

    def __init__(self, kind: str, size: int, give: Numbers) -> None:
        self._word = NUMBERS[kind]
        self._size = size
        # A long is of the size of an int, or of that of a long long.
        self._same = size, {"f": "f", "d": "d"}.get(self._word) or ("hilqnb" if self._word.islower() else "HILQNB")
        self._give = give

    def put(self, value: Any, output: Output, numbers: list[Any]) -> None:
        content = _content(value, self._word, self._same)
        numbers += output.put(content, self._size), len(content) // self._size

    def take(self, numbers: Sequence[Any], at: int, image: Input) -> Any:
        count = numbers[at + 1]
        start = image.region(numbers[at], count * self._size, self._size)
        if self._give == "list":
            return list(struct.unpack_from(f"<{count}{self._word}", image.data, start))
        content = bytes(image.data[start : start + count * self._size])
        if self._give == "numpy":
            import numpy

            return numpy.frombuffer(content, "<" + numpy.dtype(self._word).str[1:])
        made = array(self._word, content)
        if sys.byteorder == "big":
            made.byteswap()
        return made


def _content(value: Any, word: str, same: tuple[int, str]) -> Any:
    """A list of numbers as bytes."""
    if isinstance(value, (list, tuple)):
        if not (_REALS if word in "fd" else _INTEGERS).issuperset(map(type, value)):
            raise TypeError
        return bytes(value) if word == "B" else struct.pack(f"<{len(value)}{word}", *value)
    view = memoryview(value)
    if (
        view.ndim != 1
        or view.itemsize != same[0]
        or view.format.lstrip("@=<" if sys.byteorder == "little" else "<") not in same[1]
    ):
        raise TypeError
    return view.tobytes()


class _List(Form):
    format, count = "II", 2

    def __init__(self, form: Form) -> None:
        self._form = form
        self._struct = struct.Struct("<" + form.format)

    def put(self, value: Any, output: Output, numbers: list[Any]) -> None:
        if not isinstance(value, (list, tuple)):
            raise TypeError
        put, pack, size = self._form.put, self._struct.pack_into, self._form.size
        start = at = output.reserve(len(value) * size, self._form.alignment)
        data = output.data
        for each in value:
            inner: list[Any] = []
            put(each, output, inner)
            if not _PLAIN.issuperset(map(type, inner)):
                raise TypeError
            pack(data, at, *inner)
            at += size
        numbers += start + BASE, len(value)

    def take(self, numbers: Sequence[Any], at: int, image: Input) -> list[Any]:
        size = numbers[at + 1] * self._form.size
        start = image.region(numbers[at], size, self._form.alignment)
        take = self._form.take
        return [take(each, 0, image) for each in self._struct.iter_unpack(memoryview(image.data)[start : start + size])]


class _Map(_List):
    def put(self, value: Any, output: Output, numbers: list[Any]) -> None:
        super().put(list(value.items()), output, numbers)

    def take(self, numbers: Sequence[Any], at: int, image: Input) -> Any:
        return dict(super().take(numbers, at, image))


def padded(forms: Sequence[Form], size: int) -> str:
    """The words of struct for values in a row, each at a multiple of its alignment."""
    words, at = [], 0
    for form in forms:
        start = aligned(at, form.alignment)
        words.append(f"{start - at}x{form.format}")
        at = start + form.size
    return "".join([*words, f"{size - at}x"])


class Forms:
    """Makes the forms of types, each once."""

    def __init__(self, wrap: WrapHandle, numbers: Numbers) -> None:
        self._wrap = wrap
        self._numbers = numbers
        self._made: dict[tuple[int, bool], Form] = {}
        self._kept: list[wit.Type] = []  # for their ids

    def of(self, type_: wit.Type, slots: bool) -> Form:
        """The form of a type."""
        key = id(type_), slots
        form = self._made.get(key)
        if form is None:
            form = self._form(type_, slots)
            form.size, form.alignment = placed(type_, slots)
            if slots and form.format == "II":
                form.format = "I4xI4x"
            taken = struct.calcsize("<" + form.format)
            if taken < form.size:
                form.format += f"{form.size - taken}x"
            self._made[key] = form
            self._kept.append(type_)
        return form

    def _form(self, type_: wit.Type, slots: bool) -> Form:
        if isinstance(type_, wit.Primitive):
            return self._primitive(type_)
        if isinstance(type_, wit.Enum):
            return _Enum(type_)
        if isinstance(type_, wit.Flags):
            return _Flags(type_)
        if isinstance(type_, wit.Handle):
            return _Handle(type_, self._wrap)
        if isinstance(type_, wit.Map):
            return _Map(self.of(wit.Tuple((type_.key, type_.value)), False))
        inner = fields(type_)
        if inner is not None:
            return self._record(type_, inner, slots)
        payloads = cases(type_)
        if payloads is not None:
            return self._cases(type_, payloads, slots)
        assert isinstance(type_, wit.List)
        return self._list(type_.element)

    def _primitive(self, type_: wit.Primitive) -> Form:
        if type_.name in NUMBERS:
            return _Number(NUMBERS[type_.name])
        return {"bool": _Bool, "char": _Char, "string": _Text}[type_.name]()

    def _record(self, type_: wit.Type, inner: tuple[wit.Type, ...], slots: bool) -> Form:
        forms = [self.of(each, slots) for each in inner]
        size = record_size(inner, slots)
        if isinstance(type_, wit.Record):
            return _Fields(type_, forms, *size)
        if isinstance(type_, wit.List):
            return (_FixedBytes if type_.element == wit.Primitive("u8") else _FixedList)(forms, *size)
        return _Tuple(forms, *size)

    def _cases(self, type_: wit.Type, payloads: tuple[wit.Type | None, ...], slots: bool) -> Form:
        forms = [None if payload is None else self.of(payload, slots) for payload in payloads]
        if isinstance(type_, wit.Variant):
            return _Variant(type_, forms, slots)
        if isinstance(type_, wit.Result):
            return _Result(forms, payloads, slots)
        assert isinstance(type_, wit.Option)
        return (_OptionOfOption if isinstance(type_.some, wit.Option) else _Option)(forms, payloads, slots)

    def _list(self, element: wit.Type) -> Form:
        if element == wit.Primitive("u8"):
            return _Bytes()
        if isinstance(element, wit.Primitive) and element.name in NUMBERS:
            return _Numbers(element.name, placed(element, False)[0], self._numbers)
        return _List(self.of(element, False))


def _case(number: int, known: Sequence[Any]) -> int:
    if number >= len(known):
        raise BadImage(f"there is no case number {number} among {len(known)}")
    return number


class ComponentCodec:
    """Packs the arguments and unpacks the results of one function.

    Args:
        function: the function.
        wrap: makes the object for a handle that the function returns; a `Resource` without owner if not given.
        numbers: how lists of numbers come out: as a list, an array, or an array of numpy's.  A ``list<u8>`` is bytes.

    Raises:
        BadArguments: values of one of its types cannot be passed.
    """

    def __init__(self, function: wit.Function, wrap: WrapHandle = Resource, numbers: Numbers = "list") -> None:
        self.function = function
        self._forms = Forms(wrap, numbers)
        for type_ in wit.within(function.types):
            if isinstance(type_, wit.Channel) or type_ == wit.Primitive("error-context"):
                raise BadArguments(
                    f"{function} uses the type {type_}, whose values cannot be passed: nothing here waits for them"
                )

    # These are made when they are needed, as a component has functions that are never called, and classes take their time.

    @cached_property
    def _params(self) -> _Tuple:
        slots = flat_params(self.function) is not None
        types = tuple(type_ for _, type_ in self.function.params)
        return _Tuple([self._forms.of(each, slots) for each in types], *record_size(types, slots))

    @cached_property
    def _params_struct(self) -> struct.Struct:
        return struct.Struct("<" + self._params.format)

    @cached_property
    def _result(self) -> Form | None:
        return None if self.function.result is None else self._forms.of(self.function.result, False)

    @cached_property
    def _result_struct(self) -> struct.Struct:
        return struct.Struct("<" + (self._result.format if self._result else ""))

    def pack(self, args: tuple[Any, ...]) -> bytes:
        """The arguments as an image, of a multiple of `CHUNK` bytes.

        Raises:
            BadArguments: the number of arguments, or the type of one, does not fit.
            ArgumentOutOfRange: a number does not fit into its type.
        """
        try:
            output = self._packed(args)
        except Exception:  # something to convert, or to explain
            if len(args) != len(self.function.params):
                raise refused_count(self.function, args) from None
            converted = tuple(
                normalised(f"{self.function.label}: argument {position} ({name})", value, type_)
                for position, (value, (name, type_)) in enumerate(zip(args, self.function.params, strict=True))
            )
            output = self._packed(converted)
        return _finished(output, self.function)

    def _packed(self, args: tuple[Any, ...]) -> Output:
        output = Output(self._params.size)
        numbers: list[Any] = []
        self._params.put_all(args, output, numbers)
        return _written(output, self._params_struct, numbers)

    def unpack(self, image: bytes | memoryview) -> Any:
        """The result in an image; that of a function without is None.

        Raises:
            WasmResultError: the function's type is a ``result``, and this is an error.
            BadImage: it is not what such a function returns.
        """
        value = self.value(image)
        if isinstance(self.function.result, wit.Result):
            if isinstance(value, Err):
                raise WasmResultError(self.function.label, value.value)
            return value.value
        return value

    def value(self, image: bytes | memoryview) -> Any:
        """As `unpack`, but a ``result`` as `Ok` or `Err`."""
        if self._result is None:
            return None
        read = Input(image)
        read.region(BASE, self._result_struct.size, 1)
        return self._result.take(self._result_struct.unpack_from(image), 0, read)

    def unpack_arguments(self, image: bytes | memoryview) -> tuple[Any, ...]:
        """The arguments in the image that a function of Python's is called with; see `procpool.component.hosted`.

        Raises:
            BadImage: it is not what such a function is called with.
        """
        read = Input(image)
        at = 0 if flat_params(self.function) is not None else SLOTS
        read.region(BASE + at, self._params_struct.size, 1)
        return self._params.take(self._params_struct.unpack_from(image, at), 0, read)

    def pack_result(self, value: Any) -> bytes:
        """What a function of Python's returned, as an image; the other side of `unpack`.

        A ``result`` is an `Ok` or `Err`, or else what went well.

        Raises:
            BadArguments: it does not fit the type.
            ArgumentOutOfRange: a number does not fit into its type.
        """
        form, type_ = self._result, self.function.result
        if form is None or type_ is None:
            if value is not None:
                raise BadArguments(f"{self.function.label} returned {shown(value)}, expected None")
            return b""
        if isinstance(type_, wit.Result) and not isinstance(value, (Ok, Err)):
            value = Ok(value)
        try:
            output = self._packed_result(form, value)
        except Exception:  # something to convert, or to explain
            value = normalised(f"{self.function.label}: what it returned", value, type_)
            output = self._packed_result(form, value)
        return _finished(output, self.function)

    def _packed_result(self, form: Form, value: Any) -> Output:
        output = Output(form.size)
        numbers: list[Any] = []
        form.put(value, output, numbers)
        return _written(output, self._result_struct, numbers)


def _written(output: Output, layout: struct.Struct, numbers: list[Any]) -> Output:
    """The output, with the numbers at its beginning."""
    if not _PLAIN.issuperset(map(type, numbers)):
        raise TypeError
    layout.pack_into(output.data, 0, *numbers)
    return output


def _finished(output: Output, function: wit.Function) -> bytes:
    if len(output.data) > MOST_BYTES:
        raise BadArguments(
            f"{function.label}: the values take {len(output.data)} bytes, more than the {MOST_BYTES} that one call can pass"
        )
    for resource in output.given:
        resource.given()
    output.data += bytes(-len(output.data) % CHUNK)
    return bytes(output.data)
