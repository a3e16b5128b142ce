"""Output of a command, cut into lines."""

from __future__ import annotations

#: Bytes after which a line that has no end yet is handed on as it is, in pieces.
LONGEST_LINE = 1 << 20


class LineSplitter:
    """Cuts a stream of bytes into lines, in time linear in its length.

    Lines end at ``\\n``, which is left out, and nowhere else.  What is no UTF-8 is replaced.  A line of more than
    ``longest`` bytes comes in pieces of that length, or up to 3 bytes less so that no character is cut in two; only its
    last piece may be shorter, and none is empty.

    Args:
        longest: bytes; at least 4.
    """

    def __init__(self, longest: int = LONGEST_LINE) -> None:
        self._longest = longest
        self._begun: list[bytes] = []  # of the line that has no end yet
        self._size = 0  # of these together; at most `longest`

    def feed(self, data: bytes) -> list[str]:
        """The lines, and pieces of lines, that ``data`` completes."""
        *ended, rest = data.split(b"\n")
        lines: list[str] = []
        for n, part in enumerate(ended):
            if n and len(data) <= self._longest:  # by far most lines come whole, many in a chunk
                lines += [whole.decode(errors="replace") for whole in ended[n:]]
                break
            self._add(part, lines)
            lines.append(self.rest())
        if rest:
            self._add(rest, lines)
        return lines

    def rest(self) -> str:
        """What has come since the last line that ended, and begin anew; empty if nothing has."""
        whole = self._begun[0] if len(self._begun) == 1 else b"".join(self._begun)
        self._begun, self._size = [], 0
        return whole.decode(errors="replace")

    def _add(self, part: bytes, lines: list[str]) -> None:
        if self._size + len(part) <= self._longest:
            self._begun.append(part)
            self._size += len(part)
            return
        whole, at = b"".join((*self._begun, part)), 0
        while len(whole) - at > self._longest:
            stop = _before_character(whole, at + self._longest)
            lines.append(whole[at:stop].decode(errors="replace"))
            at = stop
        self._begun, self._size = [whole[at:]], len(whole) - at


def _before_character(data: bytes, at: int) -> int:
    """The place where the UTF-8 character begins that goes on at ``at``; ``at`` itself if none does."""
    for back in range(4):
        if data[at - back] & 0xC0 != 0x80:
            return at - back
    return at
