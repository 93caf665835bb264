"""The module `slot_firewall`: the slots' ports and the GPU agent's, for the balancers only."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from fleet.docker.probe import CONTAINERS_PROBE, parse_containers
from fleet.gpu.agent import DEFAULT_PORT, is_network
from fleet.gpu.firewall import (
    AFTER_FILE,
    AFTER_TEXT,
    LOADED_PROBE,
    MARK_FILE,
    PROGRAM_FILE,
    PROGRAM_TEXT,
    RULES_FILE,
    TABLE,
    UNIT,
    UNIT_FILE,
    UNIT_TEXT,
    Filter,
    rules_text,
    why_not_loaded,
)
from fleet.gpu.probe import GPU_PROBE
from fleet.gpu.slots import ports_of, slots_of
from fleet.model.facts import Facts, Probe
from fleet.model.steps import Change, Run
from fleet.modules import _apt
from fleet.modules._driver_awaited import once_the_driver_works
from fleet.modules._files import Wanted, file_probe, file_state, write
from fleet.modules._systemd import SYSTEMCTL, unit_probe, unit_state
from fleet.modules.base import Args, Context

PACKAGE = "nftables"

_FILES = (RULES_FILE, PROGRAM_FILE, AFTER_FILE, UNIT_FILE)
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
_DAEMON_RELOAD = Run(("systemctl", "daemon-reload"))
# A reload replaces the table in one transaction; a restart would leave the ports open between two.
_LOAD = Run(
    (
        "sh",
        "-c",
        f"systemctl -q enable -- {UNIT} || exit 1\n{SYSTEMCTL}",
        "systemctl",
        "reload-or-restart",
        UNIT,
    ),
    title=f"systemctl reload-or-restart {UNIT}",
)
_REMOVE = f"""\
systemctl -q disable --now -- {UNIT} 2>/dev/null
if command -v nft >/dev/null && nft list table inet {TABLE} >/dev/null 2>&1; then
  nft delete table inet {TABLE} || exit 1
fi
rm -f -- {" ".join(_FILES)} {MARK_FILE}
rmdir {AFTER_FILE.rpartition("/")[0]} 2>/dev/null
systemctl daemon-reload
"""


class SlotFirewallArgs(Args, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `slot_firewall`."""

    state: Literal["present", "absent"] = "present"
    group: str = "balancer"
    allow: tuple[str, ...] = ()
    agent_port: int | None = DEFAULT_PORT
    agent_allow: tuple[str, ...] = ()
    container_port: int | None = 7860

    def __post_init__(self) -> None:
        for name in ("agent_port", "container_port"):
            port = getattr(self, name)
            if port is not None and not 1 <= port <= 65535:
                raise ValueError(f"`{name}` is {port}, not a port")
        for name in ("allow", "agent_allow"):
            for each in getattr(self, name):
                if not is_network(each) and not _NAME.fullmatch(each):
                    raise ValueError(f"`{name}` has {each!r}, no address, network (10.0.0.0/8) or name")


class SlotFirewall:
    """Let only the balancers reach the slots' ports, and the GPU agent's, by nftables.

    The rules are a table of their own, `inet fleet`, which a unit of its own loads before the network comes
    up; the host's other rules, /etc/nftables.conf and Docker's are left alone. Both ports of each slot are
    closed, and a container's own port where neighbours could be routed to it. The host itself reaches them
    still. Names are resolved on the host when the module runs. Nothing but these ports is looked at; one that
    is SSH's is refused. docs/safety.md tells how it works.

    Arguments:
        state: `present` or `absent`, which removes rules and unit. Default: `present`.
        group: the inventory group whose hosts may reach the ports. Default: `balancer`.
        allow: addresses, networks or names that may, too: what balancers look like behind NAT, monitoring.
        agent_port: the GPU agent's port; null leaves it alone. Default: 7859.
        agent_allow: addresses, networks or names that may ask the agent, and no slot.
        container_port: the port of the program inside its container (7860); null leaves routes to it alone.

    Example:
        - name: Slots for the balancers only
          slot_firewall:
            allow: [198.51.100.0/28]
    """

    name: ClassVar[str] = "slot_firewall"
    args: ClassVar[type[Args]] = SlotFirewallArgs

    def probes(self, args: SlotFirewallArgs, ctx: Context) -> Sequence[Probe]:
        """The files, the unit and the table; where it is wanted also GPUs, containers and names."""
        asked = (*(file_probe(path, "content") for path in _FILES), unit_probe(UNIT), LOADED_PROBE)
        if args.state == "absent":
            return asked
        package = _apt.packages_probe((PACKAGE,), virtual=False)
        return (*asked, GPU_PROBE, CONTAINERS_PROBE, package, *_names_probes(args, ctx))

    def plan(self, args: SlotFirewallArgs, facts: Facts, ctx: Context) -> Sequence[Change]:
        """The package where nft is missing, each file that differs, one load where it is not in force."""
        if args.state == "absent":
            return list(_removed(facts, ctx))
        slots = slots_of(ctx.host, facts)
        if slots is None:
            return [once_the_driver_works("close the slots' ports to others", facts, ctx)]
        ports = {port for slot in slots for port in ports_of(ctx.host, slot)}
        # The container of a GPU that has gone may run on.
        for container in parse_containers(facts[CONTAINERS_PROBE.key]) or ():
            ports |= {port.host_port for port in container.ports if container.slot is not None}
        _keep_ssh(args, ports, ctx)
        if not _allowed(args, ctx):
            raise ctx.fail(
                f"{ctx.host.name}: nobody could reach its slots",
                remedy=f"put the balancers into the group {args.group}, or name who may in `allow`",
            )
        wanted = Filter(
            slot_ports=tuple(sorted(ports)),
            allow=_addresses(_allowed(args, ctx), facts, args, ctx),
            agent_allow=_addresses(args.agent_allow, facts, args, ctx),
            agent_port=args.agent_port,
            container_port=args.container_port,
        )
        return [*_package(facts, ctx), *_present(rules_text(wanted).encode(), facts, ctx)]


