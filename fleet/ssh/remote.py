"""What the layers above know of a remote host: an interface, so that tests can put a twin in its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Result:
    """A finished remote command: exit status (-1: ended by a signal), stdout, stderr."""

    rc: int
    out: bytes
    err: bytes


class Remote(Protocol):
    """One open connection to one host. Everything runs as root (through sudo where needed)."""

    name: str

    def script(self, text: str, *, timeout: float) -> Result:
        """Run a POSIX sh script, sent on stdin, in one exchange. `timeout` in seconds, remote side too.

        Raises UnreachableError when the connection dies, StepError at the deadline.
        """
        ...

    def run(
        self,
        argv: tuple[str, ...],
        *,
        stdin: bytes | None = None,
        timeout: float = 120.0,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        """Run one command without a shell's interpretation of its arguments."""
        ...

    def upload(self, path: str, content: bytes, *, mode: str, owner: str, group: str) -> None:
        """Write a file atomically; raises StepError with the remote message (no space left, ...)."""
        ...

    def close(self) -> None:
        """End the connection; never raises."""
        ...
