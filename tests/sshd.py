"""A real sshd on a free loopback port, with keys and known_hosts of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fleet.model.host import Host
from tests.ports import free_port as free_port

SSHD = "/usr/sbin/sshd"


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    size = ("-b", "2048") if kind == "rsa" else ()  # the default of 3072 takes three times as long to find
    words = ["ssh-keygen", "-q", "-t", kind, *size, "-N", passphrase, "-C", path.name, "-f", str(path)]
    subprocess.run(words, check=True)
    return path


def public_key(path: Path) -> str:
    kind, data = Path(f"{path}.pub").read_text().split()[:2]
    return f"{kind} {data}"


@dataclass
class Sshd:
    """One running sshd. `options` are lines of its config that come before ours."""

    folder: Path
    options: tuple[str, ...] = ()
    address: str = "127.0.0.1"
    kinds: tuple[str, ...] = ("ed25519",)
    port: int = 0
    listen: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.port = self.port or free_port(self.address)
        self.user_key = make_key(self.folder / "user")
        self.host_keys = [make_key(self.folder / f"host_{kind}", kind) for kind in self.kinds]
        shutil.copy(f"{self.user_key}.pub", self.folder / "authorized_keys")
        self.known_hosts = self.folder / "known_hosts"
        self.known_hosts.write_text("".join(self.known_line(key) for key in self.host_keys))
        self.start()

    def known_line(self, key: Path, name: str | None = None) -> str:
        return f"{name or f'[{self.address}]:{self.port}'} {public_key(key)}\n"

    def start(self) -> None:
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        config = self.folder / "sshd_config"
        lines = [
            *self.options,
            f"Port {self.port}",
            *(f"ListenAddress {address}" for address in self.listen or (self.address,)),
            *(f"HostKey {key}" for key in self.host_keys),
            f"AuthorizedKeysFile {self.folder}/authorized_keys",
            f"PidFile {self.folder}/pid",
            "PermitRootLogin yes",
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "LogLevel ERROR",
            "UseDNS no",
            "SetEnv SHLVL=1",  # bash then leaves out the rc file of whoever runs the tests
        ]
        config.write_text("\n".join(lines) + "\n")
        log = self.folder / "log"
        self.process = subprocess.Popen([SSHD, "-D", "-f", str(config), "-E", str(log)])
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection((self.address, self.port), timeout=1):
                return
            assert self.process.poll() is None, log.read_text()
            time.sleep(0.01)
        raise AssertionError("sshd does not answer")

    def stop(self) -> None:
        """End the listener and every session it has."""
        if self.process is not None:
            for pid in self.sessions():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.kill()
            self.process.wait()
            self.process = None

    def sessions(self) -> list[int]:
        """The processes that serve this sshd's connections."""
        assert self.process is not None
        return children(self.process.pid)

    def host(self, name: str = "web1", **variables: Any) -> Host:
        return Host(name, {**self.variables(), **variables})

    def variables(self) -> Mapping[str, Any]:
        return {
            "ansible_host": self.address,
            "ansible_port": self.port,
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(self.user_key),
            "fleet_known_hosts": str(self.known_hosts),
        }


def children(pid: int) -> list[int]:
    """All descendants of a process."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *children(int(child))]
    return found
