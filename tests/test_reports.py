"""What comes back of a job that failed, and of what it logged."""

from __future__ import annotations

import enum
import logging
import pickle
import sys
import threading
from typing import Any

import pytest
from bounded import run_script
from conftest import DEADLINE, KERNELS
from hypothesis import given, settings
from hypothesis import strategies as st

from procpool import GuestExit, RemoteError, WasmTrap, wire

ran: list[str] = []


def run(what: str) -> Any:
    ran.append(what)
    if what == "exit":
        raise SystemExit(3)
    if what == "interrupt":
        raise KeyboardInterrupt
    return what


class Hostile(Exception):
    """Rebuilding it here, and not in the worker that tried it out, does what its argument says."""

    def __reduce__(self) -> Any:
        return run, (self.args[0],)


class Untouchable(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise RuntimeError("no")


def raised(error: BaseException, status: int = wire.RAISED) -> wire.Raised:
    report = wire.report_of(status, wire.exception_to_bytes(error, pickled=True), "f", True)
    assert isinstance(report, wire.Raised)
    return report


def test_an_exception_is_received_in_two_steps() -> None:
    try:
        raise KeyError("lost")
    except KeyError as error:
        report = raised(error)
    assert 'raise KeyError("lost")' in report.text
    back = report.load()
    assert type(back) is KeyError and back.args == ("lost",) and str(back.__cause__) == str(report.as_text())


@pytest.mark.parametrize("what", ["exit", "interrupt", "no exception"])
def test_whatever_unpickling_does_an_exception_comes_of_it(what: str) -> None:
    ran.clear()
    report = wire.Raised("Traceback: it was thus", "", pickle.dumps(Hostile(what)), True)
    assert ran == []
    found: list[BaseException] = []
    thread = threading.Thread(target=lambda: found.append(report.load()))
    thread.start()
    thread.join(DEADLINE)
    (error,) = found
    assert type(error) is RemoteError and "it was thus" in str(error) and "could not be rebuilt here" in str(error)
    assert ran == [what]


def test_ctrl_c_is_not_swallowed() -> None:
    with pytest.raises(KeyboardInterrupt):
        wire.Raised("", "", pickle.dumps(Hostile("interrupt")), True).load()


@pytest.mark.parametrize("data", [b"", b"nonsense", b"cno_such_module\nThing\n.", pickle.dumps(Untouchable())])
def test_what_cannot_be_rebuilt_comes_as_its_text(data: bytes) -> None:
    error = wire.Raised("the text", "", data, True).load()
    assert type(error) is RemoteError and "the text" in str(error)


@pytest.mark.parametrize("what", ["exit", "interrupt", "no exception"])
def test_the_worker_survives_trying_it_out(what: str) -> None:
    assert type(raised(Hostile(what)).load()) is RemoteError


def test_long_texts_are_cut() -> None:
    report = raised(ValueError("x" * (20 << 20)))
    assert len(report.text) < 1.1 * wire.MOST_TEXT and "characters left out" in report.text
    assert report.text.startswith("ValueError: xxx")
    error = report.load()
    assert type(error) is RemoteError and "was left out" in str(error)


def test_an_exception_of_ordinary_size_comes_whole() -> None:
    error = raised(ValueError("x" * (1 << 20))).load()
    assert type(error) is ValueError and len(error.args[0]) == 1 << 20 and len(str(error.__cause__)) < 1 << 17


class Unshowable(Exception):
    def __str__(self) -> str:
        raise SystemExit


def test_an_exception_that_cannot_be_shown() -> None:
    assert "Unshowable" in raised(Unshowable()).text


def test_a_text_that_is_no_unicode() -> None:
    assert "\\udc80" in raised(ValueError("\udc80")).text


@pytest.mark.parametrize(
    ("status", "payload"),
    [
        (wire.RAISED, b""),
        (wire.RAISED, b"\x05\0\0\0abcd"),
        (wire.UNFIT, b"\xff\xff\xff\xff"),
        (wire.EXIT, b""),
        (wire.EXIT, b'"3"'),
        (wire.EXIT, b"7"),
        (wire.EXIT, b"[true, null]"),
        (wire.EXIT, b"[7, 8]"),
        (wire.RAISED, b"\x01\0\0\0\x03\0\0\0abc"),
        (wire.TRAP, b"\xff"),
        (wire.TRAP, b"[1, 2, 3]"),
        (wire.TRAP, b'["m", null, 3]'),
        (wire.TRAP, b'["m", null, [[1]]]'),
        (wire.TRAP, b"[" * 100_000),
        (99, b""),
    ],
)
def test_nonsense_is_refused(status: int, payload: bytes) -> None:
    with pytest.raises(ValueError):
        wire.report_of(status, payload, "f", True)


@given(st.sampled_from([wire.RAISED, wire.UNFIT, wire.TRAP, wire.EXIT]), st.binary(max_size=60))
def test_any_payload_is_taken_or_refused(status: int, payload: bytes) -> None:
    try:
        report = wire.report_of(status, payload, "f", True)
    except ValueError:
        return
    assert isinstance(report, (wire.Raised, WasmTrap, GuestExit))


def test_what_needs_no_code_is_ready() -> None:
    trap = wire.report_of(wire.TRAP, wire.trap_to_bytes(WasmTrap("m" * (1 << 20), "CODE", None)), "f", True)
    assert isinstance(trap, WasmTrap) and trap.export == "f" and trap.code == "CODE" and len(trap.message) < 1 << 17
    status = wire.report_of(wire.EXIT, wire.exit_to_bytes(7, None), None, True)
    assert isinstance(status, GuestExit) and status.code == 7


# -- logging -----------------------------------------------------------------------------------------------------------


class Level(enum.IntEnum):
    HIGH = 35


class Thing:
    def __repr__(self) -> str:
        return "a thing"

    def __reduce__(self) -> Any:
        return run, ("log",)


class Mute:
    def __repr__(self) -> str:
        raise ValueError


def record(**extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("a.b", Level.HIGH, "/x.py", 7, "hello %s", ("you",), None, "f", "the stack")
    made.__dict__.update(extra)
    return made


def test_a_record_is_plain_data() -> None:
    ran.clear()
    baggage = {"request": "r1", "tags": ("a", 2.5, None, b"b"), "things": [Thing(), Level.HIGH], "deep": {1: {2: True}}}
    payload = wire.record_to_bytes(record(baggage=baggage, thing=Thing(), mute=Mute(), big="x" * (1 << 20)))
    state = wire.record_state(payload)
    assert ran == []
    assert state["msg"] == "hello you" and state["levelno"] == 35 and type(state["levelno"]) is int
    assert state["stack_info"] == "the stack" and state["name"] == "a.b" and state["lineno"] == 7
    assert state["baggage"] == {
        "request": "r1",
        "tags": ("a", 2.5, None, b"b"),
        "things": ["a thing", 35],
        "deep": {1: {2: True}},
    }
    assert state["thing"] == "a thing" and "Mute object" in state["mute"] and len(state["big"]) < 1 << 17
    back = wire.record_from_bytes(payload)
    assert back.getMessage() == "hello you" and back.baggage == state["baggage"]  # type: ignore[attr-defined]


def test_a_record_of_an_exception_carries_its_traceback() -> None:
    try:
        raise KeyError("lost")
    except KeyError:
        made = record(exc_info=sys.exc_info())
    state = wire.record_state(wire.record_to_bytes(made))
    assert 'raise KeyError("lost")' in state["exc_text"] and state["exc_info"] is None


@settings(max_examples=30)
@given(
    st.dictionaries(st.text(), st.recursive(st.none() | st.integers() | st.text() | st.floats(allow_nan=False), st.lists))
)
def test_plain_extras_come_as_they_are(extra: dict[str, Any]) -> None:
    extra = {f"x{key}": value for key, value in extra.items()}
    state = wire.record_state(wire.record_to_bytes(record(**extra)))
    assert {key: state[key] for key in extra} == extra


@pytest.mark.parametrize(
    "payload", [b"", b"N.", pickle.dumps({}), pickle.dumps({"name": "x", "levelno": "3"}), pickle.dumps({"name": Thing()})]
)
def test_no_record_is_refused(payload: bytes) -> None:
    ran.clear()
    with pytest.raises(ValueError):
        wire.record_state(payload)
    assert ran == []


# -- in a pool ---------------------------------------------------------------------------------------------------------

_ABROAD = """
import sys
from procpool import ProcessWasmPool, RemoteError

def fail(instance):
    import types
    module = types.ModuleType("only_there")
    sys.modules["only_there"] = module
    exec("class Strange(Exception): pass", module.__dict__)
    raise module.Strange("from abroad")

with ProcessWasmPool(sys.argv[1], workers=1) as pool:
    pid = pool.stats().workers[0].pid
    error = pool.submit(fail).exception(20)
    assert type(error) is RemoteError and "from abroad" in str(error), error
    assert pool.submit(lambda instance: 3).result(20) == 3
    assert pool.stats().workers[0].pid == pid
"""


def test_a_class_that_cannot_be_imported_here() -> None:
    done = run_script(_ABROAD, str(KERNELS))
    assert (done.returncode, done.stderr) == (0, "")
