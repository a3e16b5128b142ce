"""Frames."""

from __future__ import annotations

import pickle
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procpool import GuestError, GuestExit, RemoteError, RunFailed, WasmFrame, WasmTrap, WorkerCrashed, errors, wire


@given(st.lists(st.binary(max_size=300)), st.data())
def test_frames_survive_any_cutting(payloads: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(wire.reply(wire.OK, payload) for payload in payloads)
    reader, at, found = wire.FrameReader(wire.REPLY), 0, []
    while at < len(stream):
        size = data.draw(st.integers(1, len(stream) - at))
        found += reader.feed(stream[at : at + size])
        at += size
    assert [(status, payload) for (_, status), payload in found] == [(wire.OK, payload) for payload in payloads]


def test_a_length_beyond_the_limit_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="beyond the limit"):
        wire.FrameReader(wire.REPLY).feed(wire.REPLY.pack(wire.MAX_PAYLOAD + 1, wire.OK))


def test_a_large_frame_is_not_put_together_for_each_piece() -> None:
    stream = wire.reply(wire.OK, bytes(2 << 20))
    pieces = [stream[at : at + 256] for at in range(0, len(stream), 256)]
    reader, frames = wire.FrameReader(wire.REPLY), []
    started = perf_counter()
    for piece in pieces:
        frames += reader.feed(piece)
    taken = perf_counter() - started
    assert [len(payload) for _, payload in frames] == [2 << 20] and not reader.incomplete
    whole = b""
    started = perf_counter()
    for piece in pieces:
        whole = whole + piece
    assert 8 * taken < perf_counter() - started  # in truth a hundredth


def test_the_reader_knows_whether_a_frame_is_begun() -> None:
    reader, stream = wire.FrameReader(wire.REPLY), wire.reply(wire.OK, b"abc")
    for n in range(len(stream)):
        assert reader.incomplete == (n > 0)
        reader.feed(stream[n : n + 1])
    assert not reader.incomplete


class Moody(Exception):
    """The exception class that poisons other pools: it cannot be rebuilt from its args."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def test_exceptions_travel_as_themselves_with_their_traceback() -> None:
    try:
        raise KeyError("lost")
    except KeyError as error:
        data = wire.exception_to_bytes(error, pickled=True)
    back = wire.loaded(wire.report_of(wire.RAISED, data, "f", True))
    assert isinstance(back, KeyError) and back.args == ("lost",)
    assert 'raise KeyError("lost")' in str(back.__cause__)


def test_an_exception_that_cannot_be_rebuilt_comes_as_its_text() -> None:
    back = wire.loaded(wire.report_of(wire.RAISED, wire.exception_to_bytes(Moody(1, 2), pickled=True), "f", True))
    assert isinstance(back, RemoteError) and "1 and 2" in str(back)


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_pickles(name: str) -> None:
    kind = getattr(errors, name)
    if name == "WasmFrame":
        return
    error = {
        "WasmTrap": lambda: WasmTrap("oops", "UNREACHABLE", "f", (WasmFrame("g", 1, 2),)),
        "GuestError": lambda: GuestError("parse", "no number"),
        "GuestExit": lambda: GuestExit(3),
        "RunFailed": lambda: RunFailed(("prog", "x"), 3, b"out", b"err"),
        "WorkerCrashed": lambda: WorkerCrashed(12, "f", -9),
    }.get(name, lambda: kind("message"))()
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind and str(again) == str(error) and again.__dict__ == error.__dict__


def test_the_signal_of_a_crash() -> None:
    assert "SIGKILL" in str(WorkerCrashed(1, "f", -9))
    assert str(WorkerCrashed(1, None, 3)) == "worker 1 exited with code 3 before it was ready"
    crash = WorkerCrashed(1, "f", 3)
    assert crash.signal is None and "exited with code 3" in str(crash)
