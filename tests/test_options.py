"""What a pool may be told: every wrong value is refused before anything starts, with its name and what is expected."""

from __future__ import annotations

import dataclasses
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from conftest import KERNELS

from procpool import ProcessWasmPool
from procpool.options import MAX_INSTANCES, MAX_WORKERS, PoolOptions

SECONDS = "number of seconds"
NO_SECONDS = [math.nan, -1, "1", True, [], Decimal("NaN"), 3j]
NO_COUNT = [0, -1, 2.5, "1", True, math.nan, math.inf, []]
WRONG: list[tuple[str, list[Any], str]] = [
    ("workers", [*NO_COUNT, MAX_WORKERS + 1], f"an int from 1 to {MAX_WORKERS}"),
    ("timeout", [*NO_SECONDS, 0], SECONDS),
    ("idle_expiry", [*NO_SECONDS, 0], SECONDS),
    ("start_timeout", [*NO_SECONDS, 0, None], SECONDS),
    ("full_timeout", [*NO_SECONDS, 0], SECONDS),
    ("kill_grace", [*NO_SECONDS, None], SECONDS),
    ("instances", [*NO_COUNT, MAX_INSTANCES + 1, None], f"an int from 1 to {MAX_INSTANCES}"),
    ("prewarm", [2, -1, 0.5, "1", True, None], "an int from 0 to 1"),
    ("min_workers", [*NO_COUNT, MAX_WORKERS], ""),
    ("retries", [-1, 1.5, "many", True, None], "an int from 0"),
    *(
        (name, NO_COUNT, "a positive int")
        for name in ("recycle_memory", "max_stack", "memory_limit", "fuel", "max_pending")
    ),
    ("max_worker_memory", NO_COUNT, "a positive int"),
    ("max_tasks_per_worker", [each for each in NO_COUNT if each != math.inf], "a positive int"),
    ("isolation", ["Fresh", "", None, True, 1, []], "'pooled', 'fresh'"),
    ("warm", [1, object()], "a sequence"),
    ("balance", ["random", None, 1, []], "'least_busy', 'round_robin'"),
    ("on_full", ["wait", None, 1, []], "'block', 'raise'"),
    ("start_method", ["fork", "", 1, []], "'forkserver', 'spawn'"),
    ("initializer", ["print", 1, []], "callable"),
    ("on_event", ["print", 1, []], "callable"),
    ("initargs", ["odd", 1, None], "a sequence"),
    ("start", ["_initialize"], "a list of steps"),
    ("start", [1], "a sequence"),
    ("imports", [[], "env", 1], "a mapping"),
    ("rename_imports", [[], "env", 1], "a mapping"),
    ("modules", [[], "lib", 1], "a mapping"),
    ("features", ["gc", 1], "a sequence of names"),
    ("on_missing_import", ["ignore", "", 1, []], "'trap', 'zero'"),
    ("rlimits", [[], "AS", 1], "a mapping"),
    ("wasi", [True, {}, "wasi"], "a WasiConfig"),
    ("cache", [None, 1, "yes"], "True or False"),
    ("sandbox", ["on", None, True, 1, []], "'off', 'default', 'strict'"),
    ("tenants", [None, 1, "yes"], "True or False"),
    ("callables", [None, 1, "yes"], "True or False"),
    ("trust", ["all", None, True, []], "'auto', 'nothing', 'workers'"),
]


@pytest.mark.parametrize(
    ("name", "value", "expected"), [(name, value, text) for name, values, text in WRONG for value in values]
)
def test_wrong_values(name: str, value: Any, expected: str) -> None:
    with pytest.raises((ValueError, TypeError), match=name) as caught:
        PoolOptions(**{"workers": 2, name: value})
    assert expected in str(caught.value)


def test_each_option_is_refused_something() -> None:
    assert {field.name for field in dataclasses.fields(PoolOptions)} == {name for name, _, _ in WRONG}


@pytest.mark.parametrize("name", ["timeout", "idle_expiry", "start_timeout", "full_timeout", "kill_grace"])
@pytest.mark.parametrize("value", [math.inf, 1e300, 10**400, Decimal("2.5"), Fraction(5, 2), 3])
def test_any_length_of_time(name: str, value: Any) -> None:
    found = getattr(PoolOptions(**{name: value}), name)
    expected = math.inf if value == 10**400 else float(value)
    if expected == math.inf and name in ("timeout", "full_timeout"):
        assert found is None
    else:
        assert found == expected and type(found) is float


def test_what_has_no_limit() -> None:
    options = PoolOptions()
    assert (options.idle_expiry, options.max_tasks_per_worker) == (math.inf, math.inf)
    assert (options.timeout, options.full_timeout, options.start_timeout) == (None, None, 60.0)
    assert PoolOptions(on_full="raise", full_timeout=5).full_timeout == 0.0
    assert dataclasses.replace(PoolOptions(on_full="raise"), workers=3).full_timeout == 0.0


def test_they_stay_as_they_are() -> None:
    given = {"AS": 2**40}
    options = PoolOptions(rlimits=given)
    given["AS"] = 0
    assert options.rlimits == {"AS": 2**40}
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.workers = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        options.rlimits["AS"] = 3  # type: ignore[index]


@pytest.mark.parametrize("wrong", [{"retries": "many"}, {"workers": True}, {"kill_grace": math.nan}, {"timeout": "1"}])
def test_a_pool_refuses_them_before_anything_starts(wrong: dict[str, Any], nothing_left: None) -> None:
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
        ProcessWasmPool(KERNELS, **wrong)


@pytest.mark.parametrize("long", [math.inf, 1e300, Decimal("1e300"), 3e6])
def test_a_pool_with_endless_times_works(long: Any, nothing_left: None) -> None:
    times: dict[str, Any] = {
        "timeout": long,
        "idle_expiry": long,
        "start_timeout": long,
        "full_timeout": long,
        "kill_grace": long,
    }
    with ProcessWasmPool(KERNELS, workers=1, max_pending=5, **times) as pool:
        assert pool.call("add", 1, 2) == 3
        assert pool.submit("add", 1, 2, timeout=long).result() == 3
        assert pool.call("add", 1, 2, timeout=math.inf) == 3
        assert list(pool.map("add", [1], [2])) == [3]
