"""Values on their way between the processes."""

from __future__ import annotations

import copyreg
import pickle
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from procpool.wire import values
from procpool.wire.values import INLINE, LARGE, NeedsCode, Received, detach, dump, loads_plain

_HEAD = struct.Struct("<BxxxIQ")
_BUFFER = struct.Struct("<QQB")


def no_slot(number: int, size: int) -> memoryview:
    raise AssertionError(f"slot {number} is asked for {size} bytes")


def through_slot(value: Any) -> tuple[Received, bytearray]:
    dumped = dump(value)
    area = bytearray(dumped.size)
    payload = dumped.place(2, memoryview(area))
    return detach(payload, lambda number, size: memoryview(area), pickled=True), area


def writable_numpy() -> Any:
    return pytest.importorskip("numpy").arange(LARGE, dtype="u8")


def constant_numpy() -> Any:
    array = writable_numpy()
    array.flags.writeable = False
    return array


LARGE_ONES = [
    lambda: b"b" * LARGE,
    lambda: bytearray(b"a" * LARGE),
    lambda: memoryview(b"m" * LARGE),
    lambda: memoryview(bytearray(b"m" * LARGE)),
    lambda: memoryview(bytes(3 * LARGE))[::3],
    lambda: [b"b" * LARGE, 1, bytearray(2 * LARGE)],
    lambda: {"k": b"b" * LARGE},
    writable_numpy,
    constant_numpy,
]


@pytest.mark.parametrize("make", LARGE_ONES)
@pytest.mark.parametrize("inline", [False, True])
def test_large_values_come_as_they_went_and_share_nothing(make: Any, inline: bool) -> None:
    value = make()
    if inline:
        received = detach(dump(value).inline(), no_slot, pickled=True)
        assert (received.slot, received.end) == (INLINE, 0)
    else:
        received, area = through_slot(value)
        assert (received.slot, received.end) == (2, len(area))
        area[:] = b"\xff" * len(area)  # the sender uses its slot again
    back = received.load()
    assert type(back) is type(value)
    if type(value).__module__ == "numpy":
        assert (back == value).all() and back.flags.writeable == value.flags.writeable
    else:
        assert back == value


def test_a_memoryview_comes_read_only_and_can_be_hashed() -> None:
    back = through_slot(memoryview(bytearray(LARGE)))[0].load()
    assert back.readonly and isinstance(hash(back), int)


@pytest.mark.parametrize("make", [LARGE_ONES[0], LARGE_ONES[1]])
@pytest.mark.parametrize("inline", [False, True])
def test_the_copy_made_on_arrival_is_the_only_one(make: Any, inline: bool) -> None:
    value = make()
    received = detach(dump(value).inline(), no_slot, pickled=True) if inline else through_slot(value)[0]
    (buffer,) = received._buffers
    assert received.load() is buffer


class Window:
    """Gives out its memory by itself, as arrays do, but by way of a memoryview."""

    def __init__(self, memory: Any) -> None:
        self.memory = memory

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Window, (pickle.PickleBuffer(memoryview(self.memory)),)


def test_nobody_gets_a_window_on_the_slot() -> None:
    received, area = through_slot(Window(bytearray(b"x" * LARGE)))
    area[:] = bytes(LARGE)
    assert bytes(received.load().memory) == b"x" * LARGE


def test_a_value_may_begin_within_a_payload() -> None:
    payload = b"before" + dump((1, b"b" * LARGE)).inline()
    assert detach(payload, no_slot, pickled=True, at=6).load() == (1, b"b" * LARGE)


