"""What a rollout is planned from and made of: frozen values, no I/O.

Weights are HAProxy's (1 to 256); times are seconds; memory is MiB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

Colour = Literal["blue", "green"]
BLUE: Colour = "blue"
GREEN: Colour = "green"

Kind = Literal["upgrade", "rollback"]


class Strategy(Enum):
    """How a slot changes its release."""

    SWAP = "swap"
    SIDE_BY_SIDE = "side-by-side"


@dataclass(frozen=True)
class Share:
    """So many of something, or so many percent of it."""

    value: float
    percent: bool = False

    def of(self, whole: float) -> float:
        """The share of a whole, not rounded."""
        return whole * self.value / 100 if self.percent else self.value

    def __str__(self) -> str:
        return f"{self.value:g}%" if self.percent else f"{self.value:g}"


@dataclass(frozen=True)
class Gates:
    """What green must be like to go on, by the balancers' numbers since the step began.

    `errors` is the share of responses (0 to 1) that may be errors: 5xx, connection errors, broken responses.
    `slower`: how many times blue's mean time a request may take on green. With fewer than `requests` on a
    slot, the golden translation is repeated in their place.
    """

    errors: float = 0.01
    slower: float = 2.0
    requests: int = 10


@dataclass(frozen=True)
class Options:
    """How to roll out; the defaults that users see and change are those of playbooks/upgrade.yml.

    `canary` slots go first; `floor` of the weight that serves stays ready; `max_unavailable` slots are out at
    once; `rehearsals` golden translations are made on a new container before it gets traffic; `ramp` are
    percents of a slot's weight, each held for `ramp_hold` seconds; after the last drain
    green alone serves for `soak` seconds. `ready_deadline` is for a model to load. `retain` old releases a
    slot are kept, stopped. `memory_margin` is what must stay free on a GPU beside two containers.
    """

    canary: Share = Share(1)
    floor: Share = Share(50, percent=True)
    max_unavailable: Share = Share(100, percent=True)
    rehearsals: int = 3
    ramp: tuple[int, ...] = (10, 50, 100)
    ramp_hold: float = 5.0
    soak: float = 30.0
    drain_deadline: float = 600.0
    ready_deadline: float = 600.0
    strategy: Literal["auto", "swap", "side-by-side"] = "auto"
    retain: int = 1
    allow_downtime: bool = False
    keep_partial: bool = False
    memory_margin: int = 1024
    gates: Gates = field(default_factory=Gates)


@dataclass(frozen=True)
class ContainerNow:
    """A slot's container. `release` is its identity (digest and settings), `memory` its share of the GPU."""

    name: str
    id: str
    image: str
    digest: str
    release: str
    running: bool
    port: int = 0
    memory: int | None = None


@dataclass(frozen=True)
class SlotNow:
    """A slot when a rollout is planned.

    `weight` is the one it has when it serves; `serves`: every balancer sends it jobs now; `held`: an operator
    drained it or put it into maintenance, and it stays so. `current` is the container in its place, running
    or not, None where there is none; `kept` are stopped ones of other releases, the newest first. `wanted`
    is the release it is to run. `memory_free` is what its GPU has left now, None where the card does not say.
    `left_out`: it serves as the others do, and the rollout does not touch it. `port_taken` names the other
    one of the slot's two ports and who has it, empty where it is free.
    """

    name: str
    host: str
    index: int
    uuid: str
    gpu: str
    address: str
    port: int
    weight: int
    serves: bool
    wanted: str
    held: bool = False
    current: ContainerNow | None = None
    kept: tuple[ContainerNow, ...] = ()
    memory_total: int | None = None
    memory_free: int | None = None
    left_out: bool = False
    port_taken: str = ""

    @property
    def green(self) -> bool:
        """True where it runs what it is to run."""
        return self.current is not None and self.current.running and self.current.release == self.wanted


@dataclass(frozen=True)
class Snapshot:
    """The fleet at one moment, and what it is to run.

    `image` as the user wrote it, `digest` what it means now. `to_pull` are hosts that lack those bytes.
    `troubles` are hosts that could not be looked at, with the reason; those in `reached` answered, but not as
    they should. `load_seconds` and `drain_seconds` are
    what a slot took in the last rollout, None where there was none.
    """

    image: str
    digest: str
    slots: tuple[SlotNow, ...]
    to_pull: tuple[str, ...] = ()
    troubles: Mapping[str, str] = field(default_factory=dict)
    reached: frozenset[str] = frozenset()
    load_seconds: float | None = None
    drain_seconds: float | None = None

    def slot(self, name: str) -> SlotNow:
        """One slot by name; KeyError where there is none."""
        for slot in self.slots:
            if slot.name == name:
                return slot
        raise KeyError(name)


