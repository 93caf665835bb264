"""Who may reach a host's slots and its agent: a packet filter of fleet's own, as nftables reads it.

It looks at packets before Docker's address translation (hook prerouting, priority raw), where the port is
still the one that a slot publishes: one rule holds for IPv4 and IPv6, for ports that Docker translates and
for those that its proxy listens on. Only ports that are named are looked at; the host's other traffic is not.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from fleet.model.facts import Probe

TABLE = "fleet"
RULES_FILE = "/etc/fleet/slot-firewall.nft"
PROGRAM_FILE = "/usr/local/sbin/fleet-slot-firewall"
UNIT = "fleet-slot-firewall.service"
UNIT_FILE = f"/etc/systemd/system/{UNIT}"
AFTER_FILE = "/etc/systemd/system/nftables.service.d/fleet-slot-firewall.conf"
MARK_FILE = "/run/fleet/slot-firewall.loaded"
"""SHA-256 of the file that was loaded, then of the table as nft listed it right after."""

# The table's text is hashed there: counters and handles are left out of it, nothing else changes by itself.
LOADED_PROBE = Probe(
    "firewall.loaded",
    f"""\
command -v nft >/dev/null || {{ echo none; exit 0; }}
echo nft
if table=$(nft -s list table inet {TABLE} 2>/dev/null); then
  printf '%s\\n' "$table" | sha256sum
  echo mark
  cat {MARK_FILE} 2>/dev/null
fi
exit 0
""",
)


@dataclass(frozen=True)
class Filter:
    """Which ports are closed to whom.

    `allow` are addresses and networks that may reach everything here, `agent_allow` those that may ask the
    agent besides. `agent_port` None leaves the agent's alone. `container_port` is what the program listens on
    inside its container, which neighbours could otherwise reach by a route through the host; None leaves it
    alone.
    """

    slot_ports: tuple[int, ...]
    allow: tuple[str, ...]
    agent_allow: tuple[str, ...] = ()
    agent_port: int | None = None
    container_port: int | None = None


def rules_text(wanted: Filter) -> str:
    """The file for `nft -f`: one transaction, so that no packet ever meets half of it."""
    sets = _sets("allowed", wanted.allow)
    rules = ['iifname "lo" accept']
    chains = _chain("slots", ("allowed",))
    if wanted.slot_ports:
        ports = ", ".join(map(str, sorted(set(wanted.slot_ports))))
        rules.append(f"tcp dport {{ {ports} }} fib daddr type local goto slots")
    if wanted.agent_port is not None:
        sets += _sets("agent", wanted.agent_allow)
        chains += _chain("agent", ("allowed", "agent"))
        rules.append(f"tcp dport {wanted.agent_port} fib daddr type local goto agent")
    if wanted.container_port is not None:
        # Docker before 28 forwards what a neighbour sends straight to a container's address.
        rules.append(
            f'tcp dport {wanted.container_port} iifname != "docker0" fib daddr oifname "docker0" goto slots'
        )
    return _FILE.format(table=TABLE, sets="".join(sets), chains="".join(chains), rules="\n\t\t".join(rules))


def why_not_loaded(said: str, wanted: str) -> str:
    """Why the rules with the SHA-256 `wanted` are not in force; empty where they are.

    `said` is what LOADED_PROBE printed.
    """
    words = [line.split()[0] for line in said.splitlines() if line.split()]
    if len(words) < 2:
        return "its rules are not in force"
    now, mark = words[1], words[3:]
    if len(mark) != 2 or mark[1] != now:
        return "others changed what is in force"
    return "" if mark[0] == wanted else "older rules are in force"


def networks(texts: Iterable[str], version: int) -> tuple[str, ...]:
    """The addresses and networks of one IP version, without those that others contain."""
    found = (ipaddress.ip_network(text, strict=False) for text in texts)
    if version == 4:
        four = ipaddress.collapse_addresses(n for n in found if isinstance(n, ipaddress.IPv4Network))
        return tuple(_short(n) for n in four)
    six = ipaddress.collapse_addresses(n for n in found if isinstance(n, ipaddress.IPv6Network))
    return tuple(_short(n) for n in six)


def _sets(name: str, texts: Iterable[str]) -> list[str]:
    texts = tuple(texts)
    return [
        _SET.format(name=f"{name}{version}", kind=kind, elements=_elements(networks(texts, version)))
        for version, kind in ((4, "ipv4_addr"), (6, "ipv6_addr"))
    ]


def _elements(found: tuple[str, ...]) -> str:
    return f"\t\telements = {{ {', '.join(found)} }}\n" if found else ""


def _chain(name: str, sets: tuple[str, ...]) -> list[str]:
    accepted = [
        f"\t\t{family} saddr @{each}{version} accept\n" for each in sets for family, version in _FAMILIES
    ]
    return [f"\n\tchain {name} {{\n", *accepted, "\t\tcounter drop\n\t}\n"]


def _short(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> str:
    return str(network.network_address if network.prefixlen == network.max_prefixlen else network)


_FAMILIES = (("ip", 4), ("ip6", 6))

_SET = """\
\tset {name} {{
\t\ttype {kind}
\t\tflags interval
{elements}\t}}
"""

# A table is named before it is deleted, since nft takes it ill where there is none.
_FILE = """\
# Written by fleet: only these reach the slots and the GPU agent.
table inet {table}
delete table inet {table}

table inet {table} {{
{sets}{chains}
\tchain incoming {{
\t\ttype filter hook prerouting priority raw; policy accept;
\t\t{rules}
\t}}
}}
"""

PROGRAM_TEXT = f"""\
#!/bin/sh
# Written by fleet: loads and removes the packet filter of the slots' ports.
case $1 in
  load)
    nft -f {RULES_FILE} || exit 1
    mkdir -p {MARK_FILE.rpartition("/")[0]}
    table=$(nft -s list table inet {TABLE}) || exit 1
    {{ sha256sum <{RULES_FILE}; printf '%s\\n' "$table" | sha256sum; }} >{MARK_FILE}
    ;;
  unload)
    # Containers outlive the engine while the host shuts down, and would be open to all until they end.
    [ "$(systemctl is-system-running)" != stopping ] || exit 0
    rm -f {MARK_FILE}
    nft list table inet {TABLE} >/dev/null 2>&1 || exit 0
    nft delete table inet {TABLE}
    ;;
  *)
    echo "usage: $0 load | unload" >&2
    exit 2
    ;;
esac
"""

# Where the host's own nftables.service is used, its file begins by flushing everything: a restart or a reload
# of it is one of this unit too, right after. Its first start, with this unit up already, is not.
UNIT_TEXT = f"""\
# Written by fleet.
[Unit]
Description=Only the balancers reach the slots' ports
DefaultDependencies=no
Wants=network-pre.target
Before=network-pre.target docker.service
After=nftables.service
PartOf=nftables.service
ReloadPropagatedFrom=nftables.service
RequiresMountsFor=/etc/fleet /usr/local/sbin

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={PROGRAM_FILE} load
ExecReload={PROGRAM_FILE} load
ExecStop={PROGRAM_FILE} unload

[Install]
WantedBy=sysinit.target nftables.service
"""

AFTER_TEXT = f"""\
# Written by fleet: the host's own rules begin by flushing everything.
[Service]
ExecStartPost=-{PROGRAM_FILE} load
"""
