"""Where and how to connect to one host: its inventory variables, then ssh_config, then the defaults."""

from __future__ import annotations

import getpass
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet.errors import InputError, Place
from fleet.model.host import Host
from fleet.model.secret import Secret
from fleet.ssh.known_hosts import known_name
from fleet.ssh.settings import SshSettings
from fleet.ssh.ssh_config import Options

_USER_KNOWN = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
_SYSTEM_KNOWN = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
_DEFAULT_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")


@dataclass(frozen=True)
class Target:
    """One machine to log in to, fully resolved.

    `alias` is the name known_hosts has it under (`HostKeyAlias`, else the host name); `key_file` the one
    key to use, `identities` the ones to try where there is none; `jump` is a ProxyJump value, nearest
    hop first; `own_known_hosts` is where `fleet trust` writes.
    """

    name: str
    hostname: str
    port: int
    user: str
    alias: str
    known_hosts: tuple[Path, ...]
    own_known_hosts: Path
    key_file: Path | None = None
    identities: tuple[Path, ...] = ()
    certificates: tuple[Path, ...] = ()
    use_agent: bool = True
    identities_only: bool = False
    jump: str = ""
    proxy_command: str = ""
    password: Secret | None = None
    become: bool = True
    become_password: Secret | None = None
    timeout: float = 10.0
    place: Place | None = None

    @property
    def known_name(self) -> str:
        """Its name in known_hosts."""
        return known_name(self.alias, self.port)

    @property
    def address(self) -> str:
        """Where the connection goes, for people."""
        host = f"[{self.hostname}]" if ":" in self.hostname else self.hostname
        return host if self.port == 22 else f"{host}:{self.port}"


def target_of(host: Host, settings: SshSettings) -> Target:
    """Resolve an inventory host.

    Raises InputError, at the host's place, for a variable that cannot be honoured.
    """
    variables = _Variables(host)
    given = _arguments(variables)
    user = variables.text("ansible_user", "ansible_ssh_user") or given.get("user") or settings.user
    port = variables.port() or _number(given.get("port"), variables)
    options = settings.shared.config(settings).lookup(host.ssh_host, user=user, port=port)
    first = {name: values[0] for name, values in options.items() if values}
    user = user or first.get("user") or getpass.getuser()
    key = variables.text("ansible_ssh_private_key_file", "ansible_private_key_file") or given.get("key")
    key_file = Path(key).expanduser() if key else settings.key_file
    jump, command = _proxy(first, given)
    hostname = first.get("hostname") or host.ssh_host
    extra = variables.text("fleet_known_hosts")
    return Target(
        name=host.name,
        hostname=hostname,
        port=port or int(first.get("port") or 22),
        user=user,
        alias=first.get("hostkeyalias") or hostname,
        known_hosts=_known_files(first, given, settings, extra),
        own_known_hosts=Path(extra or _own_file(first, given)).expanduser(),
        key_file=key_file,
        identities=_paths(options.get("identityfile") or _DEFAULT_KEYS, hostname, user),
        certificates=_paths(options.get("certificatefile") or (), hostname, user),
        use_agent=first.get("identityagent") != "none",
        identities_only=first.get("identitiesonly") == "yes",
        jump=jump,
        proxy_command=command,
        password=variables.secret("ansible_password", "ansible_ssh_pass", "ansible_ssh_password"),
        become=variables.become(user),
        become_password=variables.secret(
            "ansible_become_password", "ansible_become_pass", "ansible_sudo_pass"
        ),
        timeout=settings.connect_timeout,
        place=host.place,
    )


def hop_target(hop: str, settings: SshSettings) -> Target:
    """Resolve one hop of a ProxyJump, `[user@]host[:port]` or `ssh://...`; ssh_config applies to it too."""
    text = hop.strip().removeprefix("ssh://")
    user, _, address = text.rpartition("@")
    name, port = address, ""
    if address.startswith("["):
        name, _, rest = address[1:].partition("]")
        port = rest.removeprefix(":")
    elif address.count(":") == 1:
        name, _, port = address.partition(":")
    if not name or (port and not port.isdigit()):
        raise InputError(f"ProxyJump {hop!r} is not [user@]host[:port]")
    variables: dict[str, Any] = {"ansible_user": user or None, "ansible_port": port or None}
    return target_of(Host(name, {**variables, "ansible_become": False}), settings)


