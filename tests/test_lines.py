"""Output of a command, cut into lines."""

from __future__ import annotations

from time import perf_counter

from hypothesis import given
from hypothesis import strategies as st

from procpool.supervisor.jobs.lines import LONGEST_LINE, LineSplitter

_BYTES = st.lists(st.sampled_from([b"\n", b"a", b"bc", b"\r", "é".encode(), "€".encode(), "😀".encode(), b"\xff", b"\x80"]))


def fed(splitter: LineSplitter, data: bytes, cuts: list[int]) -> list[str]:
    lines, at = [], 0
    for cut in sorted(cuts):
        lines += splitter.feed(data[at : max(at, cut)])
        at = max(at, cut)
    return lines + splitter.feed(data[at:])


@given(_BYTES.map(b"".join), st.lists(st.integers(0, 200), max_size=8))
def test_lines_are_the_same_however_they_come(data: bytes, cuts: list[int]) -> None:
    splitter = LineSplitter()
    *whole, rest = (line.decode(errors="replace") for line in data.split(b"\n"))
    assert (fed(splitter, data, cuts), splitter.rest()) == (whole, rest)
    assert splitter.rest() == ""


@given(st.text(alphabet="ab\né€😀"), st.integers(4, 9), st.lists(st.integers(0, 200), max_size=8))
def test_long_lines_come_in_pieces(text: str, longest: int, cuts: list[int]) -> None:
    data = text.encode()
    once = LineSplitter(longest)
    expected = [*once.feed(data), once.rest()]
    splitter = LineSplitter(longest)
    lines = [*fed(splitter, data, cuts), splitter.rest()]
    assert lines == expected
    assert "".join(lines) == text.replace("\n", "")
    assert all(len(line.encode()) <= longest for line in lines)
    for line in text.split("\n"):  # those that are not too long come in one
        if len(line.encode()) <= longest:
            assert line in lines


def test_a_line_of_just_the_longest_length_is_no_two() -> None:
    splitter = LineSplitter(8)
    assert splitter.feed(b"12345678") == [] and splitter.feed(b"\n") == ["12345678"]
    assert splitter.feed(b"123456789") == ["12345678"] and splitter.feed(b"\n\n") == ["9", ""]


def test_a_line_without_end_is_not_put_together_for_each_chunk() -> None:
    splitter, chunk, chunks = LineSplitter(), b"x" * 128, LONGEST_LINE // 128
    started = perf_counter()
    for _ in range(chunks):
        splitter.feed(chunk)
    taken = perf_counter() - started
    assert len(splitter.rest()) == LONGEST_LINE
    whole = b""
    started = perf_counter()
    for _ in range(chunks):
        whole = whole + chunk
    assert 4 * taken < perf_counter() - started  # in truth a thirtieth, and less the longer the line
