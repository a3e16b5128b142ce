"""map and starmap: Executor.map's meaning, against plain Python as the oracle."""

from __future__ import annotations

import concurrent.futures
import itertools
import operator
import os
import signal
import struct
import sys
from collections.abc import Iterator

import pytest
from conftest import MISBEHAVE, SHAPES, busy_pid, eventually
from hypothesis import given, settings
from hypothesis import strategies as st

from procpool import ArgumentOutOfRange, BadArguments, CallTimeout, FuncType, ProcessWasmPool, WasmTrap, WorkerCrashed
from procpool.codec import Codec
from procpool.columns import ColumnCodec
from procpool.maps.sizes import ChunkSizes
from procpool.maps.sources import RowSource, SequenceSource, source_of

SPIN_AT = """(module (func (export "f") (param i32) (result i32)
  (if (i32.eq (local.get 0) (i32.const {})) (then (loop (br 0)))) (local.get 0)))"""


def test_in_order_and_whole(kernels: ProcessWasmPool) -> None:
    for count in (0, 1, 2, 63, 64, 65, 5000, 100_000):
        assert list(kernels.map("add", range(count), range(count))) == [2 * n for n in range(count)]


def test_as_long_as_the_shortest(kernels: ProcessWasmPool) -> None:
    assert list(kernels.map("add", [1, 2, 3], (10, 20))) == [11, 22]
    assert list(kernels.map("add", [1, 2, 3], iter([10]))) == [11]
    assert list(kernels.map("add", [], [1])) == []
    assert list(kernels.map("touched")) == []


def test_one_iterator_given_twice_is_read_in_turns(kernels: ProcessWasmPool) -> None:
    numbers = iter(range(10))
    assert list(kernels.map("add", numbers, numbers)) == [1, 5, 9, 13, 17]


def test_no_results_and_no_parameters(kernels: ProcessWasmPool) -> None:
    assert list(kernels.starmap("touch", [()] * 1000)) == [None] * 1000


def test_starmap(kernels: ProcessWasmPool) -> None:
    assert list(kernels.starmap("add", zip(range(1000), range(1000)))) == [2 * n for n in range(1000)]
    assert list(kernels.starmap("mixed", [(1, 2, 0.5, 0.25), [2, 3, 1.5, 1]])) == [3.75, 7.5]


def test_endless_input_is_read_a_bounded_number_ahead(kernels: ProcessWasmPool) -> None:
    read = 0

    def numbers() -> Iterator[int]:
        nonlocal read
        for n in itertools.count():
            read = n + 1
            yield n

    results = kernels.map("add", numbers(), itertools.repeat(1))
    taken = list(itertools.islice(results, 100_000))
    assert taken == list(range(1, 100_001))
    assert read < 100_000 + 10 * 16384
    results.close()


@pytest.mark.parametrize("buffersize", [1, 2, 10, 1000])
def test_buffersize_bounds_the_reading(kernels: ProcessWasmPool, buffersize: int) -> None:
    read = 0

    def numbers() -> Iterator[int]:
        nonlocal read
        for n in range(3000):
            read = n + 1
            yield n

    results = kernels.map("add", numbers(), itertools.count(), buffersize=buffersize)
    assert read <= buffersize
    for taken, value in enumerate(results, 1):
        assert value == 2 * (taken - 1)
        assert read <= taken + buffersize
    assert read == 3000


@pytest.mark.parametrize("chunksize", [1, 7, 1000, 10**9])
def test_chunksize(kernels: ProcessWasmPool, chunksize: int) -> None:
    assert list(kernels.map("add", range(5000), range(5000), chunksize=chunksize)) == [2 * n for n in range(5000)]


