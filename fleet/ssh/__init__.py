"""Connections to hosts: Fabric over Paramiko, one per host per run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fleet.ssh.settings import SshSettings

if TYPE_CHECKING:
    from fleet.model.host import Host
    from fleet.ssh.fabric_remote import FabricRemote

__all__ = ["SshSettings", "connect"]


def connect(host: Host, settings: SshSettings) -> FabricRemote:
    """Open a connection to an inventory host: host key verified, logged in, ready for commands.

    Raises InputError where its variables or key files are wrong (nothing was sent) and UnreachableError,
    with the reason and what to do, where it cannot be reached or does not let us in.
    """
    from fleet.ssh.connecting import open_connection
    from fleet.ssh.fabric_remote import FabricRemote
    from fleet.ssh.target import target_of

    target = target_of(host, settings)
    connection, release = open_connection(target, settings)
    return FabricRemote(target, settings, connection, release)
