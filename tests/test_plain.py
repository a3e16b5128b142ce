"""Functions that take no instance, and the pool among the standard library's executors."""

from __future__ import annotations

import asyncio
import copy
import functools
import logging
import math
import operator
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Executor, as_completed
from typing import Any

import cloudpickle
import pytest
from conftest import DEADLINE, KERNELS, worker_pids

from procpool import BadArguments, Instance, PoolClosed, ProcessWasmPool, without_instance
from procpool.supervisor.jobs.shipped import Shipper


def twice(n: int) -> int:
    return 2 * n


def with_keywords(a: int, *, b: int = 1) -> tuple[int, int]:
    return a, b


def takes_instance(instance: Instance, n: int) -> int:
    return n


class Tool:
    """What a library may hand to an executor."""

    def method(self, n: int) -> int:
        return n + 1

    def __call__(self, n: int) -> int:
        return n + 2


PLAIN: dict[str, tuple[Callable[..., Any], int]] = {
    "function": (twice, 6),
    "builtin": (math.factorial, 6),
    "lambda": (lambda n: n - 1, 2),
    "partial": (functools.partial(operator.mul, 5), 15),
    "method": (Tool().method, 4),
    "object": (Tool(), 5),
    "class": (float, 3.0),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_a_function_without_an_instance(kind: str, kernels: ProcessWasmPool) -> None:
    function, expected = PLAIN[kind]
    executor: Executor = kernels.plain_executor()
    for _ in range(2):  # the second time it is known
        assert executor.submit(function, 3).result(DEADLINE) == expected
        assert kernels.submit(without_instance(function), 3, timeout=DEADLINE).result(DEADLINE) == expected
    assert list(executor.map(function, [3, 3])) == [expected] * 2
    assert list(kernels.map(without_instance(function), iter([3, 3]))) == [expected] * 2

    async def in_loop() -> list[Any]:
        loop = asyncio.get_running_loop()
        return [
            await loop.run_in_executor(executor, function, 3),
            await kernels.acall(without_instance(function), 3),
            *[result async for result in kernels.amap(without_instance(function), [3])],
        ]

    assert asyncio.run(in_loop()) == [expected] * 3


def test_it_runs_in_a_worker_as_the_standard_library_would_run_it(kernels: ProcessWasmPool) -> None:
    executor = kernels.plain_executor()
    assert executor.submit(os.getpid).result(DEADLINE) in worker_pids(kernels)
    assert executor.submit(with_keywords, 3, b=4).result(DEADLINE) == (3, 4)
    with pytest.raises(ZeroDivisionError):
        executor.submit(operator.truediv, 1, 0).result(DEADLINE)
    futures = {executor.submit(twice, n): n for n in range(50)}
    assert all(future.result() == 2 * futures[future] for future in as_completed(futures, DEADLINE))
    assert list(executor.map(operator.add, range(20), range(20), timeout=DEADLINE)) == list(range(0, 40, 2))
    with kernels.instance(timeout=DEADLINE):
        assert executor.submit(twice, 4).result(DEADLINE) == 8


def test_with_and_without_an_instance_are_not_taken_for_each_other(kernels: ProcessWasmPool) -> None:
    def kind_of(first: Any = None) -> str:
        return type(first).__name__

    for _ in range(2):
        assert kernels.submit(kind_of).result(DEADLINE) == "Instance"
        assert kernels.submit(without_instance(kind_of)).result(DEADLINE) == "NoneType"


@pytest.mark.parametrize("function", [twice, math.sqrt, lambda n: n, Tool().method, functools.partial(pow, 2, mod=5)])
def test_a_plain_function_where_one_with_an_instance_is_expected(function: Any, kernels: ProcessWasmPool) -> None:
    calls = kernels.stats().calls
    words = r"cannot be called with an instance and 1 argument: .* gets the instance first; .*procpool\.without_instance\("
    if isinstance(function, functools.partial):
        function, words = functools.partial(twice), "partial of twice.*" + words
    with pytest.raises(BadArguments, match=words):
        kernels.submit(function, 3)
    with pytest.raises(BadArguments, match=words):
        list(kernels.map(function, [3]))
    with pytest.raises(BadArguments, match=words):
        asyncio.run(kernels.acall(function, 3))
    assert kernels.stats().calls == calls, "before anything ran"


def test_the_first_annotation_tells(kernels: ProcessWasmPool) -> None:
    def scaled(value: float, by: float = 2.0) -> float:
        return value * by

    with pytest.raises(BadArguments, match=r"scaled\(value, by\) cannot be called with an instance and 1 argument"):
        kernels.submit(scaled, 1.5)  # type: ignore[arg-type]
    assert kernels.plain_executor().submit(scaled, 1.5).result(DEADLINE) == 3.0


def test_a_function_with_an_instance_where_a_plain_one_is_expected(kernels: ProcessWasmPool) -> None:
    executor: Any = kernels.plain_executor()
    words = r"takes_instance\(instance, n\) cannot be called with 1 argument; .*the pool's own submit"
    for call in (lambda: executor.submit(takes_instance, 1), lambda: kernels.submit(without_instance(takes_instance), 1)):  # type: ignore[arg-type]
        with pytest.raises(BadArguments, match=words):
            call()
    with pytest.raises(TypeError, match="an executor runs functions, got 'add'"):
        executor.submit("add", 1, 2)
    with pytest.raises(TypeError, match="without_instance takes a function, got 3"):
        without_instance(3)  # type: ignore[arg-type]


def test_shutting_the_executor_down_shuts_the_pool_down(nothing_left: None) -> None:
    pool = ProcessWasmPool(KERNELS, workers=1)
    assert pool.closed is False
    with pool.plain_executor() as executor:
        future = executor.submit(twice, 3)
    assert pool.closed is True and future.result() == 6
    with pytest.raises(PoolClosed):
        pool.plain_executor().submit(twice, 3)


def test_a_pool_in_a_forked_child_is_closed(kernels: ProcessWasmPool) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0 if kernels.closed else 1)
    assert os.waitpid(pid, 0)[1] == 0 and not kernels.closed


