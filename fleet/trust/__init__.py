"""Use case: the hosts' SSH keys, seen and pinned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet.engine.everyone import ask_all
from fleet.errors import FleetError
from fleet.model.host import Host
from fleet.ssh import SshSettings
from fleet.ssh.trust import ScannedKey, known_hosts_file, pin, scan


@dataclass(frozen=True)
class Scan:
    """What a host showed: its keys, or why there are none."""

    host: Host
    keys: tuple[ScannedKey, ...] = ()
    error: FleetError | None = None

    @property
    def new(self) -> bool:
        """True where a key is not pinned yet, and none has changed."""
        return not self.changed and any(key.status == "new" for key in self.keys)

    @property
    def changed(self) -> bool:
        """True where a pinned key is another one now."""
        return any(key.status == "changed" for key in self.keys)

    def as_json(self) -> dict[str, Any]:
        """The scan for `fleet trust --json`."""
        return {
            "host": self.host.name,
            "error": str(self.error) if self.error else None,
            "keys": [
                {"type": key.type, "fingerprint": key.fingerprint, "status": key.status} for key in self.keys
            ],
        }


def scan_hosts(hosts: Sequence[Host], settings: SshSettings) -> list[Scan]:
    """Look at every host's keys, many at once."""

    by_name = {host.name: host for host in hosts}
    scanned = ask_all(
        by_name, lambda name: scan(by_name[name], settings.connect_timeout, settings), "looking at its keys"
    )
    return [
        Scan(by_name[name], error=keys) if isinstance(keys, FleetError) else Scan(by_name[name], keys)
        for name, keys in scanned.items()
    ]


def pin_keys(scans: Sequence[Scan], settings: SshSettings, *, replace: bool) -> list[Path]:
    """Write the hosts' keys to their known_hosts files; returns the files. Errors as in `fleet.ssh.trust`."""
    files: dict[Path, None] = {}
    for found in scans:
        path = known_hosts_file(found.host, settings)
        pin(found.keys, path, replace=replace)
        files[path] = None
    return list(files)
