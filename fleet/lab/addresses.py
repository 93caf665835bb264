"""Which addresses a lab gets, so that several live side by side. The engine's labels are the only record."""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from fleet.errors import FleetError
from fleet.lab.engine import state_dir
from fleet.lab.spec import HostSpec

_SUBNETS = ipaddress.ip_network("10.213.0.0/16")
_OFFSETS = {"gpu": 10, "balancer": 110, "registry": 249}

SSH_ADDRESSES = "127.0.10"
"""Each host's sshd is at port 22 of an address under this prefix."""

SERVICE_ADDRESSES = "127.0.20"
"""Each balancer's ports are published at an address under this prefix."""


@contextmanager
def allocation_lock() -> Iterator[None]:
    """Held while addresses are chosen and taken, so that two labs coming up at once get different ones."""
    with (state_dir() / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def free_subnet(taken: Iterable[str], preferred: str | None = None) -> str:
    """A /24 that overlaps none of the subnets taken; the preferred one when it is free."""
    networks = [ipaddress.ip_network(subnet, strict=False) for subnet in taken]
    candidates = [ipaddress.ip_network(preferred)] if preferred else []
    candidates += _SUBNETS.subnets(new_prefix=24)
    for candidate in candidates:
        if not any(candidate.version == net.version and candidate.overlaps(net) for net in networks):
            return str(candidate)
    raise FleetError(
        f"every network in {_SUBNETS} is taken",
        remedy="Remove labs that are no longer needed (`fleet lab down --name NAME`).",
    )


def free_address(prefix: str, taken: Iterable[str]) -> str:
    """The lowest address PREFIX.N not taken, N from 1 to 254."""
    used = set(taken)
    for number in range(1, 255):
        address = f"{prefix}.{number}"
        if address not in used:
            return address
    raise FleetError(
        f"every address {prefix}.1 to {prefix}.254 is taken by a lab",
        remedy="Remove labs that are no longer needed (`fleet lab down --name NAME`).",
    )


def free_port(address: str, port: int) -> int:
    """The port itself, or the next one of PORT+8000, PORT+18000 ... nobody listens on.

    An sshd or web server of this machine that listens on every address has port 22 or 80 of the lab's, too.
    """
    candidates = (port, *(port + step for step in range(8000, 58000, 10000)))
    for candidate in (c for c in candidates if c <= 65535):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, candidate))
                probe.listen()
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue
                # A port that only root may take: the engine is root's.
        return candidate
    raise FleetError(
        f"no port is free on {address} to reach port {port} of a lab host",
        remedy="Stop what listens there (`ss -ltn`), and try again.",
    )


def fleet_address(subnet: str, host: HostSpec) -> str:
    """A host's fixed address in the lab's network; the same host has the same one in each lab."""
    number = int(host.name.rsplit("-", 1)[1])
    return str(ipaddress.ip_network(subnet)[_OFFSETS[host.kind] + number])
