"""Functions of Python's that a component imports: values come out of it and go back."""

from __future__ import annotations

from typing import Any

import pytest

from procpool import ProcessWasmPool, WasiConfig
from procpool.component import wit
from procpool.component.values import Err, Ok
from procpool.component.wrapper import wrap
from tests.components import Instance, made
from tests.test_component_canonical import CASES, python_value, same, wit_type
from tests.test_component_wrapper import FILLING, IMPORTING, Text, off_by_default


class Imported(Text):
    """The definitions of types that are imported."""

    def name(self, definition: str) -> str:
        name = super().name(definition)
        self.definitions[-1] = self.definitions[-1].replace(
            f'(export ${name} "{name}" (type ${name}-made))', f'(import "{name}" (type ${name} (eq ${name}-made)))'
        )
        return name


def passing(types: list[wit.Type]) -> tuple[bytes, list[wit.Type]]:
    """A component that exports what it imports: two functions for each type, one with more parameters than are core values."""
    text, functions, exports, known = Imported(), [], [], []
    for at, type_ in enumerate(types):
        word, renamed = text.of(type_)
        known.append(renamed)
        for kind, before in (("alone", ""), ("among", FILLING)):
            functions.append(f'(import "{kind}{at}" (func ${kind}{at} {before} (param "x" {word}) (result {word})))')
            exports.append(f'(export "out-{kind}{at}" (func ${kind}{at}))')
    return made(f"(component {' '.join(text.definitions)} {' '.join(functions)} {' '.join(exports)})"), known


GROUP = 20
CASES_PASSABLE = [(wit_type(kind), written) for kind, written, *_ in CASES if not off_by_default(wit_type(kind))]


@pytest.mark.parametrize("part", range(8))
def test_every_type_comes_out_and_goes_back(part: int) -> None:
    cases = CASES_PASSABLE[part * GROUP : (part + 1) * GROUP]
    wasm, known = passing([type_ for type_, _ in cases])
    seen: list[Any] = []

    def echo(*args: Any) -> Any:
        seen.append(args)
        return args[-1]

    hosts = {f"{kind}{at}": echo for at in range(len(cases)) for kind in ("alone", "among")}
    instance = Instance(wasm, hosts=hosts)
    for at, ((_, written), type_) in enumerate(zip(cases, known, strict=True)):
        value = python_value(type_, written)
        for kind, before in (("alone", ()), ("among", tuple(range(17)))):
            codec = instance.codec(f"out-{kind}{at}")
            result: Any
            if instance.wrapped.entries[f"out-{kind}{at}"].image:
                result = codec.value(instance.raw(f"out-{kind}{at}", codec.pack((*before, value))))
            else:
                result = instance.call(f"out-{kind}{at}", *before, value)
            assert same(result, value), (type_, value)
            assert same(seen.pop(), (*before, value))


INTERFACE = """(component
  (import "a:b/base@1.0.0" (instance $base
    (type $point-made (record (field "x" f64)))
    (export "point" (type $point (eq $point-made)))
    (type $points (list $point))
    (export "points" (type $named-points (eq $points)))
    (export "flip" (func (param "p" $points) (result $named-points)))))
  (alias export $base "point" (type $point))
  (import "a:b/more@1.0.0" (instance $more
    (alias outer 1 $point (type $given))
    (export "point" (type $point (eq $given)))
    (type $error-made (enum "no" "never"))
    (export "error" (type $error (eq $error-made)))
    (type $result (result $point (error $error)))
    (export "look" (func (param "name" string) (result $result)))
    (export "nothing" (func))))
  (export "flip" (func $base "flip"))
  (export "look" (func $more "look"))
  (export "nothing" (func $more "nothing")))"""


def test_interfaces_and_their_types() -> None:
    calls: list[str] = []
    instance = Instance(
        made(INTERFACE),
        hosts={
            "a:b/base@1.0.0#flip": lambda points: [type(each)(-each.x) for each in points],
            "a:b/more@1.0.0#look": lambda name: {"x": len(name)} if name else Err("never"),
            "a:b/more@1.0.0#nothing": lambda: calls.append("nothing"),
        },
    )
    point, error = instance.types.Point, instance.types.Error
    assert instance.call("flip", [{"x": 1}, point(2.0)]) == [point(-1.0), point(-2.0)]
    codec = instance.codec("look")
    assert codec.value(instance.raw("look", codec.pack(("four",)))) == Ok(point(4.0))
    assert codec.value(instance.raw("look", codec.pack(("",)))) == Err(error.NEVER)
    assert instance.call("nothing") is None
    assert calls == ["nothing"]
    assert instance.call("flip", [point(float(at)) for at in range(50_000)])[-1] == point(-49_999.0)
    assert instance.call("flip", []) == []


def test_some_interfaces_may_be_served_otherwise() -> None:
    wrapped = wrap(made(INTERFACE), hosted=lambda name: name.startswith("a:b/more"))
    assert sorted(wrapped.hosts) == ["a:b/more@1.0.0#look", "a:b/more@1.0.0#nothing"]
    assert wrap(made(INTERFACE)).hosts == {}


def test_what_deals_with_resources_is_not_served() -> None:
    assert list(wrap(made(IMPORTING), hosted=lambda name: True).hosts) == ["log"]


def test_a_host_function_that_fails_ends_the_call() -> None:
    def fail() -> None:
        raise ZeroDivisionError("no")

    hosts: Any = {"a:b/base@1.0.0#flip": len, "a:b/more@1.0.0#look": len, "a:b/more@1.0.0#nothing": fail}
    with pytest.raises(ZeroDivisionError):
        Instance(made(INTERFACE), hosts=hosts).call("nothing")


#: Of a patch version that wasmtime need not have: it serves any of 0.2 by its own.
WITH_WASI = """(component
  (import "wasi:cli/environment@0.2.99" (instance $environment
    (type $texts (list string))
    (export "get-arguments" (func (result $texts)))))
  (import "log" (func $log (param "text" string) (result string)))
  (export "arguments" (func $environment "get-arguments"))
  (export "say" (func $log)))"""


def test_wasi_is_served_beside_functions_of_pythons() -> None:
    wasi = WasiConfig(args=("a", "b"))
    with ProcessWasmPool(made(WITH_WASI), workers=1, wasi=wasi, imports={"": {"log": str.upper}}) as pool:
        assert pool.call("say", "höher") == "HÖHER"
        assert pool.call("arguments") == ["a", "b"]
