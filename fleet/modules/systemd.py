"""The systemd module: services and other units."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar, Literal

from fleet.model.facts import Facts, Probe
from fleet.model.steps import Change, Run
from fleet.modules._systemd import SYSTEMCTL, Unit, full_name, unit_probe, unit_state
from fleet.modules.base import Args, Context

_NAME = re.compile(r"[A-Za-z0-9:_.\\@-]+")
_VERBS = {"started": "start", "stopped": "stop", "restarted": "restart", "reloaded": "reload-or-restart"}
_TIMEOUT = 300.0


class SystemdArgs(Args, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `systemd`."""

    name: str
    state: Literal["started", "stopped", "restarted", "reloaded"] | None = None
    enabled: bool | None = None
    masked: bool | None = None
    daemon_reload: bool = True

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name.startswith("-"):
            raise ValueError(f"`name` is not a unit's name: {self.name!r}")
        if self.state is None and self.enabled is None and self.masked is None:
            raise ValueError("give at least one of `state`, `enabled` and `masked`")
        if self.masked and (self.enabled or self.state not in (None, "stopped")):
            raise ValueError("a masked unit can be neither enabled nor started")


class Systemd:
    """Start, stop, enable or mask a unit.

    systemd is told to read its files again where it says that the unit's file changed on disk. `restarted`
    and `reloaded` happen whenever the task runs, so they belong into handlers.

    Arguments:
        name: the unit; `.service` may be left out.
        state: `started`, `stopped`, `restarted` or `reloaded` (restarted where it cannot reload).
        enabled: whether it starts at boot.
        masked: whether it cannot be started at all.
        daemon_reload: false leaves a changed unit file unread; default true.

    Example:
        - name: Keep the driver loaded
          systemd:
            name: nvidia-persistenced
            state: started
            enabled: true
    """

    name: ClassVar[str] = "systemd"
    args: ClassVar[type[Args]] = SystemdArgs
    verifies: ClassVar[bool] = False
    """A restart is never "done". Every step here checks its own effect instead."""

    def probes(self, args: SystemdArgs, ctx: Context) -> Sequence[Probe]:
        """One `systemctl show`."""
        return (unit_probe(args.name),)

    def plan(self, args: SystemdArgs, facts: Facts, ctx: Context) -> Sequence[Change]:
        """The changes in the order systemd needs: unmask, reload, enable, start."""
        unit, name = unit_state(args.name, facts, ctx), full_name(args.name)
        changes = []
        if args.masked is False and unit.load == "masked":
            changes.append(_change(f"unmask {name}", "masked -> unmasked", "unmask", name))
        if args.daemon_reload and unit.need_reload and not args.masked:
            changes.append(Change("read changed unit files", steps=(Run(("systemctl", "daemon-reload")),)))
        if args.enabled is not None and (change := _enabled(name, args.enabled, unit)):
            changes.append(change)
        if args.state is not None and (change := _state(name, args.state, unit)):
            changes.append(change)
        if args.masked and unit.load != "masked":
            changes.append(_change(f"mask {name}", f"{unit.load} -> masked", "mask", name))
        return changes


def _enabled(name: str, wanted: bool, unit: Unit) -> Change | None:
    # Units without an [Install] section (static, generated, ...) are pulled in by others: nothing to enable.
    is_enabled = unit.file in ("enabled", "alias", "static", "indirect", "generated", "transient")
    can_be_disabled = unit.file in ("enabled", "enabled-runtime", "linked", "linked-runtime")
    if (wanted and not is_enabled) or (not wanted and can_be_disabled):
        word = "enable" if wanted else "disable"
        return _change(f"{word} {name}", f"{unit.file or 'no unit file'} -> {word}d", word, name)
    return None


def _state(name: str, wanted: str, unit: Unit) -> Change | None:
    if wanted == "started" and unit.running:
        return None
    if wanted == "stopped" and (not unit.running or not unit.exists):
        return None
    verb = _VERBS[wanted]
    if wanted in ("restarted", "reloaded"):
        word = "restart" if wanted == "restarted" else "reload"
        return _change(f"{word} {name}", "", verb, name)
    return _change(f"{verb} {name}", f"{unit.active or 'unknown'} -> {wanted}", verb, name)


def _change(summary: str, diff: str, verb: str, name: str) -> Change:
    argv = ("sh", "-c", SYSTEMCTL, "systemctl", verb, name)
    step = Run(argv, timeout=_TIMEOUT, title=f"systemctl {verb} {name}")
    return Change(summary, f"{name}: {diff}\n" if diff else "", (step,))
