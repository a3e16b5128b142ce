"""Modules that others have published, called thousands of times: what their own glue would free is freed, and nothing else.

Their memories would grow by far, or their allocators trap, were an owner mistaken.
"""

from __future__ import annotations

import struct
import zlib
from itertools import starmap
from typing import Any

import pytest
from conftest import DEADLINE
from packages import NotFetched, Store, locked, required

from procpool import BytesFunction, Convention, Instance, ProcessWasmPool


def picture() -> bytes:
    """A PNG of 64 by 64 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\1\2\3" * 64) * 64, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(starmap(chunk, ((b"IHDR", head), (b"IDAT", rows), (b"IEND", b""))))


#: package, module, convention, export, arguments, result=, what to expect (None: the same each time), calls
CASES: list[tuple[str, str, str, str, tuple[Any, ...], Any, Any, int]] = [
    (
        *("npm @wasm-fmt/ruff_fmt", "ruff_fmt_bg.wasm", "wasm-bindgen", "format"),
        *(("x = {  'größe':1}\n" * 50, "a.py", 0), str, 'x = {"größe": 1}\n' * 50, 1000),
    ),
    ("npm lz4-wasm", "lz4_wasm_bg.wasm", "wasm-bindgen", "compress", (bytes(100_000),), bytes, None, 2000),
    (
        *("npm @jsquash/oxipng", "codec/pkg/squoosh_oxipng_bg.wasm", "wasm-bindgen", "optimise"),
        *((picture(), 2, 0, 0), bytes, None, 100),
    ),
    (
        *("npm @rollup/wasm-node", "dist/wasm-node/bindings_wasm_bg.wasm", "wasm-bindgen", "parse"),
        *(("const answer = 42;" * 100, 0, 0, 0), bytes, None, 1000),
    ),
    (
        *("npm @astral-sh/ruff-wasm-web", "ruff_wasm_bg.wasm", "wasm-bindgen", "workspace_version"),
        *((), str, None, 3000),
    ),
    (
        *("npm @sqlite.org/sqlite-wasm", "sqlite-wasm/jswasm/sqlite3.wasm", "emscripten", "sqlite3_complete"),
        *(("select 'größe';" * 1000,), None, 1, 3000),
    ),
    (
        *("npm @sqlite.org/sqlite-wasm", "sqlite-wasm/jswasm/sqlite3.wasm", "emscripten", "sqlite3_libversion"),
        *((), str, "3.41.2", 3000),
    ),
]


@pytest.mark.parametrize(
    ("package", "module", "convention", "export", "args", "result", "expected", "calls"),
    CASES,
    ids=[f"{case[0]}-{case[3]}" for case in CASES],
)
def test_a_published_module_is_called_often(
    package: str,
    module: str,
    convention: str,
    export: str,
    args: tuple[Any, ...],
    result: Any,
    expected: Any,
    calls: int,
    store: Store,
    nothing_left: None,
) -> None:
    try:
        directory = store.unpacked(locked()[package])
    except NotFetched as reason:
        if required():
            raise
        pytest.skip(str(reason))
    function = BytesFunction(export, result=result)

    def often(instance: Instance) -> tuple[Any, int]:
        call = function.following(instance.types)
        first = call(instance, *args)
        for _ in range(3):  # until there is room for what a call needs
            call(instance, *args)
        before = len(instance.memory)
        assert all(call(instance, *args) == first for _ in range(calls))
        return first, len(instance.memory) - before

    with ProcessWasmPool(directory / module, workers=1, on_missing_import="zero") as pool:
        assert Convention.of(pool.exports).name == convention
        first, grown = pool.submit(often).result(DEADLINE)
        assert first == expected if expected is not None else first
        assert grown <= 1 << 16
        if isinstance(first, bytes) and export == "compress":
            assert pool.call_bytes("decompress", first, result=bytes) == args[0]
