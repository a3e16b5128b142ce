"""Where things lie in the memory that the parent shares with a worker process: the board, the arenas, the payloads.

Each process has a file of its own for it, which no other worker process ever has.  Within, each instance has its row.
"""

from __future__ import annotations

# -- the board: the first bytes of the file, a row of cells per instance ----------------------------------------------
BOARD_BYTES = 65536  #: a multiple of every processor's size of pages
BOARD_ROW = 8  #: 64-bit cells per instance: a cache line, so that instances do not slow each other down
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


# -- the arena: per instance, memory that parent, worker and the wasm of a batch's driver see at once -------------------
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


# -- payloads: per instance, memory for large arguments and results of Python callables, see values.py -----------------
#: Slots 0 and 1 are for arguments, as the arena's buffers; 2 and 3 for results, in turn.  Virtual: pages take memory when
#: they are first written.
PAYLOAD_BYTES = 256 << 20
PAYLOAD_SLOTS = 4


def arena_at(row: int) -> int:
    """Where in the file of a process the arena of that instance begins."""
    return BOARD_BYTES + row * ARENA_BYTES


def payload_at(instances: int, row: int, slot: int) -> int:
    """Where a payload slot of that instance begins, in the file of a process with so many instances."""
    return arena_at(instances) + (row * PAYLOAD_SLOTS + slot) * PAYLOAD_BYTES


def payload_reach(size: int) -> int:
    """How much of a payload slot to map for so many bytes: more, so that it need not be mapped often."""
    return min(PAYLOAD_BYTES, 1 << max(20, (size - 1).bit_length()))
