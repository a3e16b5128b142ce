"""Files: without names, written whole, and with holes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator

#: In steps of this, parts of a file that are all zeros are left out.  A multiple of every processor's size of pages.
CHUNK = 65536
_ZEROS = bytes(CHUNK)


def anonymous_file(content: bytes | bytearray) -> int:
    """A descriptor of a file that has no name, so that it is gone with its last user however that user ends.

    Where the system can, it never gets shorter: who has mapped what is cut off would die of it (SIGBUS).

    Raises:
        OSError: there are no descriptors left, or the content is longer than a file may be.
    """
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("procpool", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with contextlib.suppress(OSError, AttributeError):
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    else:
        import tempfile  # not by workers, who make no such file

        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    try:
        write(fd, content)
    except BaseException:
        os.close(fd)
        raise
    return fd


def seal(fd: int) -> None:
    """Have nobody change an anonymous file any more, where the system can.

    Raises:
        BlockingIOError: somebody has mapped it for writing.
    """
    _seal(fd, "F_SEAL_WRITE", "F_SEAL_GROW", "F_SEAL_SHRINK", "F_SEAL_SEAL")


def seal_size(fd: int) -> None:
    """Have nobody make an anonymous file longer or shorter any more, where the system can; what is in it may change."""
    _seal(fd, "F_SEAL_GROW", "F_SEAL_SHRINK", "F_SEAL_SEAL")


def _seal(fd: int, *names: str) -> None:
    if not hasattr(os, "memfd_create") or not hasattr(fcntl, "F_ADD_SEALS"):
        return
    seals = 0
    for name in names:
        seals |= getattr(fcntl, name)
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise BlockingIOError(error.errno, "somebody has mapped a file for writing that is to stay as it is") from None
        if error.errno not in (errno.EPERM, errno.EINVAL):  # it was sealed before, or is a file of a disk
            raise


def write(fd: int, content: bytes | bytearray) -> None:
    """Write all of it, at the file's position."""
    with memoryview(content) as view:
        at = 0
        while at < len(view):
            at += os.write(fd, view[at:])


def write_at(fd: int, content: bytes | bytearray | memoryview, place: int) -> None:
    """Write all of it there."""
    with memoryview(content) as view:
        at = 0
        while at < len(view):
            at += os.pwrite(fd, view[at:], place + at)


def filled(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The chunks that are not all zeros, and where each begins."""
    for at in range(0, len(content), CHUNK):
        chunk = content[at : at + CHUNK]
        if bytes(chunk) != _ZEROS[: len(chunk)]:  # a memoryview compares its elements one by one
            yield at, chunk


def filled_in_file(fd: int, start: int, size: int) -> Iterator[tuple[int, bytes]]:
    """Likewise, of a part of a file, counted from where that begins; holes are not read."""
    at = 0
    while at < size:
        try:
            found = os.lseek(fd, start + at, os.SEEK_DATA) - start
        except OSError:  # nothing but a hole is left
            return
        at = max(at, found // CHUNK * CHUNK)
        chunk = os.pread(fd, min(CHUNK, size - at), start + at) if at < size else b""
        if not chunk:  # it has got shorter
            return
        if chunk != _ZEROS[: len(chunk)]:
            yield at, chunk
        at += CHUNK
