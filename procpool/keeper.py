"""The module of a keeper, generated for a snapshot: it puts an instance back, in compiled code.

It imports what holds state of the instance, and the memories of the snapshot, from which pages are copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from . import wire
from .binary import PAGE, STORAGE, ExternType, GlobalType, MemoryType, TableType
from .errors import BadSnapshot
from .exposed import DROP, FUNCTIONS

#: Pages of one memory that are put back by copying.  They stay the process's own, so the next job that writes there has no
#: page fault; beyond, all are forgotten.
KEPT_PAGES = 128
#: What is found of one run of pages: its start, its end, and what there is to say of it.
RUN_BYTES = 24

#: The kinds of numbers, with how many bits they have, and how a constant is written that has certain bits.
_BITS = {"i32": 32, "i64": 64, "f32": 32, "f64": 64, "v128": 128}
_CONSTANTS = {
    "i32": "(i32.const {})",
    "i64": "(i64.const {})",
    "f32": "(f32.reinterpret_i32 (i32.const {}))",
    "f64": "(f64.reinterpret_i64 (i64.const {}))",
}


def check_fits(state: wire.State, inner: Mapping[str, ExternType]) -> None:
    """Whether a snapshot, which may come from anybody, is of a module that exports that for snapshots.

    Raises:
        BadSnapshot: it is not.
    """
    functions = sum(count for _, count in _functions(inner))
    wanted = {name: type_ for name, type_ in inner.items() if isinstance(type_, STORAGE) and not name.startswith(FUNCTIONS)}

    def is_reference(value: int | None, type_: str) -> bool:
        return value is None or (type_ == "funcref" and 0 <= value < functions)

    def fits(each: wire.MemoryState | wire.GlobalState | wire.TableState) -> bool:
        match each, wanted.pop(each.name, None):
            case wire.MemoryState(), MemoryType() as type_:
                return not each.size % PAGE and _within(each.size // PAGE, type_, 1 << 48 if type_.is_64 else 1 << 16)
            case wire.TableState(), TableType() as type_:
                return _within(each.size, type_, (1 << 64 if type_.is_64 else 1 << 32) - 1) and all(
                    0 <= at < each.size and is_reference(value, type_.element) for at, value in each.elements
                )
            case wire.GlobalState(), GlobalType() as type_ if type_.content == each.type:
                bits = _BITS.get(each.type)
                if bits is None:
                    return is_reference(each.value, each.type)
                return each.value is not None and 0 <= each.value < 1 << bits
        return False

    all_fit = all([*map(fits, state.memories), *map(fits, state.globals), *map(fits, state.tables)])
    if not all_fit or wanted or not all(name.startswith(DROP) and name in inner for name in state.dropped):
        raise BadSnapshot("the snapshot is of another module")


def _within(size: int, type_: MemoryType | TableType, most: int) -> bool:
    """Whether something of that type may be so large; more than ``most`` it never is."""
    return type_.minimum <= size <= (most if type_.maximum is None else type_.maximum)


def _functions(inner: Mapping[str, ExternType]) -> Iterator[tuple[str, int]]:
    """The tables of functions, and how many each has.  They are numbered through, in this order."""
    for name, type_ in inner.items():
        if isinstance(type_, TableType) and name.startswith(FUNCTIONS):
            yield name, type_.minimum


def imported_by_keeper(state: wire.State, inner: Mapping[str, ExternType]) -> list[str]:
    """What a keeper imports of the instance, in its order."""
    functions = [name for name, _ in _functions(inner)]
    memories, globals_, tables = state.memories, state.globals, state.tables
    return [*(m.name for m in memories), *(g.name for g in globals_), *(t.name for t in tables), *functions]


def keeper_text(state: wire.State, inner: Mapping[str, ExternType]) -> str:
    """The module of a keeper, in the text format.

    ``begin``: the address of each memory ->; ``restore``: how many runs of pages were found in each -> whether all is back.
    """
    memories = [_Memory(at, each, _bits(inner[each.name])) for at, each in enumerate(state.memories)]
    tables = [_Table(at, each, inner[each.name]) for at, each in enumerate(state.tables)]
    counts = [count for _, count in _functions(inner)]
    globals_ = [_Global(at, each, counts) for at, each in enumerate(state.globals)]
    parts = [*memories, *globals_, *tables]

    def lines(of: Callable[[Any], str]) -> str:
        return "\n    ".join(filter(None, map(of, parts)))

    functions = "\n    ".join(
        f'(import "inner" "functions {at}" (table $functions{at} 0 funcref))' for at in range(len(counts))
    )
    room = -(-len(memories) * KEPT_PAGES * RUN_BYTES // PAGE)
    return f"""
