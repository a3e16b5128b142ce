"""A component compiled: its code, and a binary of the same world without code."""

from __future__ import annotations

import wasmtime
from wasmtime.component import Component

from ..errors import InvalidModule
from ..module import refusal
from .binary import read_world
from .outline import outline
from .refused import check_world
from .wasi import own
from .wrapper import CannotWrap, wrap


def compiled(engine: wasmtime.Engine, wasm: bytes, subject: str) -> tuple[bytearray, bytes]:
    """The compiled code of a component as workers run it, and its outline.

    Args:
        subject: what errors call it, with its verb.

    Raises:
        InvalidModule: wasmtime refuses it, or it wants what cannot be had; the message says what.
    """
    try:
        world = read_world(wasm)
        check_world(world)
        outer = wrap(wasm, world, own).wasm
    except (InvalidModule, CannotWrap) as error:
        raise InvalidModule(f"{subject} a component that cannot be run: {error}") from None
    try:
        with Component(engine, outer) as component:
            return component.serialize(), outline(wasm)
    except wasmtime.WasmtimeError as error:
        raise refusal(wasm, error) from None
