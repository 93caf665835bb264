"""Whether a connection is alive, asked only when it has been silent for a while."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paramiko import Transport


class Pulse:
    """The sign of life of one connection, shared by all that wait on it.

    The kernel's own keepalive covers a peer whose machine is gone. This one also covers a hung sshd, and
    a connection through a jump host. Paramiko's keepalive would not do: it never looks for an answer.
    """

    def __init__(self, transport: Transport, interval: float, count: int) -> None:
        self.interval = interval
        self._transport = transport
        self._patience = interval * count
        self._lock = threading.Lock()
        self._asked: float | None = None
        self._answered = time.monotonic()
        self._silent = False

    @property
    def alive(self) -> bool:
        """False once the connection has ended or has been given up."""
        return self._transport.is_active() and not self._silent

    @property
    def reason(self) -> str:
        """Why it is not alive."""
        if self._silent:
            return f"no sign of life for {self._patience:g} s"
        return str(self._transport.saved_exception or "the other side closed the connection")

    def felt(self, heard: float) -> bool:
        """False when the connection is dead. `heard` is when the caller last received something.

        Asks the other side once nothing was heard for an interval, and closes the connection when no
        answer comes.
        """
        if not self.alive:
            return False
        now = time.monotonic()
        with self._lock:
            last = max(heard, self._answered)
            if self._asked is None:
                if now - last >= self.interval:
                    self._asked = now
                    threading.Thread(target=self._ask, daemon=True, name="fleet-pulse").start()
                return True
            if now - max(self._asked, last) < self._patience:
                return True
            self._silent = True
        self._transport.close()
        return False

    def _ask(self) -> None:
        with suppress(Exception):  # a connection that ends meanwhile is noticed by its users
            self._transport.global_request("keepalive@openssh.com", wait=True)
        with self._lock:
            self._answered = time.monotonic()
            self._asked = None
