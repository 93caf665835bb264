"""Changes that the service feels: few hosts of a run at a time, the first one alone, none after a failure."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fleet.errors import HeldBackError

_LOOK = 0.2
"""Seconds between two questions whether the run is to stop."""


class Throttle:
    """One run's turns, over all of its hosts. Thread-safe."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._busy: list[str] = []
        self._proved = False
        self._failed = ""

    @contextmanager
    def turn(
        self, host: str, most: int, stop: Callable[[], bool], say: Callable[[str], None]
    ) -> Iterator[None]:
        """The body runs while fewer than `most` hosts are in such a body; 0 is no bound.

        Until the first body has come to its end there is only one. Raises HeldBackError, and does nothing,
        where one has failed, or `stop` says that the run is to end. `say` is told for whom it waits.
        """
        if most:
            self._take(host, most, stop, say)
        try:
            yield
        except BaseException:
            if most:
                self._failed = self._failed or host
            raise
        finally:
            if most:
                self._give(host)

    def _take(self, host: str, most: int, stop: Callable[[], bool], say: Callable[[str], None]) -> None:
        said = ""
        with self._free:
            while True:
                if self._failed:
                    raise HeldBackError(
                        f"{host} was left as it is, since {self._failed} failed before",
                        remedy="mend that, then run this again",
                    )
                if stop():
                    raise HeldBackError(
                        f"{host} was left as it is: the run was interrupted", remedy="run this again"
                    )
                if len(self._busy) < (most if self._proved else 1):
                    self._busy.append(host)
                    return
                if said != (said := f"waits for {', '.join(self._busy)}"):
                    say(said)
                self._free.wait(_LOOK)

    def _give(self, host: str) -> None:
        with self._free:
            self._busy.remove(host)
            self._proved = self._proved or not self._failed
            self._free.notify_all()
