"""The pool that a command works with."""

from __future__ import annotations

import argparse

from ..binary import FuncType
from ..pool import ProcessWasmPool


def opened(options: argparse.Namespace) -> ProcessWasmPool:
    return ProcessWasmPool(options.module, options.workers, timeout=options.timeout)


def signature(pool: ProcessWasmPool, export: str) -> FuncType:
    type_ = pool.exports.get(export)
    # Anything else is for the pool to refuse, with its hints.
    return type_ if isinstance(type_, FuncType) else FuncType()
