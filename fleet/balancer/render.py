"""HAProxy's configuration as text, from slots and settings; no I/O but reading the template."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from typing import Literal
from zlib import crc32

import msgspec

from fleet.balancer.gateway import Gateway
from fleet.balancer.marking import is_edited, marked
from fleet.balancer.paths import LUA_FILE, SOCKET, STATE_FILE
from fleet.errors import InputError, Place
from fleet.model.slot import Slot
from fleet.playbook.templating import render_file

Affinity = Literal["job", "session", "none"]
Profile = Literal["gradio", "openai", "http"]

# Written into the text before the hash of the text is known; no name or address can be this.
_UNKNOWN_HASH = "<config_hash>"

_NAME = re.compile(r"[A-Za-z0-9_.:-]+")
_BIND = re.compile(r"(\*|\[?[A-Za-z0-9_.:-]+\]?)?:[0-9]{1,5}")
_FILE = re.compile(r"/[A-Za-z0-9_./-]+")
_URI = re.compile(r"/[A-Za-z0-9_./~?=&-]*")


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """Another balancer of the same service; `address` is `host:port` of its peers listener."""

    name: str
    address: str


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything of a balancer's configuration but its servers. Times in seconds, sizes in bytes.

    `longest_job` bounds event streams and how long a reload waits for them; `visible_body` is the largest
    body in which a session is seen (HAProxy's buffer); `name` is this balancer's own among `peers`;
    `handover` is the socket over which an old process passes requests on to its successor: to the frontend
    that users meet, so that none gets round a gateway that a reload turned on.

    `slot_jobs` is how many jobs a slot works on at once, `slot_queue` how many may wait for it: what comes
    beyond is refused at once. With affinity none HAProxy itself holds the waiting ones, `queue_timeout` at
    most; Gradio keeps its own queue. `slot_jobs` None sets no limit. `agent_port` is where the agents of the
    GPU hosts listen.
    """

    bind: str = "*:80"
    stats_bind: str = "127.0.0.1:8404"
    profile: Profile = "gradio"
    affinity: Affinity = "job"
    cookie: str = "FLEET"
    check_path: str = "/"
    check_host: str = "fleet-check"
    check_interval: int = 10
    check_retry: int = 2
    fall: int = 3
    rise: int = 2
    longest_job: int = 900
    request_timeout: int = 300
    session_expire: int = 3600
    retry_after: int = 10
    max_body: int = 100 * 2**20
    visible_body: int = 2 * 2**20
    maxconn: int | None = None
    socket: str = SOCKET
    state_file: str = STATE_FILE
    lua_file: str = LUA_FILE
    name: str = "fleet"
    handover: str = "abns@fleet-handover"
    peer_bind: str = "127.0.0.1:10240"
    peers: tuple[Peer, ...] = ()
    slot_jobs: int | None = 1
    slot_queue: int = 24
    queue_timeout: int = 30
    agent_port: int | None = None
    agent_interval: int = 2
    gateway: Gateway | None = None

    @property
    def lua(self) -> bool:
        """True where the configuration needs the Lua file."""
        return self.affinity != "none" or self.gateway is not None

    @property
    def inside(self) -> str:
        """The socket over which the gateway reaches the balancer."""
        return f"{self.handover}-inside"

    @property
    def own(self) -> int:
        """Where this balancer's own states in the table `joins` begin: 0 without peers, else by its name."""
        return 4 * (1 + crc32(self.name.encode()) % 2**28) if self.peers else 0

    def __post_init__(self) -> None:
        for key, pattern in _PATTERNS.items():
            _check(key, getattr(self, key), pattern)
            if pattern is _BIND:
                _check_port(key, getattr(self, key))
        for key, (low, high) in _RANGES.items():
            value = getattr(self, key)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{key} is {value}; it must be from {low} to {high}")
        if self.check_retry > self.check_interval:
            raise ValueError("check_retry must not be above check_interval")
        for peer in self.peers:
            _check("a peer's name", peer.name, _NAME)
            _check("a peer's address", peer.address, _BIND)
        if self.gateway is not None:
            if self.gateway.bind is not None:
                _check("the gateway's bind", self.gateway.bind, _BIND)
            _check("the gateway's certificate", self.gateway.certificate, _FILE)
            _check("the gateway's keys_file", self.gateway.keys_file, _FILE)


