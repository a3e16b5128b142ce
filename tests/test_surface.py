"""Every public method, with every odd argument and in every odd state: a named error at once, or what is documented.

What may hang must not hang the tests.  So each state is tried in a process of its own, which runs this file, tries each
method in a thread with a deadline, and prints what went wrong.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import math
import os
import re
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future
from decimal import Decimal
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from bounded import run_python, run_script, within
from conftest import DEADLINE

import procpool
from procpool import (
    ArgumentOutOfRange,
    BadArguments,
    Lease,
    MapResults,
    PlainExecutor,
    PoolClosed,
    ProcessWasmPool,
    ProcpoolError,
    WasiConfig,
)
from procpool.options import PoolOptions
from procpool.supervisor.lease import Memory

MODULE = """(module
  (memory (export "memory") 1 4)
  (global (export "count") (mut i32) (i32.const 0))
  (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
  (func (export "length") (param i32 i32) (result i32) local.get 1)
  (func (export "alloc") (param i32) (result i32) i32.const 1024)
  (func (export "free") (param i32))
  (func (export "_start")))"""


class BadKey:
    """Cannot be compared."""

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError("compared")


class BadText:
    """Cannot be shown."""

    def __repr__(self) -> str:
        raise ZeroDivisionError("shown")


ODD: list[Any] = [
    *(math.inf, -math.inf, math.nan, -1, 0, 10**30, 10**5000, 1e300, 2.5, 3j, True, None),
    *(Decimal("NaN"), Decimal(5), Fraction(10, 2), "odd", b"odd", "", [], {}, object(), BadKey(), BadText(), lambda *_: 3),
]


def anything(value: Any) -> bool:
    return True


def seconds(value: Any) -> bool:
    if isinstance(value, (bool, complex)) or not isinstance(value, (int, float, Decimal, Fraction)):
        return value is None
    return (isinstance(value, int) or not math.isnan(value)) and value > 0


def integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def size(value: Any) -> bool:
    return value is None or (integer(value) and value >= 1)


def truth(value: Any) -> bool:
    return isinstance(value, bool)


def each(names: Iterable[str], value: Any) -> dict[str, Any]:
    return {name: value for name in names}  # noqa: C420  # which nobody changes


class Kind(NamedTuple):
    """What a parameter takes."""

    accepts: Callable[[Any], bool | None]  #: None where either will do
    named: bool = True  #: whether the error names the parameter
    raises: tuple[type[BaseException], ...] = (TypeError, ValueError, LookupError, ProcpoolError)


def key_ok(value: Any) -> bool:
    return not isinstance(value, (list, dict, BadKey))


EITHER = Kind(lambda value: None, named=False)
NUMBER = Kind(lambda value: None if isinstance(value, bool) else integer(value) and -(2**31) <= value < 2**32, named=False)
NAME = Kind(lambda value: False, named=False)
#: By name of the parameter; for one method, "method.parameter".
KINDS: dict[str, Kind] = {
    **each(("timeout", "item_timeout"), Kind(seconds)),
    **each(("chunksize", "buffersize"), Kind(size)),
    **each(("wait", "cancel_futures"), Kind(anything)),  # as every Executor
    **each(("discard", "check", "text", "ordered", "return_exceptions"), Kind(truth)),
    "priority": Kind(integer),
    "retries": Kind(lambda value: value is None or (integer(value) and value >= 0)),
    "key": Kind(key_ok, named=False, raises=(TypeError, ZeroDivisionError)),
    "workers": Kind(lambda value: False),
    "export": Kind(lambda value: None if callable(value) else False, named=False),
    "args": NUMBER,
    "iterables": EITHER,
    "rows": EITHER,
    "runs": EITHER,
    "arrays": EITHER,
    "out": EITHER,
    "casting": Kind(lambda value: False),
    "progress": EITHER,
    "convention": EITHER,
    "options": EITHER,
    "lease": Kind(lambda value: False, named=False),
    **each(("stdin", "env", "cwd", "preopens", "stdout", "stderr", "max_output"), EITHER),
    **each((f"{method}.args" for method in ("run", "arun", "submit_run", "run_map")), EITHER),
    "call_bytes.args": EITHER,
    "acall_bytes.args": EITHER,
    "submit_bytes.args": EITHER,
    "Lease.call_bytes.args": EITHER,
    **each(("kind", "error", "trace"), EITHER),
    "name": NAME,
    # More than there can be are too many, and no mistake of the caller's.
    "pages": Kind(
        lambda value: None if integer(value) and value >= 0 else False, raises=(TypeError, ValueError, MemoryError)
    ),
    "where": Kind(lambda value: None, named=False),
    "data": Kind(lambda value: None, named=False),
}

#: What to give a method that all is well with: parameter -> value; those of none have no parameters or need none.
GOOD: dict[str, dict[str, Any]] = {
    **each(("call", "acall", "submit"), {"export": "add", "args": (1, 2)}),
    **each(("call_bytes", "acall_bytes", "submit_bytes"), {"export": "length", "args": (b"abc",)}),
    **each(("map", "amap"), {"export": "add", "iterables": ([1, 2], [3, 4])}),
    "starmap": {"export": "add", "rows": [(1, 2)]},
    "map_array": {"export": "add", "arrays": ([1, 2], [3, 4])},
    **each(("ufunc", "function"), {"export": "add"}),
    "run_map": {"runs": [b"", b""]},
    "resize": {"workers": 2},
    **each(("wait_ready", "await_ready", "drain", "adrain", "restart", "arestart"), {}),
    **each(
        ("run", "arun", "submit_run", "get", "aget", "instance", "stats", "report", "shutdown", "ashutdown", "terminate"),
        {},
    ),
    **each(("closed", "types", "plain_executor", "sandbox"), {}),
    "Lease.call": {"export": "add", "args": (1, 2)},
    "Lease.call_bytes": {"export": "length", "args": (b"abc",)},
    "Lease.put": {},
    "Lease.memory": {},
    "Lease.memory_named": {"name": "memory"},
    "Lease.grow": {"pages": 1},
    "Memory.__len__": {},
    "Memory.__bytes__": {},
    "Memory.__getitem__": {"where": slice(0, 3)},
    "Memory.__setitem__": {"where": slice(0, 3), "data": b"abc"},
    "MapResults.close": {},
    "MapResults.__next__": {},
    "MapResults.__iter__": {},
    **each(("put", "aput"), {"lease": Lease}),  # a lease of the pool
    **each(("__enter__", "__aenter__", "__repr__"), {}),
    **each(("__exit__", "__aexit__"), {"kind": None, "error": None, "trace": None}),
}
#: Not for users, or made to be odd in another way.
NOT_TRIED = {
    "__init__",
    "__del__",
    "__new__",
    "__reduce__",
    "__repr__",
    "__doc__",
    "__class_getitem__",
    "from_iterable",
    "over",
    "save_snapshot",  # of a pool that has one: tests/test_snapshots.py
    "tenant",  # likewise: tests/test_tenants.py
} | {f"Lease.{name}" for name in ("acquire", "revoke", "ask", "grant", "decline")}
#: They end the pool.
ENDING = {"shutdown", "ashutdown", "terminate", "__exit__", "__aexit__"}
#: Methods that do not need the pool to be there.
FREE = {
    *ENDING,
    "closed",
    "types",
    "plain_executor",
    "sandbox",
    "put",
    "aput",
    "function",
    "__enter__",
    "__aenter__",
    "Lease.put",
    "Lease.memory",
    "Lease.memory_named",
    "MapResults.close",
    "MapResults.__iter__",
}
FREE_WHEN_CLOSED = {*FREE, "stats", "report", "MapResults.__next__"}
#: These need not work while the pool reads a generator of theirs: a named error will do.
REENTRANT = {"MapResults.__next__", "MapResults.close"}
CLASSES = (ProcessWasmPool, Lease, MapResults, Memory)


def methods() -> Iterator[tuple[str, inspect.Signature | None]]:
    """(name, signature) of all there are, as in GOOD; no signature where it is a property."""
    for owner in CLASSES:
        prefix = "" if owner is ProcessWasmPool else f"{owner.__name__}."
        for name in dir(owner):
            inherited = not any(name in vars(base) for base in owner.__mro__ if base.__module__.startswith("procpool."))
            if (name.startswith("_") and inherited and name not in ("__enter__", "__next__", "__iter__")) or {
                name,
                prefix + name,
            } & NOT_TRIED:
                continue
            member = inspect.getattr_static(owner, name)
            private = name.startswith("_") and not name.endswith("__")
            if private or not (callable(member) or isinstance(member, property)):
                continue
            if (owner is Lease or owner is Memory) and name in ("__enter__", "__iter__", "__next__"):
                continue
            try:
                yield prefix + name, None if isinstance(member, property) else inspect.signature(member)
            except ValueError:  # one of C's
                yield prefix + name, inspect.Signature()


def kind_of(method: str, parameter: str) -> Kind:
    return KINDS.get(f"{method}.{parameter}") or KINDS[parameter]


def test_each_method_is_tried() -> None:
    missing = [name for name, _ in methods() if name not in GOOD]
    assert not missing, f"say in GOOD how these are called, or in NOT_TRIED why they are not: {missing}"
    unknown = [
        f"{name}({parameter})"
        for name, signature in methods()
        for parameter in (signature.parameters if signature else ())
        if parameter != "self" and parameter not in KINDS
    ]
    assert not unknown, f"say in KINDS what these take: {unknown}"


def test_an_async_twin_takes_the_same_keywords() -> None:
    signatures = dict(methods())
    twins = {"acall_bytes": "call_bytes", "arun": "run", "amap": "map", "aget": "get", "aput": "put", "acall": "submit"}
    twins |= {"await_ready": "wait_ready", "adrain": "drain", "arestart": "restart", "ashutdown": "shutdown"}
    twins |= {"__aexit__": "__exit__"}
    asynchronous = {name for name in signatures if name.startswith(("a", "__a"))}
    assert asynchronous - {"__aenter__"} == set(twins)
    for twin, blocking in twins.items():
        ours, theirs = signatures[twin], signatures[blocking]
        assert ours and theirs and dict(ours.parameters) == dict(theirs.parameters), twin


def test_options_are_the_keywords_of_the_pool() -> None:
    keywords = set(inspect.signature(ProcessWasmPool).parameters) - {"src"}
    assert keywords == {field.name for field in dataclasses.fields(PoolOptions)}
    documented = ProcessWasmPool.__doc__ or ""
    missing = [name for name in keywords if f" {name}:" not in documented and f"``{name}``" not in documented]
    assert not missing, "each is documented"


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_a_worker_imports_nothing_of_the_parents(start_method: Any) -> None:
    """A worker forked from the template has all that the template has imported."""
    with ProcessWasmPool(MODULE, workers=1, start_method=start_method) as pool:
        found = pool.submit(lambda instance: sorted(sys.modules)).result(DEADLINE)
    ours = {name for name in found if name.partition(".")[0] == "procpool"}
    beside = {
        "binary",
        "checks",
        "codec",
        "columns",
        "deadline",
        "program",
        "cores",
        "exposed",
        "files",
        "keeper",
        "mapped",
        "pickler",
        "raw",
        "engine",
        "errors",
        "stand_ins",
        "job_context",
        "printable",
        "tracing",
        "wasi",
    }
    parts = {name.split(".")[1] for name in ours if "." in name}
    assert parts <= {*beside, "_version", "wire", "worker"}, "what else is needed there?"
    assert "psutil" not in found and "numpy" not in found and "asyncio" not in found


def test_names_are_imported_when_they_are_used() -> None:
    code = """
import sys, procpool
assert not [name for name in sys.modules if name.startswith("procpool.") and name != "procpool._version"], sys.modules
assert set(procpool.__all__) <= set(dir(procpool))
for name in procpool.__all__:
    assert getattr(procpool, name) is vars(procpool)[name]
from procpool import *
assert ProcessWasmPool is procpool.ProcessWasmPool and state is procpool.state
"""
    done = run_script(code)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match=r"module 'procpool' has no attribute 'Pool'"):
        procpool.Pool  # type: ignore[attr-defined]  # noqa: B018


def test_each_name_is_said_where_types_are_checked_too() -> None:
    source = inspect.getsource(procpool)
    for_types = source[source.index("if TYPE_CHECKING:") : source.index("__all__")]
    assert {name for name in procpool.__all__ if name not in for_types} == {"__version__"}


#: What signatures name that is not ours.
FOREIGN = {
    *("Any", "BaseException", "Callable", "Future", "Hashable", "Iterable", "Iterator", "Literal", "MappingType"),
    *("Mapping", "MutableMapping", "NoReturn", "None", "PathLike", "Sequence", "T", "TracebackType", "True", "False"),
    *("AbstractContextManager", "Executor", "Unpack"),
}


def test_what_signatures_name_is_exported() -> None:
    """So that users can write the types of what they pass on."""
    named: dict[str, str] = {}
    for owner in (*CLASSES, *(getattr(procpool, name) for name in ("AsyncMapResults", "Leasing", "PlainExecutor"))):
        for name in dir(owner):
            member = inspect.getattr_static(owner, name)
            if (name.startswith("_") and name != "__init__") or f"{owner.__name__}.{name}" in NOT_TRIED or name in ("of",):
                continue
            function = member.fget if isinstance(member, property) else member
            for annotation in getattr(function, "__annotations__", {}).values():
                named.update(dict.fromkeys(re.findall(r"\b[A-Z]\w*", str(annotation)), f"{owner.__name__}.{name}"))
    internal = {"Dispatcher", "DirectCalls", "Callee", "Course", "ProcessWasmPool", "CallTable", "Awaitable", "P", "R"}
    unknown = {name: where for name, where in named.items() if name not in {*procpool.__all__, *FOREIGN, *internal}}
    assert len(named) > 30 and not unknown


# -- the trial of a method, in a process of its own --------------------------------------------------------------------


def consume(value: Any) -> Any:
    """What comes of what a method has returned."""
    if isinstance(value, Future):
        return value.result()
    if isinstance(value, AsyncIterator):

        async def collect() -> list[Any]:
            return [item async for item in value]

        return asyncio.run(collect())
    if inspect.iscoroutine(value):

        async def run() -> Any:
            return await value

        return consume(asyncio.run(run()))
    if isinstance(value, Lease):
        return value.put()
    if isinstance(value, (ProcessWasmPool, PlainExecutor)):
        return None
    if hasattr(value, "__enter__"):
        with value as entered:
            return entered.call("add", 1, 2)
    if isinstance(value, Iterator):
        return list(islice(value, 10))
    return value


class Subject:
    """A pool, and what comes of it."""

    def __init__(self) -> None:
        self.pool: Any = None
        self.renew()

    def renew(self) -> None:
        self.pool = ProcessWasmPool(MODULE, workers=2, wasi=WasiConfig(), kill_grace=0.2)
        self.lease: Any = None
        self.results: Any = None

    def prepare(self) -> None:
        """Have a lease and results under way, for a pool that is about to become unusable."""
        self.lease = self.pool.get(DEADLINE)
        self.results = self.pool.map("add", iter(range(10**6)), iter(range(10**6)), buffersize=4)

    def call(self, method: str, signature: inspect.Signature | None, changes: dict[str, Any]) -> Any:
        """Call a method as GOOD says but for the changes, and consume what it returns."""
        owner, _, name = method.rpartition(".")
        own = None
        if owner in ("Lease", "Memory") or Lease in GOOD[method].values():
            own = None if self.lease else self.pool.get(DEADLINE)
        lease = self.lease or own
        subject = {"": self.pool, "Lease": lease}.get(owner)
        try:
            if owner == "Memory":
                subject = lease.memory
            if owner == "MapResults":
                subject = self.results or self.pool.map("add", [1, 2, 3], [4, 5, 6])
            if signature is None:
                return getattr(subject, name)
            given = {key: lease if value is Lease else value for key, value in {**GOOD[method], **changes}.items()}
            args: list[Any] = []
            keywords: dict[str, Any] = {}
            places = [place for key, place in signature.parameters.items() if key != "self"]
            spread = any(place.kind is place.VAR_POSITIONAL for place in places)
            for place in places:
                if place.name not in given:
                    continue
                if place.kind is place.VAR_POSITIONAL:
                    args.extend(given[place.name])
                elif place.kind is place.VAR_KEYWORD:
                    keywords.update(given[place.name])
                elif (
                    place.kind is place.POSITIONAL_ONLY
                    or (spread and place.kind is place.POSITIONAL_OR_KEYWORD)
                    or name.startswith("__")
                ):
                    args.append(given[place.name])
                else:
                    keywords[place.name] = given[place.name]
            result = getattr(subject, name)(*args, **keywords)
            return result if owner == "MapResults" else consume(result)  # its items are taken one by one
        finally:
            if own is not None:
                try:
                    own.put()
                except ProcpoolError:  # it has ended
                    pass

    def answers(self) -> None:
        """The pool still works."""
        result = within(self.pool.call, "add", 1, 2)
        assert result == 3, f"then call gave {result}"


class Trial:
    """Tries, and prints what is not as it should be."""

    def __init__(self) -> None:
        self.failures = 0

    def fail(self, what: str, why: str) -> None:
        self.failures += 1
        print(f"{what}: {why}", flush=True)

    def expect(self, what: str, action: Callable[[], Any], accepted: bool | None, kind: Kind, parameter: str = "") -> bool:
        """Whether it hung.  ``accepted``: whether it should return; None if it may do either."""
        try:
            action()
        except pytest.fail.Exception:
            self.fail(what, "hung")
            return True
        except BaseException as error:
            said = f"{type(error).__name__}: {str(error)[:150]}"
            if accepted:
                self.fail(what, f"raised {said}")
            elif not isinstance(error, kind.raises):
                self.fail(what, f"raised {said}, which is none of {[each.__name__ for each in kind.raises]}")
            elif accepted is False and kind.named and parameter not in str(error):
                self.fail(what, f"raised {said}, which does not name {parameter}")
        else:
            if accepted is False:
                self.fail(what, "was accepted")
        return False

    def go_on(self, what: str, subject: Subject, ended: bool) -> None:
        """With a new pool if the last one has ended; else it is to work as before."""
        if not ended:
            try:
                subject.answers()
            except BaseException as error:
                self.fail(what, f"then the pool failed: {error!r}")
                ended = True
        if ended:
            subject.renew()


def odd_text(value: Any) -> str:
    try:
        return repr(value)[:40]
    except Exception:
        return type(value).__name__


def with_odd_arguments(trial: Trial, chosen: list[str]) -> None:
    subject = Subject()
    for method, signature in methods():
        if signature is None or method not in chosen:
            continue
        for parameter, place in signature.parameters.items():
            if parameter == "self":
                continue
            kind = kind_of(method, parameter)
            odd = ODD if method not in ENDING or parameter == "timeout" else [None, 0]  # each takes a new pool
            for value in odd:
                given = value
                if place.kind is place.VAR_POSITIONAL:
                    given = (value, *GOOD[method].get(parameter, ())[1:])
                elif place.kind is place.VAR_KEYWORD:
                    if parameter == "convention":
                        given = {"returns": value}
                    else:
                        given = {"max_output": value}  # any of them
                accepted = kind.accepts(value)
                what = f"{method}({parameter}={odd_text(value)})"
                call = partial(within, partial(subject.call, method, signature, {parameter: given}))
                hung = trial.expect(what, call, accepted, kind, parameter)
                ends = method in ENDING and accepted is not False  # if it was refused, the pool goes on
                trial.go_on(what, subject, hung or ends)


def use_a_new_pool() -> None:
    with ProcessWasmPool(MODULE, workers=1) as another:
        assert another.call("add", 1, 2) == 3


#: As documented: a map does not wait for itself.
REENTERED = Kind(lambda value: None, named=False, raises=(RuntimeError,))
CLOSED = Kind(lambda value: False, named=False, raises=(PoolClosed,))


def in_state(trial: Trial, state: str) -> None:
    """Call all methods, as they should be called, in that state."""
    subject = Subject()
    if state in ("closed", "forked"):
        subject.prepare()
        free = FREE if state == "forked" else FREE_WHEN_CLOSED
        if state == "closed":
            within(subject.pool.terminate)
        else:
            read, write = os.pipe()
            child = os.fork()
            if child:
                os.close(write)
                with open(read) as lines:
                    told = lines.read()
                os.waitpid(child, 0)
                for line in told.splitlines():
                    trial.fail(*line.split(": ", 1))  # type: ignore[arg-type]
                subject.answers()
                return
            os.dup2(write, 1)
        for method, signature in methods():
            accepted = None if method in free else False
            trial.expect(method, partial(within, partial(subject.call, method, signature, {})), accepted, CLOSED)
        if state == "forked":
            trial.expect("a new pool", partial(within, use_a_new_pool), True, CLOSED)
            sys.stdout.flush()
            os._exit(0)
        return
    for method, signature in methods():
        reenters = state == "generator" and method in REENTRANT
        accepted, kind = (None, REENTERED) if reenters else (True, EITHER)
        call = partial(subject.call, method, signature, {})
        if state != "thread":
            call = partial(from_callback if state == "callback" else from_generator, subject, call)
        hung = trial.expect(method, partial(within, call), accepted, kind)
        trial.go_on(method, subject, hung or method in ENDING)


def from_callback(subject: Subject, call: Callable[[], Any]) -> Any:
    """Call it inside a callback of a future of the pool."""
    outcome: Future[Any] = Future()

    def act(_: Future[Any]) -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)

    entered = threading.Event()
    # Slow enough that the callback is there before the job is done; otherwise it would run here.
    future = subject.pool.submit(lambda instance: __import__("time").sleep(0.05))
    future.add_done_callback(lambda done: (entered.set(), act(done)))
    return outcome.result()


def from_generator(subject: Subject, call: Callable[[], Any]) -> Any:
    """Call it inside a generator that the pool reads."""
    outcome: Future[Any] = Future()

    def numbers() -> Iterator[int]:
        yield from range(20)  # read ahead of the first result: there is no iterator yet
        subject.results = results
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)
        finally:
            subject.results = None
        yield from range(20)

    results = subject.pool.map("add", numbers(), iter(range(1000)), buffersize=2)
    try:
        for _ in results:
            if outcome.done():
                break
    except PoolClosed:  # by what was called
        assert outcome.done()
    results.close()
    return outcome.result()


def run_trial(*what: str, cwd: Path) -> None:
    done = run_python("-W", "ignore", __file__, *what, cwd=cwd)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}"
    assert not done.stdout, f"\n{done.stdout}"


WITH_PARAMETERS = [name for name, signature in methods() if signature is not None and set(signature.parameters) - {"self"}]
#: Several go to one process, for a process takes as long to start as a method to be tried.
PARTS = 6


@pytest.mark.parametrize("part", range(PARTS))
def test_odd_arguments(part: int, tmp_path: Path) -> None:
    run_trial("arguments", *WITH_PARAMETERS[part::PARTS], cwd=tmp_path)


def test_odd_values_for_a_global(nothing_left: None) -> None:
    """Refused as the argument of a call would be, and not cut to fit; by the holder of a lease and in the worker."""

    def assign(instance: Any, value: Any) -> int:
        instance.globals["count"] = value
        return int(instance.globals["count"])

    with ProcessWasmPool(MODULE, workers=1) as pool, pool.instance() as lease:
        for value in (-(2**31), 2**31 - 1, 7, True, *ODD):
            fits = integer(value) and -(2**31) <= value < 2**32
            if fits:
                lease.globals["count"] = value
                assert lease.globals["count"] == value
                continue
            before = lease.globals["count"]
            with pytest.raises((BadArguments, ArgumentOutOfRange), match="the global 'count' is"):
                lease.globals["count"] = value
            assert lease.globals["count"] == before
        lease.globals["count"] = 2**32 - 1
        assert lease.globals["count"] == -1, "as a result of a call would be"
    with ProcessWasmPool(MODULE, workers=1) as pool:
        assert pool.submit(assign, 2**32 - 1).result(DEADLINE) == -1
        for value in (10**30, True, 2.5, None):
            with pytest.raises((BadArguments, ArgumentOutOfRange)):
                pool.submit(assign, value).result(DEADLINE)


@pytest.mark.parametrize("state", ["closed", "forked", "thread", "callback", "generator"])
def test_odd_states(state: str, tmp_path: Path) -> None:
    run_trial(state, cwd=tmp_path)


if __name__ == "__main__":
    trial = Trial()
    if sys.argv[1] == "arguments":
        with_odd_arguments(trial, sys.argv[2:])
    else:
        in_state(trial, sys.argv[1])
    sys.stdout.flush()
    os._exit(0)  # whatever hangs; the workers die of it
