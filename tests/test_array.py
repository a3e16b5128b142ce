"""map_array and ufunc, against numpy."""

from __future__ import annotations

import concurrent.futures
import math
from array import array
from typing import Any

import numpy as np
import pytest
from bounded import run_script
from conftest import DEADLINE, KERNELS, MISBEHAVE, SHAPES
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn

from procpool import BadArguments, ProcessWasmPool, WasmTrap


@given(st.data())
@settings(max_examples=60)
def test_add_is_numpys_add(kernels: ProcessWasmPool, data: st.DataObject) -> None:
    """Any shapes that broadcast, any strides, any dtype that casts."""
    shapes = data.draw(stn.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=5, min_side=0))
    dtypes = st.sampled_from(["i1", "i2", "i4", "u1", "u2", "?"])
    arrays = []
    for shape in shapes.input_shapes:
        given_ = data.draw(stn.arrays(data.draw(dtypes), shape))
        if data.draw(st.booleans()):
            given_ = given_.T.copy().T  # Fortran order
        if data.draw(st.booleans()):
            given_ = np.repeat(given_, 2, axis=-1)[..., ::2] if given_.ndim else given_
            given_.flags.writeable = False
        arrays.append(given_)
    ours = kernels.map_array("add", *arrays)
    theirs = np.add(*arrays, dtype=np.int32, casting="same_kind")
    assert type(ours) is type(theirs) and ours.dtype == np.int32
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("export", "dtype"), [("add", np.int32), ("add64", np.int64), ("addf", np.float32), ("addd", np.float64)]
)
def test_large_arrays_are_streamed(kernels: ProcessWasmPool, export: str, dtype: Any) -> None:
    rng = np.random.default_rng(1)
    a = (rng.random((3, 700_000)) * 1000).astype(dtype)
    b = (rng.random(700_000) * 1000).astype(dtype)
    np.testing.assert_array_equal(kernels.map_array(export, a, b), a + b)


def test_scalars_lists_and_buffers(kernels: ProcessWasmPool) -> None:
    assert kernels.map_array("add", 1, 2) == 3
    assert kernels.map_array("add", [[1, 2], [3, 4]], 10).tolist() == [[11, 12], [13, 14]]
    assert kernels.map_array("add", array("i", [1, 2]), memoryview(array("h", [3, 4]))).tolist() == [4, 6]


def test_zero_size(kernels: ProcessWasmPool) -> None:
    empty = kernels.map_array("add", np.zeros((3, 0, 2), np.int32), 1)
    assert empty.shape == (3, 0, 2) and empty.dtype == np.int32


def test_out(kernels: ProcessWasmPool) -> None:
    out = np.zeros((2, 3), np.int32)
    assert kernels.map_array("add", [[1], [2]], [1, 2, 3], out=out) is out
    scalar = np.zeros((), np.int32)
    assert kernels.map_array("add", 1, 2, out=scalar) is scalar and scalar == 3
    assert kernels.map_array("add", [[1], [2]], [1, 2, 3], out=(out,)) is out, "as numpy does"
    assert out.tolist() == [[2, 3, 4], [3, 4, 5]]
    a = np.arange(200_000, dtype=np.int32)
    kernels.map_array("add", a, 1, out=a)  # in place
    assert (a == np.arange(1, 200_001)).all()
    kernels.map_array("add", a[::-1], 0, out=a)  # out overlaps the input in another order
    assert (a == np.arange(200_000, 0, -1)).all()


@pytest.mark.parametrize(
    ("out", "words"),
    [
        (np.zeros(3, np.int64), "dtype int64"),
        (np.zeros(4, np.int32), r"shape \(4,\)"),
        (np.zeros(6, np.int32)[::2], "C-contiguous"),
        ((np.zeros(3, np.int32),) * 2, "1 results, but out has 2"),
        ([0, 0, 0], "must be a numpy array"),
        (np.frombuffer(bytes(12), np.int32), "writeable"),
    ],
)
def test_an_out_that_does_not_fit_is_refused_before_anything_runs(kernels: ProcessWasmPool, out: Any, words: str) -> None:
    calls = kernels.stats().calls
    with pytest.raises(BadArguments, match=words):
        kernels.map_array("add", [1, 2, 3], 1, out=out)
    assert kernels.stats().calls == calls


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (([1.5], [1]), "argument 0 has dtype float64, which does not cast to i32"),
        ((["a"], [1]), "argument 0 has dtype <U1"),
        (([1, 2], [1, 2, 3]), r"shapes \(2,\), \(3,\) cannot be broadcast"),
        (([1],), "takes 2 arrays"),
    ],
)
def test_arrays_that_do_not_fit(kernels: ProcessWasmPool, arrays: Any, words: str) -> None:
    with pytest.raises(BadArguments, match=words):
        kernels.map_array("add", *arrays)


def test_several_results_and_none(nothing_left: None) -> None:
    with ProcessWasmPool(SHAPES, workers=2) as pool:
        quotient, remainder = pool.map_array("divmod", np.arange(100_000), 7)
        assert (quotient == np.arange(100_000) // 7).all() and (remainder == np.arange(100_000) % 7).all()
        out = (np.zeros(3, np.int64), np.zeros(3, np.int64))
        assert pool.map_array("divmod", [7, 8, 9], 2, out=out) is out and out[0].tolist() == [3, 4, 4]
        vectors = np.frombuffer(np.arange(4000, dtype=np.int32).tobytes(), "V16")
        sums = pool.map_array("add_lanes", vectors, vectors)
        assert (np.frombuffer(sums.tobytes(), np.int32) == 2 * np.arange(4000)).all()
    with ProcessWasmPool(KERNELS, workers=1) as pool:
        assert pool.map_array("touch") is None


def test_the_first_item_that_traps_raises(nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=2) as pool:
        out = np.full(10, -1, np.int32)
        with pytest.raises(WasmTrap, match="divide by zero"):
            pool.map_array("divide", 10, [1, 2, 0, 4, 5, 6, 7, 8, 9, 10], out=out)
        assert pool.map_array("divide", 10, [1, 2, 5]).tolist() == [10, 5, 2]


def test_an_array_map_may_be_given_a_time(nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=2) as pool:
        for timeout in (0.2, 1e-9):
            with pytest.raises(concurrent.futures.TimeoutError, match="timeout of a map"):
                pool.map_array("spin", timeout=timeout)
            assert pool.map_array("fine", [1, 2], timeout=DEADLINE).tolist() == [1, 2]
        for wrong in (0, -1, "1", math.nan):
            with pytest.raises((ValueError, TypeError), match="timeout must be a positive number"):
                pool.ufunc("fine")([1], timeout=wrong)


def test_ufunc_and_progress(kernels: ProcessWasmPool) -> None:
    add = kernels.ufunc("add")
    seen: list[tuple[int, int | None]] = []
    assert add([1, 2], [3, 4], progress=lambda done, total: seen.append((done, total))).tolist() == [4, 6]
    assert seen[-1] == (2, 2)


def test_without_numpy_the_extra_is_named() -> None:
    script = (
        "import sys; sys.modules['numpy'] = None\n"
        "from procpool import ProcessWasmPool\n"
        f"pool = ProcessWasmPool({str(KERNELS)!r}, 1)\n"
        "assert list(pool.map('add', [1], [2])) == [3]\n"
        "try: pool.map_array('add', [1], [2])\n"
        "except ImportError as error: print(error)\n"
    )
    run = run_script(script)
    assert "procpool[numpy]" in run.stdout, run.stderr
