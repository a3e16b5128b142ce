"""Batches: many calls of one export without Python between them.

A *driver* is a small wasm module generated for a signature and linked to the instance's own export.  Its loop loads the
arguments of item i from columns in the arena, calls, and stores the results into columns.
"""

from __future__ import annotations

import wasmtime

from .. import wire
from ..binary import Declared, FuncType, importing
from ..columns import WIDTH

#: What a driver is called, to be known in backtraces.
NAME = "procpool_driver"


def signature_of_driver(signature: FuncType) -> FuncType:
    """``run``: first item, end, address of the cells, address of each column -> the item it stopped at."""
    columns = len(signature.params) + len(signature.results)
    return FuncType(("i32",) * (3 + columns), ("i32",))


def driver_text(signature: FuncType) -> str:
    """The driver for a signature, in the text format."""
    params, results = signature.params, signature.results

    def address(column: int, kind: str) -> str:
        return f"(i32.add (local.get $c{column}) (i32.mul (local.get $i) (i32.const {WIDTH[kind]})))"

    bases = "".join(f" (param $c{n} i32)" for n in range(len(params) + len(results)))
    loads = "\n      ".join(f"({kind}.load {address(n, kind)})" for n, kind in enumerate(params))
    # Results are taken off the stack from the last to the first.
    stores = "\n      ".join(
        f"(local.set $r{n}) ({kind}.store {address(len(params) + n, kind)} (local.get $r{n}))"
        for n, kind in reversed(list(enumerate(results)))
    )
    return f"""
(module ${NAME}
  (import "module" "export" (func $export (param {" ".join(params)}) (result {" ".join(results)})))
  (import "arena" "memory" (memory {wire.ARENA_BYTES // 65536} {wire.ARENA_BYTES // 65536}))
  (func (export "run") (param $i i32) (param $end i32) (param $cells i32){bases} (result i32)
    {" ".join(f"(local $r{n} {kind})" for n, kind in enumerate(results))}
    (loop $next
      (if (i32.ge_u (local.get $i) (local.get $end)) (then (return (local.get $i))))
      ;; before the call: whatever becomes of it, this says which item it was; and before the look at STOP and HOLD: who
      ;; has set one of them, and then sees this item here, knows that no other begins
      (i32.store offset={wire.INDEX} (local.get $cells) (local.get $i))
      (if (i64.ne (i64.load offset={wire.STOP} (local.get $cells)) (i64.const 0)) (then (return (local.get $i))))
      {loads}
      (call $export)
      {stores}
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br $next))
    (unreachable)))
"""


class Drivers:
    """Compiled drivers; each is compiled on first use."""

    def __init__(self, engine: wasmtime.Engine, declared: Declared) -> None:
        self._engine = engine
        self._declared = declared
        #: by signature, or by the name of the export where that does not tell its type
        self._modules: dict[FuncType | str, wasmtime.Module] = {}

    def link(
        self, store: wasmtime.Store, name: str, signature: FuncType, export: wasmtime.Func, memory: wasmtime.Memory
    ) -> wasmtime.Instance:
        """A driver for that very export."""
        key = name if name in self._declared.exports else signature
        module = self._modules.get(key)
        if module is None:
            module = self._modules[key] = wasmtime.Module(self._engine, self._driver(name, signature))
        return wasmtime.Instance(store, module, [export, memory])

    def importable(self, name: str) -> bool:
        """Whether who imports that export need not say more of its type than its signature."""
        return name not in self._declared.exports

    def _driver(self, name: str, signature: FuncType) -> bytes:
        wasm = bytes(wasmtime.wat2wasm(driver_text(signature)))
        return importing(wasm, self._declared, name) if name in self._declared.exports else wasm
