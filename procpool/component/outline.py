"""A component without its code: what is kept of it beside what was compiled."""

from __future__ import annotations

from collections.abc import Iterator

_PREAMBLE_BYTES = 8
_CUSTOM, _CORE_MODULE, _COMPONENT = 0, 1, 4
#: It stands for each core module, for these are counted.
_EMPTY_MODULE = b"\0asm\1\0\0\0"


def outline(wasm: bytes) -> bytes:
    """The component with empty core modules, also in the components within it, and without custom sections.

    Raises:
        IndexError: it is cut off; wasmtime has not seen it yet.
    """
    pieces = [wasm[:_PREAMBLE_BYTES]]
    for kind, start, end in _sections(wasm):
        if kind == _CUSTOM:
            continue
        body = _EMPTY_MODULE if kind == _CORE_MODULE else wasm[start:end]
        if kind == _COMPONENT:
            body = outline(body)
        pieces += [bytes((kind,)), _leb(len(body)), body]
    return b"".join(pieces)


def _sections(wasm: bytes) -> Iterator[tuple[int, int, int]]:
    at = _PREAMBLE_BYTES
    while at < len(wasm):
        kind, at, size, shift = wasm[at], at + 1, 0, 0
        while True:
            byte, at = wasm[at], at + 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        yield kind, at, at + size
        at += size


def _leb(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
