"""The keepalived module: one address that moves to a balancer that works."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface
from typing import ClassVar

from fleet.balancer.paths import SOCKET
from fleet.data import data_dir
from fleet.errors import Place
from fleet.model.facts import Facts, Probe
from fleet.model.host import Host
from fleet.model.steps import Change, Run
from fleet.modules import _apt
from fleet.modules._addresses import ADDRESSES_PROBE, addresses
from fleet.modules._files import FileState, Wanted, file_probe, file_state, write
from fleet.modules._systemd import SYSTEMCTL, unit_probe, unit_state
from fleet.modules.base import Args, Context
from fleet.playbook.templating import render_text

UNIT = "keepalived.service"
CONFIG_FILE = "/etc/keepalived/keepalived.conf"
CHECK_FILE = "/usr/local/sbin/fleet-keepalived-check"
PACKAGES = ("keepalived", "socat")

# A reload is a change of the unit's state, so the configuration in use is the one of that moment.
SINCE_PROBE = Probe(
    "keepalived.since", f"systemctl show --timestamp=us+utc -p StateChangeTimestamp -- {UNIT}\n"
)

_INTERFACE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
_NAME = re.compile(r"[A-Za-z0-9_.:-]+")
_HIGHEST = 250
_STEP = 50


class KeepalivedArgs(Args, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `keepalived`."""

    address: str
    interface: str = ""
    router_id: int = 51
    group: str = "balancer"
    port: int = 80

    def __post_init__(self) -> None:
        try:
            # A scope (`fe80::1%eth0`) can be any text, line breaks and all.
            if "%" in self.address:
                raise ValueError("it has a scope")
            ip_interface(self.address)
        except ValueError as error:
            raise ValueError(
                f"`address` is not an IP address, perhaps with /PREFIX: {self.address}"
            ) from error
        if self.interface and not _INTERFACE.fullmatch(self.interface):
            raise ValueError(f"`interface` is not a network interface's name: {self.interface!r}")
        for key, value, high in (("router_id", self.router_id, 255), ("port", self.port, 65535)):
            if not 1 <= value <= high:
                raise ValueError(f"`{key}` is {value}; it must be from 1 to {high}")

    @property
    def wanted(self) -> IPv4Interface | IPv6Interface:
        """The address with its prefix."""
        return ip_interface(self.address)


@dataclass(frozen=True)
class _Place:
    """Where a balancer takes part: its interface and its own address there, and the others' addresses."""

    interface: str
    own: str
    peers: tuple[str, ...]
    priority: int


class Keepalived:
    """Hold one address for several balancers: whoever works has it, and it moves within seconds.

    Installs keepalived and has it announce `address` over VRRP. The balancer that has the address keeps it
    until it, or its HAProxy, stops working; one that comes back does not take it again. The balancers
    talk to each other directly (unicast), by their `fleet_address`, so this works where multicast does not.
    Packages, configuration, check script and unit are mended where they differ; a new configuration
    must pass keepalived's own test first, and a reload leaves the address where it is.

    Arguments:
        address: the address, such as `10.0.0.100/24`, in a network all balancers are in.
        interface: network interface to put it on. Default: the one that has the balancer's `fleet_address`.
        router_id: number from 1 to 255 that no other VRRP group in that network uses. Default: 51.
        group: the inventory group that shares the address. Default: `balancer`.
        port: port on which the balancers serve users. Default: 80.

    Example:
        - name: One address for all balancers
          keepalived:
            address: 10.0.0.100/24
    """

    name: ClassVar[str] = "keepalived"
    args: ClassVar[type[Args]] = KeepalivedArgs

    def probes(self, args: KeepalivedArgs, ctx: Context) -> Sequence[Probe]:
        """Ask for the packages, the files, the unit, and the host's addresses."""
        return (
            _apt.packages_probe(PACKAGES),
            ADDRESSES_PROBE,
            SINCE_PROBE,
            unit_probe(UNIT),
            file_probe(CONFIG_FILE, "content"),
            file_probe(CHECK_FILE, "content"),
        )

    def plan(self, args: KeepalivedArgs, facts: Facts, ctx: Context) -> Sequence[Change]:
        """Packages, check script, configuration, unit: in this order, each only where it differs."""
        place = _place(args, facts, ctx)
        wishes = [_apt.parse_wish(name) for name in PACKAGES]
        changes = _apt.install(wishes, _apt.packages(PACKAGES, facts, ctx))
        changes += _files(args, place, facts, ctx)
        unit = unit_state(UNIT, facts, ctx)
        if unit.exists and unit.file not in ("enabled", "enabled-runtime"):
            changes.append(Change(f"start {UNIT} at boot", "at boot: no -> yes\n", (_systemctl("enable"),)))
        return changes


