"""A snapshot on disk, with the module that it is of: what a later program can begin from.

A file has a head, which is text that `json` reads; the module, as it was given; and the snapshot (wire/snapshot.py).
Nothing of it is code of this machine's, and nothing of it is run but in the sandbox: the module is compiled as any other.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import stat
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from . import wire
from .engine import release
from .errors import BadSnapshot
from .files import anonymous_file, filled_in_file, seal, write, write_at
from .module import SAVED, ModuleSource, is_path
from .printable import printable

_MAGIC = SAVED + b"2"
_HEAD = struct.Struct("<16sQ")
#: More is no head of ours.
_MOST_HEAD = 1 << 20


@dataclass(frozen=True)
class Saved:
    """What such a file holds."""

    module: bytes  #: binary or text
    name: str  #: of the module, for people
    linked: dict[str, str]  #: SHA-256 of those that were linked to it, by name; they are not in it
    state: int  #: descriptor of a file with the snapshot, which nobody changes; the owner closes it


def save(path: str | os.PathLike[str], module: bytes, name: str, linked: Mapping[str, str], state: int) -> None:
    """Write such a file: it is there when it is whole, and replaces the file that was there.

    Args:
        module: binary or text; ``name`` is for people.
        linked: SHA-256 of those that are linked to it, by name.
        state: descriptor of the snapshot.

    Raises:
        OSError: it cannot be written, or what is there is no regular file.
    """
    path = os.path.realpath(path)  # a link stays one
    if os.path.exists(path) and not os.path.isfile(path):
        raise FileExistsError(errno.EEXIST, "no file that could be replaced", path)
    size = os.fstat(state).st_size
    told = {
        "wasmtime": release(),
        "name": name,
        "module": len(module),
        "module_sha256": hashlib.sha256(module).hexdigest(),
        "linked_sha256": dict(linked),
        "state": size,
        "state_sha256": _copied(state, 0, size),
    }
    text = json.dumps(told).encode()
    directory = os.path.dirname(path)
    part = os.path.join(directory, f".{os.path.basename(path)}.{secrets.token_hex(8)}")
    fd = _nameless(directory)
    named = fd is None
    if fd is None:
        fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        write(fd, _HEAD.pack(_MAGIC, len(text)) + text + module)
        start = _HEAD.size + len(text) + len(module)
        os.ftruncate(fd, start + size)
        _copied(state, 0, size, fd, start)
        os.fsync(fd)
        if not named:
            # With a descriptor of a directory, for only then does os.link follow the link that /proc has.
            os.link(f"/proc/self/fd/{fd}", part, src_dir_fd=fd, follow_symlinks=True)
            named = True
        os.rename(part, path)
    except BaseException:
        if named:
            os.unlink(part)
        raise
    finally:
        os.close(fd)


def _nameless(directory: str) -> int | None:
    """A file there that has no name yet, and is gone if we are killed; None where the file system has no such."""
    try:
        return os.open(directory, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o666)
    except (OSError, AttributeError):  # if it is for another reason, making one with a name says so
        return None


def opened(source: ModuleSource) -> Saved | None:
    """What was saved, if that is the source of a pool; None if it is a module, or nothing.

    Raises:
        BadSnapshot: it is not whole, or was made by another release of wasmtime or of procpool.
        OSError: there is no memory for it.
    """
    if not is_path(source):
        return None
    assert isinstance(source, (str, os.PathLike))
    try:
        file = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):  # whoever reads a module will say so
        return None
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return None
        head = os.pread(file, _HEAD.size, 0)
        if not head.startswith(SAVED):
            return None
        with _as_bad(os.fspath(source)):
            return _read(file, head)
    finally:
        os.close(file)


def _read(file: int, head: bytes) -> Saved:
    magic, length = _HEAD.unpack(head)
    if magic != _MAGIC:
        raise BadSnapshot("it was saved by another version of procpool; save it again")
    if length > _MOST_HEAD:
        raise ValueError("its head is too long")
    told: dict[str, Any] = json.loads(os.pread(file, length, _HEAD.size))
    if told["wasmtime"] != release():
        made, ours = (" ".join(map(str, each)).removesuffix(".dist-info") for each in (told["wasmtime"], release()))
        raise BadSnapshot(f"it was saved with {made}, and this is {ours}; save it again")
    name, size, state = told["name"], told["module"], told["state"]
    at, linked = _HEAD.size + length, told["linked_sha256"]
    if [type(each) for each in (name, linked, size, state)] != [str, dict, int, int] or min(size, state) < 0:
        raise ValueError("its head is none of ours")
    if os.fstat(file).st_size != at + size + state:
        raise ValueError("it is not whole")
    module = os.pread(file, size, at)
    if hashlib.sha256(module).hexdigest() != told["module_sha256"]:
        raise ValueError("its module has changed since it was saved")
    copy = anonymous_file(b"")
    try:
        os.ftruncate(copy, state)
        if _copied(file, at + size, state, copy, 0) != told["state_sha256"]:
            raise ValueError("its memory has changed since it was saved")
        seal(copy)
        wire.read_state(copy)
    except BaseException:
        os.close(copy)
        raise
    return Saved(module, printable(name), linked, copy)


@contextlib.contextmanager
def _as_bad(name: str) -> Iterator[None]:
    """What goes wrong is about that file."""
    try:
        yield
    except (BadSnapshot, ValueError, TypeError, KeyError, AttributeError, struct.error, RecursionError) as error:
        raise BadSnapshot(f"{name!r} cannot be used: {error}") from None


def _copied(source: int, at: int, size: int, to: int = -1, place: int = 0) -> str:
    """A hash of a part of a file, which holes and zeros are no part of.

    Args:
        to: a file to copy it into, of zeros as yet; -1 for none.
        place: where in that.
    """
    seen = hashlib.sha256()
    for offset, chunk in filled_in_file(source, at, size):
        seen.update(offset.to_bytes(8, "little") + chunk)
        if to >= 0:
            write_at(to, chunk, place + offset)
    return seen.hexdigest()
