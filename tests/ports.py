"""Ports for the tests' own servers: below those the kernel gives to clients, and other ones in each worker."""

from __future__ import annotations

import itertools
import os
import socket

_EACH = 1000
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_numbers = itertools.cycle(range(20000 + _EACH * (_WORKER % 12), 20000 + _EACH * (_WORKER % 12 + 1)))
# Runs one after another do not meet the ports of the one before in TIME_WAIT.
for _ in range(os.getpid() % _EACH):
    next(_numbers)


def free_port(address: str = "127.0.0.1") -> int:
    """A port of the address on which nothing listens."""
    for port in itertools.islice(_numbers, _EACH):
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
            except OSError:
                continue
        return port
    raise RuntimeError("no free port")