@pytest.mark.parametrize("option", ["chunksize", "buffersize"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_nonsensical_sizes(kernels: ProcessWasmPool, option: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{option} must be a positive int"):
        kernels.map("add", [1], [2], **{option: value})  # type: ignore[arg-type]


def test_unordered_gives_indexes(kernels: ProcessWasmPool) -> None:
    pairs = list(kernels.map("add", range(20_000), range(20_000), ordered=False))
    assert sorted(pairs) == [(n, 2 * n) for n in range(20_000)]


def test_the_first_failing_item_raises_in_its_place(misbehave: ProcessWasmPool) -> None:
    results = misbehave.map("divide", itertools.repeat(100), itertools.chain(range(100, 0, -1), itertools.repeat(0)))
    assert list(itertools.islice(results, 100)) == [100 // n for n in range(100, 0, -1)]
    with pytest.raises(WasmTrap, match="divide by zero"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_exceptions_in_place(misbehave: ProcessWasmPool) -> None:
    divisors = [n % 7 for n in range(2000)]
    outcomes = list(misbehave.map("divide", itertools.repeat(100), divisors, return_exceptions=True))
    assert len(outcomes) == 2000
    for divisor, outcome in zip(divisors, outcomes, strict=True):
        if divisor:
            assert outcome == 100 // divisor
        else:
            assert isinstance(outcome, WasmTrap) and outcome.code == "INTEGER_DIVISION_BY_ZERO"


def test_a_bad_argument_names_its_item_after_earlier_results(kernels: ProcessWasmPool) -> None:
    results = kernels.map("add", [*range(1000), "x", 3], itertools.count())
    assert list(itertools.islice(results, 1000)) == [2 * n for n in range(1000)]
    with pytest.raises(BadArguments, match=r"item 1000: add: argument 0 is 'x' \(str\)"):
        next(results)
    results = kernels.map("add", [0] * 70 + [2**32], [1] * 71)
    assert list(itertools.islice(results, 70)) == [1] * 70
    with pytest.raises(ArgumentOutOfRange, match="item 70: add: argument 0 is 4294967296"):
        next(results)


def test_bad_arguments_in_place(kernels: ProcessWasmPool) -> None:
    rows = [(1, 2), (3,), (4, 5), 6, (7, True), (8, 2**32 - 1)]
    outcomes = list(kernels.starmap("add", rows, return_exceptions=True))  # type: ignore[arg-type]
    assert [outcomes[0], outcomes[2], outcomes[5]] == [3, 9, 7]
    for n, words in ((1, "item 1: add takes 2"), (3, "item 3: 6 is no tuple"), (4, "item 4: add: argument 1 is True")):
        assert isinstance(outcomes[n], BadArguments) and words in str(outcomes[n])


def test_an_iterable_that_raises_does_so_after_earlier_results(kernels: ProcessWasmPool) -> None:
    def numbers() -> Iterator[int]:
        yield from range(500)
        raise LookupError("no more")

    results = kernels.map("add", numbers(), itertools.repeat(0))
    assert list(itertools.islice(results, 500)) == list(range(500))
    with pytest.raises(LookupError, match="no more"):
        next(results)


def test_an_item_that_hangs_is_stopped_alone(nothing_left: None) -> None:
    with ProcessWasmPool(SPIN_AT.format(700), workers=2) as pool:
        pids = [worker.pid for worker in pool.stats().workers]
        outcomes = list(pool.map("f", range(2000), item_timeout=1, return_exceptions=True))
        assert isinstance(outcomes[700], CallTimeout)
        assert outcomes[:700] + outcomes[701:] == [n for n in range(2000) if n != 700]
        assert {worker.pid for worker in pool.stats().workers} >= set(filter(None, pids)), "no worker was killed"


def test_a_death_fails_only_the_item_it_was_at(nothing_left: None) -> None:
    with ProcessWasmPool(SPIN_AT.format(750), workers=2) as pool:
        results = pool.map("f", range(2000), chunksize=100, return_exceptions=True)
        assert list(itertools.islice(results, 700)) == list(range(700))
        victim = busy_pid(pool)
        os.kill(victim, signal.SIGKILL)
        rest = list(results)
        assert isinstance(rest[50], WorkerCrashed) and rest[50].pid == victim
        assert rest[:50] + rest[51:] == [n for n in range(700, 2000) if n != 750]


def test_a_stopped_worker_is_replaced(nothing_left: None) -> None:
    with ProcessWasmPool(SPIN_AT.format(5), workers=2, kill_grace=0.1) as pool:
        results = pool.map("f", range(10), chunksize=5, item_timeout=2, return_exceptions=True)
        assert list(itertools.islice(results, 5)) == list(range(5))
        os.kill(busy_pid(pool), signal.SIGSTOP)
        rest = list(results)
        assert isinstance(rest[0], CallTimeout) and rest[1:] == [6, 7, 8, 9]


@pytest.mark.parametrize("how", ["close", "drop", "drop unused"])
def test_giving_up_a_map_stops_what_runs(how: str, nothing_left: None) -> None:
    with ProcessWasmPool(SPIN_AT.format(5), workers=2) as pool:
        results = pool.map("f", [0, 5, 5, 5], chunksize=1)
        if how != "drop unused":
            assert next(results) == 0
        if how == "close":
            results.close()
        else:
            del results
        eventually(lambda: pool.stats().idle == 2, "the workers to be free")


def test_a_timeout_for_the_whole(misbehave: ProcessWasmPool) -> None:
    results = misbehave.starmap("spin", [()], timeout=0.1)
    with pytest.raises(concurrent.futures.TimeoutError):
        next(results)
    eventually(lambda: misbehave.stats().idle == 2, "the workers to be free")


def test_the_rest_of_a_chunk_is_shared_with_idle_workers(nothing_left: None) -> None:
    """One chunk with all the work in it ends up on both workers."""
    with ProcessWasmPool("""(module (func (export "work") (param i32) (result i32)
        (loop (local.set 0 (i32.sub (local.get 0) (i32.const 1))) (br_if 0 (local.get 0))) i32.const 1))""", workers=2) as pool:  # fmt: skip
        eventually(lambda: pool.stats().idle == 2, "both workers")
        assert list(pool.map("work", [3_000_000] * 400, chunksize=400)) == [1] * 400
        assert min(worker.calls for worker in pool.stats().workers) > 40


def test_progress_to_a_callable(kernels: ProcessWasmPool) -> None:
    seen: list[tuple[int, int | None]] = []
    list(kernels.map("add", range(5000), range(5000), progress=lambda done, total: seen.append((done, total))))
    assert seen[-1] == (5000, 5000) and seen == sorted(seen)
    list(kernels.map("add", iter(range(10)), range(10), progress=lambda done, total: seen.append((done, total))))
    assert seen[-1] == (10, None)


def test_progress_as_a_bar(kernels: ProcessWasmPool, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(kernels.map("add", range(50), range(50), progress=True)) == [2 * n for n in range(50)]
    assert "50/50" in capsys.readouterr().err.replace(".0", "")


# -- each signature shape against an oracle ------------------------------------------------------------------------------

VALUES = {
    "i32": st.integers(-(2**31), 2**32 - 1),
    "i64": st.integers(-(2**63), 2**64 - 1),
    "f32": st.floats(width=32, allow_nan=False),
    "f64": st.floats(allow_nan=False),
    "v128": st.binary(min_size=16, max_size=16),
}
KINDS = st.sampled_from(sorted(VALUES))


@given(st.data(), st.lists(KINDS, max_size=6), st.integers(0, 40))
@settings(max_examples=10)
def test_any_signature_gives_back_its_arguments_in_reverse(data: st.DataObject, params: list[str], count: int) -> None:
    """A module made for the signature, through the batch lane and one by one."""
    results = params[::-1]
    body = " ".join(f"(local.get {n})" for n in reversed(range(len(params))))
    text = f'(module (func (export "f") (param {" ".join(params)}) (result {" ".join(results)}) {body}))'
    rows = data.draw(st.lists(st.tuples(*(VALUES[kind] for kind in params)), min_size=count, max_size=count))
    plain = Codec("f", FuncType(tuple(params), tuple(params)))
    expected = []
    for row in rows:
        values = plain.unpack(plain.pack(row))
        values = (values,) if len(params) == 1 else values or ()
        expected.append(values[0] if len(params) == 1 else values[::-1] or None)
    with ProcessWasmPool(text, workers=1) as pool:
        assert list(pool.starmap("f", rows)) == expected
        assert [pool.call("f", *row) for row in rows[:5]] == expected[:5]


@given(st.data(), st.lists(KINDS, min_size=1, max_size=4))
def test_columns_hold_what_slots_hold(data: st.DataObject, params: list[str]) -> None:
    codec = Codec("f", FuncType(tuple(params), tuple(params)))
    rows = data.draw(st.lists(st.tuples(*(VALUES[kind] for kind in params)), min_size=1))
    packed = ColumnCodec(codec).pack_rows(rows, 0)
    assert packed.error is None and packed.fit == len(rows)
    values = ColumnCodec(codec).unpack([bytearray(column) for column in packed.columns], len(rows))
    assert values == [codec.unpack(codec.pack(row)) for row in rows]


def test_what_is_read_by_slices() -> None:
    codec = ColumnCodec(Codec("f", FuncType(("i32",))))
    for sliceable in ([1], (1,), range(1), __import__("array").array("i", [1]), __import__("numpy").arange(3)):
        assert isinstance(source_of(codec, [sliceable]), SequenceSource)
    for other in (iter([1]), {1}, {1: 2}, "1", (n for n in [1]), type("Backwards", (list,), {})([1])):
        assert isinstance(source_of(codec, [other]), RowSource)


def test_numpy_and_array_columns(kernels: ProcessWasmPool) -> None:
    numpy = pytest.importorskip("numpy")
    assert list(kernels.map("add", numpy.arange(1000), numpy.ones(1000, "u1"))) == list(range(1, 1001))


# -- chunk sizes ---------------------------------------------------------------------------------------------------------


def test_chunks_start_small_grow_and_shrink_towards_the_end() -> None:
    sizes = ChunkSizes(workers=2, most=10_000, fixed=None)
    assert [sizes.next(None) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 64, 64]
    sizes.measured(1, 100)  # 100 ns an item: 40,000 items would be right, but only eightfold at a time
    assert [sizes.next(None) for _ in range(4)] == [512, 4096, 10_000, 10_000]
    assert [sizes.next(left) for left in (40_000, 30_000, 1000)] == [10_000, 7500, 5000], (
        "no chunk below half a millisecond"
    )
    for _ in range(60):
        sizes.measured(1, 10**8)
    assert [sizes.next(left) for left in (None, 1000, 1)] == [1, 1, 1]
    slow = ChunkSizes(workers=2, most=10_000, fixed=None)
    slow.measured(10, 10_000_000)  # a millisecond an item
    assert [slow.next(left) for left in (1000, 100, 8, 4, 3, 1)] == [8, 8, 2, 1, 1, 1]


def test_a_batch_runs_on_the_same_instance_as_calls(misbehave: ProcessWasmPool) -> None:
    """State is the module's own: a batch uses the same instance as calls do."""
    assert misbehave.call("soil") in (1, 2)
    with ProcessWasmPool(MISBEHAVE, workers=1) as pool:
        assert pool.call("soil") == 1
        assert list(pool.starmap("soil", [()] * 100)) == list(range(2, 102))
        assert pool.call("soil") == 102


def test_multi_value_results(nothing_left: None) -> None:
    with ProcessWasmPool(SHAPES, workers=1) as pool:
        rows = [(n - 50, 7) for n in range(100)]
        expected = [(int(operator.truediv(a, b)), a - b * int(a / b)) for a, b in rows]
        assert list(pool.starmap("divmod", rows)) == expected
        lanes = [struct.pack("<4i", n, n, n, n) for n in range(50)]
        assert list(pool.map("add_lanes", lanes, lanes)) == [struct.pack("<4i", *[2 * n] * 4) for n in range(50)]


def test_without_tqdm_the_extra_is_named(kernels: ProcessWasmPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match=r"procpool\[cli\]"):
        list(kernels.map("add", [1], [2], progress=True))
