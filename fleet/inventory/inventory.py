"""The inventory, once read: hosts, groups, and what templates see of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from fleet.errors import Place
from fleet.inventory.tree import ALL, UNGROUPED, Scope
from fleet.model.host import Host


@dataclass(frozen=True)
class Inventory:
    """Hosts in the order they are first named, and groups with the hosts in them and their descendants.

    `groups` has `all` and `ungrouped`, as in Ansible. `sources` are the files and folders it was read from,
    `unused` the files of group_vars/ and host_vars/ that are for no group or host of this inventory.
    """

    hosts: Mapping[str, Host]
    groups: Mapping[str, tuple[str, ...]]
    sources: tuple[Path, ...] = ()
    unused: tuple[Path, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict, repr=False)
    layers: Mapping[str, tuple[Scope, ...]] = field(default_factory=dict, repr=False)

    @cached_property
    def hostvars(self) -> Mapping[str, Mapping[str, Any]]:
        """What templates see as `hostvars`: every host's variables, made when asked for."""
        return HostVars(self)

    @cached_property
    def group_lists(self) -> dict[str, list[str]]:
        """What templates see as `groups`."""
        return {name: list(hosts) for name, hosts in self.groups.items()}

    def select(
        self, pattern: str, *, place: Place | None = None, at_least_one: bool = False
    ) -> tuple[Host, ...]:
        """The hosts of an Ansible pattern, in Ansible's order (`fleet.inventory.patterns` has the rules).

        Raises InputError, at `place`, for a name that is neither host nor group, a glob or regular
        expression that fits nothing, and, with `at_least_one` (for --limit), where no host is left.
        """
        from fleet.inventory.patterns import select  # compiled only where a pattern is used

        names = select(pattern, self.hosts, self.groups, place=place, at_least_one=at_least_one)
        return tuple(self.hosts[name] for name in names)

    def where(self, host: str, variable: str) -> Place | None:
        """Where the value that a host has for a variable is set; None where it is not."""
        for scope in reversed(self.layers.get(host, ())):
            if variable in scope.places:
                return scope.places[variable]
        return None


def variables(inventory: Inventory, host: Host) -> dict[str, Any]:
    """What templates see for a host: its variables and Ansible's magic ones."""
    file = inventory.files.get(host.name)
    lone = host.name in inventory.groups.get(UNGROUPED, ())
    return {
        **host.vars,
        "inventory_hostname": host.name,
        "inventory_hostname_short": _short(host.name),
        "group_names": sorted({*host.groups, UNGROUPED} if lone else host.groups),
        "groups": inventory.group_lists,
        "hostvars": inventory.hostvars,
        "inventory_file": file,
        "inventory_dir": os.path.dirname(file) if file else None,
    }


class HostVars(Mapping[str, Mapping[str, Any]]):
    """`hostvars` of templates: `variables` of each host, made at its first use."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._made: dict[str, dict[str, Any]] = {}

    def __getitem__(self, name: str) -> Mapping[str, Any]:
        if name not in self._made:
            self._made[name] = variables(self._inventory, self._inventory.hosts[name])
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._inventory.groups.get(ALL, ()))

    def __len__(self) -> int:
        return len(self._inventory.hosts)

    def __repr__(self) -> str:  # a host's variables hold this object again
        return f"hostvars of {len(self)} hosts"


def _short(name: str) -> str:
    """A name up to its first dot; an address whole."""
    numeric = name.replace(".", "").isdecimal() and name.count(".") == 3
    return name if numeric or ":" in name else name.split(".", 1)[0]
