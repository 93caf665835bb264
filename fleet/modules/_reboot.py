"""Whether a host waits for a reboot, and what a reboot that has not ended left there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from fleet.model.facts import Answer, Probe

FLEET_FILE = "/run/fleet/reboot-required"
"""Where modules write why they need a reboot, one reason a line. It lies in memory: a reboot removes it."""

STATE_FILE = "/var/lib/fleet/reboot"
"""What a reboot has drained and what must be back after it; on the host's disk, so that it outlives both."""

# Debian's file is there for any package; RHEL's tool answers with its exit code, and 1 is "yes".
REBOOT_PROBE = Probe(
    "reboot",
    f"""\
printf 'boot %s\\n' "$(cat /proc/sys/kernel/random/boot_id)"
[ ! -e {FLEET_FILE} ] || {{ echo fleet; sed 's/^/reason /' {FLEET_FILE}; }}
[ ! -e /var/run/reboot-required ] || {{
  echo system
  [ ! -r /var/run/reboot-required.pkgs ] || sort -u /var/run/reboot-required.pkgs | sed 's/^/package /'
}}
if [ -e /etc/redhat-release ] && command -v needs-restarting >/dev/null; then
  needs-restarting -r >/dev/null 2>&1
  [ $? -ne 1 ] || echo system
fi
[ ! -s {STATE_FILE} ] || printf 'state %s\\n' "$(head -n 1 {STATE_FILE})"
exit 0
""",
)


@dataclass(frozen=True)
class Begun:
    """A reboot that was begun: the host's boot id then, and what it must give back.

    `slots` took jobs or were about to, and are made ready again; of them `serving` really took jobs. `gpus`
    are UUIDs, `containers` the slots whose container ran. `by` did it at `since` (seconds since the epoch),
    for `reasons`.
    """

    boot_id: str
    slots: tuple[str, ...] = ()
    serving: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    containers: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    by: str = ""
    since: int = 0


@dataclass(frozen=True)
class RebootSeen:
    """`boot_id` is of the present boot, `reasons` why the next is due, `begun` what has not ended."""

    boot_id: str = ""
    reasons: tuple[str, ...] = ()
    begun: Begun | None = None

    @property
    def is_back(self) -> bool:
        """True where a reboot was begun and the host has started anew since."""
        return self.begun is not None and bool(self.boot_id) and self.begun.boot_id != self.boot_id


def parse_reboot(answer: Answer, *, system: bool = True) -> RebootSeen:
    """What the probe tells; `system` false leaves out what the system's own packages ask for."""
    boot_id, reasons, begun = "", [], None
    packages: list[str] = []
    fleet = asked = False
    for line in answer.text.splitlines():
        word, _, rest = line.partition(" ")
        match word:
            case "boot":
                boot_id = rest.strip()
            case "fleet":
                fleet = True
            case "reason" if rest.strip():
                reasons.append(rest.strip())
            case "system":
                asked = True
            case "package":
                packages.append(rest.strip())
            case "state":
                begun = parse_state(rest)
    if fleet and not reasons:
        reasons.append(f"{FLEET_FILE} is there")
    if asked and system:
        names = f" ({_few(packages)})" if packages else ""
        reasons.append(f"the system asks for it{names}")
    return RebootSeen(boot_id, tuple(dict.fromkeys(reasons)), begun)


def state_text(begun: Begun) -> str:
    """The line that STATE_FILE holds."""
    return json.dumps(asdict(begun), separators=(",", ":")) + "\n"


def parse_state(line: str) -> Begun | None:
    """What the line says; None where it is none. Keys that a newer fleet adds are passed over."""
    try:
        said = json.loads(line)
    except ValueError:
        return None
    if not isinstance(said, Mapping) or not isinstance(said.get("boot_id"), str):
        return None
    known: dict[str, Any] = {}
    for field in fields(Begun):
        value = said.get(field.name)
        if isinstance(value, list):
            known[field.name] = tuple(str(each) for each in value)
        elif isinstance(value, str | int):
            known[field.name] = value
    return Begun(**known)


def _few(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
