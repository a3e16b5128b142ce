"""The frames that parent and workers exchange: the one thing both sides know.

Each worker has three channels of its own, shared with no other process:

* *jobs*, a pipe from the parent.  Frames run in the order sent; both sides count them, so a job is named by its number
  and no number travels with it.
* *replies*, a pipe to the parent, for jobs sent by :data:`CALL`: whoever sent the job reads it itself.
* *control*, a socket.  To the worker: interrupts and recalls, which must be heard while a job runs.  To the parent:
  replies to jobs sent by :data:`SUBMIT`, in the order of the jobs, and announcements.  Its end of file says that the
  other side is gone.

Everything is little endian.
"""

from __future__ import annotations

import json
import logging
import mmap
import pickle
import struct
import traceback
from dataclasses import dataclass
from typing import Any, NamedTuple

import cloudpickle

from .binary import FuncType
from .errors import GuestExit, RemoteError, WasmFrame, WasmTrap

# -- jobs: length of the payload, index of the export, kind, flags ------------------------------------------------------
JOB = struct.Struct("<IIBBxx")
CALL = 0  #: arguments as slots; reply on the replies pipe
SUBMIT = 1  #: arguments as slots; reply on the control socket
SHIPPED = 3  #: a Python callable and its arguments, as SHIPPED_HEAD and pickles; reply as SUBMIT
RUN = 6  #: a WASI command: a Spec and how many large results were taken, as in `pickles`; reply as SUBMIT
PURGE = 4  #: throw the instance away; empty; reply as SUBMIT
ACCESS = 5  #: an operation on the instance for the holder of a lease, pickled; reply as CALL
BATCH = 2  #: many calls of one export, over columns in the arena; arguments of its driver as slots; reply as SUBMIT

HAS_CONTEXT = 1  #: flag: the payload begins with a context, as CONTEXT and its baggage
ITEM_BY_ITEM = 2  #: flag of a batch: items are timed, so an interrupt must hit the very item it is meant for

LEASED = 4  #: flag of a call: the holder of a lease makes it, so the instance stays as it is afterwards

#: deadline (time.monotonic), seconds the job may run, length of the pickled (baggage, trace), whether there is a trace
CONTEXT = struct.Struct("<ddI?")

# -- replies: length of the payload, status ----------------------------------------------------------------------------
REPLY = struct.Struct("<IBxxx")
OK = 0  #: results as slots
TRAP = 1  #: the guest trapped; JSON
VALUE = 5  #: what a Python callable returned, as in `pickles`
INTERRUPTED = 2  #: stopped by INTERRUPT; empty, or what a command had printed
EXIT = 3  #: the guest exited; the code as JSON
RAISED = 4  #: a Python exception; see `exception_to_bytes`
READY = 64  #: announcement: the worker takes jobs; its pid, as COUNT, which may come before the launcher tells
UNFIT = 65  #: announcement: no instance could be made, with an exception as for RAISED; the worker exits
RECALLED = 66  #: announcement: the answer to RECALL; how many jobs were given back, as COUNT

ITEM = 67  #: announcement: an item of the running batch failed; as FAILED_ITEM and the payload for its status

LOG = 68  #: announcement: a log record, pickled
OUTPUT = 69  #: announcement: what the running command has printed; number of the stream and the bytes, or ALL_OUTPUT
ALL_OUTPUT = 3  #: what is captured so far, pickled: the command is being interrupted, and may never end by itself

COUNT = struct.Struct("<Q")
#: the function's digest, the length of its pickle (0: it was sent before), large results taken so far
SHIPPED_HEAD = struct.Struct("<16sII")
FAILED_ITEM = struct.Struct("<IB")  # index in the batch, status
BATCH_DONE = struct.Struct("<IxxxxQ")  # reply to a batch: index it stopped at, nanoseconds it took

# -- control: command, number of the job -------------------------------------------------------------------------------
CONTROL = struct.Struct("<BxxxIQ")  # command, item, number of the job
INTERRUPT = 0  #: stop that job if it is running now, and of a batch only that item
RECALL = 1  #: flush the replies there are, and give back all jobs that have not begun

