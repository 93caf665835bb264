"""A remote process as a socket: what a client library can speak its protocol over."""

from __future__ import annotations

import io
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fleet.errors import UnreachableError
from fleet.ssh.pulse import Pulse

if TYPE_CHECKING:
    from paramiko import Channel


class Stream:
    """Standard input and output of a remote process, with the methods of a connected socket.

    A read with a timeout raises TimeoutError, any read UnreachableError once the connection is dead.
    """

    def __init__(self, name: str, channel: Channel, pulse: Pulse, first: bytes, said: bytes = b"") -> None:
        self._name = name
        self._channel = channel
        self._pulse = pulse
        self._buffer = memoryview(first)
        self._timeout: float | None = None
        self._said = said

    @property
    def ended(self) -> bool:
        """True once the process closed its output or the connection ended, and all was read."""
        over = bool(self._channel.eof_received or self._channel.closed)
        return over and not self._buffer and not self._channel.recv_ready()

    @property
    def complaint(self) -> str:
        """What the process has written to stderr since it was last asked."""
        said, self._said = self._said, b""
        while self._channel.recv_stderr_ready() and (data := self._channel.recv_stderr(65536)):
            said += data
        return said.decode("utf-8", "replace").strip()

    def last_words(self, grace: float = 2.0) -> str:
        """What an ending process wrote to stderr: its output may end before its complaint arrives."""
        until = time.monotonic() + grace
        while not (self._channel.exit_status_ready() or self._channel.closed) and time.monotonic() < until:
            time.sleep(0.01)
        return self.complaint

    def settimeout(self, timeout: float | None) -> None:
        """Seconds a read may take; None waits for as long as the connection is alive."""
        self._timeout = timeout

    def sendall(self, data: bytes) -> None:
        """Send everything."""
        self._channel.settimeout(self._timeout)
        try:
            self._channel.sendall(bytes(data))
        except TimeoutError:
            raise
        except (OSError, EOFError):
            self._check()
            raise

    def recv(self, size: int) -> bytes:
        """Some bytes; none at the end."""
        if self._buffer:
            data = bytes(self._buffer[:size])
            self._buffer = self._buffer[len(data) :]
            return data
        began = time.monotonic()
        while True:
            left = None if self._timeout is None else began + self._timeout - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(f"{self._name}: no answer within {self._timeout:g} s")
            step = self._pulse.interval / 2
            self._channel.settimeout(step if left is None else min(left, step))
            try:
                data = self._channel.recv(size)
            except TimeoutError:
                self._pulse.felt(began)
                self._check()
                continue
            if not data:
                self._check()
            return data

    def _check(self) -> None:
        """Raise UnreachableError unless the connection is alive: the end of a process looks the same."""
        if not self._pulse.alive:
            raise UnreachableError(
                f"{self._name}: the connection was lost",
                output=self._pulse.reason,
                remedy="check that the host is up, then run again",
            )

    def makefile(self, mode: str = "rb", buffering: int = -1, **_: Any) -> io.BufferedReader:
        """A file to read from."""
        return io.BufferedReader(_Reader(self), 65536)

    def shutdown(self, how: int = 0) -> None:
        """Say that nothing more will be sent."""
        with suppress(OSError, EOFError):
            self._channel.shutdown_write()

    def close(self) -> None:
        """End the process's streams; never raises."""
        with suppress(Exception):
            self._channel.close()


class _Reader(io.RawIOBase):
    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self._stream = stream

    def settimeout(self, timeout: float | None) -> None:
        self._stream.settimeout(timeout)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)