def described(number: int, entries: list[tuple[int, int]], data: bytes = b"N.", rest: bytes = b"") -> bytes:
    packed = b"".join(_BUFFER.pack(offset, length, 0) for offset, length in entries)
    return _HEAD.pack(number, len(entries), len(data)) + packed + data + rest


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff",
        _HEAD.pack(INLINE, 0, 0)[:-1],
        _HEAD.pack(INLINE, 0, 1),
        _HEAD.pack(INLINE, 0, 1 << 63),
        _HEAD.pack(INLINE, 0xFFFFFFFF, 0),
        _HEAD.pack(2, 1, 0),
        described(INLINE, [(0, 5)], rest=b"1234"),
        described(INLINE, [(1 << 63, 1 << 63)], rest=b"1234"),
        described(INLINE, [(0, 3), (2, 2)], rest=b"1234"),
        described(INLINE, [(2, 2), (0, 2)], rest=b"1234"),
        described(2, [(0, (256 << 20) + 1)]),
        described(2, [((1 << 64) - 1, (1 << 64) - 1)]),
        described(2, [(0, 200 << 20), (0, 200 << 20)]),
        described(0, [(0, 1)]),
        described(1, [(0, 1)]),
        described(4, [(0, 1)]),
        described(254, [(0, 1)]),
    ],
)
def test_what_no_sender_of_ours_would_send_is_refused(payload: bytes) -> None:
    with pytest.raises(ValueError):
        detach(payload, no_slot, pickled=True)


@settings(max_examples=200)
@given(st.binary(max_size=80), st.integers(0, 16))
def test_any_payload_is_taken_or_refused(payload: bytes, cut: int) -> None:
    whole = dump([b"x" * 8, 1]).inline()
    for candidate in (payload, whole[:cut] + payload, described(2, [(0, 4)])[: 16 + cut] + payload):
        try:
            received = detach(
                candidate,
                lambda number, size: memoryview(bytes(size)) if size < 1000 else no_slot(number, size),
                pickled=True,
            )
        except (ValueError, AssertionError):
            continue
        assert isinstance(received, Received)


# -- without code ------------------------------------------------------------------------------------------------------

_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=5), inner, max_size=4)
        | st.frozensets(st.integers(), max_size=4)
    ),
    max_leaves=12,
)


@given(_PLAIN)
def test_plain_values_load_without_code(value: Any) -> None:
    if len(pickle.dumps(value, 5)) > values.PLAIN:
        return
    back = values.plain(dump(value).inline())
    assert back == value and type(back) is type(value)


def test_no_letter_or_number_is_taken_for_an_opcode() -> None:
    for n in range(256):
        for value in (n, chr(n) * 3, bytes((n,))):
            assert loads_plain(pickle.dumps(value, 5)) == value


ran: list[str] = []


class Noted:
    def __reduce__(self) -> Any:
        return ran.append, ("loaded",)


class Plainlike(int):
    pass


@pytest.mark.parametrize(
    "value", [Noted(), [Noted()], {"k": (1, Noted())}, int, len, Plainlike(3), 1j, ValueError("x"), Window]
)
def test_what_names_code_is_not_loaded_without(value: Any) -> None:
    ran.clear()
    for protocol in range(6):
        with pytest.raises(NeedsCode):
            loads_plain(pickle.dumps(value, protocol))
    with pytest.raises(NeedsCode):
        values.plain(dump(value).inline())
    assert ran == []


def test_the_registry_of_copyreg_is_no_way_round() -> None:
    ran.clear()
    copyreg.add_extension(__name__, "note", 240)  # type: ignore[arg-type]
    try:
        data = pickle.dumps(note, 2)
        assert b"\x82\xf0" in data and pickle.loads(data) is note  # now it is known by number
        for call in (data, b"\x80\x02\x82\xf0\x85R.", b"\x80\x02\x82\xf0)R."):
            with pytest.raises(NeedsCode):
                loads_plain(call)
        assert loads_plain(pickle.dumps([0x82, "\x82", b"\x83"], 5)) == [0x82, "\x82", b"\x83"]
    finally:
        copyreg.remove_extension(__name__, "note", 240)  # type: ignore[arg-type]
        copyreg.clear_extension_cache()  # type: ignore[attr-defined]
    assert ran == []


def note() -> None:
    ran.append("called")


@settings(max_examples=300)
@given(st.lists(st.sampled_from([bytes((n,)) for n in range(256)] + [b"cos\nsystem\n", b"\x8c\x02os", b"\x8c\x06system"])))
def test_whatever_the_bytes_only_plain_things_come_out(parts: list[bytes]) -> None:
    try:
        value = loads_plain(b"\x80\x05" + b"".join(parts) + b".")
    except NeedsCode:
        return
    assert type(value).__module__ == "builtins" and not callable(value)


def test_what_is_large_is_not_looked_at() -> None:
    for value in ("x" * values.PLAIN, b"b" * LARGE):
        with pytest.raises(NeedsCode):
            values.plain(dump(value).inline())
