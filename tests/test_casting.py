"""What of an array fits into the type of a parameter, and what does not: by the rules of `call`, and numpy's."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from conftest import FIXTURES, KERNELS, SHAPES
from hypothesis import given, settings
from hypothesis import strategies as st

from procpool import ArgumentOutOfRange, BadArguments, ProcessWasmPool
from procpool.maps.casting import BLOCK, DTYPES
from procpool.maps.options import Casting

INTEGERS = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i8", ">u4"]
#: export that adds two of that type -> by type
ADD = {"i32": "add", "i64": "add64", "f32": "addf", "f64": "addd"}
EDGES = sorted({sign * (1 << bits) + off for bits in (31, 32, 63, 64) for off in (-1, 0, 1) for sign in (1, -1)})


def outcome(action: Any) -> Any:
    try:
        return action()
    except BadArguments as error:
        return type(error)


@given(st.data())
@settings(max_examples=150)
def test_an_array_is_refused_where_call_refuses_its_items(kernels: ProcessWasmPool, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["i32", "i64", "f32", "f64"]))
    dtype = np.dtype(data.draw(st.sampled_from([*INTEGERS, "f2", "f4", "f8"] if kind[0] == "f" else INTEGERS)))
    if dtype.kind == "f":
        most = float(np.finfo(np.float32).max)
        half_way = 2.0**128 * (1 - 2.0**-25)
        special = [most, half_way, np.nextafter(half_way, 0), 1e300, np.inf, np.nan]
        numbers: Any = st.one_of(st.floats(), st.sampled_from([*special, *(-x for x in special)]))
        with np.errstate(all="ignore"):
            items = np.array(data.draw(st.lists(numbers, min_size=1, max_size=5))).astype(dtype)
    else:
        info = np.iinfo(dtype)
        edges = [edge for edge in EDGES if info.min <= edge <= info.max] or [0]
        numbers = st.one_of(st.integers(int(info.min), int(info.max)), st.sampled_from(edges))
        items = np.array(data.draw(st.lists(numbers, min_size=1, max_size=5)), dtype)
    export, zero = ADD[kind], 0 if kind[0] == "i" else 0.0
    ours = outcome(lambda: kernels.map_array(export, items, zero).tolist())
    single = [outcome(lambda item=item: kernels.call(export, item.item(), zero)) for item in items]  # type: ignore[misc]
    if ArgumentOutOfRange in single:
        assert ours is ArgumentOutOfRange
    else:
        np.testing.assert_array_equal(ours, single)


@pytest.mark.parametrize(
    ("export", "items", "words"),
    [
        ("add", [1, 2**40 + 5], r"add: argument 0 at index 1 is 1099511627781, out of range for i32 \(from -2\*\*31 to 2\*\*32-1\)"),
        ("add", [[1, 2], [3, -(2**31) - 1]], r"at index \(1, 1\) is -2147483649, out of range for i32"),
        ("add", 2**40, r"argument 0 is 1099511627776, out of range"),
        ("add64", 2**64, "argument 0 is 18446744073709551616, out of range for i64"),
        ("add64", [5, 2**64], "argument 0 at index 1 is 18446744073709551616, out of range for i64"),
        ("addf", [1.0, 1e39, 1e40], r"addf: argument 0 at index 1 is 1e\+39, too large for f32"),
        ("addf", [1.0, -1e39], r"at index 1 is -1e\+39, too large for f32"),
        ("addd", np.array([1, np.longdouble("2e308")]), r"argument 0 at index 1 is 2e\+308, too large for f64"),
    ],
)  # fmt: skip
def test_what_is_out_of_range_is_named_before_anything_runs(
    kernels: ProcessWasmPool, export: str, items: Any, words: str
) -> None:
    calls = kernels.stats().calls
    zero = 0.0 if export in ("addf", "addd") else 0
    with pytest.raises(ArgumentOutOfRange, match=words):
        kernels.map_array(export, items, zero)
    with pytest.raises(ArgumentOutOfRange, match=words.replace("argument 0", "argument 1")):
        kernels.ufunc(export)(zero, items)
    assert kernels.stats().calls == calls


def test_the_first_is_named_wherever_it_is(kernels: ProcessWasmPool) -> None:
    items = np.zeros((3, BLOCK), np.int64)
    items[1, 7] = items[2, 0] = -(2**40)
    with pytest.raises(ArgumentOutOfRange, match=r"at index \(1, 7\) is -1099511627776"):
        kernels.map_array("add", items, 1)
    with pytest.raises(ArgumentOutOfRange, match=r"at index \(0, 2\) is -1099511627776"):
        kernels.map_array("add", items.T, 1)
    with pytest.raises(ArgumentOutOfRange, match=r"at index 9 is 1e\+39, too"):
        kernels.map_array("addf", np.array([np.inf, np.nan] * 4 + [1.0, 1e39]), 1.0)


def test_an_in_place_map_that_is_refused_has_changed_nothing(kernels: ProcessWasmPool) -> None:
    mine = np.zeros(300_000, np.int32)
    other = np.ones(300_000, np.int64)
    other[-1] = 2**40
    with pytest.raises(ArgumentOutOfRange, match="argument 1 at index 299999 is 1099511627776"):
        kernels.map_array("add", mine, other, out=mine)
    assert not mine.any()


@pytest.mark.parametrize(
    ("export", "items", "words"),
    [
        ("add", [1.5, 2.0], "argument 0 has dtype float64, which does not cast to i32"),
        ("add", [np.nan], "argument 0 has dtype float64"),
        ("add", [np.inf], "argument 0 has dtype float64"),
        ("addf", [1j], "argument 0 has dtype complex128"),
        ("add", np.array(["2026-01-01"], "M8[s]"), "argument 0 has dtype datetime64"),
        ("add", ["7"], "argument 0 has dtype <U1"),
        ("add", [None, 1], "argument 0 at index 0 is None"),
        ("add", np.array([1, True, 2.5], object), "argument 0 at index 1 is True"),
        ("add", [[1], [2, 3]], "argument 0 is no array"),
    ],
)
def test_a_kind_that_does_not_fit(kernels: ProcessWasmPool, export: str, items: Any, words: str) -> None:
    with pytest.raises(BadArguments, match=words) as caught:
        kernels.map_array(export, items, 1)
    assert not isinstance(caught.value, ArgumentOutOfRange)


def test_objects_go_by_the_rules_of_call(kernels: ProcessWasmPool) -> None:
    assert kernels.map_array("add", np.array([1, 2**32 - 1], object), 0).tolist() == [1, -1]
    assert kernels.map_array("addd", np.array([[1, Fraction(1, 2)]], object), 0).tolist() == [[1.0, 0.5]]
    with pytest.raises(BadArguments, match=r"index 1 is 2\.5"):
        kernels.map_array("add", np.array([1, 2.5], object), 0)


def test_bools_are_0_and_1_as_in_numpy(kernels: ProcessWasmPool) -> None:
    assert kernels.map_array("add", np.array([True, False]), 1).tolist() == [2, 1]


@pytest.mark.parametrize(
    "items", [[1, 2], [1.5], [True], ["a" * 4], np.array([1], object), np.zeros(1, "V8"), np.zeros(1, "f4,f4,f8")]
)
def test_a_vector_is_16_bytes_and_nothing_else(items: Any, nothing_left: None) -> None:
    with ProcessWasmPool(SHAPES, workers=1) as pool, pytest.raises(BadArguments, match=r"does not cast to v128.*V16"):
        pool.map_array("add_lanes", items, np.zeros(1, "V16"), casting="unsafe")


def test_unsafe_is_numpys_unsafe(kernels: ProcessWasmPool) -> None:
    wide = np.array([2**40 + 5, -1, 3])
    assert kernels.map_array("add", wide, 1, casting="unsafe").tolist() == [6, 0, 4]
    assert kernels.map_array("add", [1.9, -1.9], 0, casting="unsafe").tolist() == [1, -1]
    assert kernels.map_array("addf", [1e300], 1.0, casting="unsafe").tolist() == [np.inf]
    assert kernels.ufunc("add")(["7", "8"], 1, casting="unsafe").tolist() == [8, 9]
    assert kernels.map_array("add", np.array([True, 7.5], object), 1, casting="unsafe").tolist() == [2, 8]
    with pytest.raises(BadArguments, match=r"argument 0 .*does not cast to i32.*invalid literal"):
        kernels.map_array("add", ["seven"], 1, casting="unsafe")


def test_safe_takes_what_no_value_of_the_dtype_could_break(kernels: ProcessWasmPool) -> None:
    assert kernels.map_array("add", np.array([1], np.uint16), np.array([2], np.int32), casting="safe").tolist() == [3]
    assert kernels.map_array("add", np.array([1], np.int32), 2, casting="safe").tolist() == [3], "a number has no dtype"
    with pytest.raises(ArgumentOutOfRange):
        kernels.map_array("add", np.array([1], np.int32), 2**40, casting="safe")
    for wide in ("i8", "u4"):
        with pytest.raises(BadArguments, match=r"does not cast to i32 .* by numpy's safe rule"):
            kernels.map_array("add", np.array([1], wide), 1, casting="safe")
    for odd in ("odd", None, 3):
        with pytest.raises(ValueError, match="casting must be one of 'no', 'equiv', 'safe', 'same_kind', 'unsafe', got"):
            kernels.map_array("add", [1], 1, casting=odd)  # type: ignore[arg-type]


@pytest.mark.parametrize("casting", ["no", "equiv", "safe", "same_kind"])
@pytest.mark.parametrize("dtype", [*INTEGERS, "f2", "f4", "f8", ">i4", "<i4", ">f4", "?"])
def test_dtypes_are_taken_as_numpy_takes_them(kernels: ProcessWasmPool, dtype: str, casting: Casting) -> None:
    items = np.ones(3, dtype)
    for kind, export in ADD.items():
        wanted = DTYPES[kind]
        if np.can_cast(items.dtype, wanted, casting):
            np.testing.assert_array_equal(kernels.map_array(export, items, np.ones(3, wanted), casting=casting), [2, 2, 2])
            assert kernels.map_array(export, items, 1, casting=casting)[0] == 2, "a number has no dtype"
        else:
            with pytest.raises(BadArguments, match=f"does not cast to {kind} .* by numpy's {casting} rule"):
                kernels.map_array(export, items, np.ones(3, wanted), casting=casting)


@pytest.mark.parametrize("dtype", ["i2", "u4", "i8", "f4", "f8"])
def test_out_is_never_narrower(kernels: ProcessWasmPool, dtype: str) -> None:
    for casting in ("same_kind", "unsafe"):
        with pytest.raises(BadArguments, match=f"out has dtype {np.dtype(dtype)}.*expected int32"):
            kernels.map_array("add", [1, 2], 1, out=np.zeros(2, dtype), casting=casting)


def test_numpys_warnings_are_errors_and_harm_nothing(nothing_left: None) -> None:
    """A cast that numpy warns of happens in the pool's own thread, too."""
    script = f"""
import numpy as np
from procpool import ProcessWasmPool
np.seterr(all="raise")
with ProcessWasmPool({str(KERNELS)!r}, 1) as pool:
    many = np.full(500_000, 1e300)
    assert np.isinf(pool.map_array("addf", many, 1.0, casting="unsafe")).all()
    pool.map_array("add", np.full(500_000, np.nan), 1, casting="unsafe")
    assert pool.call("add", 1, 2) == 3
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, cwd=FIXTURES.parent)
