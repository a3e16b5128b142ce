"""The codec of components against the component model's reference implementation, whose answers are in a fixture."""

from __future__ import annotations

import json
import lzma
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procpool import ArgumentOutOfRange, BadArguments
from procpool.component import wit
from procpool.component.codec import ComponentCodec
from procpool.component.errors import BadImage
from procpool.component.values import Err, Ok, Some, cases_of, class_of
from procpool.component.wit import Primitive

CASES = json.loads(lzma.decompress((Path(__file__).parent.parent / "fixtures/canonical.json.xz").read_bytes()))
SIGNED = ("s8", "s16")


def wit_type(made: Any) -> wit.Type:
    """A type of the fixture."""
    if isinstance(made, str):
        return Primitive(made)
    kind, *rest = made
    if kind == "record":
        return wit.Record("a:b/c#r", tuple((name, wit_type(each)) for name, each in rest[0]))
    if kind == "variant":
        return wit.Variant("a:b/c#v", tuple((name, maybe(each)) for name, each in rest[0]))
    if kind == "enum":
        return wit.Enum("a:b/c#e", tuple(rest[0]))
    if kind == "flags":
        return wit.Flags("a:b/c#f", tuple(rest[0]))
    if kind == "tuple":
        return wit.Tuple(tuple(map(wit_type, rest[0])))
    if kind == "result":
        return wit.Result(*map(maybe, rest))
    if kind == "option":
        return wit.Option(wit_type(rest[0]))
    if kind == "map":
        return wit.Map(*map(wit_type, rest))
    return wit.List(wit_type(rest[0]), *rest[1:])


def maybe(made: Any) -> wit.Type | None:
    return None if made is None else wit_type(made)


def python_value(type_: wit.Type, written: Any) -> Any:
    """A value of the fixture."""
    match type_:
        case Primitive("f32" | "f64" as name):
            return struct.unpack("<f" if name == "f32" else "<d", bytes.fromhex(written))[0]
        case wit.Record():
            values = [python_value(each, one) for (_, each), one in zip(type_.fields, written, strict=True)]
            return class_of(type_)(*values)
        case wit.Variant():
            case_, payload = cases_of(type_)[written[0]], type_.cases[written[0]][1]
            return case_() if payload is None else case_(python_value(payload, written[1]))
        case wit.Enum():
            return list(class_of(type_))[written]
        case wit.Flags():
            return class_of(type_)(written)
        case wit.Tuple():
            return tuple(python_value(each, one) for each, one in zip(type_.items, written, strict=True))
        case wit.List(Primitive("u8")):
            return bytes(written)
        case wit.List():
            return [python_value(type_.element, one) for one in written]
        case wit.Map():
            return {python_value(type_.key, key): python_value(type_.value, one) for key, one in written}
        case wit.Option():
            value = python_value(type_.some, written[0]) if written else None
            return Some(value) if written and isinstance(type_.some, wit.Option) else value
        case wit.Result():
            payload = (type_.ok, type_.error)[written[0]]
            return (Ok, Err)[written[0]](None if payload is None else python_value(payload, written[1]))
    return written


def mentions(type_: wit.Type) -> Iterator[wit.Type]:
    yield type_
    for each in wit.parts(type_):
        yield from mentions(each)


def same(one: Any, other: Any) -> bool:
    """Whether they are equal, or differ in NaNs only, which are unequal to themselves."""
    return bool(one == other) or repr(one) == repr(other)


#: So many parameters before the one in question are more than fit into core parameters, so that all lie in memory.
FILLING = 17


def as_result(type_: wit.Type) -> ComponentCodec:
    return ComponentCodec(wit.Function("f", (), type_))


def as_param(type_: wit.Type) -> ComponentCodec:
    return ComponentCodec(wit.Function("f", (("x", type_),), None))


@pytest.mark.parametrize("part", range(10))
def test_what_the_reference_wrote_is_read(part: int) -> None:
    for made, written, memory, _ in CASES[part::10]:
        type_ = wit_type(made)
        read = as_result(type_).value(bytes.fromhex(memory))
        assert same(read, python_value(type_, written)), (made, written, read)


@pytest.mark.parametrize("part", range(10))
def test_core_values_are_those_of_the_reference(part: int) -> None:
    seen = 0
    for made, written, _, slots in CASES[part::10]:
        type_ = wit_type(made)
        if slots is None or any(each == Primitive(name) for each in mentions(type_) for name in SIGNED):
            continue  # small signed integers stand in the low bytes of their core values, of which only these count
        expected = bytes.fromhex(slots)
        packed = as_param(type_).pack((python_value(type_, written),))
        assert packed == expected + bytes(-len(expected) % 4), (made, written)
        seen += 1
    assert seen > 50


@pytest.mark.parametrize("part", range(10))
def test_memory_is_that_of_the_reference(part: int) -> None:
    for made, written, memory, _ in CASES[part::10]:
        type_ = wit_type(made)
        packed = as_result(type_).pack_result(python_value(type_, written))
        expected = bytes.fromhex(memory)
        assert packed == expected + bytes(-len(expected) % 4), (made, written)


