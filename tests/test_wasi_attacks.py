"""What a guest tries to reach outside the directories that it was given: links, ``..``, absolute paths, and races.

wasmtime resolves paths within a directory; Landlock stands behind it, where workers are locked.  Each attack is tried with
and without: what stops it has to be the first wall alone, and then the second alone.
"""

from __future__ import annotations

import os
import platform
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE

from procpool import Lease, ProcessWasmPool, WasiConfig

LINUX = sys.platform.startswith("linux") and platform.machine() in ("x86_64", "aarch64")
SECRET = b"S: nobody may read this"
PATH, OTHER = 1024, 4096

#: ``look`` opens the path of that length and returns its first byte, 256 if there is none, or minus an error number.
#: ``link`` makes a symbolic link, ``move`` renames, ``hard`` links, ``remove`` and ``directory`` do what they say.
GUEST = f"""(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_symlink" (func $symlink (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_rename" (func $rename (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_link" (func $link (param i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_unlink_file" (func $unlink (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_create_directory" (func $mkdir (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "look") (param $length i32) (param $oflags i32) (param $rights i64) (result i32) (local $error i32)
    (local.set $error (call $open (i32.const 3) (i32.const 1) (i32.const {PATH}) (local.get $length)
      (local.get $oflags) (local.get $rights) (i64.const 0) (i32.const 0) (i32.const 0)))
    (if (local.get $error) (then (return (i32.sub (i32.const 0) (local.get $error)))))
    (i32.store (i32.const 16) (i32.const 64)) (i32.store (i32.const 20) (i32.const 1))
    (i32.store (i32.const 64) (i32.const 88)) (i32.store (i32.const 24) (i32.const 0))
    (local.set $error (if (result i32) (i64.eqz (i64.and (local.get $rights) (i64.const 64)))
      (then (call $read (i32.load (i32.const 0)) (i32.const 16) (i32.const 1) (i32.const 24)))
      (else (call $write (i32.load (i32.const 0)) (i32.const 16) (i32.const 1) (i32.const 24)))))
    (drop (call $close (i32.load (i32.const 0))))
    (if (local.get $error) (then (return (i32.sub (i32.const 0) (local.get $error)))))
    (if (i32.eqz (i32.load (i32.const 24))) (then (return (i32.const 256))))
    (i32.load8_u (i32.const 64)))
  (func (export "link") (param i32 i32) (result i32)
    (call $symlink (i32.const {PATH}) (local.get 0) (i32.const 3) (i32.const {OTHER}) (local.get 1)))
  (func (export "move") (param i32 i32) (result i32)
    (call $rename (i32.const 3) (i32.const {PATH}) (local.get 0) (i32.const 3) (i32.const {OTHER}) (local.get 1)))
  (func (export "hard") (param i32 i32) (result i32)
    (call $link (i32.const 3) (i32.const 1) (i32.const {PATH}) (local.get 0) (i32.const 3) (i32.const {OTHER}) (local.get 1)))
  (func (export "remove") (param i32) (result i32)
    (call $unlink (i32.const 3) (i32.const {PATH}) (local.get 0)))
  (func (export "directory") (param i32) (result i32)
    (call $mkdir (i32.const 3) (i32.const {PATH}) (local.get 0))))"""
READ, WRITE = 2, 64  # rights
CREATE = 1
FOUND = SECRET[0]


class Guest:
    """One instance, with paths as text."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    def _put(self, at: int, path: str) -> int:
        data = path.encode()
        self._lease.memory[at : at + len(data)] = data
        return len(data)

    def look(self, path: str, oflags: int = 0, rights: int = READ) -> int:
        found: int = self._lease.call("look", self._put(PATH, path), oflags, rights)
        return found

    def two(self, what: str, path: str, other: str) -> int:
        done: int = self._lease.call(what, self._put(PATH, path), self._put(OTHER, other))
        return done

    def one(self, what: str, path: str) -> int:
        done: int = self._lease.call(what, self._put(PATH, path))
        return done


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory with a secret, and in it ``given``, which the guest sees."""
    (tmp_path / "secret").write_bytes(SECRET)
    given = tmp_path / "given"
    given.mkdir()
    (given / "own").write_bytes(b"o")
    (given / "sub").mkdir()
    (given / "out").symlink_to("../secret")
    (given / "absolute").symlink_to(tmp_path / "secret")
    (given / "up").symlink_to("..")
    (given / "sub" / "far").symlink_to("../../secret")
    (given / "own too").symlink_to("own")
    return tmp_path


@pytest.fixture(params=["off", "strict"])
def sandbox(request: pytest.FixtureRequest) -> str:
    if request.param == "strict" and not LINUX:
        pytest.skip("workers are locked on Linux, on x86_64 and aarch64")
    chosen: str = request.param
    return chosen


