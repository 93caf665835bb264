"""A host of the inventory, after all variables are merged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fleet.errors import Place


@dataclass(frozen=True)
class Host:
    """One inventory host.

    `vars` are the merged variables (group `all` first, host last, as Ansible merges them);
    `groups` every group it is in, without `all` and `ungrouped`, sorted; `place` where it is named.
    """

    name: str
    vars: Mapping[str, Any] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    place: Place | None = None

    @property
    def ssh_host(self) -> str:
        """The name or address SSH connects to (`ansible_host`, else the host's own name)."""
        return str(self.vars.get("ansible_host") or self.name)

    @property
    def address(self) -> str:
        """Where the balancers reach this host (`fleet_address`, else `ansible_host`, else its name)."""
        return str(self.vars.get("fleet_address") or self.ssh_host)