class _Variables:
    """A host's connection variables, with errors that say where they come from."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._vars: Mapping[str, Any] = host.vars
        connection = self.text("ansible_connection") or "ssh"
        if connection not in ("ssh", "smart", "paramiko", "paramiko_ssh", "ansible.builtin.ssh"):
            raise self.wrong("ansible_connection", "only SSH is supported", "remove it, or set it to ssh")
        method = self.text("ansible_become_method") or "sudo"
        if method not in ("sudo", "ansible.builtin.sudo"):
            raise self.wrong("ansible_become_method", "only sudo is supported", "set up sudo on the host")
        if (self.text("ansible_become_user") or "root") != "root":
            raise self.wrong("ansible_become_user", "fleet works as root", "remove it")

    def wrong(self, name: str, why: str, remedy: str) -> InputError:
        return InputError(f"{self._host.name}: {name}: {why}", place=self._host.place, remedy=remedy)

    def text(self, *names: str) -> str | None:
        for name in names:
            value = self._vars.get(name)
            if value is not None and value != "":
                if not isinstance(value, str | int):
                    raise self.wrong(name, f"{value!r} is not text", "write it in quotes")
                return str(value)
        return None

    def secret(self, *names: str) -> Secret | None:
        for name in names:
            value = self._vars.get(name)
            if isinstance(value, Secret):
                return value
            if value is not None and value != "":
                return Secret(str(value))
        return None

    def port(self) -> int | None:
        return _number(self.text("ansible_port", "ansible_ssh_port"), self)

    def become(self, user: str) -> bool:
        value = self._vars.get("ansible_become")
        if value is None:
            return user != "root"
        wanted = value if isinstance(value, bool) else str(value).lower() in ("yes", "true", "on", "1")
        return wanted and user != "root"


def _number(value: str | None, variables: _Variables) -> int | None:
    if value is None:
        return None
    if not value.isdigit() or not 1 <= int(value) <= 65535:
        raise variables.wrong("ansible_port", f"{value!r} is not a port", "give a number from 1 to 65535")
    return int(value)


_SWITCHES = {"-l": "user", "-p": "port", "-i": "key", "-J": "proxyjump"}
_OPTIONS = {
    "user": "user",
    "port": "port",
    "identityfile": "key",
    "proxyjump": "proxyjump",
    "proxycommand": "proxycommand",
    "userknownhostsfile": "known",
}
# Without meaning here: one connection is kept anyway, and host keys are always verified.
_IGNORED = {
    "batchmode",
    "controlmaster",
    "controlpath",
    "controlpersist",
    "compression",
    "connectionattempts",
    "connecttimeout",
    "forwardagent",
    "identitiesonly",
    "loglevel",
    "passwordauthentication",
    "preferredauthentications",
    "serveralivecountmax",
    "serveraliveinterval",
    "stricthostkeychecking",
    "tcpkeepalive",
}


def _arguments(variables: _Variables) -> dict[str, str]:
    """What ansible_ssh_common_args and ansible_ssh_extra_args ask for."""
    found: dict[str, str] = {}
    for name in ("ansible_ssh_common_args", "ansible_ssh_extra_args"):
        try:
            words = shlex.split(variables.text(name) or "")
        except ValueError as error:
            raise variables.wrong(name, str(error), "close the quotes") from error
        while words:
            word = words.pop(0)
            switch, value = word[:2], word[2:]
            if switch in ("-C", "-q", "-T", "-A", "-a", "-4", "-6") and not value:
                continue
            value = value or (words.pop(0) if words else "")
            if switch == "-o":
                option, _, value = value.replace("=", " ", 1).strip().partition(" ")
                key = _OPTIONS.get(option.lower(), "")
                if option.lower() in _IGNORED:
                    continue
            else:
                key = _SWITCHES.get(switch, "")
            if not key or not value.strip():
                raise variables.wrong(name, f"{word!r} is not supported", "put it into ~/.ssh/config")
            found.setdefault(key, value.strip())
    return found


def _proxy(first: Mapping[str, str], given: Mapping[str, str]) -> tuple[str, str]:
    """ProxyJump and ProxyCommand, of which at most one is set; the inventory's wins."""
    for source in (given, first):
        jump, command = source.get("proxyjump", ""), source.get("proxycommand", "")
        if jump or command:
            return ("" if jump == "none" else jump), ("" if jump or command == "none" else command)
    return "", ""


def _known_files(
    first: Mapping[str, str], given: Mapping[str, str], settings: SshSettings, extra: str | None
) -> tuple[Path, ...]:
    user = given.get("known") or first.get("userknownhostsfile")
    system = first.get("globalknownhostsfile")
    names = [
        *([extra] if extra else ()),
        *(user.split() if user else _USER_KNOWN),
        *(system.split() if system else _SYSTEM_KNOWN),
    ]
    return (*settings.known_hosts, *(Path(name).expanduser() for name in names if name != "none"))


def _own_file(first: Mapping[str, str], given: Mapping[str, str]) -> str:
    files = (given.get("known") or first.get("userknownhostsfile") or _USER_KNOWN[0]).split()
    return files[0] if files and files[0] not in ("none", "/dev/null") else _USER_KNOWN[0]


def _paths(names: Options | Any, hostname: str, user: str) -> tuple[Path, ...]:
    tokens = {"%d": str(Path.home()), "%h": hostname, "%r": user, "%u": getpass.getuser(), "%%": "%"}
    paths = []
    for name in names:
        for token, value in tokens.items():
            name = name.replace(token, value)
        paths.append(Path(name.strip('"')).expanduser())
    return tuple(dict.fromkeys(paths))