@pytest.mark.parametrize("part", range(10))
def test_arguments_come_back(part: int) -> None:
    for made, written, _, slots in CASES[part::10]:
        type_ = wit_type(made)
        value = python_value(type_, written)
        if slots is not None:
            assert same(as_param(type_).unpack_arguments(as_param(type_).pack((value,))), (value,))
            assert same(as_param(type_).unpack_arguments(bytes.fromhex(slots)), (value,)), made


TYPES = [wit_type(made) for made, *_ in CASES]


@given(st.sampled_from(TYPES), st.binary(max_size=200), st.sampled_from(CASES), st.data())
def test_any_bytes_are_a_value_or_are_refused(type_: wit.Type, noise: bytes, case: Any, data: st.DataObject) -> None:
    image = bytearray(bytes.fromhex(case[2]))
    for at in data.draw(st.lists(st.integers(0, 40), max_size=4)):
        if at < len(image):
            image[at] ^= data.draw(st.integers(1, 255))
    for codec, given_ in ((as_result(type_), noise), (as_result(wit_type(case[0])), bytes(image))):
        try:
            value = codec.value(given_)
        except BadImage:
            continue
        # What was taken for a value is one.
        assert same(codec.value(codec.pack_result(value)), value)


def u32(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


@pytest.mark.parametrize(
    ("type_", "image", "why"),
    [
        (wit.List(Primitive("u8")), b"", "leaves the 0 bytes"),
        (wit.List(Primitive("u8")), u32(16, 9), "9 bytes at 16 leaves the 8 bytes"),
        (wit.List(Primitive("u8")), u32(15, 1), "1 bytes at 15 leaves"),
        (wit.List(Primitive("u8")), u32(0, 0), "0 bytes at 0 leaves"),
        (wit.List(Primitive("u8")), u32(2**32 - 1, 2**32 - 1), "leaves"),
        (wit.List(Primitive("u64")), u32(16, 2**29), f"to {2**32} bytes at 16 leaves"),
        (wit.List(Primitive("u32")), u32(26, 1, 0, 0), "26 is not aligned to 4"),
        (wit.List(Primitive("u8")), u32(16, 8), "overlap"),
        (Primitive("string"), u32(24, 1) + b"\xff\0\0\0", "not UTF-8"),
        (Primitive("string"), u32(24, 3) + b"\xed\xa0\x80", "not UTF-8"),  # a surrogate
        (Primitive("char"), u32(0xD800), "0xd800 is no character"),
        (Primitive("char"), u32(0x110000), "0x110000 is no character"),
        (wit.Enum("e", ("a", "b")), u32(2), "no case number 2 among 2"),
        (wit.Option(Primitive("u8")), u32(2), "no case number 2 among 2"),
        (wit.Result(), u32(255), "no case number 255 among 2"),
        (Primitive("u64"), u32(1), "leaves the 4 bytes"),
    ],
)
def test_what_is_no_value_is_refused(type_: wit.Type, image: bytes, why: str) -> None:
    with pytest.raises(BadImage, match=why):
        as_result(type_).value(image)


def test_a_small_image_is_no_large_value() -> None:
    # 1,000 lists that are each the same 1,000 lists that are each the same 1,000 numbers.
    inner = struct.pack("<1000Q", *range(1000))
    middle = u32(16 + 8, 1000) * 1000
    outer = u32(16 + 8 + len(inner), 1000) * 1000
    image = u32(16 + 8 + len(inner) + len(middle), 1000) + inner + middle + outer
    type_ = wit.List(wit.List(wit.List(Primitive("u64"))))
    with pytest.raises(BadImage, match="overlap"):
        as_result(type_).value(image)


def test_unknown_flags_are_dropped() -> None:
    flags = wit.Flags("a:b/c#three", ("a", "b", "c"))
    assert as_result(flags).value(u32(0xFF)) == class_of(flags)(7)


@pytest.mark.parametrize(("bits", "sign"), [(bits, sign) for bits in (8, 16, 32, 64) for sign in "su"])
@pytest.mark.parametrize("listed", [False, True])
def test_integers_have_bounds(bits: int, sign: str, listed: bool) -> None:
    type_: wit.Type = Primitive(f"{sign}{bits}")
    codec = as_param(wit.List(type_) if listed else type_)
    least, most = (0, 2**bits - 1) if sign == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    for number in (least, most):
        value = [number] if listed else number
        (back,) = codec.unpack_arguments(codec.pack((value,)))
        assert (list(back) if listed else back) == value
    for number in (least - 1, most + 1, 2**70, -(2**70)):
        with pytest.raises(ArgumentOutOfRange, match=rf"out of range for {type_} \(from {least} to {most}\)"):
            codec.pack(([number] if listed else number,))


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
@pytest.mark.parametrize("of", [lambda text: text, lambda text: [text]])
def test_surrogates_are_refused(text: str, of: Any) -> None:
    type_: wit.Type = Primitive("string") if of(text) == text else wit.List(Primitive("string"))
    with pytest.raises(BadArguments, match="surrogates"):
        as_param(type_).pack((of(text),))
    with pytest.raises(BadArguments, match="expected char"):
        as_param(Primitive("char")).pack(("\ud800",))


def test_nans_keep_their_sign_and_payload() -> None:
    codec = as_result(Primitive("f64"))
    for bits in (0x7FF8000000000001, 0xFFF8000000000000):
        image = struct.pack("<Q", bits)
        assert math.isnan(codec.value(image))
        assert codec.pack_result(codec.value(image)) == image
