"""Keywords that several methods of a pool take alike, for type checkers; what they mean, the methods say.

Who wraps a method passes them on with ``**keywords: Unpack[procpool.MapKeywords]``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, Literal, TypedDict, TypeVar

from .bytes_function import Result, Returns
from .conventions import Convention, ConventionName
from .maps.options import Progress
from .wasi import Preopens, Stdin, Stream

T = TypeVar("T")
#: A callable of which only the type of its results is looked at.
Returning = Callable[..., T]
Items = Iterable[Any]


class JobKeywords(TypedDict, total=False):
    """Of `submit` and `acall`."""

    timeout: float | None
    priority: int
    key: Hashable
    retries: int | None


class MapKeywords(TypedDict, total=False):
    """Of `map`, `starmap` and `amap`, but for the two that change what comes out."""

    timeout: float | None
    chunksize: int | None
    buffersize: int | None
    item_timeout: float | None
    progress: bool | Progress


class AnyMap(MapKeywords, total=False):
    """All of them."""

    ordered: bool
    return_exceptions: bool


class OrderedMap(MapKeywords, total=False):
    """Of a map that gives results."""

    ordered: Literal[True]
    return_exceptions: Literal[False]


class _Unordered(TypedDict):
    ordered: Literal[False]


class UnorderedMap(_Unordered, MapKeywords, total=False):
    """Of a map that gives pairs (index, result)."""

    return_exceptions: Literal[False]


class _Outcomes(TypedDict):
    return_exceptions: bool


class OutcomesMap(_Outcomes, MapKeywords, total=False):
    """Of a map that gives results and exceptions."""

    ordered: Literal[True]


class _AnyOrder(TypedDict):
    ordered: bool


class AnyOrderMap(_AnyOrder, MapKeywords, total=False):
    """Of a map that gives either."""

    return_exceptions: bool


class BytesConvention(TypedDict, total=False):
    """Of `call_bytes`, `acall_bytes` and `submit_bytes`; see :class:`BytesFunction`."""

    returns: Returns
    alloc: str
    free: str | None
    memory: str
    align: int | None
    convention: ConventionName | Convention | None
    result: Result


class RunKeywords(TypedDict, total=False):
    """Of `run_map`, for each run; see :class:`WasiConfig`."""

    stdin: Stdin
    env: Mapping[str, str] | None
    cwd: str | os.PathLike[str] | None
    preopens: Preopens | None
    stdout: Stream
    stderr: Stream
    max_output: int | None
