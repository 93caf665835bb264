"""Which ports of a host are taken: a second container beside the first must find its own one free."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from ipaddress import IPv4Address

from fleet.docker.answers import Container
from fleet.model.facts import Answer, Probe

# The kernel's own tables, for `ss` is not on every host; 0A is LISTEN.
LISTENERS_PROBE = Probe("listeners", "grep -hs ' 0A ' /proc/net/tcp /proc/net/tcp6 || true\n")

_ANY = ("", "0.0.0.0", "::")
_MAPPED = "0000000000000000FFFF0000"


def parse_listeners(answer: Answer | None) -> frozenset[tuple[str, int]]:
    """Addresses (IPv4; `0.0.0.0` is every one) and TCP ports on which somebody listens."""
    return frozenset(_listeners(answer.text if answer else ""))


def other_port(ports: tuple[int, int], current: Container | None) -> int:
    """The one of a slot's ports (usual, second) that its container leaves free: the usual one without any."""
    usual, second = ports
    taken = {port.host_port for port in current.ports} if current else set()
    return second if usual in taken else usual


def taken_by(
    port: int,
    bind: str,
    listeners: Collection[tuple[str, int]],
    containers: Sequence[Container],
) -> str:
    """Who has the port, where a container is to publish it on the address `bind`; empty where it is free."""
    for container in containers:
        if container.running and any(
            each.host_port == port and _same(each.host_ip, bind) for each in container.ports
        ):
            return f"the container {container.name}"
    if any(number == port and _same(address, bind) for address, number in listeners):
        return "a process of the host"
    return ""


def _same(one: str, other: str) -> bool:
    return one in _ANY or other in _ANY or one == other


def _listeners(text: str) -> Iterator[tuple[str, int]]:
    for line in text.splitlines():
        words = line.split()
        if len(words) < 4 or words[3] != "0A":
            continue
        address, _, port = words[1].rpartition(":")
        if len(address) == 32 and not int(address, 16):
            address = "0" * 8
        address = address.removeprefix(_MAPPED)
        if len(address) == 8:  # others are of IPv6 alone
            yield str(IPv4Address(bytes.fromhex(address)[::-1])), int(port, 16)
