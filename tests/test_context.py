"""The context of a job: deadline, cancellation, baggage, logs, traces."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import pickle
import threading
import time
from typing import Any

import pytest
from conftest import DEADLINE, FIXTURES, KERNELS, MISBEHAVE, busy_pid, eventually
from test_instances import IMPORTS, with_note

import procpool
from procpool import CallTimeout, ProcessWasmPool, current_context

HOST = FIXTURES / "host.wat"


def report(instance: Any) -> tuple[Any, dict[str, Any]]:
    context = current_context()
    return context.remaining(), dict(context.baggage)


# -- deadlines ---------------------------------------------------------------------------------------------------------


def test_a_callable_reads_its_deadline(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=1) as pool:
        assert pool.submit(report).result(DEADLINE) == (None, {})
        remaining, _ = pool.submit(report, timeout=100).result(DEADLINE)
        assert 90 < remaining <= 100
        deadline = pool.submit(lambda instance: current_context().deadline, timeout=100).result(DEADLINE)
        assert deadline - time.monotonic() <= 100, "one clock for all processes of the machine"


def test_a_host_function_reads_the_deadline_of_the_call(nothing_left: None) -> None:
    def add(a: int, b: int) -> int:
        remaining = current_context().remaining()
        return -1 if remaining is None else round(remaining)

    with ProcessWasmPool(HOST, workers=1, imports={"env": {**IMPORTS["env"], "add": add}}) as pool:
        assert pool.call("add", 1, 1) == -1
        assert pool.call("add", 1, 1, timeout=50) in (49, 50)
        assert pool.submit("add", 1, 1, timeout=50).result(DEADLINE) in (49, 50)
        with pool.instance() as lease:
            assert lease.call("add", 1, 1, timeout=50) in (49, 50)
        # Nested: a callable's deadline bounds what it calls.
        assert pool.submit(lambda instance: instance.call("add", 1, 1), timeout=70).result(DEADLINE) in (69, 70)
    with ProcessWasmPool(HOST, workers=1, imports={"env": {**IMPORTS["env"], "add": add}}, timeout=30) as pool:
        assert pool.call("add", 1, 1) in (29, 30), "the pool's own timeout is a deadline too"


def test_a_pool_used_inside_a_worker_inherits_the_deadline(nothing_left: None) -> None:
    path = str(KERNELS)

    def nested(instance: Any) -> tuple[float, Any]:
        with procpool.ProcessWasmPool(path, workers=1, start_method="spawn") as inner:
            remaining, baggage = inner.submit(
                lambda i: (current_context().remaining(), dict(current_context().baggage))
            ).result()
            return remaining, baggage

    with ProcessWasmPool(KERNELS, workers=1) as pool, procpool.context(request_id="r1"):
        remaining, baggage = pool.submit(nested, timeout=100).result(2 * DEADLINE)
        assert 50 < remaining < 100 and baggage == {"request_id": "r1"}


# -- cancellation ------------------------------------------------------------------------------------------------------


def test_cancelling_a_running_future_interrupts_the_guest(misbehave: ProcessWasmPool) -> None:
    running = misbehave.submit("spin")
    seen: list[bool] = []
    running.add_done_callback(lambda future: seen.append(future.cancelled()))
    busy_pid(misbehave)
    assert running.cancel() and running.cancelled() and running.done()
    assert running.cancel(), "again is fine"
    with pytest.raises(concurrent.futures.CancelledError):
        running.result(0)
    done, _ = concurrent.futures.wait([running], timeout=0)
    assert done == {running} and seen == [True]
    eventually(lambda: misbehave.stats().idle == 2, "the worker to be free again")
    assert misbehave.stats().killed == misbehave.stats().crashed == 0
    finished = misbehave.submit("fine", 1)
    assert finished.result(DEADLINE) == 1 and not finished.cancel()


def test_waiters_of_a_cancelled_job_wake_up(misbehave: ProcessWasmPool) -> None:
    running = misbehave.submit("spin")
    busy_pid(misbehave)
    errors: list[BaseException | None] = []

    def wait() -> None:
        try:
            running.result(DEADLINE)
        except concurrent.futures.CancelledError as error:
            errors.append(error)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert running.cancel()
    for thread in threads:
        thread.join(DEADLINE)
    assert len(errors) == 3
    first = misbehave.submit("spin")
    busy_pid(misbehave)
    first.cancel()
    assert list(concurrent.futures.as_completed([first], timeout=DEADLINE)) == [first]


def test_cancelling_an_asyncio_task_interrupts_the_guest(misbehave: ProcessWasmPool) -> None:
    async def main() -> None:
        task = asyncio.create_task(misbehave.acall("spin"))
        await asyncio.sleep(0)
        await asyncio.to_thread(busy_pid, misbehave)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(misbehave.acall("spin"), 0.1)

    asyncio.run(main())
    eventually(lambda: misbehave.stats().idle == 2, "both workers to be free again")


def test_a_cancelled_job_that_was_sent_and_has_not_begun_never_runs(nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=1) as pool:
        for _ in range(3):  # so that the pool knows jobs to be short, and fills the pipe
            concurrent.futures.wait([pool.submit("fine", n) for n in range(2000)])
        spinning = pool.submit("spin")
        behind = [pool.submit("soil") for _ in range(5)]
        busy_pid(pool)
        assert all(future.cancel() for future in behind[:4])
        assert spinning.cancel()
        assert behind[4].result(DEADLINE) == 1, "a cancelled job has run"


def test_a_callable_sees_that_it_is_cancelled(nothing_left: None, tmp_path: Any) -> None:
    path = tmp_path / "seen"

    def work(instance: Any) -> None:
        path.write_text("begun")
        while not current_context().cancelled:
            pass
        path.write_text("cancelled")

    with ProcessWasmPool(KERNELS, workers=1) as pool:
        future = pool.submit(work)
        eventually(lambda: path.exists() and path.read_text() == "begun", "the function to begin")
        (pid,) = [worker.pid for worker in pool.stats().workers]
        assert future.cancel()
        eventually(lambda: path.read_text() == "cancelled", "the function to see it")
        with pytest.raises(CallTimeout):
            pool.submit(work, timeout=0.1).result(DEADLINE)
        assert pool.call("add", 1, 1) == 2 and [worker.pid for worker in pool.stats().workers] == [pid]


def test_the_state_is_the_workers_own_by_whatever_name_a_function_has_it(nothing_left: None) -> None:
    from procpool import state

    def put(instance: Any) -> None:
        state.kept = "here"

    with ProcessWasmPool(KERNELS, workers=1) as pool:
        pool.submit(put).result(DEADLINE)
        assert pool.submit(lambda instance: procpool.state.kept).result(DEADLINE) == "here"
        assert pool.submit(lambda instance: state.kept).result(DEADLINE) == "here", "a copy of its own, pickled along"
    assert not hasattr(state, "kept")


# -- baggage -----------------------------------------------------------------------------------------------------------


def test_baggage_arrives_with_every_kind_of_job(nothing_left: None) -> None:
    def note(a: int) -> None:
        procpool.state.seen.append(current_context().baggage.get("request_id"))

    def initializer() -> None:
        procpool.state.seen = []

    def seen(instance: Any) -> list[Any]:
        found, procpool.state.seen = procpool.state.seen, []
        return found

    with ProcessWasmPool(HOST, workers=1, imports=with_note(note), initializer=initializer) as pool:
        pool.call("note", 1)
        with procpool.context(request_id="a"):
            assert current_context().baggage == {"request_id": "a"}
            pool.call("note", 1)
            pool.submit("note", 1).result(DEADLINE)
            list(pool.map("note", range(3)))
            with pool.instance() as lease:
                lease.call("note", 1)
            with procpool.context(user="u", request_id="b"):
                pool.call("note", 1)
                results = pool.map(lambda instance, n: dict(current_context().baggage), range(2))
            pool.submit(lambda instance: instance.call("note", 1)).result(DEADLINE)
        assert list(results) == [{"request_id": "b", "user": "u"}] * 2, "as it was when map was called"
        pool.call("note", 1)
        assert pool.submit(seen).result(DEADLINE) == [None, "a", "a", "a", "a", "a", "a", "b", "a", None]


def test_baggage_that_does_not_pickle_is_refused_at_once() -> None:
    with pytest.raises((TypeError, pickle.PicklingError)), procpool.context(lock=threading.Lock()):
        pass
    assert current_context().baggage == {}


# -- logs --------------------------------------------------------------------------------------------------------------


def _notes(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "guest.notes"]


def test_log_records_come_back_with_the_baggage(nothing_left: None, caplog: pytest.LogCaptureFixture) -> None:
    def note(a: int) -> None:
        logging.getLogger("guest.notes").warning("noted %d", a)
        logging.getLogger("guest.notes").debug("not wanted")
        try:
            raise KeyError("inside")
        except KeyError:
            logging.getLogger("guest.notes").exception("failed with %r", object)

    with ProcessWasmPool(HOST, workers=1, instances=2, imports=with_note(note)) as pool:
        with procpool.context(request_id="r7"):
            pool.submit("note", 5).result(DEADLINE)
        eventually(lambda: len(_notes(caplog)) == 2, "what was logged to arrive")
        records = _notes(caplog)
        assert [record.getMessage() for record in records] == ["noted 5", "failed with <class 'object'>"]
        assert [record.baggage for record in records] == [{"request_id": "r7"}] * 2  # type: ignore[attr-defined]
        assert records[0].process == pool.stats().workers[0].pid
        assert "KeyError: 'inside'" in (records[1].exc_text or "")


def test_levels_are_those_of_the_parent(nothing_left: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="guest.fine"), ProcessWasmPool(KERNELS, workers=1) as pool:
        pool.submit(lambda instance: logging.getLogger("guest.fine").debug("detail %s", {1})).result(DEADLINE)
        pool.submit(lambda instance: logging.getLogger("guest.other").debug("no")).result(DEADLINE)
    assert [r.getMessage() for r in caplog.records if r.name.startswith("guest.")] == ["detail {1}"]


# -- traces ------------------------------------------------------------------------------------------------------------


def test_worker_spans_are_children_of_the_callers_span(nothing_left: None) -> None:
    trace = pytest.importorskip("opentelemetry.trace")
    sdk = pytest.importorskip("opentelemetry.sdk.trace")

    def initializer() -> None:
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        procpool.state.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(procpool.state.exporter))
        trace.set_tracer_provider(provider)

    def spans(instance: Any) -> list[tuple[str, int, int | None]]:
        found = procpool.state.exporter.get_finished_spans()
        return [(s.name, s.context.trace_id, s.parent.span_id if s.parent else None) for s in found]

    tracer = sdk.TracerProvider().get_tracer("test")
    with ProcessWasmPool(KERNELS, workers=1, initializer=initializer) as pool:
        pool.call("add", 1, 2)  # no span is active
        with tracer.start_as_current_span("caller") as span:
            assert pool.call("add", 1, 2) == 3
            assert pool.submit("add", 1, 2).result(DEADLINE) == 3
            assert list(pool.map("add", [1], [2])) == [3]
            assert pool.submit(lambda instance: 5).result(DEADLINE) == 5
        context = span.get_span_context()
        found = pool.submit(spans).result(DEADLINE)
    assert trace.get_current_span().get_span_context().is_valid is False
    assert [name for name, _, _ in found] == ["procpool add"] * 3 + ["procpool callable"]
    assert all((trace_id, parent) == (context.trace_id, context.span_id) for _, trace_id, parent in found)