@dataclass(frozen=True)
class Move:
    """One slot's change of release, and why in this way."""

    slot: str
    strategy: Strategy
    why: str = field(default="", compare=False)


WaveKind = Literal["canary", "wave", "switch"]


@dataclass(frozen=True)
class PlanStep:
    """One step of a wave: what is done to which slots, and the ready weight while it lasts.

    `action` is drain, soak, stop, start, check, "ramp 10%", ...; `seconds` what it is expected to take, None
    where nobody knows.
    """

    action: str
    slots: tuple[str, ...]
    ready: float
    seconds: float | None = None


@dataclass(frozen=True)
class Wave:
    """Slots replaced together; waves count from 1. The last one is the switch: while it is drained, all
    traffic is green's, and the soak is then."""

    number: int
    kind: WaveKind
    moves: tuple[Move, ...]
    steps: tuple[PlanStep, ...] = ()

    @property
    def slots(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(move.slot for move in self.moves)

    @property
    def lowest(self) -> float:
        """The least ready weight in the wave."""
        return min((step.ready for step in self.steps), default=0.0)


@dataclass(frozen=True)
class Plan:
    """A whole rollout before it begins.

    `total` is the weight that serves now, `floor` the weight that always stays ready, `unchanged` the slots
    that run the wanted release already. `notes` are what the operator should know. `seconds` is the expected
    time, None where nobody knows; `downtime` is true where the floor was given up for it.
    """

    image: str
    digest: str
    waves: tuple[Wave, ...]
    total: int
    floor: float
    to_pull: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float | None = None
    downtime: bool = False

    @property
    def moves(self) -> tuple[Move, ...]:
        """Every move in order."""
        return tuple(move for wave in self.waves for move in wave.moves)

    @property
    def lowest(self) -> float:
        """The least ready weight of the whole plan."""
        return min((wave.lowest for wave in self.waves), default=float(self.total))


@dataclass(frozen=True)
class Origin:
    """A slot as it was before a rollout touched it: what an abort goes back to.

    `release`, `image` and `digest` are empty where no container ran. `green` is the release it is to get.
    """

    slot: str
    host: str
    release: str
    image: str
    digest: str
    weight: int
    held: bool
    green: str
    strategy: Strategy = Strategy.SWAP


@dataclass(frozen=True)
class Header:
    """A journal's first entry: all that another machine needs to go on.

    `id` names the rollout, such as 20261125-081500-3f2a; `by` is who started it; `started` seconds since the
    epoch; `waves` the slots of each wave in order, `kinds` what each of them is; `unchanged` slots that were
    green already, `left_out` those that --limit leaves as they are; `options` plain values (see
    `fleet.rollout.options`). Journals of before know neither `kinds` nor `left_out`.
    """

    id: str
    kind: Kind
    image: str
    digest: str
    by: str
    started: float
    floor: float
    total: int
    waves: tuple[tuple[str, ...], ...]
    origins: tuple[Origin, ...]
    unchanged: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    kinds: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def origin(self, slot: str) -> Origin:
        """One slot's origin; KeyError where the rollout does not touch it."""
        for origin in self.origins:
            if origin.slot == slot:
                return origin
        raise KeyError(slot)


@dataclass(frozen=True)
class Entry:
    """One line of a journal after the header: what has been done (never what is about to be).

    `number` counts from 1; `at` is in seconds since the epoch; `step` is one of STEPS; `detail` are plain
    values, such as the container's id of a `ready` slot or the reason of a `rollback`.
    """

    number: int
    at: float
    step: str
    slots: tuple[str, ...] = ()
    wave: int = 0
    detail: Mapping[str, Any] = field(default_factory=dict)


STEPS = (
    "pulled",  # every host has the bytes
    "draining",  # the wave's slots are about to be told to take no new jobs
    "drained",  # they have none in flight; detail: cut (slot -> jobs ended at the deadline)
    "soaked",  # green alone served for the soak
    "beside",  # a slot's green container is about to be started beside blue's, which serves on
    "moving",  # a slot's container is about to be exchanged; detail: to (blue or green)
    "ready",  # its new container passed every rung; detail: container (its id), to, seconds
    "ramped",  # it takes so many percent of its weight; detail: percent
    "accepted",  # the wave's slots are green for good, as far as this rollout is concerned
    "rolling-back",  # a rung or gate failed, or somebody aborted; detail: reason
    "restored",  # the slots serve as before the rollout
    "stopped",  # it ended before its end, at an operator's wish or a balancer's loss; detail: reason
    "finished",  # every slot is green; nothing more follows
    "rolled-back",  # every slot is blue again; nothing more follows
)
"""What a journal's entries may say."""
