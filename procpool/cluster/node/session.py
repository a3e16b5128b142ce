"""A node: an ordinary pool on this host, run for one client.  It lives in the event loop that hears that client.

The session ends with the connection, with the client's word, or with the lease (`heartbeat.Tenure`), and the pool with the
session: nothing runs on for a client that is not there.  The lease is watched by a thread of its own, for the loop is
shared with others, who may hold it up; and by a process of its own (`Warden`), for so is this one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import pickle
import threading
from collections import deque
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from ... import wire as core
from ...deadline import Deadline
from ...errors import ProcpoolError
from ...pool import ProcessWasmPool
from ...printable import printable
from ...supervisor.jobs.call import Export
from .. import wire
from ..heartbeat import Tenure
from . import warden
from .terms import Prepare, Terms
from .warden import Warden
from .work import KnownFunction, PassedCall, PassedShipped, Stretch, rebased, start_run

if TYPE_CHECKING:
    from ...supervisor.events import PoolEvent

logger: logging.Logger = logging.getLogger("procpool")


class Stream(Protocol):
    """A connection to a client, in the loop that is asked."""

    async def receive(self) -> Sequence[wire.Saying]:
        """What the client says next.

        Raises:
            OSError: the connection is gone.
        """

    async def send(self, sayings: Sequence[wire.Saying]) -> None:
        """Say something.

        Raises:
            OSError: the connection is gone.
        """

    async def close(self) -> None:
        """Be done with it."""


class NodeSession:
    """One client's pool on this host.

    Args:
        stream: what is said.
        pulse: another connection to the same client, for `wire.PULSE`.
        hello: what the client said first.
        modules: modules that are known here, by digest; those that the client sends are added.
    """

    def __init__(
        self, stream: Stream, pulse: Stream, hello: Mapping[str, Any], modules: MutableMapping[str, bytes]
    ) -> None:
        self._stream = stream
        self._pulse = pulse
        self._hello = hello
        self._modules = modules
        self._loop = asyncio.get_running_loop()
        self._pool: ProcessWasmPool | None = None
        self._making: asyncio.Task[None] | None = None
        self._functions: dict[bytes, KnownFunction] = {}
        self._held: dict[int, wire.Unit] = {}  # sent, and not to be begun yet
        self._begun: dict[int, Callable[[], object]] = {}  # what stops each
        self._pace: dict[str, float] = {}  # nanoseconds per item, by export
        self._answers: deque[tuple[wire.Answer, tuple[int, float] | None, float]] = deque()
        self._flushing = False
        self._outbox: deque[wire.Saying] = deque()
        self._to_send = asyncio.Event()
        self._leaving: str | None = None
        self._parting: asyncio.Future[None] | None = None
        self._emptied = asyncio.Event()  # it has nothing left that would keep it from leaving
        self._over = False
        self._stopped = False  # the pool is being ended
        self._tenure = Tenure(hello["lease"], monotonic())
        self._tenure_changed = threading.Condition()
        self._warden: Warden | None = None
        self._stopping = threading.Lock()
        self._hear: dict[str, Callable[..., object]] = {
            wire.UNITS: self._take,
            wire.BEGIN: self._begin,
            wire.DROP: self._drop,
            wire.FUNCTION: self._learn,
            wire.FORGET: self._forget,
            wire.BLOB: self._store,
            wire.RESIZE: self._resize,
            wire.ASK: self._asked,
            wire.END: self._end,
        }

    @property
    def running(self) -> int:
        """How many units it has begun."""
        return len(self._begun)

    async def run(self) -> None:
        """Serve until the session ends."""
        refusal = wire.Host(*self._hello["host"]).refuses(wire.Host.here())
        if refusal is not None:
            await self._part([wire.REFUSED, refusal, b""])
            return
        try:
            self._warden = Warden(self._tenure.until) if warden.possible() else None
        except (OSError, ProcpoolError) as error:
            await self._part([wire.REFUSED, _reason(error), core.exception_to_bytes(error, pickled=True)])
            return
        try:
            await self._serve()
            if self._making is not None:
                await self._making  # until then workers may start, and look for the warden by its descriptor
        finally:
            if self._warden is not None:
                self._warden.close()

    async def _serve(self) -> None:
        tasks = [asyncio.ensure_future(each) for each in (self._send(), self._beat(), self._hear_pulse())]
        try:
            threading.Thread(target=self._watch_tenure, name="procpool-node-lease", daemon=True).start()
            missing = [digest for digest in self._hello["modules"] if digest not in self._modules]
            if missing:
                self._say([wire.NEED, missing])
            else:
                self._make()
            while not self._over:
                for kind, *details in await self._stream.receive():
                    self._hear[kind](*details)
        except OSError:  # the client is gone, or cannot be reached; both mean that nothing here is for anybody
            pass
        except Exception:
            logger.exception("procpool: a client has said what no sound client says; its session here is ended")
        finally:
            self._over = True
            for task in tasks:
                task.cancel()
            self._emptied.set()  # whoever waits for what it had begun need not any more
            await self._stop_aside()
            await self._pulse.close()
            await self._stream.close()

    async def leave(self, reason: str) -> None:
        """Begin nothing more, and end when nothing is left."""
        if self._over:
            return
        self._leaving = reason
        self._held.clear()
        self._say([wire.LEAVING, reason])
        self._check_emptied()
        await self._emptied.wait()
        if not self._over:
            await self._part([wire.ENDED, reason])

    # -- what the client says ------------------------------------------------------------------------------------------

    def _take(self, units: Sequence[Sequence[Any]]) -> None:
        if self._leaving is not None:  # the client takes it for not begun, when it hears that all that has begun has ended
            return
        for each in units:
            unit = wire.Unit(*each)
            if unit.kind == wire.SHIPPED:
                unit = unit._replace(name=self._functions[unit.name])  # now, for it may be forgotten before it begins
            if unit.begins:
                self._start(unit)
            else:
                self._held[unit.number] = unit

    def _begin(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            unit = self._held.pop(number, None)
            if unit is not None:
                self._start(unit)

    def _drop(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self._held.pop(number, None)
            stop = self._begun.pop(number, None)
            if stop is not None:
                stop()
        self._check_emptied()

    def _learn(self, digest: bytes, name: str, pickled: bytes) -> None:
        self._functions[digest] = KnownFunction(name, digest, pickled)

    def _forget(self, digests: Sequence[bytes]) -> None:
        for digest in digests:
            del self._functions[digest]

    def _store(self, digest: str, data: bytes) -> None:
        self._modules[digest] = data
        if self._making is None and all(each in self._modules for each in self._hello["modules"]):
            self._make()

    def _resize(self, workers: int) -> None:
        if self._pool is not None:
            with contextlib.suppress(ProcpoolError):  # it has ended, of which the client hears
                self._pool.resize(workers)

    def _asked(self, question: int, what: str) -> None:
        if self._pool is not None and what == "stats":
            pool = self._pool

            def answer() -> None:
                self._say_soon([wire.TOLD, question, pickle.dumps(pool.stats())])

            self._loop.run_in_executor(None, answer)

    def _end(self, finish: bool) -> None:
        if finish:
            self._parting = asyncio.ensure_future(self.leave("the client has shut the pool down"))
        else:
            self._over = True

    # -- the pool ------------------------------------------------------------------------------------------------------

    def _make(self) -> None:
        self._making = asyncio.ensure_future(self._make_pool())

    async def _make_pool(self) -> None:
        try:
            self._pool = await asyncio.to_thread(self._made_pool)
        except BaseException as error:
            await self._part([wire.REFUSED, _reason(error), core.exception_to_bytes(error, pickled=True)])
            return
        if self._over:  # the lease or the connection ended meanwhile
            await self._stop_aside()
            return
        self._pool._dispatcher.hear_log = lambda payload: self._say_soon([wire.LOG, payload])
        self._say([wire.READY, list(wire.Host.here()), self._workers])

    def _made_pool(self) -> ProcessWasmPool:
        terms: Terms = pickle.loads(self._hello["terms"])
        options = dict(terms.options)
        self._workers = self._hello["workers"]
        initializer, initargs = options.pop("initializer", None), options.pop("initargs", ())
        return ProcessWasmPool(
            self._modules[terms.module],
            self._workers,
            modules={name: self._modules[digest] for name, digest in terms.linked.items()},
            initializer=Prepare(terms.levels, None if self._warden is None else self._warden.lifeline, initializer),
            initargs=initargs,
            on_event=self._happened,
            **options,
        )

    def _happened(self, event: PoolEvent) -> None:
        self._say_soon([wire.EVENT, event.kind, event.pid, printable(event.message, but="\n")])

    def _start(self, unit: wire.Unit) -> None:
        try:
            self._begun[unit.number] = self._started(unit)
        except Exception as error:
            self._tell(wire.Answer(unit.number, wire.FAILED, 0, pickle.dumps(error)), None)

    def _started(self, unit: wire.Unit) -> Callable[[], object]:
        pool = self._pool
        assert pool is not None
        if unit.kind == wire.RUN:
            return start_run(pool, unit, self._tell).cancel
        if unit.kind == wire.STRETCH:
            return self._start_stretch(pool, unit)
        job: PassedCall | PassedShipped
        if unit.kind == wire.CALL:
            job = PassedCall(unit, _export(pool, unit.name), pool._visible)
        else:
            job = PassedShipped(unit)
        job.pass_on(unit.number, self._tell)
        pool._dispatcher.submit(job, job.deadline)
        return job.cancel

    def _start_stretch(self, pool: ProcessWasmPool, unit: wire.Unit) -> Callable[[], object]:
        dispatcher, export = pool._dispatcher, _export(pool, unit.name)
        stretch = Stretch(unit, export, rebased(unit.context, pool._visible, None, Deadline.NEVER))
        chunk = stretch.chunk

        def done() -> None:
            if not chunk.abandoned:
                self._pace[export.name] = max(1.0, chunk.nanoseconds / chunk.count)
                self._tell(stretch.answer(), None)

        chunk.on_done(done)
        for segment in stretch.segments(dispatcher.lanes, self._pace.get(export.name)):
            dispatcher.try_submit(segment)
        return functools.partial(dispatcher.abandon, chunk)

    async def _stop_aside(self) -> None:
        """`_stop`, and the loop goes on meanwhile."""
        try:
            await asyncio.shield(asyncio.to_thread(self._stop))
        except RuntimeError:  # the interpreter exits, and has no threads any more
            self._stop()

    def _stop(self) -> None:
        """End the pool, and all that runs.  From any thread; returns when it has ended."""
        with self._stopping:
            self._over = self._stopped = True
            with self._tenure_changed:
                self._tenure_changed.notify_all()
            if self._pool is not None:
                self._pool.terminate()

    # -- time ----------------------------------------------------------------------------------------------------------

    def _watch_tenure(self) -> None:
        with self._tenure_changed:
            while not self._over:
                remaining = self._tenure.remaining(monotonic())
                if not remaining:
                    break
                self._tenure_changed.wait(remaining)
        if not self._over:
            logger.warning("procpool: the client was not heard of for %g s; its work here is stopped", self._tenure.lease)
            self._stop()
            self._loop.call_soon_threadsafe(lambda: asyncio.ensure_future(self._stream.close()))

    async def _beat(self) -> None:
        with contextlib.suppress(OSError):  # who hears finds out too
            while True:
                with self._tenure_changed:
                    number = self._tenure.beat(monotonic())
                await self._pulse.send([[wire.BEAT, number]])
                await asyncio.sleep(self._tenure.interval)

    async def _hear_pulse(self) -> None:
        try:
            while True:
                for _, number in await self._pulse.receive():
                    with self._tenure_changed:
                        self._tenure.acknowledged(number)
                    if self._warden is not None:
                        self._warden.prolong(self._tenure.until)
        except OSError as error:  # the connection is gone, or the warden and with it the workers
            if isinstance(error, ProcessLookupError):
                logger.warning(
                    "procpool: the process that guards the lease of the workers here has ended, and they with it"
                )
            self._over = True
            await self._stream.close()

    # -- what is said --------------------------------------------------------------------------------------------------

    def _tell(self, answer: wire.Answer, at_work: tuple[int, float] | None) -> None:
        """Have the client told of an answer.  From any thread.

        Args:
            at_work: a worker, and since when it was at this and what it has answered with it; None if that is known.
        """
        pool = self._pool
        if answer.status == wire.FAILED and pool is not None and pool._dispatcher.closed:
            # The pool has ended under its jobs: its lease is over, or it can make no workers.  That is no answer to them:
            # the client hears that the node is no more, and knows what it had begun.
            self._say_soon([wire.BROKEN, "its pool can make no workers"])
            return
        if isinstance(answer.payload, bytes) and len(answer.payload) > wire.MOST_BYTES:
            answer = answer._replace(status=wire.FAILED, payload=pickle.dumps(_too_large(len(answer.payload))))
        self._answers.append((answer, at_work, monotonic()))
        if not self._flushing:
            self._flushing = True  # set before it is posted, and cleared before it is looked what there is
            try:
                self._loop.call_soon_threadsafe(self._flush)
            except RuntimeError:  # the loop is closed: the client will hear of that
                pass

    def _flush(self) -> None:
        self._flushing = False
        told = []
        while self._answers:
            told.append(self._answers.popleft())
        together: dict[tuple[int, float], list[float]] = {}
        for _, at_work, at in told:
            if at_work is not None:
                count, last = together.setdefault(at_work, [0, 0.0])
                together[at_work] = [count + 1, max(last, at)]
        answers = []
        for answer, at_work, _ in told:
            self._begun.pop(answer.number, None)
            if at_work is not None:
                count, last = together[at_work]
                answer = answer._replace(nanoseconds=int((last - at_work[1]) / count * 1e9) + 1)
            answers.append(answer)
        if answers:
            self._say([wire.ANSWERS, answers])
        self._check_emptied()

    def _check_emptied(self) -> None:
        if self._leaving is not None and not self._begun:
            self._emptied.set()

    def _say_soon(self, saying: wire.Saying) -> None:
        """From any thread."""
        try:
            self._loop.call_soon_threadsafe(self._say, saying)
        except RuntimeError:  # the loop is closed
            pass

    def _say(self, saying: wire.Saying) -> None:
        self._outbox.append(saying)
        self._to_send.set()

    async def _send(self) -> None:
        while True:
            await self._to_send.wait()
            self._to_send.clear()
            await self._send_all()

    async def _send_all(self) -> None:
        sayings = []
        while self._outbox:
            sayings.append(self._outbox.popleft())
        if sayings and not self._stopped:  # else the client is to hear nothing but the end of the connection
            try:
                await self._stream.send(sayings)
            except Exception as error:
                if not isinstance(error, OSError):  # no connection, of which who receives finds out by itself
                    logger.exception("procpool: a message to the client cannot be made; its session here is ended")
                    await self._stream.close()
                self._over = True

    async def _part(self, last: wire.Saying) -> None:
        """Say something last."""
        self._outbox.append(last)
        await self._send_all()
        self._over = True
        await self._stream.close()


def _too_large(size: int) -> ProcpoolError:
    return ProcpoolError(
        f"the result takes {size:,} bytes; what travels to another machine has {wire.MOST_BYTES:,} at most"
    )


def _reason(error: BaseException) -> str:
    """An exception in one line, whatever it says of itself."""
    try:
        return printable(f"{type(error).__name__}: {error}", but="\n")
    except Exception:  # of the user's own
        return type(error).__name__


def _export(pool: ProcessWasmPool, name: str) -> Export:
    """The export of that name; the module is no component, or the client's pool could not have been made."""
    found = pool._function(name)
    assert isinstance(found, Export)
    return found
