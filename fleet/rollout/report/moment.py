"""A rollout at one moment: what a live view shows of it."""

from __future__ import annotations

from dataclasses import dataclass

from fleet.rollout.model import Header
from fleet.rollout.report.samples import Pair

_NONE = Pair()


@dataclass(frozen=True)
class SlotAt:
    """A slot at this moment: `weight` and `jobs` over all balancers (the mean weight, all the jobs)."""

    name: str
    phase: str
    weight: float = 0.0
    jobs: int = 0


@dataclass(frozen=True)
class WaveAt:
    """A wave and its slots at this moment; number 0 are those that the rollout leaves alone."""

    number: int
    name: str
    slots: tuple[SlotAt, ...]

    @property
    def done(self) -> bool:
        """True where all its slots are green."""
        return all(slot.phase == "green" for slot in self.slots)


@dataclass(frozen=True)
class Moment:
    """The rollout now: what a live view shows. `ready` and `rate` are None before the first sample.

    `doing` is what slots and hosts are at, `lines` the journal's last entries in words; `stopping` is what an
    operator asked for, `back` true where it goes back to blue. `soak_left` are the seconds that green still
    serves before the last blue containers are replaced, None where it does not soak.
    """

    header: Header
    waves: tuple[WaveAt, ...]
    elapsed: float
    remaining: float | None
    ready: float | None = None
    weight: Pair = _NONE
    rate: float | None = None
    errors: int = 0
    jobs: int = 0
    doing: tuple[tuple[str, str], ...] = ()
    lines: tuple[str, ...] = ()
    soak_left: float | None = None
    stopping: str = ""
    back: bool = False
