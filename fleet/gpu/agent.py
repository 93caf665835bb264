"""The agent that tells balancers how a host's GPUs are: its files on the host.

The program is `templates/fleet-gpu-agent.pl`; docs/agent.md says what it answers.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

DEFAULT_PORT = 7859
"""The TCP port HAProxy's `agent-port` names."""

UNIT = "fleet-gpu-agent.service"
UNIT_FILE = f"/etc/systemd/system/{UNIT}"
PROGRAM_FILE = "/usr/local/sbin/fleet-gpu-agent"
CONFIG_FILE = "/etc/fleet/gpu-agent.conf"

EVERYWHERE = "*"

_SLOT = re.compile(r"^slot (\S+) (\S+)(?: (\S+))?$", re.MULTILINE)


@dataclass(frozen=True)
class AgentSlot:
    """A slot as the agent knows it; `bus` is the GPU's PCI address, which the kernel's log names."""

    name: str
    uuid: str
    bus: str = ""


@dataclass(frozen=True)
class AgentConfig:
    """Where the agent listens, whom it answers, and what for.

    `address` is one of the host's, or EVERYWHERE; `allow` are addresses, networks (CIDR) and names; `hot` in
    degrees Celsius.
    """

    slots: tuple[AgentSlot, ...]
    address: str = EVERYWHERE
    port: int = DEFAULT_PORT
    allow: tuple[str, ...] = ()
    hot: int = 90


def config_text(config: AgentConfig) -> str:
    """The agent's configuration file."""
    lines = ["# Written by fleet.", f"listen {config.address} {config.port}"]
    lines += [f"allow {each}" for each in config.allow]
    lines.append(f"hot {config.hot}")
    lines += [f"slot {slot.name} {slot.uuid} {slot.bus}".rstrip() for slot in config.slots]
    return "\n".join(lines) + "\n"


def config_slots(text: str) -> tuple[AgentSlot, ...]:
    """The slots of a configuration file."""
    return tuple(AgentSlot(name, uuid, bus) for name, uuid, bus in _SLOT.findall(text))


def unit_text(config: AgentConfig) -> str:
    """The unit. Where everybody who may ask is known by address, the kernel drops others' packets, too."""
    return _UNIT.replace("@FILTER@", _packet_filter(config))


def _packet_filter(config: AgentConfig) -> str:
    if not all(is_network(each) for each in config.allow):
        return ""  # a name may come to mean another address at any time
    own = () if config.address == EVERYWHERE else (config.address,)
    return f"IPAddressDeny=any\nIPAddressAllow={' '.join(('localhost', *own, *config.allow))}\n"


def is_network(text: str) -> bool:
    """True for an address or a network such as 10.0.0.0/8."""
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def listen_address(wanted: str, own: Sequence[str]) -> str:
    """The host's address under which balancers know it, where it is one of its own; else EVERYWHERE."""
    return wanted if wanted in own else EVERYWHERE


# It reads only. The state folder has what balancers were told and what operators accepted.
_UNIT = f"""\
# Written by fleet.
[Unit]
Description=Tell the balancers how the GPUs are
StartLimitIntervalSec=0

[Service]
ExecStart=/usr/bin/perl {PROGRAM_FILE}
Restart=always
RestartSec=2
StateDirectory=fleet-gpu-agent
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
NoNewPrivileges=yes
@FILTER@
[Install]
WantedBy=multi-user.target
"""
