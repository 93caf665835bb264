"""Talking to one remote process: all three streams at once, with a deadline, and never for ever."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fleet.ssh.framing import Frame
from fleet.ssh.pulse import Pulse
from fleet.ssh.remote import Result

if TYPE_CHECKING:
    from paramiko import Channel

_CHUNK = 1 << 18
_STRAGGLERS = 2.0


class ConnectionLost(Exception):  # noqa: N818 - an outcome, turned into UnreachableError by the caller
    """The connection ended before the process did."""


class DeadlinePassed(Exception):  # noqa: N818
    """The process did not end in time; what it had said until then is kept."""

    def __init__(self, out: bytes, err: bytes) -> None:
        super().__init__("deadline passed")
        self.out = out
        self.err = err


@dataclass(frozen=True)
class Spoken:
    """A finished exchange. `started` is false where the marker never came: sudo or the login shell said no.

    What came before the marker is in none of the streams.
    """

    started: bool
    result: Result


class Exchange:
    """One process on a channel whose command line was already sent.

    Its standard input is closed once all is sent, unless `keep_open`.
    """

    def __init__(self, channel: Channel, frame: Frame, pulse: Pulse, *, keep_open: bool = False) -> None:
        self._channel = channel
        self._keep_open = keep_open
        self._frame = frame
        self._pulse = pulse
        self._out = bytearray()
        self._err = bytearray()
        self._pending = memoryview(frame.before)
        self._closed_stdin = False
        self._heard = time.monotonic()
        self.started = False

    def finish(self, deadline: float) -> Spoken:
        """Drive the process to its end. Raises DeadlinePassed or ConnectionLost."""
        self._until(self._at_end, deadline)
        if not self._channel.status_event.wait(max(deadline - time.monotonic(), 0)):
            self._fail_deadline()
        status = self._channel.exit_status
        if status == -1 and not self._pulse.alive:
            raise ConnectionLost(self._pulse.reason)
        return Spoken(self.started, Result(status, bytes(self._out), self._stderr()))

    def start(self, deadline: float) -> bytes | None:
        """Wait for the marker only. Returns what came after it so far, or None where it never came."""
        self._until(lambda: self.started or self._at_end(), deadline)
        return bytes(self._out) if self.started else None

    @property
    def stderr(self) -> bytes:
        """What the process complained of so far."""
        return self._stderr()

    def _until(self, done: Callable[[], bool], deadline: float) -> None:
        poller = select.poll()
        poller.register(self._channel.fileno(), select.POLLIN)
        while True:
            self._receive()
            self._send()
            if done():
                return
            now = time.monotonic()
            if now >= deadline:
                self._fail_deadline()
            if self._channel.exit_status_ready() and now - self._heard > _STRAGGLERS:
                return  # it ended, and a child of its own only keeps its streams open
            if self._channel.closed and self._drained():
                return
            if not self._pulse.felt(self._heard):
                self._channel.close()
                raise ConnectionLost(self._pulse.reason)
            poller.poll(self._patience(deadline - now))

    def _patience(self, left: float) -> float:
        """Milliseconds to sleep at most: nobody wakes us when the peer takes more input."""
        step = 0.01 if self._pending else min(self._pulse.interval, _STRAGGLERS) / 2
        return max(min(left, step), 0.001) * 1000

    def _receive(self) -> None:
        channel = self._channel
        while channel.recv_ready() and (data := channel.recv(_CHUNK)):
            self._out += data
            self._heard = time.monotonic()
        while channel.recv_stderr_ready() and (data := channel.recv_stderr(_CHUNK)):
            self._err += data
            self._heard = time.monotonic()
        if not self.started and (at := self._out.find(self._frame.marker)) >= 0:
            self.started = True
            del self._out[: at + len(self._frame.marker)]
            self._pending = memoryview(self._frame.after) if self._frame.after else self._pending
        elif not self.started and self._frame.prompt and self._err.count(self._frame.prompt) > 1:
            self._close_stdin()  # the password was refused; do not let sudo ask (and count) again

    def _send(self) -> None:
        while self._pending and self._channel.send_ready():
            try:
                sent = self._channel.send(bytes(self._pending[:_CHUNK]))
            except OSError:  # the process closed its input; its exit status tells why
                self._pending = memoryview(b"")
                return
            self._pending = self._pending[sent:]
        if not self._pending and not self._keep_open and (self.started or not self._frame.after):
            self._close_stdin()

    def _close_stdin(self) -> None:
        if not self._closed_stdin and not self._channel.closed:
            self._closed_stdin = True
            self._channel.shutdown_write()

    def _at_end(self) -> bool:
        return bool(self._channel.eof_received) and self._drained()

    def _drained(self) -> bool:
        return not self._channel.recv_ready() and not self._channel.recv_stderr_ready()

    def _stderr(self) -> bytes:
        prompt = self._frame.prompt
        return bytes(self._err).replace(prompt, b"") if prompt else bytes(self._err)

    def _fail_deadline(self) -> None:
        self._channel.close()
        raise DeadlinePassed(bytes(self._out), self._stderr())