def test_what_belongs_to_this_process_says_so_when_pickled(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=1) as pool, pool.instance() as lease:
        for subject, advice in (
            (pool, "make one there"),
            (pool.plain_executor(), "make one there"),
            (pool.function("add"), "pass on its name"),
            (pool.submit("add", 1, 2), r"pass on its result\(\)"),
            (pool.map("add", [1], [2]), r"pass on list\(...\) of it"),
            (pool.amap("add", [1], [2]), "pass on the results"),
            (pool.instance(), "in the process that uses it"),
            (lease, "use it in this one"),
            (lease.memory, r"pass on bytes\(...\)"),
        ):
            for dump in (pickle.dumps, cloudpickle.dumps, copy.copy):
                with pytest.raises(TypeError, match=rf"cannot be pickled, .* belong to this process: .*{advice}"):
                    dump(subject)
        with pytest.raises(TypeError, match=r"<ProcessWasmPool kernels\.wasm.* cannot be pickled"):
            pool.submit(lambda instance: pool.call("add", 1, 2))


def test_nothing_is_printed_of_its_records_unless_somebody_asks() -> None:
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("procpool").handlers)
    code = "import procpool, logging; logging.getLogger('procpool').warning('said')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE, check=True)
    assert done.stderr == ""


def opt(instance: Any, a: Any, b: int = 1) -> None: ...
def many(instance: Any, *rest: int) -> None: ...


class Object:
    def method(self, first: Any) -> None: ...

    def __call__(self, first: Any) -> None: ...


@functools.wraps(opt)
def wrapper(*args: Any) -> None: ...


@pytest.mark.parametrize(
    ("function", "takes"),
    [
        (opt, {1, 2}),
        (many, {0, 1, 2, 3}),
        (wrapper, {0, 1, 2, 3}),
        (lambda *_: 3, {0, 1, 2, 3}),
        (lambda instance, /, a, *, k=1: 3, {1}),
        (functools.partial(opt, None), {0, 1}),
        (functools.partial(opt, b=2), {1}),
        (functools.partial(opt, a=2), {0}),
        (functools.partial(many, None, 1), {0, 1, 2, 3}),
        (functools.partial(functools.partial(opt, None), b=1), {0}),
        (Object().method, {0}),
        (Object(), {0}),
        (Object.method, {1}),
        (operator.add, {1}),
        (isinstance, {1}),
        (complex, {0, 1}),
        (print, {0, 1, 2, 3}),
        (dict, {0, 1, 2, 3}),  # does not say
        (functools.partial(dict), {0, 1, 2, 3}),
    ],
)  # fmt: skip
def test_how_many_arguments_there_may_be(function: Any, takes: set[int]) -> None:
    """Beside the instance, of 0 to 3."""
    shipped = Shipper({}).ship(function)
    plain = Shipper({}).ship(without_instance(function))
    for count in range(4):
        for one, passed in ((shipped, count), (plain, count + 1)):
            if count in takes:
                one.check(passed)
            else:
                with pytest.raises(BadArguments):
                    one.check(passed)


def test_what_is_bound_to_state_is_sent_as_it_is_now() -> None:
    shipper, items = Shipper({}), [1]
    for function in (items.count, without_instance(items.count)):
        first = shipper.ship(function).pickle
        items.append(1)
        assert shipper.ship(function).pickle != first
    assert shipper.ship(math.sqrt) is shipper.ship(math.sqrt)
    assert shipper.ship(without_instance(math.sqrt)) is shipper.ship(without_instance(math.sqrt))


def test_once_without_instance_is_enough() -> None:
    with pytest.raises(TypeError, match="has been given to it before"):
        without_instance(without_instance(abs))
