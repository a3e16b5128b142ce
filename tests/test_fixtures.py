"""The committed modules are what their sources say."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path

import pytest
from conftest import FIXTURES

from fixtures.build import MODULES, ZIG, build
from procpool import ProcessWasmPool


def test_the_committed_modules_are_what_their_sources_say(tmp_path: Path) -> None:
    pytest.importorskip("ziglang")
    if version("ziglang") != ZIG:
        pytest.skip(f"the modules were built with zig {ZIG}, which the test extra installs")
    build(tmp_path)
    for name in (*MODULES, "primes"):
        assert (tmp_path / f"{name}.wasm").read_bytes() == (FIXTURES / f"{name}.wasm").read_bytes(), name


def test_sha256_is_sha256() -> None:
    with ProcessWasmPool(FIXTURES / "sha256.wasm", workers=1) as pool:
        for seed, size in ((1, 0), (2, 55), (3, 56), (4, 64), (5, 1000)):
            x, data = seed, bytearray()
            for _ in range(size):
                x = (x * 1664525 + 1013904223) % 2**32
                data.append(x >> 24)
            expected = int.from_bytes(hashlib.sha256(data).digest()[:8], "big", signed=True)
            assert pool.call("sha256_of_pattern", seed, size) == expected