def _allowed(args: SlotFirewallArgs, ctx: Context) -> tuple[str, ...]:
    return (*(host.address for host in ctx.group(args.group)), *args.allow)


def _names_probes(args: SlotFirewallArgs, ctx: Context) -> tuple[Probe, ...]:
    """One probe that resolves every name, where there is one."""
    every = dict.fromkeys((*_allowed(args, ctx), *args.agent_allow))
    names = [each for each in every if not is_network(each) and _NAME.fullmatch(each)]
    if not names:
        return ()
    lines = [f"getent ahosts {shlex.quote(name)} | sed 's/^/{name} /'" for name in names]
    return (Probe(f"firewall.names:{' '.join(names)}", "\n".join((*lines, "exit 0", ""))),)


def _addresses(wanted: Iterable[str], facts: Facts, args: SlotFirewallArgs, ctx: Context) -> tuple[str, ...]:
    """The addresses and networks that `wanted` means; TaskError for a name that the host cannot resolve."""
    resolved: dict[str, list[str]] = {}
    for probe in _names_probes(args, ctx):
        for name, address, *_ in (line.split() for line in facts[probe.key].text.splitlines()):
            resolved.setdefault(name, []).append(address.partition("%")[0])
    found: list[str] = []
    for each in wanted:
        if is_network(each):
            found.append(each)
            continue
        addresses = [address for address in resolved.get(each, ()) if is_network(address)]
        if not addresses:
            raise ctx.fail(
                f"{ctx.host.name} cannot resolve {each!r}, which is to reach its slots",
                remedy="set the balancer's fleet_address, or write addresses in slot_firewall_allow",
            )
        found += addresses
    return tuple(dict.fromkeys(found))


def _keep_ssh(args: SlotFirewallArgs, ports: Iterable[int], ctx: Context) -> None:
    own = str(ctx.host.vars.get("ansible_port") or 22)
    ssh = {22, int(own)} if own.isdecimal() else {22}
    if taken := ssh & {*ports, args.agent_port}:
        raise ctx.fail(
            f"{ctx.host.name}: port {min(taken)} is SSH's, and was to be closed to all but the balancers",
            remedy="set slot_port_base, or the agent's port, to another",
        )


def _package(facts: Facts, ctx: Context) -> list[Change]:
    if facts[LOADED_PROBE.key].text.split()[:1] == ["nft"]:
        return []
    known = _apt.packages((PACKAGE,), facts, ctx, virtual=False)
    return _apt.install([_apt.Wish(PACKAGE)], known)


def _present(rules: bytes, facts: Facts, ctx: Context) -> Iterator[Change]:
    wanted = (
        Wanted(RULES_FILE, rules, "0644", "root", "root", validate=("nft", "-c", "-f", "%s")),
        Wanted(PROGRAM_FILE, PROGRAM_TEXT.encode(), "0755", "root", "root"),
        Wanted(AFTER_FILE, AFTER_TEXT.encode(), "0644", "root", "root"),
        Wanted(UNIT_FILE, UNIT_TEXT.encode(), "0644", "root", "root"),
    )
    unit = unit_state(UNIT, facts, ctx)
    for file in wanted:
        change = write(file, file_state(file.path, "content", facts, ctx), ctx)
        if file.path in (AFTER_FILE, UNIT_FILE) and change is not None:
            change = replace(change, steps=(*change.steps, _DAEMON_RELOAD))
        elif file.path == UNIT_FILE and unit.need_reload:
            change = Change(f"have systemd read {UNIT} again", steps=(_DAEMON_RELOAD,))
        if change is not None:
            yield change
    digest = hashlib.sha256(rules).hexdigest()
    if reason := why_not_loaded(facts[LOADED_PROBE.key].text, digest):
        yield Change(f"load {RULES_FILE}: {reason}", f"table inet {TABLE}: {reason}\n", (_LOAD,))
    elif not unit.running or unit.file not in ("enabled", "enabled-runtime"):
        before = f"{unit.active or 'absent'}, {unit.file or 'disabled'}"
        yield Change(f"start {UNIT}, and at boot", f"{UNIT}: {before} -> active, enabled\n", (_LOAD,))


def _removed(facts: Facts, ctx: Context) -> Iterator[Change]:
    there = [path for path in _FILES if file_state(path, "content", facts, ctx).exists]
    loaded = len(facts[LOADED_PROBE.key].text.splitlines()) > 1
    if there or loaded or unit_state(UNIT, facts, ctx).running:
        diff = "".join(f"{path}: present -> absent\n" for path in there)
        diff += f"table inet {TABLE}: present -> absent\n" * loaded
        yield Change(f"remove {UNIT}", diff, (Run(("sh", "-c", _REMOVE), title=f"remove {UNIT}"),))
