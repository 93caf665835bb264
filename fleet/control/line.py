"""A process on a balancer that tells, whenever asked, what is in flight there: one exchange, no new login."""

from __future__ import annotations

import time
from typing import Protocol, runtime_checkable

from fleet.balancer.workers import WATCH, Watched, parse_watched
from fleet.errors import StepError, TaskError
from fleet.ssh.remote import Remote

_ANSWER = 20.0
"""Seconds for one answer; each of its questions to HAProxy has 5."""
_SILENCE = 10.0
"""Seconds HAProxy may be silent: it is while it restarts."""
_AGAIN = 0.2


class Talk(Protocol):
    """A remote process' standard input and output."""

    def settimeout(self, timeout: float | None) -> None:
        """Seconds a read may take."""

    def sendall(self, data: bytes) -> None:
        """Send everything."""

    def recv(self, size: int) -> bytes:
        """Some bytes; none at the end."""
        ...

    def last_words(self, grace: float = 2.0) -> str:
        """What an ending process wrote to stderr."""
        ...

    def close(self) -> None:
        """End the process' streams."""


@runtime_checkable
class Streaming(Protocol):
    """A host on which a process can be kept."""

    def stream(self, argv: tuple[str, ...], *, timeout: float = 30.0) -> Talk:
        """Start it."""
        ...


class Line:
    """The kept process on one balancer. Not thread-safe; opened with the first question."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._talk: Talk | None = None
        self._asked = 0

    def watch(self) -> Watched:
        """What is in flight now.

        Raises UnreachableError when the connection dies, TaskError where HAProxy stays silent.
        """
        until = time.monotonic() + _SILENCE
        while (seen := parse_watched(self._ask())) is None:
            if time.monotonic() > until:
                raise silent(self._remote.name)
            time.sleep(_AGAIN)
        return seen

    def close(self) -> None:
        """End the process; never raises."""
        if self._talk is not None:
            self._talk.close()

    def _ask(self) -> str:
        if self._talk is None:
            if not isinstance(self._remote, Streaming):
                raise TypeError("watching a balancer needs an SSH connection")
            self._talk = self._remote.stream(("sh", "-c", WATCH))
            self._talk.settimeout(_ANSWER)
        self._asked += 1
        end = f"\n@end {self._asked}\n".encode()
        said = bytearray()
        try:
            self._talk.sendall(f"{self._asked}\n".encode())
            while not said.endswith(end):
                data = self._talk.recv(65536)
                if not data:
                    raise StepError(
                        f"{self._remote.name}: what watches HAProxy there has ended",
                        output=self._talk.last_words(),
                    )
                said += data
        except TimeoutError as error:
            raise StepError(f"{self._remote.name}: no answer within {_ANSWER:g} s") from error
        return said[: -len(end)].decode("utf-8", "replace")


def silent(name: str) -> TaskError:
    """The error for a balancer without a HAProxy that answers."""
    return TaskError(
        f"{name}: HAProxy does not answer",
        remedy=f"`systemctl status haproxy` on {name}, or run `fleet provision`",
    )
