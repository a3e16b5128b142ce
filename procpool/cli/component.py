"""Calls of a component's functions from the command line: arguments in WAVE or JSON, and the result likewise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..component.callee import ComponentCallee
from ..component.errors import WasmResultError
from ..component.values import Err, Ok
from ..component.wave import parse_argument, show, to_json
from ..component.wit import Function, Result
from ..pool import ProcessWasmPool
from ..supervisor.jobs.call import Callee
from .failures import BadRequest
from .output import as_json, put


def call(pool: ProcessWasmPool, function: Callee, words: Sequence[str], json: bool) -> None:
    """Call it and print its result.

    Raises:
        BadRequest, BadArguments: the words are no arguments for it.
        Whatever the call raises.
    """
    assert isinstance(function, ComponentCallee)
    type_ = function.function
    args = arguments(type_, words)
    try:
        result = pool.call(function.name, *args)
    except WasmResultError as error:
        if not json:
            raise
        result = Err(error.payload)
    if json:
        if isinstance(type_.result, Result) and not isinstance(result, Err):
            result = Ok(result)
        given = [to_json(value, each) for value, (_, each) in zip(args, type_.params, strict=True)]
        put(as_json({"export": function.name, "args": given, "result": to_json(result, type_.result)}) + "\n")
        return
    shown = type_.result.ok if isinstance(type_.result, Result) else type_.result
    if shown is not None:
        put(f"{show(result, shown)}\n")


def arguments(function: Function, words: Sequence[str]) -> list[Any]:
    """Values of its parameters.

    Raises:
        BadRequest: there are more words, or fewer.
        BadArguments: one is no value of its type.
    """
    if len(words) != len(function.params):
        raise BadRequest(f"{function.name} takes {len(function.params)} arguments, {function.signature}, got {len(words)}")
    each = zip(words, function.params, strict=True)
    return [parse_argument(word, type_, f"{function.label}: {name}") for word, (name, type_) in each]
