"""The worker's end of the page: waits in wasm for the next call, and makes plain ones itself.

A *server* is a small wasm module generated for some exports and linked to them.  It looks whose turn it is; finds a call;
hands the arguments in the page to the export, and the results to the page; and looks again, no Python in between.
One without exports waits as well, and leaves each call to Python.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import wasmtime

from .. import wire
from ..binary import FuncType
from ..wire import page

#: What a server is called, to be known in backtraces.
NAME = "procpool_server"
#: Why `serve` has returned.
GAVE_UP = 1  #: no call came, and the worker is asleep now; or its holder is about to write into the pipe
FOR_PYTHON = 2  #: a call that is not for wasm lies in the page, and has begun
RUNG = 3  #: a call was made, and what lies in the page is to go through the pipe
RUNG_AT_ONCE = 4  #: likewise, of what lay there when it was entered
STALE = 5  #: a call was made and answered, and the instance could not be put back after it

SIGNATURE = FuncType(("i32",), ("i32",))
_SLOT = 16


def server_text(signatures: Mapping[int, FuncType], checks: bool = False) -> str:
    """A server for the exports of those indices, in the text format.

    Args:
        checks: after each call it asks for the instance to be put back.

    ``serve``: whether an answer lies in the page -> why it returns.
    """
    imports = "\n  ".join(
        f'(import "export" "{index}" (func $f{index} (param {" ".join(type_.params)}) (result {" ".join(type_.results)})))'
        for index, type_ in signatures.items()
    )
    locals_ = " ".join(
        f"(local $r{index}_{n} {kind})" for index, type_ in signatures.items() for n, kind in enumerate(type_.results)
    )
    branches = "\n        ".join(_branch(index, type_) for index, type_ in signatures.items())
    turn = f"(i32.const {page.TURN})"
    # An interrupt is looked for where a function or a round begins, so not between a swap and these.
    paid = f"(i32.store (i32.const {page.OWED}) (i32.const 0))"
    check = ""
    if checks:
        imports += '(import "procpool" "put_back" (func $put_back (result i32)))'
        check = f"(if (i32.eqz (call $put_back)) (then (return (i32.const {STALE}))))"
    return f"""
(module ${NAME}
  {imports}
  (import "arena" "head" (memory {wire.ARENA_HEAD // 65536} {wire.ARENA_HEAD // 65536}))
  (func $swap (param $from i32) (param $to i32) (result i32)
    (i32.eq (local.get $from) (i32.atomic.rmw.cmpxchg {turn} (local.get $from) (local.get $to))))
  (func (export "serve") (param $answered i32) (result i32)
    (local $looks i32) (local $turn i32) (local $export i32) {locals_}
    (if (local.get $answered) (then
      (if (i32.eqz (call $swap (i32.const {page.TAKEN}) (i32.const {page.AWAKE}))) (then
        (return (i32.const {RUNG_AT_ONCE}))))
      {paid}))
    (local.set $looks (i32.load (i32.const {page.LINGER})))
    (loop $look
      (local.set $turn (i32.atomic.load {turn}))
      (if (i32.eq (local.get $turn) (i32.const {page.POSTED})) (then
        (br_if $look (i32.eqz (call $swap (i32.const {page.POSTED}) (i32.const {page.TAKEN}))))
        (i32.store (i32.const {page.OWED}) (i32.const 1))
        (if (i32.load16_u (i32.const {page.CALL_FRAME + 8})) (then (return (i32.const {FOR_PYTHON}))))
        (local.set $export (i32.load (i32.const {page.CALL_FRAME + 4})))
        (block $made
        {branches}
        (return (i32.const {FOR_PYTHON})))
        (if (i32.eqz (call $swap (i32.const {page.TAKEN}) (i32.const {page.AWAKE}))) (then (return (i32.const {RUNG}))))
        {paid}
        {check}
        (local.set $looks (i32.load (i32.const {page.LINGER})))
        (br $look)))
      (if (i32.and (i32.eq (local.get $turn) (i32.const {page.AWAKE})) (i32.ne (local.get $looks) (i32.const 0))) (then
        (local.set $looks (i32.sub (local.get $looks) (i32.const 1)))
        (br $look)))
      (if (i32.eq (local.get $turn) (i32.const {page.AWAKE})) (then
        (br_if $look (i32.eqz (call $swap (i32.const {page.AWAKE}) (i32.const {page.ASLEEP})))))))
    (i32.const {GAVE_UP})))
"""


def _branch(index: int, type_: FuncType) -> str:
    """Make the call if it is for that export."""
    arguments, results = page.CALL_FRAME + wire.JOB.size, page.REPLY_FRAME + wire.REPLY.size
    loads = " ".join(f"({kind}.load (i32.const {arguments + n * _SLOT}))" for n, kind in enumerate(type_.params))
    # Results are taken off the stack from the last to the first.
    stores = " ".join(
        f"(local.set $r{index}_{n}) ({kind}.store (i32.const {results + n * _SLOT}) (local.get $r{index}_{n}))"
        for n, kind in reversed(list(enumerate(type_.results)))
    )
    size = len(type_.results) * _SLOT
    return f"""(if (i32.eq (local.get $export) (i32.const {index})) (then
          {loads} (call $f{index}) {stores}
          (i64.store (i32.const {page.REPLY_FRAME}) (i64.const {size})) ;; OK, and not numbered
          (br $made)))"""


class Servers:
    """Compiled servers; each is compiled on first use."""

    def __init__(self, engine: wasmtime.Engine) -> None:
        self._engine = engine
        self._modules: dict[tuple[bool, tuple[int, ...]], wasmtime.Module] = {}

    def link(
        self,
        store: wasmtime.Store,
        head: wasmtime.Memory,
        signatures: Mapping[int, FuncType],
        exports: Sequence[wasmtime.Func],
        check: wasmtime.Func | None = None,
    ) -> wasmtime.Instance:
        """A server for those very exports, in the order of ``signatures``.

        Args:
            check: what puts the instance back after each call, and says whether it could.
        """
        key = check is not None, tuple(signatures)
        module = self._modules.get(key)
        if module is None:
            module = self._modules[key] = wasmtime.Module(self._engine, server_text(signatures, check is not None))
        checks = [] if check is None else [check]
        return wasmtime.Instance(store, module, [*exports, *checks, head])
