"""WASI's clocks and random numbers as the program wants them: the same whenever and wherever an instance begins."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

from ..binary import FuncType
from ..wasi import CLOCK, RANDOM, Spec

#: By how much each look at a clock moves it, in nanoseconds, so that who waits for a time comes to it.
STEP_NS = 1000
_REALTIME = 0
_FAULT = 21  # WASI's errno of an address that is none
_TIME = struct.Struct("<Q")
_MOST = 1 << 20  # bytes that are made at a time


class Deterministic:
    """For the instances of one thread.

    Args:
        spec: has what the clock begins with, and the seed; what is None there is left to wasmtime.
    """

    def __init__(self, spec: Spec) -> None:
        self._clock = spec.clock
        self._seed = spec.random_seed
        self._passed = 0
        self._random = random.Random(self._seed)

    @property
    def functions(self) -> dict[str, tuple[FuncType, Callable[..., int]]]:
        """What serves an import of WASI's, by name."""
        served = {}
        if self._clock is not None:
            served[CLOCK] = FuncType(("i32", "i64", "i32"), ("i32",)), _of_instance(self._time)
        if self._seed is not None:
            served[RANDOM] = FuncType(("i32", "i32"), ("i32",)), _of_instance(self._bytes)
        return served

    def restart(self) -> None:
        """An instance begins, or has been put back to its beginning."""
        self._passed = 0
        self._random = random.Random(self._seed)

    @property
    def state(self) -> tuple[int, random.Random]:
        """Where the instance is, to be put back when another one has been in its place."""
        return self._passed, self._random

    @state.setter
    def state(self, state: tuple[int, random.Random]) -> None:
        self._passed, self._random = state

    def _time(self, instance: Any, clock: int, _precision: int, address: int) -> int:
        self._passed += STEP_NS
        begun = (self._clock or 0) if clock == _REALTIME else 0
        return _put(instance, address, _TIME.pack((begun + self._passed) & (1 << 64) - 1))

    def _bytes(self, instance: Any, address: int, length: int) -> int:
        address, end = address & 0xFFFFFFFF, (address & 0xFFFFFFFF) + (length & 0xFFFFFFFF)
        if end > len(instance.memory):
            return _FAULT
        for at in range(address, end, _MOST):
            if _put(instance, at, self._random.randbytes(min(_MOST, end - at))):
                return _FAULT
        return 0


def _of_instance(function: Callable[..., int]) -> Callable[..., int]:
    def with_instance(instance: Any, *args: int) -> int:
        return function(instance, *args)

    with_instance._procpool_wants_instance = True  # type: ignore[attr-defined]
    return with_instance


def _put(instance: Any, address: int, data: bytes) -> int:
    address &= 0xFFFFFFFF
    if address + len(data) > len(instance.memory):
        return _FAULT
    instance.memory[address : address + len(data)] = data
    return 0
