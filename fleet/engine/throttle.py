"""Changes that the service feels: few hosts of a run at a time, the first one alone, none after a failure."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fleet.errors import HeldBackError

_LOOK = 0.2
"""Seconds between two questions whether the run is to stop."""


@dataclass
class Turn:
    """A host's turn. Once it has `begun` to change something, its failure holds back the others."""

    begun: bool = False


class Throttle:
    """One run's turns, over all of its hosts. Thread-safe.

    `may` is asked at the beginning of each turn and raises where none may begin, as while others are at work.
    """

    def __init__(self, may: Callable[[], None] = lambda: None) -> None:
        self._may = may
        self._free = threading.Condition()
        self._busy: list[str] = []
        self._proved = False
        self._failed = ""

    @contextmanager
    def turn(
        self, host: str, most: int, stop: Callable[[], bool], say: Callable[[str], None]
    ) -> Iterator[Turn | None]:
        """A turn while fewer than `most` hosts have theirs (0 is no bound); None where the run is to end.

        Until the first one has come to its end there is only one. Raises HeldBackError where one has failed
        that had begun. `say` is told for whom it waits.
        """
        if not self._take(host, most, stop, say):
            yield None
            return
        turn = Turn()
        try:
            self._may()
            yield turn
        except BaseException:
            self._give(host, failed=turn.begun)
            raise
        self._give(host, proved=turn.begun)

    def _take(self, host: str, most: int, stop: Callable[[], bool], say: Callable[[str], None]) -> bool:
        said = ""
        with self._free:
            while True:
                if stop():
                    return False
                if self._failed:
                    who = "it" if self._failed == host else self._failed
                    raise HeldBackError(
                        f"{host} was not gone on with, since {who} failed before",
                        remedy="mend that, then run this again",
                    )
                if not most or len(self._busy) < (most if self._proved else 1):
                    self._busy.append(host)
                    return True
                if said != (said := f"waits for {', '.join(self._busy)}"):
                    say(said)
                self._free.wait(_LOOK)

    def _give(self, host: str, *, failed: bool = False, proved: bool = False) -> None:
        with self._free:
            self._busy.remove(host)
            self._proved |= proved
            if failed:
                self._failed = self._failed or host
            self._free.notify_all()
