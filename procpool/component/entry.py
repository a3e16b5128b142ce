"""How a worker calls what it runs of a component.  Apart from the types of WIT, which most workers have no use for."""

from __future__ import annotations

from typing import NamedTuple

#: The kinds of the C API's values, for what is passed as it is; see ``wasmtime/component/val.h``.
KINDS = {
    name: number
    for number, name in enumerate(("bool", "s8", "u8", "s16", "u16", "s32", "u32", "s64", "u64", "f32", "f64", "char"))
}


class Entry(NamedTuple):
    """How a function is called in the wrapper."""

    export: str  #: the name there
    #: whether it takes an image as a string and gives one; or else numbers, as they are: then the image of its arguments
    #: has eight bytes for each, which are the C API's value, and the eight bytes of the result's value are its image
    image: bool
    params: tuple[int, ...] = ()  #: of numbers: the kinds of the C API's values
    result: int | None = None  #: likewise