def _files(args: KeepalivedArgs, place: _Place, facts: Facts, ctx: Context) -> Iterator[Change]:
    """The check script, and the configuration in use."""
    script = _render("keepalived-check.sh.j2", peers=_bracketed(place.peers), port=args.port, socket=SOCKET)
    check = Wanted(CHECK_FILE, script, "0755", "root", "root")
    if (change := write(check, file_state(CHECK_FILE, "content", facts, ctx), ctx)) is not None:
        yield change
    text = _render(
        "keepalived.conf.j2",
        name=ctx.host.name,
        check_file=CHECK_FILE,
        router_id=args.router_id,
        address=str(args.wanted),
        interface=place.interface,
        own=place.own,
        peers=place.peers,
        priority=place.priority,
    )
    found = file_state(CONFIG_FILE, "content", facts, ctx)
    config = Wanted(CONFIG_FILE, text, "0644", "root", "root", validate=("keepalived", "-t", "-f", "%s"))
    change = write(config, found, ctx)
    if change is not None:
        yield replace(change, steps=(*change.steps, _systemctl("reload-or-restart")))
    elif not unit_state(UNIT, facts, ctx).running:
        yield Change(f"start {UNIT}", f"{UNIT}: stopped -> started\n", (_systemctl("start"),))
    elif not _in_use(found, facts):
        yield Change(f"reload {UNIT}: {CONFIG_FILE} is newer than what it runs", "", (_systemctl("reload"),))


def _place(args: KeepalivedArgs, facts: Facts, ctx: Context) -> _Place:
    group = ctx.group(args.group)
    if ctx.host not in group:
        raise ctx.fail(
            f"{ctx.host.name} is not in the group {args.group}, which shares the address",
            remedy=f"run the task on the hosts of {args.group}, or name another `group`",
        )
    if not _NAME.fullmatch(ctx.host.name):
        raise ctx.fail(
            f"the name {ctx.host.name!r} cannot stand in keepalived's configuration",
            remedy="use letters, digits and _ . : - only",
        )
    here = _addresses(facts, ctx)
    own = _own(ctx.host, ctx)
    interface = args.interface or here.get(own, "")
    if here.get(own) != interface or not interface:
        raise ctx.fail(
            f"{own}, the address of {ctx.host.name}, is an address of no interface it has"
            + (f" by the name {args.interface}" if args.interface else ""),
            output="\n".join(f"{name}: {address}" for address, name in here.items()),
            remedy=f"set fleet_address of {ctx.host.name} to its own address in that network",
        )
    addresses = {host.name: _own(host, ctx) for host in group}
    wanted = str(args.wanted.ip)
    every = {host.name: host.address for host in ctx.hosts.values()} | addresses
    for name, address in every.items():
        if address == wanted:
            raise ctx.fail(
                f"{wanted} is the own address of {name}",
                remedy="choose an address that no host has: it moves between the balancers",
            )
        if ip_address(address).version != args.wanted.version:
            raise ctx.fail(
                f"{wanted} and {address}, the address of {name}, are not both IPv{args.wanted.version}",
                remedy="use addresses of one kind for the balancers and the address they share",
            )
    step = min(_STEP, _HIGHEST // len(group))
    peers = tuple(address for name, address in addresses.items() if name != ctx.host.name)
    return _Place(interface, own, peers, max(1, _HIGHEST - step * group.index(ctx.host)))


def _own(host: Host, ctx: Context) -> str:
    """A balancer's own address: VRRP knows no names."""
    try:
        if "%" in host.address:
            raise ValueError("it has a scope")
        return str(ip_address(host.address))
    except ValueError as error:
        raise ctx.fail(
            f"keepalived needs the IP address of {host.name}, not the name {host.address!r}",
            remedy=f"set fleet_address of {host.name} to its address in the network the balancers share",
        ) from error


def _addresses(facts: Facts, ctx: Context) -> dict[str, str]:
    """The host's addresses, each with its interface."""
    answer = facts[ADDRESSES_PROBE.key]
    if not answer.ok:
        raise ctx.fail(
            "the host does not tell its addresses", output=answer.text, remedy="install iproute2 on it"
        )
    return addresses(answer)


def _bracketed(addresses: Sequence[str]) -> list[str]:
    return [f"[{address}]" if ":" in address else address for address in addresses]


def _in_use(config: FileState, facts: Facts) -> bool:
    """True where keepalived was started or reloaded since the file was written."""
    stamp = facts[SINCE_PROBE.key].text.strip().partition("=")[2]
    try:
        since = datetime.fromisoformat(stamp.partition(" ")[2].removesuffix(" UTC")).replace(tzinfo=UTC)
    except ValueError:
        return False
    return since.timestamp() >= config.mtime


def _systemctl(verb: str) -> Run:
    return Run(
        ("sh", "-c", SYSTEMCTL, "systemctl", verb, UNIT), timeout=120, title=f"systemctl {verb} {UNIT}"
    )


def _render(template: str, **variables: object) -> bytes:
    path = data_dir("templates") / template
    return render_text(path.read_text(encoding="utf-8"), variables, Place(str(path), 1)).encode()
