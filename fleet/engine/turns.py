"""Changes that the service feels: few hosts of a run at a time, the first one alone, none after a failure."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fleet.errors import HeldBackError
from fleet.model.steps import Throttle

_LOOK = 0.2
"""Seconds between two questions whether the run is to stop."""


@dataclass
class Turn:
    """A host's turn. Once it has `begun` to change something, its failure holds back the others."""

    begun: bool = False


May = Callable[[Collection[str], bool, Callable[[str], None]], None]
"""Told what is away or about to be, whether to wait for the rest, and to whom to say so; raises for "no"."""


def always(away: Collection[str], wait: bool, say: Callable[[str], None]) -> None:
    """Every turn may begin."""


class Turns:
    """One run's turns, over all of its hosts. Thread-safe. `may` is asked at the beginning of each."""

    def __init__(self, may: May = always) -> None:
        self._may = may
        self._free = threading.Condition()
        self._busy: dict[str, str] = {}
        self._proved = False
        self._failed = ""

    @contextmanager
    def turn(
        self, host: str, wish: Throttle, stop: Callable[[], bool], say: Callable[[str], None]
    ) -> Iterator[Turn | None]:
        """The host's turn, once it may have it; None where the run is to end.

        Raises HeldBackError where one has failed that had begun, or `may` said no, which is meant for all.
        `say` is told for whom it waits.
        """
        if not self._take(host, wish, stop, say):
            yield None
            return
        turn = Turn()
        allowed = False
        try:
            with self._free:
                away = tuple(self._busy.values())
            self._may(away, bool(wish.most), say)
            allowed = True
            yield turn
        except BaseException:
            self._give(host, failed=turn.begun or not allowed)
            raise
        self._give(host, proved=turn.begun)

    def _take(self, host: str, wish: Throttle, stop: Callable[[], bool], say: Callable[[str], None]) -> bool:
        said = ""
        with self._free:
            while True:
                if stop():
                    return False
                if self._failed:
                    who = "it" if self._failed == host else self._failed
                    raise HeldBackError(
                        f"nothing more was done on {host}, since {who} failed before",
                        remedy="mend that, then run this again",
                    )
                if not wish.most or len(self._busy) < (wish.most if self._proved else 1):
                    self._busy[host] = wish.of
                    return True
                if said != (said := f"waits for {', '.join(self._busy)}"):
                    say(said)
                self._free.wait(_LOOK)

    def _give(self, host: str, *, failed: bool = False, proved: bool = False) -> None:
        with self._free:
            del self._busy[host]
            self._proved |= proved
            if failed:
                self._failed = self._failed or host
            self._free.notify_all()
