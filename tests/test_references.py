"""References that Python code beside an instance passes to exports, gets from them, and puts into tables."""

from __future__ import annotations

import re
from typing import Any

import pytest
from conftest import DEADLINE

from procpool import BadArguments, BytesFunction, ProcessWasmPool, Reference, WasmTrap

KEEPER = """(module
  (table (export "table") 1 3 externref)
  (func (export "put") (param i32 externref) (table.set (local.get 0) (local.get 1)))
  (func (export "get") (param i32) (result externref) (table.get (local.get 0)))
  (func (export "swap") (param externref i64) (result i64 externref) (local.get 1) (local.get 0))
  (func $itself (export "itself") (result funcref) (ref.func $itself))
  (func (export "nulls") (param funcref externref) (result i32)
    (i32.add (ref.is_null (local.get 0)) (ref.is_null (local.get 1))))
  (func (export "trap") (param externref) unreachable))"""


@pytest.mark.parametrize("how", [{}, {"fuel": 10_000}, {"instances": 2}])
def test_an_export_takes_and_returns_references_beside_the_instance(how: dict[str, Any], nothing_left: None) -> None:
    def beside(instance: Any) -> Any:
        thing = object()
        instance.call("put", 0, thing)
        assert instance.call("get", 0) is thing and instance.call("put", 0, None) is None
        assert instance.call("get", 0) is None
        assert instance.call("swap", thing, 2**63) == (-(2**63), thing)
        function = instance.call("itself")
        assert isinstance(function, Reference) and function.type == "funcref"
        return instance.call("nulls", function, thing), instance.call("nulls", None, None)

    with ProcessWasmPool(KEEPER, workers=1, **how) as pool:
        assert pool.submit(beside).result(DEADLINE) == (0, 2)
        with pytest.raises(WasmTrap, match="unreachable"):
            pool.submit(lambda instance: instance.call("trap", 1)).result(DEADLINE)
        assert pool.submit(lambda instance: instance.call("get", 0)).result(DEADLINE) is None, "a new instance"


@pytest.mark.parametrize(
    ("export", "args", "error", "says"),
    [
        ("put", (0,), BadArguments, "put(i32, externref) -> () takes 2 arguments, got 1"),
        ("put", ("0", 1), BadArguments, "expected an i32"),
        ("nulls", (1, 1), BadArguments, "expects a funcref that came from the same instance, or None"),
        ("got", (0,), LookupError, "the module exports no function 'got'"),
        ("table", (0,), LookupError, "the module exports no function 'table'"),
    ],
)
def test_a_reference_that_does_not_fit(
    export: str, args: Any, error: type[Exception], says: str, nothing_left: None
) -> None:
    with ProcessWasmPool(KEEPER, workers=1) as pool:
        with pytest.raises(error, match=re.escape(says)):
            pool.submit(lambda instance: instance.call(export, *args)).result(DEADLINE)
        with pytest.raises(BadArguments, match="call it beside the instance"):
            pool.call("get", 0)


def test_a_table_grows_by_values(nothing_left: None) -> None:
    def beside(instance: Any) -> Any:
        first = instance.append("table", "one", None)
        assert [instance.element("table", at) for at in range(3)] == [None, "one", None]
        for beyond in (3, -1, 1 << 64):
            with pytest.raises(LookupError, match=f"the table 'table' has no element {beyond}"):
                instance.element("table", beyond)
        with pytest.raises(TypeError, match=r"an index of the table 'table' is an int from 0, got 'x' \(str\)"):
            instance.element("table", "x")
        for table, values, error in (
            ("table", ["four"], MemoryError),
            ("table", [], ValueError),
            ("put", [1], LookupError),
        ):
            with pytest.raises(error):
                instance.append(table, *values)
        return first

    with ProcessWasmPool(KEEPER, workers=1) as pool:
        assert pool.submit(beside).result(DEADLINE) == 1


@pytest.mark.parametrize("value", ["text", b"bytes", None, 7])
def test_a_reference_among_the_arguments_of_a_bytes_function_is_the_object_itself(value: Any, nothing_left: None) -> None:
    def beside(instance: Any) -> Any:
        BytesFunction("put", convention="wasm-bindgen")(instance, 0, value)
        return instance.element("table", 0)

    with ProcessWasmPool(KEEPER, workers=1) as pool:
        assert pool.submit(beside).result(DEADLINE) == value