#: The largest payload either side accepts; a length beyond it means that the stream is corrupt.
MAX_PAYLOAD = 1 << 30

# -- launching: what the template is asked and what it tells -----------------------------------------------------------
LAUNCH = struct.Struct("<QQ")  # process id of ours, its slot; three descriptors per instance travel beside it
LAUNCHED = 0  #: that id, pid
LAUNCH_FAILED = 1  #: that id, errno
EXITED = 2  #: that id, exit code as in subprocess
LAUNCH_EVENT = struct.Struct("<BxxxxxxxQq")

# -- the board: one shared page range, a row of counters per worker, written by the worker alone -----------------------
BOARD_ROW = 8  #: 64-bit cells per worker: a cache line, so that workers do not slow each other down
BEGUN = 0  #: how many jobs it has begun; after a crash, this tells the guilty job from the ones not begun
BUSY_NS = 1  #: nanoseconds spent on submitted jobs, which tells the parent how many to send at once
DONE = 2  #: how many jobs those were


# -- the arena: per worker, memory that parent, worker and the wasm of a batch's driver see at once ---------------------
#: The first page has a pair of 32-bit cells per buffer, each on a cache line of its own; then come the buffers.  Two of
#: them, so that one is filled and emptied while the worker is busy with the other.
ARENA_HEAD = 65536
BUFFERS = 2
BUFFER_BYTES = 4 << 20
ARENA_BYTES = ARENA_HEAD + BUFFERS * BUFFER_BYTES
CELLS = 128  #: bytes from one buffer's cells to the next's
INDEX = 0  #: written by the driver: the item it is at.  Survives the worker.
STOP = 64  #: written by the parent: stop before the next item


# -- payloads: per worker, memory for large arguments and results of Python callables, see pickles.py -------------------
#: Slots 0 and 1 are for arguments, as the arena's buffers; 2 and 3 for results, in turn.  Virtual: pages take memory when
#: they are first written.
PAYLOAD_BYTES = 256 << 20
PAYLOAD_ROW = 4 * PAYLOAD_BYTES


def map_payload(fd: int, row: int, slot: int, size: int) -> mmap.mmap:
    """The first ``size`` bytes of a worker's payload slot, rounded up so that it need not be mapped often."""
    size = min(PAYLOAD_BYTES, 1 << max(20, (size - 1).bit_length()))
    return mmap.mmap(fd, size, offset=row * PAYLOAD_ROW + slot * PAYLOAD_BYTES)


class GuestLimits(NamedTuple):
    """What an instance may use."""

    memory: int | None = None  #: bytes per linear memory; a table may have an element for every 8 of them
    fuel: int | None = None  #: per call
    stack: int | None = None  #: bytes of wasm stack
    recycle: int | None = None  #: bytes of grown memory beyond which an instance is not used again


class Guest(NamedTuple):
    """How instances are made and kept, and what surrounds them."""

    fresh: bool = False  #: a new instance for every call
    prewarm: int = 1  #: how many of a process's instances are made before it is ready
    exactly_once: bool = False  #: calls have effects outside the instance, so none may ever be run again
    environment: bytes = b""  #: pickled Environment
    rlimits: tuple[tuple[int, int], ...] = ()  #: (resource, limit) pairs for the process
    log_levels: tuple[tuple[str, int], ...] = ()  #: of the parent's loggers


class Environment(NamedTuple):
    """What the user's own code adds to a worker; unpickled in each, since importing may start threads."""

    imports: dict[tuple[str, str], Any]  #: (module, name) -> host function, number, or memory or table type
    types: dict[tuple[str, str], Any]  #: (module, name) -> type of the import
    initializer: Any = None
    initargs: tuple[Any, ...] = ()
    wasi: Any = None  #: WasiConfig
    start: tuple[str, ...] = ()  #: exports to call once in every new instance


