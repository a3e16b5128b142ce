"""Scalars to slots and back."""

from __future__ import annotations

import math
import struct
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from procpool import ArgumentOutOfRange, BadArguments, FuncType
from procpool.codec import Codec


def there_and_back(kind: str, value: Any) -> Any:
    codec = Codec("f", FuncType((kind,), (kind,)))
    return codec.unpack(codec.pack((value,)))


@given(st.integers(-(2**31), 2**32 - 1))
def test_i32_wraps_to_signed(value: int) -> None:
    assert there_and_back("i32", value) == (value + 2**31) % 2**32 - 2**31


@given(st.integers(-(2**63), 2**64 - 1))
def test_i64_wraps_to_signed(value: int) -> None:
    assert there_and_back("i64", value) == (value + 2**63) % 2**64 - 2**63


@given(st.floats(width=64) | st.integers(-(2**1000), 2**1000))
def test_f64_keeps_its_bits(value: float) -> None:
    assert struct.pack("<d", there_and_back("f64", value)) == struct.pack("<d", value)


@given(st.floats(width=32, allow_nan=False))
def test_f32_keeps_its_value(value: float) -> None:
    assert there_and_back("f32", value) == value


@given(st.binary(min_size=16, max_size=16))
def test_v128_is_bytes(value: bytes) -> None:
    assert there_and_back("v128", value) == value
    assert there_and_back("v128", bytearray(value)) == value


@pytest.mark.parametrize("value", [np.int8(-3), np.uint64(7), np.int64(5)])
def test_numpy_integers(value: Any) -> None:
    assert there_and_back("i32", value) == int(value)
    assert there_and_back("f64", value) == float(value)


@pytest.mark.parametrize("value", [np.float32(1.5), np.float64(-2.25), Decimal("0.5"), Fraction(3, 4)])
def test_whatever_converts_to_float(value: Any) -> None:
    assert there_and_back("f32", value) == float(value)


@pytest.mark.parametrize("kind", ["i32", "i64", "f32", "f64", "v128"])
@pytest.mark.parametrize("value", [True, np.True_, "1", b"1", None, [1], 1j])
def test_what_is_nearly_always_a_mistake_is_refused(kind: str, value: Any) -> None:
    codec = Codec("export", FuncType(("i32", kind), ()))
    with pytest.raises(BadArguments, match=f"export: argument 1 is .*expected an? {kind}") as caught:
        codec.pack((1, value))
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize("kind", ["i32", "i64"])
def test_a_float_is_no_integer(kind: str) -> None:
    with pytest.raises(BadArguments, match=r"argument 0 is 1\.0 \(float\)"):
        Codec("f", FuncType((kind,))).pack((1.0,))


@pytest.mark.parametrize(
    ("kind", "value"),
    [("i32", 2**32), ("i32", -(2**31) - 1), ("i64", 2**64), ("i64", -(2**63) - 1), ("f32", 1e39), ("f64", 10**400),],
)  # fmt: skip
def test_out_of_range(kind: str, value: Any) -> None:
    with pytest.raises(ArgumentOutOfRange, match="argument 0") as caught:
        Codec("f", FuncType((kind,))).pack((value,))
    assert isinstance(caught.value, OverflowError)


@pytest.mark.parametrize("args", [(), (1,), (1, 2, 3)])
def test_the_number_of_arguments(args: tuple[int, ...]) -> None:
    with pytest.raises(BadArguments, match=rf"f takes 2 arguments, \(i32, i32\) -> \(\), got {len(args)}"):
        Codec("f", FuncType(("i32", "i32"))).pack(args)


def test_results_are_none_a_value_or_a_tuple() -> None:
    slots = struct.pack("<i12xd8x", 1, 2.5)
    assert Codec("f", FuncType()).unpack(b"") is None
    assert Codec("f", FuncType((), ("i32",))).unpack(slots) == 1
    assert Codec("f", FuncType((), ("i32", "f64"))).unpack(slots) == (1, 2.5)


@pytest.mark.parametrize("kind", ["externref", "funcref", "(ref null 0)"])
def test_references_are_refused(kind: str) -> None:
    with pytest.raises(BadArguments, match="cannot cross to another process"):
        Codec("f", FuncType((kind,)))


def test_infinities_and_quiet_nans() -> None:
    for kind in ("f32", "f64"):
        assert there_and_back(kind, math.inf) == math.inf
        assert math.isnan(there_and_back(kind, math.nan))


class BrokenRepr:
    def __repr__(self) -> str:
        raise RuntimeError


def test_a_broken_repr_does_not_hide_the_error() -> None:
    with pytest.raises(BadArguments, match="BrokenRepr"):
        Codec("f", FuncType(("i32",))).pack((BrokenRepr(),))


def test_a_number_too_long_to_print_is_refused_all_the_same() -> None:
    with pytest.raises(ArgumentOutOfRange, match="argument 0 is <int object"):
        Codec("f", FuncType(("i32",))).pack((10**6000,))
