"""What all connections of a run share: deadlines, files, the sudo password, loaded keys."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.model.secret import Secret
from fleet.ssh.known_hosts import KnownHosts

if TYPE_CHECKING:
    from fleet.ssh.gateways import Gateways
    from fleet.ssh.keys import Keys
    from fleet.ssh.ssh_config import SshConfig

AskPassword = Callable[[str], Secret | None]
"""Given a prompt, the answer; None where the user declined or there is nobody to ask."""


@dataclass(frozen=True)
class SshSettings:
    """How to connect. One object serves all hosts of a run, from any thread.

    `connect_timeout` (seconds) covers the TCP connection and, again, each phase of the handshake.
    A connection that is silent for `keepalive` seconds is asked for a sign of life; after
    `keepalive_count` such spans without one it is dead. `sudo_password` is for hosts without an
    `ansible_become_password`; where it is None and sudo wants one, `ask_sudo_password` is called, once per
    run. `ssh_config` replaces the user's and the system's file, as `ssh -F` does; `key_file` is for
    hosts without an `ansible_ssh_private_key_file`.
    """

    connect_timeout: float = 10.0
    keepalive: float = 15.0
    keepalive_count: int = 3
    known_hosts: tuple[Path, ...] = ()
    key_file: Path | None = None
    user: str | None = None
    sudo_password: Secret | None = None
    ask_sudo_password: AskPassword | None = None
    ssh_config: Path | None = None
    shared: Shared = field(default_factory=lambda: Shared(), repr=False, compare=False)


class Shared:
    """What is loaded or asked once per run; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._asking = threading.Lock()
        self._known: dict[tuple[Path, ...], KnownHosts] = {}
        self._config: SshConfig | None = None
        self._keys: Keys | None = None
        self._gateways: Gateways | None = None
        self._asked = False
        self._sudo: Secret | None = None

    def known_hosts(self, files: tuple[Path, ...]) -> KnownHosts:
        """The keys in these files, read once."""
        with self._lock:
            if files not in self._known:
                self._known[files] = KnownHosts(files)
            return self._known[files]

    def config(self, settings: SshSettings) -> SshConfig:
        """The user's and the system's ssh_config, parsed once."""
        from fleet.ssh.ssh_config import SshConfig

        with self._lock:
            if self._config is None:
                self._config = SshConfig(settings.ssh_config)
            return self._config

    def keys(self) -> Keys:
        """The private keys loaded so far."""
        from fleet.ssh.keys import Keys

        with self._lock:
            if self._keys is None:
                self._keys = Keys()
            return self._keys

    def gateways(self) -> Gateways:
        """The open connections to jump hosts."""
        from fleet.ssh.gateways import Gateways

        with self._lock:
            if self._gateways is None:
                self._gateways = Gateways()
            return self._gateways

    def ask_sudo(self, settings: SshSettings) -> Secret | None:
        """The sudo password from the user, asked at most once; other hosts wait for the answer."""
        if settings.ask_sudo_password is None:
            return None
        with self._asking:
            if not self._asked:
                self._asked = True
                self._sudo = settings.ask_sudo_password("sudo password: ")
            return self._sudo
