"""What of an array fits into a wasm type: what numpy's casting rules say of its dtype, and `call` of its items.

Imported only when arrays are mapped; numpy is an extra.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ..codec import converted
from ..errors import ArgumentOutOfRange, BadArguments
from .options import Casting

DTYPES: dict[str, np.dtype[Any]] = {
    "i32": np.dtype("<i4"),
    "i64": np.dtype("<i8"),
    "f32": np.dtype("<f4"),
    "f64": np.dtype("<f8"),
    "v128": np.dtype("V16"),
}
#: What integers may be, signed or unsigned, by the bits that they are to fit into; as for `call`.
_RANGES = {"i32": (-(2**31), 2**32 - 1), "i64": (-(2**63), 2**64 - 1)}
#: Items that are looked at in one go.
BLOCK = 1 << 14
#: The kinds of dtype that are cast while they are copied to a worker; others may run code of the user's, or warn.
_NUMBERS = "biuf"


def as_parameter(where: str, given: Any, kind: str, casting: Casting) -> np.ndarray[Any, Any]:
    """What a user gave for a parameter, as an array whose items can be cast to its type by `cast_into`.

    All items are looked at, unless their dtype or ``casting`` says that there is no need to.  That takes no memory.

    Args:
        where: export and argument, for the text of an exception.
        kind: the wasm type.

    Raises:
        BadArguments: it is no array, or not of a dtype that casts.
        ArgumentOutOfRange: an item does not fit; names the first.
        Whatever an object's own conversion to a number raises.
    """
    try:
        array = np.asarray(given)
    except ValueError as error:  # a ragged list
        raise BadArguments(f"{where} is no array: {error}") from None
    dtype, wanted = array.dtype, DTYPES[kind]
    if dtype == wanted:
        return array
    if kind == "v128":  # to numpy, anything casts to bytes
        raise _no_cast(where, dtype, kind, "; its items are 16 bytes each, so an array of dtype V16")
    if casting == "unsafe":
        return array if dtype.kind in _NUMBERS else _converted_unsafely(where, array, kind)
    if dtype.kind == "O" and casting == "same_kind":
        items = [converted(f"{where}{_place(array, n)}", item, kind) for n, item in enumerate(array.flat)]
        return np.array(items, wanted).reshape(array.shape)
    # Python's own numbers have a value and no dtype, as in numpy since NEP 50.
    rule = "same_kind" if type(given) in (int, float) else casting
    if dtype.kind not in _NUMBERS or not np.can_cast(dtype, wanted, rule):
        advice = "; convert it with .astype(...), or give casting='unsafe', if that is what you mean"
        raise _no_cast(where, dtype, kind, f" by numpy's {rule} rule{advice}")
    if kind in _RANGES:
        _check_integers(where, array, kind)
    elif dtype.kind == "f" and dtype.itemsize > wanted.itemsize:
        _check_floats(where, array, kind)
    return array


def cast_into(target: np.ndarray[Any, Any], items: np.ndarray[Any, Any]) -> None:
    """Copy what `as_parameter` has let through.  Runs no code of the user's, and never raises or warns."""
    with np.errstate(all="ignore"):
        np.copyto(target, items, casting="unsafe")


def _no_cast(where: str, dtype: np.dtype[Any], kind: str, more: str) -> BadArguments:
    return BadArguments(f"{where} has dtype {dtype}, which does not cast to {kind} ({DTYPES[kind]}){more}")


def _place(array: np.ndarray[Any, Any], n: int) -> str:
    """Where the n-th item in C order is, for the text of an exception."""
    if not array.ndim:
        return ""
    index = tuple(map(int, np.unravel_index(n, array.shape)))
    return f" at index {index[0] if len(index) == 1 else index}"


def _converted_unsafely(where: str, array: np.ndarray[Any, Any], kind: str) -> np.ndarray[Any, Any]:
    try:
        return array.astype(DTYPES[kind], casting="unsafe")
    except (TypeError, ValueError, OverflowError) as error:
        raise _no_cast(where, array.dtype, kind, f": {error}") from error


def _check_integers(where: str, array: np.ndarray[Any, Any], kind: str) -> None:
    least, most = _RANGES[kind]
    if array.dtype.kind == "b":
        return
    info = np.iinfo(array.dtype)
    if least <= info.min and info.max <= most:
        return
    for at, block in _blocks(array):
        if int(block.min()) < least or int(block.max()) > most:
            _refuse_first(where, array, kind, at, (block > most) if info.min == 0 else (block < least) | (block > most))


def _check_floats(where: str, array: np.ndarray[Any, Any], kind: str) -> None:
    with np.errstate(all="ignore"):
        for at, block in _blocks(array):
            infinite = np.isinf(block.astype(DTYPES[kind]))
            if infinite.any():
                _refuse_first(where, array, kind, at, infinite & np.isfinite(block))


def _blocks(array: np.ndarray[Any, Any]) -> Iterator[tuple[int, np.ndarray[Any, Any]]]:
    """The items in C order, some at a time, and the number of the first of them.

    So many that they stay in a core's cache while they are looked at more than once; and copied only if they are scattered.
    """
    at = 0
    flags: list[Any] = ["external_loop", "buffered", "zerosize_ok"]
    blocks: Iterable[Any] = np.nditer(array, flags, order="C", buffersize=BLOCK)
    for block in blocks:
        if block.size:
            yield at, block
            at += block.size


def _refuse_first(where: str, array: np.ndarray[Any, Any], kind: str, at: int, bad: np.ndarray[Any, Any]) -> None:
    """Refuse the first item that is ``bad``, if there is one; items are counted from ``at``."""
    n = int(bad.argmax())
    if bad[n]:
        what, item = f"{where}{_place(array, at + n)}", array.flat[at + n]
        converted(what, item.item(), kind)
        raise ArgumentOutOfRange(f"{what} is {item!s}, too large for {kind}")  # of a type only numpy has
