"""The host key check, called by Paramiko once the host has proved that it holds its key.

Imports Paramiko: import this module only where the SSH stack is loaded.
"""

from __future__ import annotations

from paramiko import PKey, RejectPolicy, SSHClient

from fleet.ssh.known_hosts import KnownKey, Pinned


class UnpinnedKeyError(Exception):
    """The host showed a key that is not pinned for it."""

    def __init__(self, key: PKey) -> None:
        super().__init__(f"{key.get_name()} key is not pinned")
        self.key = key


class PinnedOnly(RejectPolicy):
    """Accepts the pinned keys and nothing else.

    The client is given no host keys of its own, so this is asked about every key. Paramiko's own table
    would hold one key of a type for a name; known_hosts may hold several (a rotation, an address shared).
    """

    def __init__(self, pinned: Pinned) -> None:
        self._pinned = pinned

    def missing_host_key(  # type: ignore[override]
        self, client: SSHClient, hostname: str, key: PKey
    ) -> None:
        """Raise UnpinnedKeyError unless the key is pinned."""
        shown = KnownKey(key.get_name(), key.get_base64())
        if shown in self._pinned.revoked or shown not in self._pinned.keys:
            raise UnpinnedKeyError(key)
