"""Opens hosts for a run: one SSH connection each, and the runner for its steps."""

from __future__ import annotations

from fleet.engine.hostrun import Opener
from fleet.engine.runner import HostRunner, Runner
from fleet.inventory import Inventory
from fleet.ssh import SshSettings
from fleet.ssh.remote import Remote


def opener(inventory: Inventory, settings: SshSettings) -> Opener:
    """A function that opens a host of the inventory by name; see `fleet.ssh.connect` for its errors."""
    from fleet.docker.calls import Shared
    from fleet.ssh import connect

    shared = Shared()

    def open_host(name: str) -> tuple[Remote, Runner]:
        remote = connect(inventory.hosts[name], settings)
        return remote, HostRunner(remote, shared)

    return open_host
