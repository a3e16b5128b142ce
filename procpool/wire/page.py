"""The page that a caller and a worker share: a call through it wakes nobody.

It lies in the head of the worker's arena, so that wasm on either side can wait in it.  One word says whose *turn* it is:

* ASLEEP: the worker is elsewhere, and hears only its pipes;
* AWAKE: the worker waits here, in wasm, for the next call;
* POSTED: a call lies in the page, by who holds the worker;
* TAKEN: the worker runs it, or one that came by the pipe with :data:`HOT`, and will answer here;
* RUNG: it runs it, and will answer by the pipe, for the caller went to sleep there or has left.

Who may change it, and to what:

====== ======== =======================================================================================
from   to       by
====== ======== =======================================================================================
AWAKE  POSTED   the holder, by compare-and-exchange: the worker may be going to sleep
AWAKE  ASLEEP   the worker, likewise; or the holder, by a plain store, before a word in the pipe
POSTED TAKEN    the worker, by compare-and-exchange: the holder may be taking the call back
POSTED ASLEEP   the holder, likewise: what it takes back was never begun
ASLEEP TAKEN    the holder, by a plain store, before it sends a HOT call by the pipe; AWAKE likewise
TAKEN  AWAKE    the worker, by compare-and-exchange: it has answered here
TAKEN  RUNG     the holder, likewise; or the worker, by a plain store: its answer does not fit, or it cannot wait here
RUNG   ASLEEP   the holder, by a plain store, when the answer has come by the pipe, or the job was taken back
====== ======== =======================================================================================

So to the holder that has posted, ASLEEP means as AWAKE does that the answer lies here.  A worker gets awake only by
answering, to its holder.  So whoever holds it next and writes into its pipe sees AWAKE, or that it has gone to sleep since.
"""

from __future__ import annotations

from .frames import JOB, REPLY

ASLEEP = 0  #: what a new page holds
AWAKE = 1
POSTED = 2
TAKEN = 3
RUNG = 4

#: Where the page begins in the arena, in bytes; before it are the cells of batches.
PAGE = 4096
TURN = PAGE  #: 32 bits, on a cache line of its own
LINGER = PAGE + 64  #: 32 bits, by the parent: how often the worker looks for the next call before it goes to sleep
CALLER = PAGE + 68  #: 32 bits, by the parent: the core that the caller of a HOT call was on, plus 1; 0 if nobody knows
OWED = PAGE + 72  #: 32 bits, by the worker: 1 from when it takes a call in wasm until it has answered here
#: The frame of a call, as it goes through the pipe; its slots are aligned.
CALL_FRAME = PAGE + 128 + 4
CALL_BYTES = 4096  #: the most that a frame may take
#: The reply to it, likewise.
REPLY_FRAME = CALL_FRAME + 4 + CALL_BYTES
REPLY_BYTES = 4096


def fits(arguments: int, results: int) -> bool:
    """Whether it has room for a call with so many bytes of arguments, and for its results."""
    return JOB.size + arguments <= CALL_BYTES and REPLY.size + results <= REPLY_BYTES


#: The byte of the reply's head that tells whether the call counts among the jobs that both sides number: those that came
#: by the pipe or are answered there, and those that Python code has run.
NUMBERED = 5
