"""Modules of any size, made when a test wants one."""

from __future__ import annotations

import itertools
import os

from procpool.binary import unsigned

_numbers = itertools.count(os.getpid() << 20)


def large_module(size: int, number: int | None = None) -> bytes:
    """A module of about ``size`` bytes, nearly all of them code, which exports ``f: (i32) -> i32``.

    Each has another content, so that nobody has compiled it before, unless a ``number`` says which one it is.
    """
    number = next(_numbers) if number is None else number
    step = b"\x41\x03\x6c\x20\x00\x73"  # i32.const 3, i32.mul, local.get 0, i32.xor
    body = b"\x00\x20\x00" + step * 160 + b"\x0b"
    code = unsigned(len(body)) + body
    count = max(1, size // len(code))
    name = str(number).encode()
    sections = (
        (1, b"\x01\x60\x01\x7f\x01\x7f"),
        (3, unsigned(count) + bytes(count)),
        (7, b"\x01\x01f\x00\x00"),
        (10, unsigned(count) + code * count),
        (0, b"\x04salt" + unsigned(len(name)) + name),
    )
    return b"\0asm\1\0\0\0" + b"".join(bytes((id,)) + unsigned(len(content)) + content for id, content in sections)
