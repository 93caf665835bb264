"""What a rollout says of itself while it goes on; the console shows it, the report keeps it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fleet.rollout.model import Entry, Header, Plan
from fleet.rollout.world import ServerNow


@dataclass(frozen=True)
class Began:
    """The journal is open and the lease held; nothing is touched yet. `plan` is None when it goes on."""

    header: Header
    plan: Plan | None = None


@dataclass(frozen=True)
class Recorded:
    """An entry of the journal: a step of the rollout is done, or about to be (see `model.STEPS`)."""

    entry: Entry


@dataclass(frozen=True)
class Doing:
    """What a slot or host is at now, in a few words ("pulling 3.1 of 14.2 GB", "waiting for port 7860")."""

    place: str
    text: str


@dataclass(frozen=True)
class Phase:
    """A slot's phase: blue, draining, drained, moving, checking, ramping, green, restoring, failed, lost."""

    slot: str
    phase: str


@dataclass(frozen=True)
class Sampled:
    """Every slot on every balancer at a moment (`at`: seconds since the epoch)."""

    at: float
    servers: tuple[ServerNow, ...]


@dataclass(frozen=True)
class Soaking:
    """From now on the new release serves alone for so many seconds, before the last old ones are replaced."""

    seconds: float


@dataclass(frozen=True)
class Stopping:
    """Somebody asked it to stop: `to` is "stop" (after this step) or "abort" (back to blue)."""

    to: str


Event = Began | Recorded | Doing | Phase | Sampled | Soaking | Stopping
Listen = Callable[[Event], None]


@dataclass(frozen=True)
class Outcome:
    """How it ended.

    `state` is finished, rolled-back, stopped, or unchanged (nothing was to do). `reason` says why it is not
    finished, `rung` which rung or gate failed and on which slot, `log` the container's last words there.
    `cut` are jobs ended at drain deadlines, by slot. `lost` are slots that could not be brought to either
    colour, each with the reason. `notes` are what else the operator should know. `resume` is the command to
    go on with, where there is one.
    """

    state: str
    header: Header
    entries: tuple[Entry, ...]
    seconds: float
    reason: str = ""
    rung: str = ""
    failed_slot: str = ""
    log: str = ""
    remedy: str = ""
    cut: Mapping[str, int] = field(default_factory=dict)
    lost: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    resume: str = ""
