"""A directory of compiled modules that all programs of one user share.

To load compiled code is to run it.  So nobody else may have written what is found here: the directory belongs to this
user, is closed to all others, and is only reached by the descriptor that was checked.  What is in it is never changed.  A
file comes in under its name when it is whole and on the disk, and may go at any time: who has it open keeps it.

An entry is named by what its code depends on.  Beside it are notes, which say what was in a source file at a certain time,
and files ending in ``.part``, each of which is an entry being made, and the lock on making it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import re
import stat
from collections.abc import Callable, Iterator
from time import sleep, time_ns
from types import TracebackType

from .deadline import Deadline
from .files import write

logger: logging.Logger = logging.getLogger("procpool")

#: Environment variables: the directory, or "off"; and how many bytes there may be in it.
DIRECTORY, SIZE = "PROCPOOL_CACHE_DIR", "PROCPOOL_CACHE_BYTES"
DEFAULT_BYTES = 2 << 30
#: What even an empty file costs.
_LEAST_BYTES = 4096
_CHUNK = 1 << 20
#: A file that changed so short a time ago might change again without getting another time: clocks of file systems have
#: ticks, of up to two seconds.
_SETTLED_NS = 2_000_000_000
#: Seconds between looks whether somebody else has made an entry.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.001, 0.1
#: What to do about what is no file of ours, and is in the way of one.
_REMOVE = "; remove it from the cache of compiled modules"
_HASH = re.compile(rb"[0-9a-f]{64}\n")
_OURS = re.compile(r"[0-9a-f]{64}(\.note|\.part)?")


class Refused(PermissionError):
    """Raised for what is not used as it is: a directory, or a file in it, that others may have had their hands on."""


@contextlib.contextmanager
def open_cache() -> Iterator[Cache | None]:
    """The cache that the environment asks for; None for "off", and, after a warning, if it cannot be used."""
    if os.environ.get(DIRECTORY) == "off":
        yield None
        return
    try:
        directory = _private_directory(place())
    except OSError as error:
        logger.warning("procpool: no cache of compiled modules: %s", error)
        yield None
        return
    try:
        yield Cache(directory, _size())
    finally:
        os.close(directory)


def place() -> str:
    """The path of the directory that the environment asks for.

    Raises:
        FileNotFoundError: none is named, and there is no home directory.
    """
    named = os.environ.get(DIRECTORY)
    if named:
        return os.path.abspath(named)
    caches = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(caches):  # then it does not count, says its specification
        caches = os.path.join(os.path.expanduser("~"), ".cache")
    if not os.path.isabs(caches):
        raise FileNotFoundError(f"there is no home directory; set {DIRECTORY}, or set it to 'off'")
    return os.path.join(caches, "procpool")


def _size() -> int:
    """How many bytes there may be."""
    given = os.environ.get(SIZE, str(DEFAULT_BYTES))
    if given.isdecimal():
        return int(given)
    logger.warning("procpool: %s is %r, and should be a number of bytes; it is %d now", SIZE, given, DEFAULT_BYTES)
    return DEFAULT_BYTES


def _private_directory(path: str) -> int:
    """Open that directory, made if it is not there.

    Raises:
        Refused: it is not this user's, or others may use it.
        OSError: it cannot be made or opened; a symbolic link is not followed.
    """
    with contextlib.suppress(FileExistsError):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.mkdir(path, 0o700)
    if os.path.islink(path):
        raise Refused(f"{path!r} is a symbolic link; {DIRECTORY} may name where it leads")
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    found = os.fstat(fd)  # of what was opened, whatever is at the path by now
    if found.st_uid == os.geteuid() and not found.st_mode & 0o077:
        return fd
    os.close(fd)
    if found.st_uid != os.geteuid():
        raise Refused(f"{path!r} belongs to the user {found.st_uid}, and who runs this is {os.geteuid()}")
    raise Refused(f"{path!r} is open to other users (mode {stat.S_IMODE(found.st_mode):o}); chmod 700 makes it private")


class Cache:
    """The entries of a directory.  Any number of processes and threads may use it at once.

    Args:
        directory: descriptor of a directory that was checked; it stays the caller's.
        most: bytes; when there are more, what was not used for longest goes.
    """

    def __init__(self, directory: int, most: int) -> None:
        self._directory = directory
        self.most = most

    def find(self, name: str) -> int | None:
        """A descriptor of that entry, for reading; None if there is none.  It counts as used now.

        Raises:
            OSError: it cannot be opened.
        """
        try:
            fd = self._open(name, os.O_RDONLY)
        except FileNotFoundError:
            return None
        except Refused as error:
            logger.warning("procpool: not using what is in the cache: %s", error)
            self.remove(name)
            return None
        with contextlib.suppress(OSError):  # a disk that cannot be written now
            os.utime(fd)
        return fd

    def remove(self, name: str) -> None:
        """Have no such entry."""
        with contextlib.suppress(OSError):
            try:
                os.unlink(name, dir_fd=self._directory)
            except (IsADirectoryError, PermissionError):  # what systems say of a directory; one with files in it stays
                os.rmdir(name, dir_fd=self._directory)

    def turn(self, name: str, waiting: Callable[[], None], patience: float) -> Turn:
        """Become the one who makes that entry, as soon as nobody else does; who does and dies, does no more.

        Args:
            waiting: called before waiting for somebody else.  Who has waited looks for the entry once more.
            patience: the most seconds to wait.

        Raises:
            TimeoutError: somebody else, who may be stopped, makes it all the time.
            OSError: files cannot be made or locked there.
        """
        until = Deadline.after(patience)
        pause = 0.0
        while (turn := self._turn_now(name)) is None:
            if until.passed():
                raise TimeoutError(f"somebody else has been making it for {patience:g} s")
            if not pause:
                waiting()
            # Nothing tells of the end of a lock but a wait for it, which has no deadline.
            pause = min(2 * pause or _SHORTEST_PAUSE, _LONGEST_PAUSE)
            sleep(pause)
        return turn

    def _turn_now(self, name: str) -> Turn | None:
        """That turn; None if somebody has it, or had it a moment ago."""
        part = f"{name}.part"
        fd = self._open(part, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who had the lock has renamed or removed the file, if it lived; then this is no lock on anything.
            if self._is(part, fd):
                return Turn(self, name, fd)
        except BlockingIOError:
            pass
        except BaseException:
            _unlock(fd)
            raise
        _unlock(fd)
        return None

    def digest(self, fd: int, hashing: Callable[[], bytes]) -> bytes:
        """The hash of a source file, from a note of earlier, or of ``hashing`` it.

        A note holds as long as the file has the same number, size and times.  On a local disk, no call sets the time of
        change (ctime).  What was written a moment ago gets no note, and neither does what is mounted for reading only: who
        makes an image of a file system says what its times are.  A change is not seen if it is made by who has the file
        mapped, and had already written to the same page before: until the kernel has written that to disk, within half a
        minute.  Nor is one that a server or a driver gives no new time to.

        Raises:
            OSError: the file cannot be read.
        """
        if os.fstatvfs(fd).f_flag & os.ST_RDONLY:
            return hashing()
        begun = time_ns()
        seen = _identity(fd)
        name = hashlib.sha256(repr(seen).encode()).hexdigest() + ".note"
        with contextlib.suppress(OSError):
            note = self._open(name, os.O_RDWR)
            try:
                content = os.read(note, 1024)
                if _HASH.fullmatch(content):  # a note may be torn
                    os.utime(note)
                    return bytes.fromhex(content.decode())
            finally:
                os.close(note)
        digest = hashing()
        if max(seen[-2:]) < begun - _SETTLED_NS and _identity(fd) == seen:
            with contextlib.suppress(OSError):
                note = self._open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                try:
                    os.write(note, f"{digest.hex()}\n".encode())
                finally:
                    os.close(note)
                self._trim(self.most)
        return digest

    def keep(self, part: int, name: str, content: int) -> None:
        """Make an entry of what is in ``content``, written into ``part``.

        Raises:
            OSError: it cannot be written; there is no entry then.
        """
        size = os.fstat(content).st_size
        if size > self.most:  # it would drive out all others, and go with the next
            raise OSError(errno.EFBIG, f"it has {size} bytes, and {SIZE} is {self.most}")
        os.ftruncate(part, 0)
        at = 0
        while chunk := os.pread(content, _CHUNK, at):
            write(part, chunk)
            at += len(chunk)
        # Its length is on the disk only when what is in it is, also if the machine fails: that is why nobody who uses it
        # has to read it all first.  That the directory may forget the name does no harm.
        os.fsync(part)
        os.rename(f"{name}.part", name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        self._trim(self.most)

    def clear(self) -> None:
        """Have nothing in it but what somebody is making now."""
        self._trim(0)

    def contents(self) -> list[tuple[int, int, str]]:
        """When each entry and note was last used, in ns of the epoch, how many bytes it takes, and its name."""
        found = []
        for name in self._ours():
            with contextlib.suppress(OSError):  # somebody else has removed it
                status = os.stat(name, dir_fd=self._directory, follow_symlinks=False)
                if not name.endswith(".part"):
                    found.append((status.st_mtime_ns, max(status.st_size, _LEAST_BYTES), name))
        return sorted(found)

    def _ours(self) -> Iterator[str]:
        """What we name so.  A user may have named a directory with files that matter."""
        return filter(_OURS.fullmatch, os.listdir(self._directory))

    def _trim(self, most: int) -> None:
        """Have no more bytes than that, and nothing that dead processes have left."""
        for name in self._ours():
            if name.endswith(".part"):
                with contextlib.suppress(OSError):  # somebody works at it, or has removed it
                    self._sweep(name)
        found = self.contents()
        total = sum(size for _, size, _ in found)
        for _, size, name in found:
            if total <= most:
                break
            self.remove(name)
            total -= size

    def _sweep(self, part: str) -> None:
        """Remove that file if nobody works at it."""
        fd = self._open(part, os.O_RDWR)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.release(part, fd)
        finally:
            os.close(fd)

    def release(self, part: str, fd: int) -> None:
        """Remove that file and its lock, which is held: who waits for it sees that it has lost its name."""
        if self._is(part, fd):
            os.unlink(part, dir_fd=self._directory)
        fcntl.flock(fd, fcntl.LOCK_UN)

    def _open(self, name: str, flags: int) -> int:
        """Open what only this user can have written.

        Raises:
            Refused: it is something else.
            OSError: it cannot be opened.
        """
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            try:
                fd = os.open(name, flags, mode=0o600, dir_fd=self._directory)
            except PermissionError:  # left with another mode; what others might do with it is looked at below
                mode = os.stat(name, dir_fd=self._directory, follow_symlinks=False).st_mode
                os.chmod(name, stat.S_IMODE(mode) | 0o600, dir_fd=self._directory)
                fd = os.open(name, flags, dir_fd=self._directory)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise Refused(f"{name} is a symbolic link{_REMOVE}") from error
            if error.errno in (errno.EISDIR, errno.ENXIO):  # ENXIO of a socket
                raise Refused(f"{name} is no file{_REMOVE}") from error
            raise
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022:
            return fd
        os.close(fd)
        if not stat.S_ISREG(found.st_mode):
            raise Refused(f"{name} is no file{_REMOVE}")
        raise Refused(f"{name} could have been written by others: {stat.filemode(found.st_mode)}, user {found.st_uid}")

    def _is(self, name: str, fd: int) -> bool:
        """Whether that descriptor is of the file with that name now."""
        try:
            named = os.stat(name, dir_fd=self._directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(fd))


class Turn:
    """The right to make one entry, held by one thread of one process at a time.  ``with turn: ... turn.keep(artifact)``."""

    def __init__(self, cache: Cache, name: str, part: int) -> None:
        self._cache = cache
        self._name = name
        self._part = part

    def keep(self, content: int) -> None:
        """Make the entry of what is in that file.

        Raises:
            OSError: it cannot be written; there is no entry then.
        """
        self._cache.keep(self._part, self._name, content)

    def __enter__(self) -> Turn:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        try:
            self._cache.release(f"{self._name}.part", self._part)
        except OSError as trouble:
            logger.warning("procpool: %s.part is left in the cache of compiled modules: %s", self._name, trouble)
        finally:
            _unlock(self._part)


def _unlock(fd: int) -> None:
    """Give up a lock at once, though a fork may have a copy of the descriptor, and close it."""
    with contextlib.suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


def _identity(fd: int) -> tuple[int, ...]:
    """What changes when the content of a file does."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
