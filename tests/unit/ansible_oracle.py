"""What Ansible itself makes of an inventory, asked in this process (a process of its own costs a second)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Oracle:
    def __init__(self, sources: Sequence[Path]) -> None:
        from ansible.inventory.manager import InventoryManager
        from ansible.parsing.dataloader import DataLoader
        from ansible.vars.manager import VariableManager

        loader = DataLoader()
        self.manager = InventoryManager(loader=loader, sources=[str(source) for source in sources])
        self._variables = VariableManager(loader=loader, inventory=self.manager)
        self._variables.safe_basedir = False  # as ansible-inventory does: no group_vars/ of a playbook

    def all_vars(self, host: str) -> dict[str, Any]:
        found = self._variables.get_vars(host=self.manager.hosts[host], include_hostvars=False, stage="all")
        return dict(found)

    def hostvars(self) -> dict[str, dict[str, Any]]:
        from ansible.constants import INTERNAL_STATIC_VARS as HIDDEN  # what ansible-inventory leaves out

        return {
            host: {key: value for key, value in self.all_vars(host).items() if key not in HIDDEN}
            for host in self.manager.hosts
        }

    def groups(self) -> dict[str, list[str]]:
        return dict(self.manager.get_groups_dict())

    def select(self, pattern: str) -> list[str]:
        return [host.name for host in self.manager.get_hosts(pattern)]
