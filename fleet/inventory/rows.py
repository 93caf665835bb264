"""The inventory as a table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fleet.inventory.inventory import Inventory
from fleet.model.host import Host


@dataclass(frozen=True)
class HostRow:
    """One host as `fleet inventory` shows it. None stands for what ~/.ssh/config decides."""

    name: str
    address: str
    port: int | None
    user: str | None
    groups: tuple[str, ...]


def table(inventory: Inventory, hosts: Iterable[Host] | None = None) -> tuple[HostRow, ...]:
    """A row for each of the hosts, by default for all of the inventory."""
    return tuple(_row(host) for host in (inventory.hosts.values() if hosts is None else hosts))


def _row(host: Host) -> HostRow:
    port = str(host.vars.get("ansible_port", host.vars.get("ansible_ssh_port", "")))
    user = host.vars.get("ansible_user") or host.vars.get("ansible_ssh_user")
    return HostRow(
        name=host.name,
        address=host.ssh_host,
        port=int(port) if port.isdecimal() else None,
        user=str(user) if user else None,
        groups=host.groups,
    )
