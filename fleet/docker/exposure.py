"""Whether an engine can be reached over the network: what it is told, and what it does.

Whoever talks to an engine is root on its host, so fleet needs no port of it and opens none. `EXPOSURE_PROBE`
asks the file, the command line and the sockets, for a port may come from a unit's drop-in; `engine_doors`
reads the answer.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fleet.model.facts import Answer, Probe

DOOR_REMEDY = (
    "take `-H tcp://...` and `hosts` out of the engine's unit and /etc/docker/daemon.json and restart it; "
    "fleet reaches it over SSH. Whoever must have the port sets tlsverify with a CA of their own"
)
"""What to do about a door that is open."""


@dataclass(frozen=True)
class Door:
    """A TCP address on which an engine takes orders.

    `address` is like `tcp://0.0.0.0:2375`; `locked` where it asks for client certificates; `listening` where
    it is open now, otherwise it will be at the engine's next start.
    """

    address: str
    port: int
    locked: bool = False
    listening: bool = True

    @property
    def open(self) -> bool:
        """True where nobody has to show a certificate."""
        return not self.locked

    @property
    def local(self) -> bool:
        """True where only programs on the host itself reach it, which makes root of every user there."""
        host = self.address.removeprefix("tcp://").rpartition(":")[0].strip("[]")
        return host == "localhost" or _is_loopback(host)


# Sockets are read from /proc: what a host has of ss, netstat and lsof differs. Only engines in the host's
# own network count: one in a container (a build runner's) listens there. Ports of metrics and of Swarm are
# the engine's, too, but take no orders: who answers /_ping as the engine does, does.
EXPOSURE_PROBE = Probe(
    "docker.exposure",
    r"""
[ ! -f /etc/docker/daemon.json ] || sed 's/^/config /' /etc/docker/daemon.json
own=$(readlink /proc/self/ns/net)
name() {
  case $1 in
    *[!0]*) ;;
    *) echo 127.0.0.1; return ;;
  esac
  if [ ${#1} -eq 8 ]; then
    printf '%d.%d.%d.%d\n' $(echo "$1" | sed 's/\(..\)\(..\)\(..\)\(..\)/0x\4 0x\3 0x\2 0x\1/')
  else
    echo "[$(echo "$1" | sed 's/\(..\)\(..\)\(..\)\(..\)/\4\3:\2\1:/g; s/:$//')]"
  fi
}
ask() { { curl -g -s -k -i --noproxy '*' -m 3 "$1/_ping" || echo "curl-$?"; } | tr -d '\0'; }
kind() {
  command -v curl >/dev/null || { echo unknown; return; }
  at=$(name "${1%:*}"):$((0x${1##*:}))
  case $(ask "http://$at") in
    *[Aa]pi-[Vv]ersion:*) echo open ;;
    *'HTTPS server'*)
      case $(ask "https://$at") in
        *[Aa]pi-[Vv]ersion:*) echo open ;;
        *) echo locked ;;
      esac ;;
    *curl-28*) echo unknown ;;
    *) echo other ;;
  esac
}
for comm in $(grep -lx dockerd /proc/[0-9]*/comm 2>/dev/null); do
  p=${comm%/comm}
  [ "$(readlink "$p/ns/net")" = "$own" ] || continue
  tr '\0' '\n' <"$p/cmdline" | sed 's/^/argv /'
  inodes=$(ls -l "$p/fd" | sed -n 's/.*socket:\[\([0-9]*\)\]$/\1/p' | tr '\n' ' ')
  [ -n "$inodes" ] || continue
  for at in $(awk -v want=" $inodes" '$4 == "0A" && index(want, " " $10 " ") { print $2 }' \
    "$p/net/tcp" "$p/net/tcp6" 2>/dev/null); do
    echo "listen $at $(kind "$at")"
  done
done
exit 0
""",
)


def engine_doors(answer: Answer) -> tuple[Door, ...]:
    """The doors of a host's engine, those that are open now first; none where there is no engine."""
    lines: dict[str, list[str]] = {"config": [], "argv": [], "listen": []}
    for line in answer.text.splitlines():
        kind, _, rest = line.partition(" ")
        lines.get(kind, []).append(rest)
    now = [door for door in map(_listening, lines["listen"]) if door is not None]
    told = (*configured_doors(_config(lines["config"])), *_argv_doors(lines["argv"]))
    ports = {door.port for door in now}
    return (*now, *{door.port: door for door in told if door.port not in ports}.values())


def configured_doors(config: Mapping[str, Any]) -> tuple[Door, ...]:
    """The doors that daemon.json opens when an engine starts with it."""
    hosts = config.get("hosts")
    named = [str(host) for host in hosts] if isinstance(hosts, list | tuple) else [hosts or ""]
    return _told(map(str, named), locked=config.get("tlsverify") is True)


def describe(door: Door) -> str:
    """What is the matter with an open door, in a sentence without its end."""
    what = "takes orders" if door.listening else "is to take orders from its next start"
    who = "every user and program of the host is root" if door.local else "whoever reaches it is root there"
    return f"the Docker Engine {what} on {door.address} without client certificates: {who}"


def _argv_doors(argv: Sequence[str]) -> tuple[Door, ...]:
    hosts: list[str] = []
    for before, word in zip(("", *argv), argv, strict=False):
        if before in ("-H", "--host"):
            hosts.append(word)
        elif word.startswith("--host="):
            hosts.append(word.removeprefix("--host="))
        elif word.startswith("-H") and len(word) > 2:
            hosts.append(word[2:].removeprefix("="))
    return _told(hosts, locked="--tlsverify" in argv or "--tlsverify=true" in argv)


def _told(hosts: Iterable[str], *, locked: bool) -> tuple[Door, ...]:
    doors = []
    for host in hosts:
        scheme, colons, rest = host.partition("://")
        if not colons or scheme != "tcp":
            continue
        address, _, port = rest.partition("/")[0].rpartition(":")
        number = int(port) if port.isdecimal() else (2376 if locked else 2375)
        shown = (address if port.isdecimal() else rest) or "0.0.0.0"
        doors.append(Door(f"tcp://{shown}:{number}", number, locked, listening=False))
    return tuple(doors)


def _listening(line: str) -> Door | None:
    where, _, kind = line.partition(" ")
    address, _, port = where.partition(":")
    try:
        number, host = int(port, 16), _address(address)
    except ValueError:
        return None
    # A port that nobody could ask is shown rather than passed over.
    if kind not in ("open", "locked", "unknown"):
        return None
    shown = f"[{host}]" if host.version == 6 else str(host)
    return Door(f"tcp://{shown}:{number}", number, locked=kind == "locked")


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address as /proc/net/tcp writes it: words of four bytes, each the wrong way round."""
    words = [bytes.fromhex(text[start : start + 8])[::-1] for start in range(0, len(text), 8)]
    found = ipaddress.ip_address(b"".join(words))
    return (found.ipv4_mapped or found) if isinstance(found, ipaddress.IPv6Address) else found


def _config(lines: Sequence[str]) -> Mapping[str, Any]:
    try:
        found = json.loads("\n".join(lines) or "{}")
    except json.JSONDecodeError:
        return {}  # the engine does not start with it either
    return found if isinstance(found, dict) else {}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
