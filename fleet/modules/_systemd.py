"""systemd units as observed by one `systemctl show`; shared by systemd and docker_engine."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import UTC, datetime

from fleet.model.facts import Facts, Probe
from fleet.modules.base import Context

_PROPERTIES = (
    "LoadState",
    "ActiveState",
    "SubState",
    "UnitFileState",
    "NeedDaemonReload",
    "InvocationID",
    "ExecMainStartTimestamp",
)

_TYPES = frozenset(
    ("service", "socket", "device", "mount", "automount", "swap", "target", "path", "timer", "slice", "scope")
)


@dataclass(frozen=True)
class Unit:
    """A unit's state in systemd's own words; `started` is when its main process began."""

    load: str = ""
    active: str = ""
    sub: str = ""
    file: str = ""
    need_reload: bool = False
    invocation: str = ""
    started: datetime | None = None

    @property
    def exists(self) -> bool:
        """False where systemd finds no file for it; a masked unit exists."""
        return self.load not in ("", "not-found")

    @property
    def running(self) -> bool:
        """True where it is up or coming up; false for one that fails and is started over and over."""
        return self.active in ("active", "activating", "reloading", "refreshing") and not (
            self.sub.startswith("auto-restart")
        )


def full_name(name: str) -> str:
    """The unit's name with its type, as systemctl understands it."""
    stem, dot, suffix = name.rpartition(".")
    return name if dot and stem and suffix in _TYPES else f"{name}.service"


def unit_probe(name: str) -> Probe:
    """Ask for a unit's state; times have microseconds so that they compare with those of files."""
    unit = full_name(name)
    script = f"systemctl show --timestamp=us+utc -p {','.join(_PROPERTIES)} -- {shlex.quote(unit)}\n"
    return Probe(f"unit:{unit}", script)


def unit_state(name: str, facts: Facts, ctx: Context) -> Unit:
    """The unit as the probe saw it. Raises TaskError where the host does not run systemd."""
    answer = facts[unit_probe(name).key]
    if not answer.ok:
        raise ctx.fail(
            f"systemd does not answer about {full_name(name)}",
            output=answer.text,
            remedy="fleet needs a host booted with systemd; try `systemctl is-system-running` on it",
        )
    properties = dict(line.split("=", 1) for line in answer.text.splitlines() if "=" in line)
    return Unit(
        load=properties.get("LoadState", ""),
        active=properties.get("ActiveState", ""),
        sub=properties.get("SubState", ""),
        file=properties.get("UnitFileState", ""),
        need_reload=properties.get("NeedDaemonReload") == "yes",
        invocation=properties.get("InvocationID", ""),
        started=_time(properties.get("ExecMainStartTimestamp", "")),
    )


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text.partition(" ")[2].removesuffix(" UTC")).replace(tzinfo=UTC)
    except ValueError:
        return None


# The journal's last lines are the reason a unit did not come up; systemctl's own message only points to them.
# A simple service counts as started before it had time to fail, hence the pause.
SYSTEMCTL = """\
verb=$1 unit=$2
systemctl "$verb" -- "$unit"; rc=$?
case $verb in start | restart | reload-or-restart)
  [ $rc -ne 0 ] || sleep 0.3
  case $(systemctl show -p SubState --value -- "$unit") in failed | auto-restart*) rc=1 ;; esac
  [ $rc -eq 0 ] || { echo "last lines of its journal:"; journalctl -u "$unit" -n 15 --no-pager -o cat; } >&2
esac
exit $rc
"""
"""A sh script: `systemctl VERB UNIT` that says why the unit failed."""
