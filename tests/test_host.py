"""Host functions: Python that the guest calls."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable
from typing import Any

import pytest
from bounded import run_python
from conftest import DEADLINE, FIXTURES

import procpool
from procpool import (
    BadImport,
    CallTimeout,
    GuestExit,
    MemoryType,
    MissingImport,
    ProcessWasmPool,
    RemoteError,
    TableType,
    WasmTrap,
)

HOST = FIXTURES / "host.wat"
AGE = FIXTURES / "age.wat"


def imports(**changes: Any) -> dict[str, dict[str, Any]]:
    """Something for every import of host.wat."""
    functions: dict[str, Any] = {
        "add": lambda a, b: a + b,
        "mix": lambda a, b, c, d: int(a + b + c + d),
        "pair": lambda a: (a + 1, a / 2),
        "note": lambda a: None,
        "base": 7,
    }
    return {"env": {**functions, **changes}}


@pytest.fixture(params=["raw", "public"])
def either(request: pytest.FixtureRequest) -> Any:
    """The two ways to wasmtime: its private names, and the public API."""
    if request.param == "public":
        os.environ["PROCPOOL_PUBLIC_API"] = "1"
    yield request.param
    os.environ.pop("PROCPOOL_PUBLIC_API", None)


def test_values_of_every_type_cross(either: str, nothing_left: None) -> None:
    with ProcessWasmPool(HOST, workers=1, imports=imports()) as pool:
        assert pool.call("add", 3, -5) == -2
        assert pool.call("mix", 1, 2**40, 0.5, 2.5) == 2**40 + 4
        assert pool.call("pair", 5) == (6, 2.5)
        assert pool.call("note", 1) is None
        assert pool.call("base") == 7
        assert list(pool.map("add", range(1000), range(1000))) == [2 * n for n in range(1000)]


def test_an_unsigned_result_comes_back_signed(nothing_left: None) -> None:
    with ProcessWasmPool(HOST, workers=1, imports=imports(add=lambda a, b: 2**32 - 1, pair=lambda a: (2**31, 1))) as pool:
        assert pool.call("add", 1, 1) == -1
        assert pool.call("pair", 1) == (-(2**31), 1.0)


def test_an_exception_arrives_as_itself(either: str, nothing_left: None) -> None:
    def add(a: int, b: int) -> int:
        raise KeyError(f"no {a}")

    with ProcessWasmPool(HOST, workers=1, imports=imports(add=add)) as pool:
        assert pool.call("tick") == 1
        for way in (lambda: pool.call("add", 5, 1), lambda: pool.submit("add", 5, 1).result(DEADLINE)):
            with pytest.raises(KeyError, match="no 5") as caught:
                way()
            assert isinstance(caught.value.__cause__, RemoteError) and "in add" in str(caught.value.__cause__)
            assert pool.call("tick") == 1, "the instance of a failed call never serves again"
        outcomes = list(pool.map("add", range(5), range(5), return_exceptions=True))
        assert [str(outcome) for outcome in outcomes] == [f"'no {n}'" for n in range(5)]


@pytest.mark.parametrize(
    ("change", "call", "message"),
    [
        ({"add": lambda a, b: "3"}, ("add", 1, 1), r"env.add returned '3' \(str\).*expects i32"),
        ({"add": lambda a, b: None}, ("add", 1, 1), r"env.add returned None"),
        ({"add": lambda a, b: 1.0}, ("add", 1, 1), r"env.add returned 1.0 \(float\)"),
        ({"add": lambda a, b: True}, ("add", 1, 1), r"env.add returned True"),
        ({"pair": lambda a: 1}, ("pair", 1), r"env.pair returned 1.*a tuple of 2 \(i32, f64\)"),
        ({"pair": lambda a: (1, 2, 3)}, ("pair", 1), r"a tuple of 2"),
        ({"note": lambda a: a}, ("note", 1), r"env.note returned 1.*must return None"),
    ],
)
def test_a_wrong_result_is_named(change: Any, call: Any, message: str, nothing_left: None) -> None:
    with ProcessWasmPool(HOST, workers=1, imports=imports(**change)) as pool:
        with pytest.raises(TypeError, match=message):
            pool.call(*call)
        assert pool.call("double", 4) == 8


def test_a_result_out_of_range(nothing_left: None) -> None:
    with ProcessWasmPool(HOST, workers=1, imports=imports(add=lambda a, b: 2**32)) as pool:
        with pytest.raises(OverflowError, match=r"env.add returned 4294967296"):
            pool.call("add", 1, 1)
        assert pool.call("double", 4) == 8


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (None, MissingImport, r"env.add, a function \(i32, i32\) -> \(i32\)"),
        ({"env": {**imports()["env"], "more": print}}, BadImport, "gives env.more, which the module does not import"),
        ({"env": {**imports()["env"], "ad": print}}, BadImport, "did you mean env.add"),
        (imports(add=5), BadImport, r"gives 5 \(int\) for env.add, expected a function \(i32, i32\) -> \(i32\)"),
        (imports(base="7"), BadImport, r"env.base, which is '7' \(str\), expected an i32, so an int"),
        (imports(base=1.5), BadImport, "1.5 .float., expected an i32, so an int"),
    ],
)
def test_imports_that_do_not_fit(given: Any, error: type[Exception], message: str, nothing_left: None) -> None:
    with pytest.raises(error, match=message):
        ProcessWasmPool(HOST, imports=given)


def test_a_function_that_does_not_pickle_fails_the_construction(nothing_left: None) -> None:
    lock = threading.Lock()
    with pytest.raises(TypeError, match="lock"):
        ProcessWasmPool(HOST, imports=imports(add=lambda a, b: lock))


def test_memories_and_tables_are_made_for_each_instance(nothing_left: None) -> None:
    wat = """(module (import "env" "memory" (memory 1 4)) (import "env" "table" (table 3 funcref))
      (export "memory" (memory 0))
      (func (export "poke") (result i32)
        (i32.store (i32.const 0) (i32.add (i32.const 1) (i32.load (i32.const 0)))) (i32.load (i32.const 0)))
      (func (export "table_size") (result i32) (table.size 0)) (func (export "trap") (unreachable)))"""
    given = {"env": {"memory": MemoryType(1, 4), "table": TableType("funcref", 5)}}
    with ProcessWasmPool(wat, workers=1, imports=given) as pool:
        assert [pool.call("poke"), pool.call("poke"), pool.call("table_size")] == [1, 2, 5]
        with pytest.raises(WasmTrap):
            pool.call("trap")
        assert pool.call("poke") == 1
    with pytest.raises(BadImport, match=r"procpool.MemoryType.*memory of 1 pages, at most 4"):
        ProcessWasmPool(wat, imports={"env": {"memory": 5, "table": TableType("funcref", 5)}})


def test_the_calling_instance_comes_first_if_wanted(either: str, nothing_left: None) -> None:
    @procpool.wants_instance
    def add(instance: Any, a: int, b: int) -> int:
        instance.memory[0:4] = struct.pack("<I", a)  # its memory
        instance.globals["count"] = 100
        assert instance.globals["answer"] == 42
        return instance.call("double", a) + instance.exports["double"](b)  # and back into the guest

    with ProcessWasmPool(HOST, workers=1, imports=imports(add=add)) as pool:
        assert pool.call("add", 3, 4) == 14
        assert pool.call("tick") == 101
        assert pool.submit(lambda instance: bytes(instance.memory[:4])).result(DEADLINE) == b"\3\0\0\0"
        assert pool.submit(lambda instance: instance.call("add", 1, 1)).result(DEADLINE) == 4


def test_a_trap_below_a_host_function_reaches_the_caller(either: str, nothing_left: None) -> None:
    @procpool.wants_instance
    def add(instance: Any, a: int, b: int) -> int:
        instance.call("trap")
        return 1

    @procpool.wants_instance
    def note(instance: Any, a: int) -> None:
        with pytest.raises(WasmTrap) if False else _Swallow():
            instance.call("trap")

    with ProcessWasmPool(HOST, workers=1, imports=imports(add=add, note=note)) as pool:
        with pytest.raises(WasmTrap, match="unreachable"):
            pool.call("add", 1, 1)
        assert pool.call("tick") == 1
        assert pool.call("note", 1) is None, "the host function has caught it"
        assert pool.call("tick") == 1, "but the instance is dirty"


class _Swallow:
    def __enter__(self) -> None: ...

    def __exit__(self, *exc: object) -> bool:
        return True


def test_a_host_function_called_by_the_start_function(either: str, nothing_left: None) -> None:
    wat = """(module (import "env" "seen" (func $seen (param i32))) (memory (export "memory") 1)
      (data (i32.const 8) "hello") (func $start (call $seen (i32.const 8))) (start $start)
      (func (export "noop")))"""

    @procpool.wants_instance
    def seen(instance: Any, address: int) -> None:
        procpool.state.seen = bytes(instance.memory[address : address + 5])

    with ProcessWasmPool(wat, workers=1, imports={"env": {"seen": seen}}) as pool:
        assert pool.submit(lambda instance: procpool.state.seen).result(DEADLINE) == b"hello"

    def failing(address: int) -> None:
        raise ValueError("not today")

    with pytest.raises(ValueError, match="not today"):
        ProcessWasmPool(wat, workers=1, imports={"env": {"seen": failing}})


def test_exit_codes(nothing_left: None) -> None:
    def add(code: int, b: int) -> int:
        raise GuestExit(code)

    with ProcessWasmPool(HOST, workers=1, imports=imports(add=add)) as pool:
        assert pool.call("tick") == 1
        for code in (0, 3):
            with pytest.raises(GuestExit) as caught:
                pool.call("add", code, 0)
            assert caught.value.code == code
            assert pool.call("tick") == 1, "the instance has ended"


def test_a_stuck_host_function_is_killed_and_only_it(nothing_left: None) -> None:
    def note(a: int) -> None:
        threading.Event().wait()

    with ProcessWasmPool(HOST, workers=1, imports=imports(note=note), kill_grace=0.2) as pool:
        stuck = pool.submit("note", 1, timeout=0.2)
        after = [pool.submit("double", n) for n in range(10)]
        with pytest.raises(CallTimeout):
            stuck.result(DEADLINE)
        assert [future.result(DEADLINE) for future in after] == [2 * n for n in range(10)]
        with pytest.raises(CallTimeout):
            pool.call("note", 1, timeout=0.2)
        assert pool.call("double", 4) == 8


def test_no_job_of_a_module_with_imports_runs_twice(tmp_path: Any, nothing_left: None) -> None:
    """Each call leaves a mark; workers are killed all the while."""
    marks = tmp_path / "marks"
    marks.touch()

    def note(n: int) -> None:
        with open(marks, "ab", buffering=0) as file:
            file.write(struct.pack("<I", n))
        if n % 50 == 49:
            os.kill(os.getpid(), 9)

    with ProcessWasmPool(HOST, workers=2, imports=imports(note=note)) as pool:
        futures = [pool.submit("note", n) for n in range(1000)]
        ended = [future.exception(DEADLINE) for future in futures]
        assert [n for n, error in enumerate(ended) if error is not None] == list(range(49, 1000, 50))
        outcomes = list(pool.map("note", range(1000, 2000), return_exceptions=True))
        assert [n for n, outcome in enumerate(outcomes) if outcome is not None] == list(range(49, 1000, 50))
    seen = [n for (n,) in struct.iter_unpack("<I", marks.read_bytes())]
    assert sorted(seen) == list(range(2000)), "each exactly once"


def test_an_item_that_hangs_costs_no_other_its_turn(tmp_path: Any, nothing_left: None) -> None:
    marks = tmp_path / "marks"

    def note(n: int) -> None:
        with open(marks, "ab", buffering=0) as file:
            file.write(struct.pack("<I", n))
        if n % 20 == 7:
            threading.Event().wait(1.5)

    with ProcessWasmPool(HOST, workers=2, imports=imports(note=note)) as pool:
        outcomes = list(pool.map("note", range(60), item_timeout=1, return_exceptions=True))
    seen = [n for (n,) in struct.iter_unpack("<I", marks.read_bytes())]
    assert sorted(seen) == list(range(60)), "each exactly once"
    failed = [n for n, outcome in enumerate(outcomes) if outcome is not None]
    assert set(failed) <= {7, 27, 47} and all(isinstance(outcomes[n], CallTimeout) for n in failed)


def test_retries_opt_in_to_running_again(tmp_path: Any, nothing_left: None) -> None:
    def note(n: int) -> None:
        path = tmp_path / f"{n}"
        path.write_bytes((path.read_bytes() if path.exists() else b"") + b"x")
        if n % 10 == 3 and len(path.read_bytes()) <= 2:
            os.kill(os.getpid(), 9)

    with ProcessWasmPool(HOST, workers=2, imports=imports(note=note), retries=2) as pool:
        assert [future.result(DEADLINE) for future in [pool.submit("note", n) for n in range(20)]] == [None] * 20
        assert pool.call("note", 33) is None
        assert list(pool.map("note", range(40, 60))) == [None] * 20
        assert pool.stats().failed == 0
        with pytest.raises(procpool.WorkerCrashed):
            pool.submit("note", 103, retries=1).result(DEADLINE)


def test_wazeros_example() -> None:
    script = FIXTURES.parent / "docs" / "examples" / "age.py"
    done = run_python(script, "2000", "2021")
    assert done.stdout == "println >> 21\nlog_i32 >> 21\n", done.stderr


def test_renamed_imports(nothing_left: None) -> None:
    functions: dict[str, Callable[..., Any]] = {"log_i32": lambda n: None, "current_year": lambda: 2021}
    with ProcessWasmPool(AGE, workers=1, imports={"host": functions}, rename_imports={"env": "host"}) as pool:
        assert pool.call("get_age", 2000) == 21
    given = {"env": {"log_i32": functions["log_i32"]}, "clock": {"year": functions["current_year"]}}
    with ProcessWasmPool(
        AGE, workers=1, imports=given, rename_imports={("env", "current_year"): ("clock", "year")}
    ) as pool:
        assert pool.call("get_age", 2000) == 21
    with pytest.raises(MissingImport, match=r"env.log_i32.*looked for as host.log_i32"):
        ProcessWasmPool(AGE, imports={"env": functions}, rename_imports={"env": "host"})


def test_the_initializer_and_its_state(nothing_left: None) -> None:
    def initializer(start: int, step: int) -> None:
        procpool.state.next, procpool.state.step = start, step

    def add(a: int, b: int) -> int:
        procpool.state.next += procpool.state.step
        return procpool.state.next  # type: ignore[no-any-return]

    with ProcessWasmPool(HOST, workers=1, imports=imports(add=add), initializer=initializer, initargs=(100, 5)) as pool:
        assert [pool.call("add", 0, 0), pool.call("add", 0, 0)] == [105, 110]
        assert pool.submit(lambda instance: procpool.state.next).result(DEADLINE) == 110


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_an_initializer_that_raises_fails_the_construction_at_once(method: str, nothing_left: None) -> None:
    def initializer() -> None:
        raise LookupError("no license")

    events: list[str] = []
    with pytest.raises(LookupError, match="no license") as caught:
        ProcessWasmPool(
            FIXTURES / "kernels.wasm",
            workers=2,
            initializer=initializer,
            start_method=method,
            on_event=lambda event: events.append(event.kind),
        )
    assert "in initializer" in str(caught.value.__cause__)
    assert events.count("start_failed") <= 2, "no restart storm"


def test_an_initializer_that_dies_fails_the_construction(nothing_left: None) -> None:
    def initializer() -> None:
        os._exit(3)

    with pytest.raises(procpool.StartupError, match="exited with code 3"):
        ProcessWasmPool(FIXTURES / "kernels.wasm", workers=1, initializer=initializer)


def _count_looks() -> None:
    """An initializer: have the worker count how often the imports of a module are listed."""
    import wasmtime

    listed = wasmtime.Module.imports
    procpool.state.looks = 0

    def imports(module: wasmtime.Module) -> Any:
        procpool.state.looks += 1
        return listed.fget(module)  # type: ignore[attr-defined]

    wasmtime.Module.imports = property(imports)  # type: ignore[assignment]


def test_imports_are_listed_once_however_many_globals_and_instances_there_are() -> None:
    """Listed for each global of each instance, 400 globals made a call of a fresh instance take a second."""
    many = 20
    text = "".join(f'(import "env" "g{n}" (global i32))' for n in range(many))
    with ProcessWasmPool(
        f'(module {text} (func (export "last") (result i32) (global.get {many - 1})))',
        workers=1,
        isolation="fresh",
        imports={"env": {f"g{n}": n for n in range(many)}},
        initializer=_count_looks,
    ) as pool:
        assert [pool.call("last", timeout=DEADLINE) for _ in range(3)] == [many - 1] * 3
        assert pool.submit(lambda instance: procpool.state.looks).result(DEADLINE) == 1


def test_an_instance_that_is_being_made_says_so(nothing_left: None) -> None:
    """It was made anew, to call it, until the interpreter's stack was full."""

    @procpool.wants_instance
    def early(instance: Any) -> None:
        instance.call("f")

    module = """(module (import "env" "early" (func $early)) (func (export "f")) (start $early))"""
    with pytest.raises(RuntimeError, match="the instance is being made"):
        ProcessWasmPool(module, workers=1, imports={"env": {"early": early}})


def test_a_call_within_a_call_gives_the_outer_one_no_fuel(nothing_left: None) -> None:
    """A guest that got its host to call it now and then ran for as long as it liked."""

    @procpool.wants_instance
    def back(instance: Any) -> None:
        instance.call("nothing")

    module = """(module
      (import "env" "back" (func $back))
      (func (export "nothing"))
      (func (export "for_ever") (loop (call $back) (br 0))))"""
    with (
        ProcessWasmPool(module, workers=1, fuel=10_000, imports={"env": {"back": back}}) as pool,
        pytest.raises(WasmTrap, match="all fuel consumed"),
    ):
        pool.call("for_ever", timeout=DEADLINE)