@dataclass(frozen=True)
class Settings:
    """What a worker is told at birth, pickled into an anonymous file.

    Descriptors are inherited under their numbers.
    """

    artifact: int  #: the compiled module
    board: int
    arenas: int  #: all workers' arenas, one behind the other
    payloads: int  #: all workers' payload slots, likewise
    lifeline: int  #: read end of a pipe whose write end only the parent has
    exports: tuple[tuple[str, FuncType], ...]  #: the functions, in the order of their indexes
    limits: GuestLimits
    slots: int  #: the largest number of values any of them takes or returns
    instances: int  #: per process
    guest: Guest
    payload_bytes: int  #: the most that may be put into a payload slot; 0 if there are none

    def dump(self) -> bytes:
        return pickle.dumps(self)


#: The exit code of a worker that was sent what no parent sends (EX_SOFTWARE).
EXIT_CORRUPT = 70


def reply(status: int, payload: bytes | memoryview = b"") -> bytes:
    return REPLY.pack(len(payload), status) + payload


def trap_to_bytes(trap: WasmTrap) -> bytes:
    return json.dumps([trap.message, trap.code, trap.frames]).encode()


def exception_to_bytes(error: BaseException) -> bytes:
    """An exception and its traceback's text.

    One that cannot be pickled, or not rebuilt from its pickle, is replaced by a RemoteError with its text: finding that
    out here keeps the parent's reader safe from it.
    """
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    try:
        data: bytes = cloudpickle.dumps((error, text))  # classes from the program's __main__ travel by value
        pickle.loads(data)
    except Exception:
        data = pickle.dumps((RemoteError(text), text))
    return data


def record_to_bytes(record: logging.LogRecord) -> bytes:
    """A log record that pickles: its message made, its traceback as text."""
    if record.exc_info and not record.exc_text:
        record.exc_text = logging.Formatter().formatException(record.exc_info)
    state = dict(record.__dict__, msg=record.getMessage(), args=None, exc_info=None)
    try:
        return cloudpickle.dumps(state)  # type: ignore[no-any-return]
    except Exception:  # somebody's `extra`
        plain = {key: value for key, value in state.items() if isinstance(value, (str, int, float, type(None)))}
        return pickle.dumps(plain)


def record_from_bytes(payload: bytes) -> logging.LogRecord:
    """What `record_to_bytes` was given, nearly."""
    return logging.makeLogRecord(pickle.loads(payload))


def error_from_reply(status: int, payload: bytes, export: str | None) -> BaseException:
    """The exception that a failed reply stands for."""
    if status == TRAP:
        message, code, frames = json.loads(payload)
        return WasmTrap(message, code, export, tuple(WasmFrame(*f) for f in frames))
    if status == EXIT:
        return GuestExit(json.loads(payload))
    if status in (RAISED, UNFIT):
        error, text = pickle.loads(payload)
        error.__cause__ = RemoteError(text)
        assert isinstance(error, BaseException)
        return error
    raise ValueError(f"a worker sent the unknown status {status}")


class CorruptStream(ValueError):
    """Raised when what arrives is not what the other side would send."""


class FrameReader:
    """Cuts a byte stream into frames; keeps an incomplete tail for the next piece."""

    def __init__(self, header: struct.Struct) -> None:
        self._header = header
        self._tail = b""

    @property
    def incomplete(self) -> bool:
        """Whether the stream so far ends within a frame."""
        return bool(self._tail)

    def feed(self, data: bytes) -> list[tuple[tuple[Any, ...], bytes]]:
        """The (header fields, payload) pairs that ``data`` completes.

        Raises:
            CorruptStream: a length beyond MAX_PAYLOAD.
        """
        if self._tail:
            data = self._tail + data
        frames = []
        at, size, unpack = 0, self._header.size, self._header.unpack_from
        end = len(data)
        while end - at >= size:
            fields = unpack(data, at)
            stop = at + size + fields[0]
            if stop > end:
                if fields[0] > MAX_PAYLOAD:
                    raise CorruptStream(f"a frame of {fields[0]} bytes is beyond the limit of {MAX_PAYLOAD}")
                break
            frames.append((fields, data[at + size : stop]))
            at = stop
        self._tail = data[at:]
        return frames
