"""What hosts of one run learn from each other: every question is answered once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

T = TypeVar("T")


class Shared:
    """A memo for threads: the first to ask finds the answer, the others wait for it.

    Where finding it fails, only the one who tried gets the error; the next in line tries itself.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: dict[Hashable, threading.Lock] = {}
        self._answers: dict[Hashable, Any] = {}

    def once(self, key: Hashable, find: Callable[[], T]) -> T:
        """The answer for `key`, found by the first caller that succeeds."""
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self._answers:
                self._answers[key] = find()
            return cast(T, self._answers[key])
