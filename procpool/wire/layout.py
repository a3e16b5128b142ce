"""Where things lie in the memory that parent and workers share: the board, the arenas, the payloads."""

from __future__ import annotations

import mmap

# -- the board: one shared page range, a row of cells per worker ----------------------------------------------------
BOARD_ROW = 8  #: 64-bit cells per worker: a cache line, so that workers do not slow each other down
BEGUN = 0  #: how many jobs it has begun; after a crash, this tells the guilty job from the ones not begun
BUSY_NS = 1  #: nanoseconds spent on submitted jobs, which tells the parent how many to send at once
DONE = 2  #: how many jobs those were
#: The fence, written by the parent: jobs of these numbers are void unless they are begun.  See supervisor/lane.py for the
#: rule that both sides follow.  First number and count in one cell, so that no processor can show half of a new fence.
VOID = 3
_VOID_BITS = 16  # of the count; a lane has far fewer jobs in flight (supervisor/scheduler.py), and 2**48 jobs take years
RUN_NS = 5  #: nanoseconds that the last job took that is answered on the replies pipe
START_CPU_NS = 4  #: nanoseconds of processor time that the process had used when it turned to its first job


def fence_to_cell(start: int, stop: int) -> int:
    """The cell that makes the jobs numbered from ``start`` to before ``stop`` void."""
    return start << _VOID_BITS | stop - start


def fence_of_cell(cell: int) -> tuple[int, int]:
    """The numbers that `fence_to_cell` was given."""
    start = cell >> _VOID_BITS
    return start, start + (cell & (1 << _VOID_BITS) - 1)


# -- the arena: per worker, memory that parent, worker and the wasm of a batch's driver see at once ---------------------
#: The first page has the cells of each buffer, on a cache line by who writes them; then come the buffers.  Two of them, so
#: that one is filled and emptied while the worker is busy with the other.
ARENA_HEAD = 65536
BUFFERS = 2
BUFFER_BYTES = 4 << 20
ARENA_BYTES = ARENA_HEAD + BUFFERS * BUFFER_BYTES
CELLS = 128  #: bytes from one buffer's cells to the next's
INDEX = 0  #: written by the driver: the item it is at.  Survives the worker.
STOP = 64  #: 32 bits, written by the parent: stop before the next item
HOLD = 68  #: 32 bits, written by the worker: go back to Python before the next item.  The driver reads both at once.


# -- payloads: per worker, memory for large arguments and results of Python callables, see values.py -------------------
#: Slots 0 and 1 are for arguments, as the arena's buffers; 2 and 3 for results, in turn.  Virtual: pages take memory when
#: they are first written.
PAYLOAD_BYTES = 256 << 20
PAYLOAD_ROW = 4 * PAYLOAD_BYTES


def map_payload(fd: int, row: int, slot: int, size: int) -> mmap.mmap:
    """The first ``size`` bytes of a worker's payload slot, rounded up so that it need not be mapped often."""
    size = min(PAYLOAD_BYTES, 1 << max(20, (size - 1).bit_length()))
    return mmap.mmap(fd, size, offset=row * PAYLOAD_ROW + slot * PAYLOAD_BYTES)
