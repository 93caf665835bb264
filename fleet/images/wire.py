"""A host's connection for work that takes long: opened when needed, and anew where it is lost."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TypeVar

from fleet.engine.hostrun import LOOK_TIMEOUT, Opener
from fleet.engine.look import look
from fleet.engine.runner import HostRunner
from fleet.errors import UnreachableError
from fleet.model.facts import Facts, Probe
from fleet.ssh.remote import Remote

T = TypeVar("T")
_TRIES = 4
_PAUSE = 5.0


class Wire:
    """One host. For one thread at a time; what is done through it may be done twice."""

    def __init__(self, name: str, opener: Opener, *, pause: Callable[[float], None] = time.sleep) -> None:
        self.name = name
        self._opener = opener
        self._pause = pause
        self._open: tuple[Remote, HostRunner] | None = None
        self._ended = False

    def do(self, work: Callable[[Remote, HostRunner], T]) -> T:
        """Do it; again, on a new connection, where that was lost. Raises UnreachableError at last."""
        for left in reversed(range(_TRIES)):
            known = self._open is not None
            try:
                remote, runner = self._opened()
                return work(remote, runner)
            except UnreachableError:
                self.close()
                # A host that never answered is not waited for.
                if self._ended or not left or not (known or left < _TRIES - 1):
                    raise
                self._pause(_PAUSE)
        raise AssertionError

    def look(self, *probes: Probe) -> Facts:
        """The answers to these probes, in one exchange."""
        return self.do(lambda remote, _: look(remote, probes, timeout=LOOK_TIMEOUT))

    def end(self) -> None:
        """End the connection for good: a thread that is still at work on it fails, and opens no other."""
        self._ended = True
        self.close()

    def close(self) -> None:
        """End the connection; never raises."""
        opened, self._open = self._open, None
        if opened is not None:
            for each in reversed(opened):
                with contextlib.suppress(Exception):
                    each.close()

    def _opened(self) -> tuple[Remote, HostRunner]:
        if self._ended:
            raise UnreachableError(f"{self.name}: the connection was ended")
        if self._open is None:
            remote, runner = self._opener(self.name)
            assert isinstance(runner, HostRunner)
            self._open = remote, runner
        return self._open