(module $procpool_keeper
    {lines(lambda each: each.imported)}
    {functions}
    {" ".join(each.pristine for each in memories)}
    (memory $found (export "found") {room})
    {lines(lambda each: each.declared)}
  (func (export "begin") {" ".join(each.base for each in memories)}
    {lines(lambda each: each.begin)})
  (func (export "restore") {" ".join(each.runs for each in memories)} (result i32)
    (local $at i32) (local $end i32) (local $from i64) (local $size i64)
    {lines(lambda each: each.check)}
    {lines(lambda each: each.restore)}
    (i32.const 1)))
"""


class _Part:
    """What the keeper's module says for one thing that holds state."""

    imported = declared = begin = check = restore = ""


class _Memory(_Part):
    def __init__(self, at: int, state: wire.MemoryState, kind: str) -> None:
        narrow = "" if kind == "i64" else "i32.wrap_i64 "
        index = "i64 " if kind == "i64" else ""
        self.imported = f'(import "inner" "memory {at}" (memory $m{at} {index}0))'
        self.pristine = f'(import "snapshot" "memory {at}" (memory $p{at} {index}0))'
        self.declared = f"(global $base{at} (mut i64) (i64.const 0))"
        self.base = f"(param $base{at} i64)"
        self.begin = f"(global.set $base{at} (local.get $base{at}))"
        self.runs = f"(param $runs{at} i32)"
        self.check = _unless(f"({kind}.eq (memory.size $m{at}) ({kind}.const {state.size // PAGE}))")
        place, size = (f"({narrow}(local.get ${name}))" if narrow else f"(local.get ${name})" for name in ("from", "size"))
        first = at * KEPT_PAGES * RUN_BYTES
        self.restore = f"""(local.set $at (i32.const {first}))
    (local.set $end (i32.add (i32.const {first}) (i32.mul (local.get $runs{at}) (i32.const {RUN_BYTES}))))
    (block $done (loop $next
      (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
      (local.set $from (i64.load $found (local.get $at)))
      (local.set $size (i64.sub (i64.load $found offset=8 (local.get $at)) (local.get $from)))
      (local.set $from (i64.sub (local.get $from) (global.get $base{at})))
      (memory.copy $m{at} $p{at} {place} {place} {size})
      (local.set $at (i32.add (local.get $at) (i32.const {RUN_BYTES})))
      (br $next)))"""


class _Global(_Part):
    def __init__(self, at: int, state: wire.GlobalState, counts: Sequence[int]) -> None:
        self.imported = f'(import "inner" "global {at}" (global $g{at} (mut {state.type})))'
        if state.value is None:
            value = f"(ref.null {state.type.removesuffix('ref')})"
        elif state.type == "funcref":
            table, place = 0, state.value
            while place >= counts[table]:
                table, place = table + 1, place - counts[table]
            value = f"(table.get $functions{table} (i32.const {place}))"
        elif state.type == "v128":
            value = f"(v128.const i64x2 {state.value % (1 << 64)} {state.value >> 64})"
        else:
            value = _CONSTANTS[state.type].format(state.value)
        self.restore = f"(global.set $g{at} {value})"


class _Table(_Part):
    def __init__(self, at: int, state: wire.TableState, type_: ExternType) -> None:
        assert isinstance(type_, TableType)
        kind = _bits(type_)
        index = "i64 " if kind == "i64" else ""
        zero, size = f"({kind}.const 0)", f"({kind}.const {state.size})"
        self.imported = f'(import "inner" "table {at}" (table $t{at} {index}0 {type_.element}))'
        self.check = _unless(f"({kind}.eq (table.size $t{at}) {size})")
        if type_.element == "externref":  # nothing but nulls can be kept
            self.restore = f"(table.fill $t{at} {zero} (ref.null extern) {size})"
        else:
            self.declared = f"(table $k{at} {index}{state.size} {type_.element})"
            self.begin = f"(table.copy $k{at} $t{at} {zero} {zero} {size})"
            self.restore = f"(table.copy $t{at} $k{at} {zero} {zero} {size})"


def _bits(type_: Any) -> str:
    """The type of an index."""
    return "i64" if type_.is_64 else "i32"


def _unless(condition: str) -> str:
    return f"(if (i32.eqz {condition}) (then (return (i32.const 0))))"
