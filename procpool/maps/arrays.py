"""Exports over numpy arrays.  Imported only when arrays are mapped; numpy is an extra."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

try:
    import numpy as np
except ImportError:
    raise ImportError("map_array and ufunc need numpy: pip install 'procpool[numpy]'") from None

from ..binary import FuncType
from ..errors import BadArguments
from .casting import DTYPES, as_parameter, cast_into
from .options import Casting
from .sources import Piece


class ArraySource:
    """The items of arrays that are broadcast against each other, in C order, and the arrays that take the results.

    It is its own store: pieces read and write slices of the whole arrays, so nothing is copied but into and out of the
    workers' buffers.
    """

    def __init__(self, export: str, signature: FuncType, arrays: Sequence[Any], out: Any, casting: Casting) -> None:
        params, results = signature.params, signature.results
        if len(arrays) != len(params):
            raise BadArguments(f"{export} takes {len(params)} arrays, {signature}, got {len(arrays)}")
        given = [
            as_parameter(f"{export}: argument {n}", array, kind, casting)
            for n, (array, kind) in enumerate(zip(arrays, params, strict=True))
        ]
        try:
            self.shape: tuple[int, ...] = np.broadcast_shapes(*(array.shape for array in given))
        except ValueError:
            shapes = ", ".join(str(array.shape) for array in given)
            raise BadArguments(f"{export}: the shapes {shapes} cannot be broadcast together") from None
        self.out: tuple[np.ndarray[Any, Any], ...] = _outputs(export, results, self.shape, out)
        self._own = out is not None
        for n, array in enumerate(given):
            # A piece may be read after another's results were written, so only the very same items may be both.
            if any(np.may_share_memory(array, target) and not _same_items(array, target) for target in self.out):
                given[n] = array.copy()
        self._dtypes = [DTYPES[kind] for kind in params]
        self._readers = [_reader(array, self.shape) for array in given]
        self._flat = [target.reshape(-1) for target in self.out]
        self.total: int | None = int(np.prod(self.shape, dtype=np.int64))
        self._at = 0

    def take(self, count: int, all_of_them: bool = True) -> Piece:
        assert self.total is not None
        start = self._at
        self._at = min(start + count, self.total)
        return Piece(_Stretch(self._readers, self._dtypes, self._flat, start), self._at - start)

    def result(self) -> Any:
        """What the call returns: nothing, an array, or a tuple of arrays; those in ``out`` themselves, if it was given.

        Without ``out``, scalars stand for arrays of the shape (), as numpy has it.
        """
        returned = self.out if self._own else tuple(target[()] for target in self.out)
        return returned[0] if len(returned) == 1 else returned or None


class _Stretch:
    """Items of whole arrays from ``first`` on, as the data of a chunk."""

    def __init__(
        self,
        readers: list[Callable[[int, int], Any]],
        dtypes: list[np.dtype[Any]],
        flat: list[np.ndarray[Any, Any]],
        first: int,
    ) -> None:
        self._readers = readers
        self._dtypes = dtypes
        self._flat = flat
        self._first = first

    def load(self, column: int, start: int, stop: int, target: memoryview) -> None:
        items = self._readers[column](self._first + start, self._first + stop)
        cast_into(np.frombuffer(target, self._dtypes[column]), items)

    def store(self, column: int, start: int, stop: int, source: memoryview) -> None:
        flat = self._flat[column]
        flat[self._first + start : self._first + stop] = np.frombuffer(source, flat.dtype)


def _outputs(export: str, results: tuple[str, ...], shape: tuple[int, ...], out: Any) -> tuple[np.ndarray[Any, Any], ...]:
    if out is None:
        return tuple(np.empty(shape, DTYPES[kind]) for kind in results)
    given = out if isinstance(out, tuple) else (out,)
    if len(given) != len(results):
        raise BadArguments(f"{export} has {len(results)} results, but out has {len(given)} arrays")
    for target, kind in zip(given, results, strict=True):
        if not isinstance(target, np.ndarray):
            raise BadArguments(f"{export}: out must be a numpy array, got {type(target).__name__}")
        wanted = DTYPES[kind]
        if target.dtype != wanted or target.shape != shape:
            raise BadArguments(
                f"{export}: out has dtype {target.dtype} and shape {target.shape}, expected {wanted} and {shape}"
            )
        if not target.flags.c_contiguous or not target.flags.writeable:
            raise BadArguments(f"{export}: out must be C-contiguous and writeable")
    return given


def _same_items(array: np.ndarray[Any, Any], target: np.ndarray[Any, Any]) -> bool:
    """Whether item i of both is the same memory."""
    return (
        array.shape == target.shape
        and array.dtype == target.dtype
        and array.strides == target.strides
        and array.__array_interface__["data"][0] == target.__array_interface__["data"][0]
    )


def _reader(array: np.ndarray[Any, Any], shape: tuple[int, ...]) -> Callable[[int, int], Any]:
    """A function (start, stop) -> those items of the array broadcast to ``shape``, in C order."""
    if array.size == 1:
        only = array.reshape(())
        return lambda start, stop: only
    if array.shape == shape and array.flags.c_contiguous:
        flat = array.reshape(-1)
        return lambda start, stop: flat[start:stop]
    view = np.broadcast_to(array, shape)
    return lambda start, stop: view.flat[start:stop]