@pytest.fixture(params=["ro", "rw"])
def access(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def guest(outside: Path, sandbox: Any, access: Any) -> Iterator[Guest]:
    config = WasiConfig(preopens={"/": (outside / "given", access)})
    with ProcessWasmPool(GUEST, workers=1, wasi=config, sandbox=sandbox) as pool, pool.instance() as lease:
        yield Guest(lease)


def test_paths_that_lead_out(guest: Guest, outside: Path) -> None:
    assert guest.look("own") == ord("o") and guest.look("own too") == ord("o")
    for path in (
        *("../secret", "sub/../../secret", "./../secret", "sub/./../../secret", "..", "../given/../secret"),
        *("/etc/passwd", str(outside / "secret"), "//secret", "/../secret", "/"),
        *("out", "absolute", "up/secret", "up/given/../secret", "sub/far", "out/", "sub/../out"),
        *("/proc/self/root/etc/passwd", "/proc/self/cwd/secret", "/dev/stdin", "/dev/fd/0"),
        *("own/../../secret", "nothing/../../secret", "sub/" * 200 + "../" * 201 + "secret", "x" * 5000),
    ):
        assert guest.look(path) < 0, path


def test_links_that_the_guest_makes(guest: Guest, outside: Path, access: str) -> None:
    made = [guest.two("link", target, name) for target, name in (("../secret", "a"), (str(outside / "secret"), "b"))]
    made += [guest.two("link", "sub", "c"), guest.two("link", "c/../../secret", "d")]
    if access == "ro":
        assert all(made), "a directory for reading only was changed"
        assert {each.name for each in (outside / "given").iterdir()} == {"own", "sub", "out", "absolute", "up", "own too"}
    for path in ("a", "b", "d", "c/../../secret", "c/far"):
        assert guest.look(path) < 0, path


def test_changes_that_lead_out(guest: Guest, outside: Path, access: str) -> None:
    before = sorted(each.name for each in outside.iterdir())
    for path in ("../new", "up/new", str(outside / "new"), "sub/../../new", "out", "absolute"):
        assert guest.look(path, CREATE, WRITE) < 0, path
        assert guest.one("directory", path) != 0, path
        assert guest.two("move", "own", path) != 0 or path in ("out", "absolute"), path
        if access == "rw" and not (outside / "given" / "own").exists():
            (outside / "given" / "own").write_bytes(b"o")  # it was renamed over a link, which is in the directory
        assert guest.two("hard", path, "linked") != 0 or path in ("out", "absolute", "own"), path
    for path in ("../secret", "up/secret"):
        assert guest.one("remove", path) != 0
        assert guest.two("move", path, "mine") != 0
        assert guest.two("hard", path, "mine too") != 0
    assert sorted(each.name for each in outside.iterdir()) == before
    assert (outside / "secret").read_bytes() == SECRET


def test_what_may_be_written(guest: Guest, outside: Path, access: str) -> None:
    wrote = guest.look("new", CREATE, WRITE)
    assert (wrote >= 0) == (access == "rw") == (outside / "given" / "new").exists()
    overwrote = guest.look("own", 0, WRITE)
    assert (overwrote >= 0) == (access == "rw")
    assert (outside / "given" / "own").read_bytes() == (b"X" if access == "rw" else b"o")
    assert (guest.one("remove", "own") == 0) == (access == "rw")


def test_a_race_of_links(guest: Guest, outside: Path) -> None:
    """Somebody else swaps a directory and a link that leads out, again and again, while the guest looks there."""
    given = outside / "given"
    (given / "swap").mkdir()
    (given / "swap" / "secret").write_bytes(b"inner")
    (given / "bad").symlink_to("..")
    ended, swaps = threading.Event(), 0

    def swap() -> None:
        nonlocal swaps
        while not ended.is_set():
            for _ in range(2):
                os.rename(given / "swap", given / "aside")
                os.rename(given / "bad", given / "swap")
                os.rename(given / "aside", given / "bad")
                swaps += 1

    thread = threading.Thread(target=swap, daemon=True)
    thread.start()
    try:
        seen = {guest.look("swap/secret") for _ in range(3000)}
    finally:
        ended.set()
        thread.join(DEADLINE)
    assert swaps > 2 and FOUND not in seen
    assert ord("i") in seen or all(each < 0 for each in seen)


@pytest.mark.skipif(not LINUX, reason="workers are locked on Linux, on x86_64 and aarch64")
def test_behind_wasmtime_stands_landlock(outside: Path, tmp_path: Path) -> None:
    """Code that got out does not ask wasmtime."""
    writable = tmp_path / "writable"
    writable.mkdir()
    config = WasiConfig(preopens={"/": outside / "given", "/w": (writable, "rw")})
    with ProcessWasmPool(GUEST, workers=1, wasi=config, sandbox="strict") as pool:

        def opened(instance: Any, path: str, flags: int) -> str:
            import os

            try:
                os.close(os.open(path, flags))
                return "opened"
            except OSError as error:
                return type(error).__name__

        def comes(path: Path | str, flags: int = os.O_RDONLY) -> str:
            return pool.submit(opened, str(path), flags).result(DEADLINE)

        given = outside / "given"
        assert comes(given / "own") == comes(given) == "opened"
        assert comes(given / "out") == comes(outside / "secret") == comes("/etc/passwd") == "PermissionError"
        assert comes(given / "own", os.O_WRONLY) == comes(given / "n", os.O_CREAT | os.O_WRONLY) == "PermissionError"
        assert comes(writable / "n", os.O_CREAT | os.O_WRONLY) == "opened"
        assert comes(f"/proc/{os.getpid()}/environ") == comes(f"/proc/{os.getpid()}/fd") == "PermissionError"
        assert comes("/dev/shm/procpool", os.O_CREAT | os.O_RDWR) == "PermissionError"
