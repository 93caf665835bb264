"""How somebody tells a rollout to stop: once after the step at hand, twice back to blue."""

from __future__ import annotations

import threading


class Interrupted(Exception):  # noqa: N818 - no error: somebody's wish
    """The rollout was asked to stop; raised where that is safe."""


class Wish:
    """What was asked for so far: nothing, stop, abort. Set from signal handlers, read by the executor."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._abort = threading.Event()

    def stop(self) -> str:
        """Ask once more; says what that means now: "stop", then "abort"."""
        if self._asked.is_set():
            self._abort.set()
            return "abort"
        self._asked.set()
        return "stop"

    @property
    def asked(self) -> bool:
        """True where it shall stop."""
        return self._asked.is_set()

    @property
    def abort(self) -> bool:
        """True where it shall go back to blue."""
        return self._abort.is_set()

    def check(self) -> None:
        """Raise Interrupted where it shall stop."""
        if self._asked.is_set():
            raise Interrupted

    def doze(self, seconds: float) -> None:
        """Let time pass; ends early when somebody asks to stop, and does not where that was asked before."""
        if self._asked.is_set():
            self._abort.wait(seconds)
        else:
            self._asked.wait(seconds)
