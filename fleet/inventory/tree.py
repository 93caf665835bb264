"""Groups and hosts while an inventory is read: who is in what, and how deep."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from fleet.errors import Place

ALL, UNGROUPED = "all", "ungrouped"


@dataclass
class Scope:
    """Variables set in one spot (a group's `vars`, a host's entry, a vars file) and where each stands."""

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)

    def set(self, name: str, value: Any, place: Place) -> None:
        """Set a variable; a later one of the same name wins."""
        self.values[name] = value
        self.places[name] = place


@dataclass
class Group:
    """A group's own members, in the order they were named."""

    name: str
    hosts: dict[str, None] = field(default_factory=dict)
    children: dict[str, None] = field(default_factory=dict)
    parents: dict[str, None] = field(default_factory=dict)
    scope: Scope = field(default_factory=Scope)
    priority: int = 1


@dataclass
class Entry:
    """A host: its own variables, its groups, and where it was first named (`file` is absolute)."""

    name: str
    place: Place
    file: str
    groups: dict[str, None] = field(default_factory=dict)
    scope: Scope = field(default_factory=Scope)


class Tree:
    """All groups and hosts. After `settle`, it has the shape Ansible gives it."""

    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}
        self.hosts: dict[str, Entry] = {}
        self._ancestors: dict[str, frozenset[str]] = {}
        self._depths: dict[str, int] = {}
        self.group(ALL)
        self.group(UNGROUPED)
        self.add_child(ALL, UNGROUPED)

    def group(self, name: str) -> Group:
        """The group of that name, made where it is new."""
        return self.groups.setdefault(name, Group(name))

    def add_child(self, parent: str, child: str) -> bool:
        """Put a group into another; False, and nothing done, where that would make a loop."""
        if parent == child or child in self._above(parent):
            return False
        self.groups[parent].children[child] = None
        self.groups[child].parents[parent] = None
        return True

    def add_host(self, name: str, group: str, port: int | None, place: Place, file: str) -> Entry:
        """Put a host into a group. The port of its key counts only where the host is first named."""
        entry = self.hosts.get(name)
        if entry is None:
            entry = self.hosts[name] = Entry(name, place, file)
            if port is not None:
                entry.scope.set("ansible_port", port, place)
        self.groups[group].hosts[name] = None
        entry.groups[group] = None
        return entry

    def settle(self) -> None:
        """Every group descends from `all`; hosts in no other group are in `ungrouped`, and only they."""
        for group in self.groups.values():
            if group.name != ALL and not group.parents:
                self.add_child(ALL, group.name)
        self._ancestors.clear()
        self._depths.clear()
        for host in self.hosts.values():
            others = self.groups_of(host) - {ALL, UNGROUPED}
            if UNGROUPED in host.groups and others:
                del host.groups[UNGROUPED]
                del self.groups[UNGROUPED].hosts[host.name]
            elif not others and UNGROUPED not in host.groups:
                host.groups[UNGROUPED] = None
                self.groups[UNGROUPED].hosts[host.name] = None

    def groups_of(self, host: Entry) -> set[str]:
        """Every group the host is in, through whatever chain."""
        return set(host.groups).union(*(self.ancestors(name) for name in host.groups))

    def ancestors(self, name: str) -> frozenset[str]:
        """Every group above a group. To be asked once the tree is settled."""
        known = self._ancestors.get(name)
        if known is None:
            known = self._ancestors[name] = frozenset(self._above(name))
        return known

    def depth(self, name: str) -> int:
        """The length of the longest chain from `all` down to the group."""
        known = self._depths.get(name)
        if known is None:
            parents = self.groups[name].parents
            known = self._depths[name] = 1 + max((self.depth(p) for p in parents), default=-1)
        return known

    def ranked(self, names: Iterable[str]) -> list[str]:
        """Groups in the order their variables are merged: deeper, then higher priority, then name wins."""
        return sorted(names, key=lambda name: (self.depth(name), self.groups[name].priority, name))

    def members(self, name: str) -> tuple[str, ...]:
        """The hosts of a group and its descendants: its own first, then level by level."""
        hosts: dict[str, None] = {}
        seen = {name: None}
        queue = [name]
        for current in queue:  # grows while it is walked
            hosts.update(self.groups[current].hosts)
            for child in self.groups[current].children:
                if child not in seen:
                    seen[child] = None
                    queue.append(child)
        return tuple(hosts)

    def _above(self, name: str) -> set[str]:
        found: set[str] = set()
        queue = list(self.groups[name].parents)
        while queue:
            current = queue.pop()
            if current not in found:
                found.add(current)
                queue.extend(self.groups[current].parents)
        return found
