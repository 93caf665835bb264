"""nginx's configuration as text, from slots and settings; no I/O but reading the template."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

import msgspec

from fleet.balancer.marking import is_edited, marked
from fleet.balancer.nginx_ring import place_keys, shares
from fleet.balancer.render import checked_servers
from fleet.errors import InputError, Place
from fleet.model.slot import Slot
from fleet.playbook.templating import render_file

Affinity = Literal["session", "none"]

SITE_FILE = "/etc/nginx/conf.d/fleet.conf"
MAIN_FILE = "/etc/nginx/modules-enabled/90-fleet.conf"

_UNKNOWN_HASH = "0" * 16
_DAY = 86400
_BIND = re.compile(r"(\*|[0-9.]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")
_COOKIE = re.compile(r"[A-Za-z0-9_]+")
_SERVER = re.compile(r"\s*server (\S+):(\d+) weight=(\d+) .*; # (\S+)")

# Entries of a map longer than this do not fit into nginx's buckets of 64 bytes.
_LONG = 40
_RANGES = {
    "status_port": (1, 65535),
    "max_fails": (1, 100),
    "fail_timeout": (1, 3600),
    "longest_job": (1, 7 * _DAY),
    "request_timeout": (1, _DAY),
    "retry_after": (1, _DAY),
    "max_body": (1, 2**40),
    "visible_body": (2**10, 64 * 2**20),
}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything of the configuration but its servers. Times in seconds, sizes in bytes.

    `longest_job` bounds silence in event streams, and how long a reload waits for them; `visible_body` is the
    largest body in which a session is seen. `map_bucket` is set by `render` where long names need it.
    """

    bind: str = "*:80"
    status_port: int = 8404
    affinity: Affinity = "session"
    cookie: str = "FLEET"
    max_fails: int = 3
    fail_timeout: int = 30
    longest_job: int = 900
    request_timeout: int = 300
    retry_after: int = 10
    max_body: int = 100 * 2**20
    visible_body: int = 2**20
    map_bucket: int = 0

    def __post_init__(self) -> None:
        for key, pattern in (("bind", _BIND), ("cookie", _COOKIE)):
            if not pattern.fullmatch(getattr(self, key)):
                raise ValueError(
                    f"{key} is {getattr(self, key)!r}, which cannot stand in nginx's configuration"
                )
        for key, (low, high) in _RANGES.items():
            value = getattr(self, key)
            if not low <= value <= high:
                raise ValueError(f"{key} is {value}; it must be from {low} to {high}")

    @property
    def port(self) -> int:
        """The port users connect to."""
        return int(self.bind.rpartition(":")[2])


@dataclass(frozen=True)
class NginxServer:
    """A slot as the template sees it: checked, with its share of the ring and the key of its place there."""

    name: str
    endpoint: str
    weight: int
    share: int
    key: str


@dataclass(frozen=True)
class DeployedServer:
    """A server that the configuration on the host has."""

    name: str
    address: str
    port: int
    weight: int


def render(slots: Sequence[Slot], settings: Settings, template_path: Path) -> str:
    """The site for `slots`. The template sees `slots`, `settings` and `config_hash`.

    Raises InputError where a slot does not fit into a line of configuration, has no IP address or shares it
    with another one, and where the template leaves out `config_hash`.
    """
    servers = _servers(slots)
    longest = max((len(text) for s in servers for text in (s.name, s.key, s.endpoint)), default=0)
    if longest > _LONG:
        bucket = 128
        while bucket < longest + 40:
            bucket *= 2
        settings = msgspec.structs.replace(settings, map_bucket=bucket)
    variables = {"slots": servers, "settings": settings, "config_hash": _UNKNOWN_HASH}
    text = render_file(template_path, variables)
    if text.count(_UNKNOWN_HASH) < 2 or config_hash(text) is None:
        raise InputError(
            "the template does not use config_hash, so nobody could tell which configuration runs",
            place=Place(str(template_path)),
            remedy="keep the line `# fleet-config: {{ config_hash }}` and the location /config",
        )
    return marked(text, _UNKNOWN_HASH)


def main_text(settings: Settings) -> str:
    """What must stand outside nginx's http block: old workers end when their streams had time to."""
    return (
        "# Written by fleet: after a reload, old workers finish their jobs, then end.\n"
        f"worker_shutdown_timeout {settings.longest_job + 60}s;\n"
    )


def config_hash(text: str) -> str | None:
    """The hash a configuration carries; None where it has none."""
    found = re.search(r"^# fleet-config: ([0-9a-f]{16})$", text, re.MULTILINE)
    return found[1] if found else None


def edited(text: str) -> bool:
    """True where somebody changed a configuration of fleet's after it was written."""
    return is_edited(text, config_hash(text), _UNKNOWN_HASH)


def deployed_servers(config: str) -> tuple[DeployedServer, ...]:
    """The servers in a configuration's text."""
    return tuple(_deployed(config))


def _deployed(config: str) -> Iterator[DeployedServer]:
    for line in config.splitlines():
        if found := _SERVER.fullmatch(line):
            address, port, weight, name = found.groups()
            yield DeployedServer(name, address.strip("[]"), int(port), int(weight))


def _servers(slots: Sequence[Slot]) -> list[NginxServer]:
    checked = checked_servers(slots)
    endpoints = [_endpoint(slot) for slot in slots]
    taken: dict[str, str] = {}
    for slot, endpoint in zip(slots, endpoints, strict=True):
        if endpoint in taken:
            raise InputError(
                f"slots {taken[endpoint]} and {slot.name} are both at {endpoint}",
                remedy="give each host its own fleet_address in the inventory",
            )
        taken[endpoint] = slot.name
    share = shares([server.weight for server in checked])
    names = [server.name for server in checked]
    keys = place_keys(dict(zip(names, zip(endpoints, share, strict=True), strict=True)))
    return [
        NginxServer(server.name, endpoint, server.weight, part, keys[server.name])
        for server, endpoint, part in zip(checked, endpoints, share, strict=True)
    ]


def _endpoint(slot: Slot) -> str:
    """In the form in which nginx itself tells a server's address."""
    try:
        address = ip_address(slot.address)
    except ValueError as error:
        raise InputError(
            f"host {slot.host}: {slot.address!r} is no IP address",
            remedy="set fleet_address to one: nginx does not start while a server's name cannot be resolved",
        ) from error
    return f"[{address}]:{slot.port}" if address.version == 6 else f"{address}:{slot.port}"