_PATTERNS = {
    "bind": _BIND,
    "stats_bind": _BIND,
    "peer_bind": _BIND,
    "handover": re.compile(r"abns@[A-Za-z0-9_-]+"),
    "cookie": re.compile(r"[A-Za-z0-9_]+"),
    "check_path": _URI,
    "check_host": _NAME,
    "socket": _FILE,
    "state_file": _FILE,
    "lua_file": _FILE,
    "name": _NAME,
}
_DAY = 86400
_RANGES = {
    "check_interval": (1, 3600),
    "check_retry": (1, 3600),
    "fall": (1, 100),
    "rise": (1, 100),
    "longest_job": (1, 7 * _DAY),
    "request_timeout": (1, _DAY),
    "session_expire": (1, 7 * _DAY),
    "retry_after": (1, _DAY),
    "max_body": (1, 2**40),
    "visible_body": (16 * 2**10, 16 * 2**20),
    "slot_jobs": (1, 10**5),
    "slot_queue": (0, 10**5),
    "queue_timeout": (1, _DAY),
    "agent_port": (1, 65535),
    "agent_interval": (1, 3600),
}


@dataclass(frozen=True)
class Server:
    """A slot as the template sees it: checked, with its address in HAProxy's form."""

    name: str
    host: str
    endpoint: str
    weight: int


def render(slots: Sequence[Slot], settings: Settings, template_path: Path) -> str:
    """The configuration for `slots`. The template sees `slots`, `settings` and `config_hash`.

    Raises InputError where a name, address, port or weight does not fit into a line of configuration,
    where two slots have one name, and where the template leaves out `config_hash` (by which a running
    HAProxy tells which configuration it uses).
    """
    variables = {"slots": checked_servers(slots), "settings": settings, "config_hash": _UNKNOWN_HASH}
    text = render_file(template_path, variables)
    if _UNKNOWN_HASH not in text:
        raise InputError(
            "the template does not use config_hash, so nobody could tell which configuration runs",
            place=Place(str(template_path)),
            remedy="add the line `setenv FLEET_CONFIG {{ config_hash }}` to its section global",
        )
    return marked(text, _UNKNOWN_HASH)


def config_hash(text: str) -> str | None:
    """The hash a configuration carries in its `setenv FLEET_CONFIG`; None where it has none."""
    return _environment("FLEET_CONFIG", text)


def edited(text: str) -> bool:
    """True where somebody changed a configuration of fleet's after it was written."""
    return is_edited(text, config_hash(text), _UNKNOWN_HASH)


def config_profile(text: str) -> str | None:
    """The profile a configuration was made for; None where it does not tell."""
    return _environment("FLEET_PROFILE", text)


def _environment(name: str, text: str) -> str | None:
    found = re.search(rf"^\s*setenv\s+{name}\s+(\S+)\s*$", text, re.MULTILINE)
    return found[1] if found else None


def checked_servers(slots: Iterable[Slot]) -> list[Server]:
    """The slots as a template may see them; InputError where one does not fit into a configuration."""
    servers: dict[str, Server] = {}
    for slot in slots:
        _require(slot, "name", slot.name)
        _require(slot, "address", slot.address)
        if not 1 <= slot.port <= 65535:
            raise InputError(
                f"slot {slot.name}: port {slot.port} is not from 1 to 65535", remedy="correct slot_port_base"
            )
        if not 1 <= slot.weight <= 256:
            raise InputError(
                f"slot {slot.name}: weight {slot.weight} is not from 1 to 256", remedy="correct its weight"
            )
        if slot.name in servers:
            raise InputError(
                f"two slots are named {slot.name}",
                remedy="rename one of their hosts in the inventory",
            )
        address = f"[{slot.address}]" if ":" in slot.address else slot.address
        servers[slot.name] = Server(slot.name, slot.host, f"{address}:{slot.port}", slot.weight)
    return list(servers.values())


def _require(slot: Slot, what: str, value: str) -> None:
    if not _NAME.fullmatch(value) or (what == "address" and ":" in value and not _is_ipv6(value)):
        raise InputError(
            f"host {slot.host!r}: {what} {value!r} cannot stand in HAProxy's configuration",
            remedy="use letters, digits and _ . : - only (fleet_address sets the address, without a port)",
        )


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def _check_port(key: str, value: str) -> None:
    if not 1 <= int(value.rpartition(":")[2]) <= 65535:
        raise ValueError(f"{key} is {value!r}; its port must be from 1 to 65535")


def _check(key: str, value: str, pattern: re.Pattern[str]) -> None:
    if not pattern.fullmatch(value):
        raise ValueError(f"{key} is {value!r}, which cannot stand in HAProxy's configuration")
