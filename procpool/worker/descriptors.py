"""What a guest has done to the files that it was given: no snapshot has them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

import wasmtime

from ..binary import FuncType
from ..codec import SLOT
from ..errors import BadSnapshot
from . import ffi
from .host import HostCalls

#: As many as a guest may have opened for all to be found.
_MOST = 4096
#: What a descriptor may be of.
_NOTHING, _GIVEN, _FILE, _STREAM = range(4)
#: Asks WASI about a descriptor of the guest's.  The types of files are 3 for a directory and 4 for a regular file.
_ASK = f"""
(module
  (import "wasi_snapshot_preview1" "fd_fdstat_get" (func $stat (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "kind") (param i32) (result i32)
    (if (call $stat (local.get 0) (i32.const 0)) (then (return (i32.const {_NOTHING}))))
    (if (i32.eqz (call $prestat (local.get 0) (i32.const 64))) (then (return (i32.const {_GIVEN}))))
    (select (i32.const {_FILE}) (i32.const {_STREAM})
      (i32.or (i32.eq (i32.load8_u (i32.const 0)) (i32.const 3)) (i32.eq (i32.load8_u (i32.const 0)) (i32.const 4))))))
"""


def check_descriptors(
    store: wasmtime.Store, link: Callable[[wasmtime.Store, str], wasmtime.Instance], given: Sequence[str]
) -> None:
    """Whether a guest has just the descriptors that it was given.

    Args:
        link: makes an instance of a module of ours that has the guest's WASI.
        given: the directories among them, by their paths here.

    Raises:
        BadSnapshot: it has opened files and not closed them, or closed what it was given; names them.
    """
    slots = ffi.Slots(1)
    ask = ffi.bind(store, link(store, _ASK), "kind", FuncType(("i32",), ("i32",)), slots, HostCalls())

    def kind(fd: int) -> int:
        slots.bytes[:SLOT] = fd.to_bytes(SLOT, "little")
        ask()
        return slots.bytes[0]

    expected = [*[_STREAM] * 3, *[_GIVEN] * len(given)]
    expected += [_NOTHING] * (_MOST - len(expected))
    fd = next((fd for fd, each in enumerate(expected) if kind(fd) != each), None)
    if fd is None:
        return
    if kind(fd) == _NOTHING:
        raise BadSnapshot(f"the state cannot be kept: the guest has closed the descriptor {fd}, which WASI gave it")
    files = ", ".join(sorted(_open_below(given))) or f"the descriptor {fd}"
    raise BadSnapshot(
        f"the state cannot be kept: the guest has left open {files}; have what is done for warm= close its files"
    )


def _open_below(directories: Sequence[str]) -> Iterator[str]:
    """The files in those directories that this process has open."""
    roots = [os.path.realpath(each) for each in directories]
    for fd in os.listdir("/dev/fd"):
        try:
            path = os.readlink(f"/dev/fd/{fd}")
        except OSError:  # it was the one of the listing; or a system where these are no links
            continue
        if path not in roots and any(os.path.commonpath((root, path)) == root for root in roots if path.startswith("/")):
            yield path
