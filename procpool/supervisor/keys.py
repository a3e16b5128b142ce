"""The keys of jobs, each told apart from the others where the user's own code may run, and nowhere else."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from itertools import count


class _Held:
    """A key in use."""

    __slots__ = ("hash", "holders", "key", "token")

    def __init__(self, key: Hashable, hash_: int, token: int) -> None:
        self.key = key
        self.hash = hash_
        self.token = token
        self.holders = 1


class Keys:
    """Gives equal keys the same int, their *token*, for as long as anybody holds it.

    A key may be an object with an ``__eq__`` of the user's, which may raise, wait, or submit jobs itself.  So keys are
    compared in the thread of the one who submits, without a lock held; all others see tokens only.  Tokens are never used
    again for another key.

    A key that nobody holds is remembered for a while, so that its next job finds the worker of its last one.

    Args:
        most: how many of those are remembered; of more, the longest unused are forgotten.
    """

    def __init__(self, most: int = 65536) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._idle: dict[int, None] = {}  # tokens that nobody holds, the longest unused first
        self._by_hash: dict[int, tuple[_Held, ...]] = {}  # tuples, so that one can be walked through without the lock
        self._by_token: dict[int, _Held] = {}
        self._tokens = count(1)

    def hold(self, key: Hashable) -> int:
        """The key's token; to be given to :meth:`release` once.

        Raises:
            TypeError: it is not hashable.
            Whatever its ``__hash__`` raises, or its ``__eq__`` when it is compared with itself.
        """
        hash_ = hash(key)
        bool(key == key)  # noqa: PLR0124  # a comparison that fails should fail here, not in a later job with an equal hash
        compared: set[_Held] = set()
        while True:
            held = self._by_hash.get(hash_, ())
            same = None
            for each in held:
                if each not in compared and _equal(key, each.key):
                    same = each
                    break
                compared.add(each)
            with self._lock:
                now = self._by_hash.get(hash_, ())
                if same is not None and same.token in self._by_token:
                    same.holders += 1
                    self._idle.pop(same.token, None)
                    return same.token
                if all(each in compared for each in now):
                    new = _Held(key, hash_, next(self._tokens))
                    self._by_hash[hash_] = (*now, new)
                    self._by_token[new.token] = new
                    # The keys themselves die after the lock is free, and here, for they may have finalizers.
                    forgotten = self._forget()
                    break
            # Another thread came first with a key that this one has not been compared with, or the equal one was forgotten.
        del forgotten
        return new.token

    def release(self, token: int) -> None:
        """One holder less.  Compares nothing and forgets nothing, so it may be called anywhere.

        Raises:
            KeyError: nobody holds it.
        """
        with self._lock:
            held = self._by_token[token]
            if not held.holders:
                raise KeyError(token)
            held.holders -= 1
            if not held.holders:
                self._idle[token] = None

    def _forget(self) -> list[_Held]:
        forgotten = []
        while len(self._idle) > self._most:
            token = next(iter(self._idle))
            del self._idle[token]
            held = self._by_token.pop(token)
            forgotten.append(held)
            left = tuple(each for each in self._by_hash[held.hash] if each is not held)
            if left:
                self._by_hash[held.hash] = left
            else:
                del self._by_hash[held.hash]
        return forgotten

    def __len__(self) -> int:
        """How many keys are held."""
        with self._lock:
            return len(self._by_token) - len(self._idle)


def _equal(key: Hashable, other: Hashable) -> bool:
    """Whether two keys of equal hash are equal.  Keys that cannot be compared are not: neither submitter is to blame."""
    if key is other:
        return True
    try:
        return bool(key == other)
    except Exception:
        return False
