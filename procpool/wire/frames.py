"""The frames that parent and workers exchange: the one thing both sides know.

Each worker has three channels of its own, shared with no other process:

* *jobs*, a pipe from the parent.  Frames run in the order sent; both sides count them, so a job is named by its number
  and no number travels with it.
* *replies*, a pipe to the parent, for jobs sent by :data:`CALL`: whoever sent the job reads it itself.
* *control*, a socket.  To the worker: interrupts, which must be heard while a job runs.  To the parent:
  replies to jobs sent by :data:`SUBMIT`, in the order of the jobs, and announcements.  Its end of file says that the
  other side is gone.

Everything is little endian.
"""

from __future__ import annotations

import struct
from typing import Any

# -- jobs: length of the payload, index of the export, kind, flags ------------------------------------------------------
JOB = struct.Struct("<IIBBxx")
FLAGS = 9  #: where the flags are
CALL = 0  #: arguments as slots; reply on the replies pipe
SUBMIT = 1  #: arguments as slots; reply on the control socket
SHIPPED = 3  #: a Python callable and its arguments, as SHIPPED_HEAD and pickles; reply as SUBMIT
RUN = 6  #: a WASI command: a Spec and how many large results were taken, as in `values`; reply as SUBMIT
PURGE = 4  #: throw the instance away; empty; reply as SUBMIT
ACCESS = 5  #: an operation on the instance for the holder of a lease, pickled; reply as CALL
BATCH = 2  #: many calls of one export, over columns in the arena; arguments of its driver as slots; reply as SUBMIT

HAS_CONTEXT = 1  #: flag: the payload begins with a context, as CONTEXT and its baggage
ITEM_BY_ITEM = 2  #: flag of a batch: items are timed, so an interrupt must hit the very item it is meant for

LEASED = 4  #: flag of a call: the holder of a lease makes it, so the instance stays as it is afterwards
HOT = 8  #: flag of a job that is answered on the replies pipe: answer in the page, if it is still the turn for that

#: deadline (time.monotonic), seconds the job may run, length of the pickled (baggage, trace), whether there is a trace
CONTEXT = struct.Struct("<ddI?")

# -- replies: length of the payload, status ----------------------------------------------------------------------------
REPLY = struct.Struct("<IBxxx")
OK = 0  #: results as slots
TRAP = 1  #: the guest trapped; JSON
VALUE = 5  #: what a Python callable returned, as in `values`
INTERRUPTED = 2  #: stopped by INTERRUPT; empty, or what a command had printed
EXIT = 3  #: the guest exited; the code as JSON
RAISED = 4  #: a Python exception; see `exception_to_bytes`
KEPT = 6  #: as RAISED, for ACCESS: the guest has not failed, its instance is kept, and the lease goes on
READY = 64  #: announcement: the worker takes jobs; its pid, as COUNT, which may come before the launcher tells
UNFIT = 65  #: announcement: no instance could be made, with an exception as for RAISED; the worker exits
PASSED = 66  #: announcement: jobs were void; the number of the first that was skipped, as COUNT

ITEM = 67  #: announcement: an item of the running batch failed; as FAILED_ITEM and the payload for its status

#: announcement: what an instance has printed outside of a command; number of the stream and the bytes, or none where its
#: line ends without an end of line
PRINTED = 71

SPENT = 70  #: announcement: the process should serve no more jobs than it has to; empty

LOG = 68  #: announcement: a log record, pickled
OUTPUT = 69  #: announcement: what the running command has printed; number of the stream and the bytes, or ALL_OUTPUT
ALL_OUTPUT = 3  #: what is captured so far, pickled: the command is being interrupted, and may never end by itself

COUNT = struct.Struct("<Q")
#: the function's digest, the length of its pickle (0: it was sent before), large results taken so far, and how many
#: functions to forget; their digests follow, then the pickle, then the arguments
SHIPPED_HEAD = struct.Struct("<16sIII")
DIGEST_BYTES = 16
FAILED_ITEM = struct.Struct("<IB")  # index in the batch, status
BATCH_DONE = struct.Struct("<IxxxxQ")  # reply to a batch: index it stopped at, nanoseconds it took

# -- control: command, number of the job -------------------------------------------------------------------------------
CONTROL = struct.Struct("<BxxxIQ")  # command, item, number of the job
INTERRUPT = 0  #: stop that job if it is running now, and of a batch only that item
FLUSH = 1  #: send the replies there are: the job that runs takes long

#: The largest payload either side accepts; a length beyond it means that the stream is corrupt.
MAX_PAYLOAD = 1 << 30

# -- launching: what the template is asked and what it tells -----------------------------------------------------------
LAUNCH = struct.Struct("<QQ")  # process id of ours, its slot; the descriptors that are its alone travel beside it


def descriptors(instances: int) -> int:
    """How many these are: the memory that it shares with the parent, then jobs, replies and control of each instance."""
    return 1 + 3 * instances


LAUNCHED = 0  #: that id, pid
LAUNCH_FAILED = 1  #: that id, errno
EXITED = 2  #: that id, exit code as in subprocess
LAUNCH_EVENT = struct.Struct("<BxxxxxxxQq")

#: The exit code of a worker that was sent what no parent sends (EX_SOFTWARE).
EXIT_CORRUPT = 70
#: The exit code of a worker that has ended a job well and can run no other.
EXIT_SPENT = 71

#: The exit code of a worker that found no room for what it needs to begin (EX_TEMPFAIL).
EXIT_SCARCE = 75


def reply(status: int, payload: bytes | memoryview = b"") -> bytes:
    return REPLY.pack(len(payload), status) + payload


class CorruptStream(ValueError):
    """Raised when what arrives is not what the other side would send."""


class FrameReader:
    """Cuts a byte stream into frames; keeps an incomplete tail for the next piece.

    Each byte is copied a fixed number of times, however large its frame is and in however many pieces it comes: the pieces
    of a frame wait side by side until it is whole.
    """

    def __init__(self, header: struct.Struct) -> None:
        self._header = header
        self._head = b""  # the beginning of a header
        self._missing = 0  # bytes that the begun frame still lacks, when its header is known
        self._fields: tuple[Any, ...] = ()
        self._pieces: list[bytes] = []  # of the begun frame's payload

    @property
    def incomplete(self) -> bool:
        """Whether the stream so far ends within a frame."""
        return bool(self._head or self._missing)

    def feed(self, data: bytes) -> list[tuple[tuple[Any, ...], bytes]]:
        """The (header fields, payload) pairs that ``data`` completes.

        Raises:
            CorruptStream: a length beyond MAX_PAYLOAD.
        """
        frames: list[tuple[tuple[Any, ...], bytes]] = []
        at = 0
        if self._missing:
            at = self._missing
            if len(data) < at:
                self._missing -= len(data)
                self._pieces.append(data)
                return frames
            self._pieces.append(data[:at])
            frames.append((self._fields, b"".join(self._pieces)))
            self._missing = 0
            self._pieces = []
        elif self._head:
            data = self._head + data
        size, unpack = self._header.size, self._header.unpack_from
        end = len(data)
        while end - at >= size:
            fields = unpack(data, at)
            at += size
            stop = at + fields[0]
            if stop > end:
                if fields[0] > MAX_PAYLOAD:
                    raise CorruptStream(f"a frame of {fields[0]} bytes is beyond the limit of {MAX_PAYLOAD}")
                self._fields, self._pieces, self._missing = fields, [data[at:]], stop - end
                at = end
                break
            frames.append((fields, data[at:stop]))
            at = stop
        self._head = data[at:]
        return frames
