"""The committed modules are what their sources say."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path

import pytest
from conftest import FIXTURES

from fixtures.build import MODULES, build
from procpool import ProcessWasmPool
from procpool.binary import read_interface


def test_rebuilding_gives_the_same_interfaces(tmp_path: Path) -> None:
    pytest.importorskip("ziglang")
    if not version("ziglang").startswith("0.14."):
        pytest.skip("primes.zig is written for zig 0.14, which the test extra installs")
    build(tmp_path)
    for name in (*MODULES, "primes"):
        committed = read_interface((FIXTURES / f"{name}.wasm").read_bytes())
        rebuilt = read_interface((tmp_path / f"{name}.wasm").read_bytes())
        assert set(rebuilt.exports) == set(committed.exports)
        assert {n: str(t) for n, t in rebuilt.exports.items()} == {n: str(t) for n, t in committed.exports.items()}
        assert rebuilt.imports == committed.imports


def test_sha256_is_sha256() -> None:
    with ProcessWasmPool(FIXTURES / "sha256.wasm", workers=1) as pool:
        for seed, size in ((1, 0), (2, 55), (3, 56), (4, 64), (5, 1000)):
            x, data = seed, bytearray()
            for _ in range(size):
                x = (x * 1664525 + 1013904223) % 2**32
                data.append(x >> 24)
            expected = int.from_bytes(hashlib.sha256(data).digest()[:8], "big", signed=True)
            assert pool.call("sha256_of_pattern", seed, size) == expected
