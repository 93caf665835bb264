"""Which slots are replaced together: a canary, then waves as large as the floor allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor

from fleet.rollout.model import Options, SlotNow


@dataclass(frozen=True)
class Bound:
    """How much ready weight a wave must leave.

    `soft`: where no slot can go without breaking the floor, one goes alone. `last`: even the last ready one.
    """

    floor: float
    soft: bool = False
    last: bool = False

    def holds(self, left: float) -> bool:
        """True where the floor is kept, and somebody serves."""
        return left >= self.floor and left > 0

    def permits(self, left: float) -> bool:
        """True where no more is given up than may be."""
        return (self.soft or left >= self.floor) and (self.last or left > 0)


@dataclass(frozen=True)
class Layout:
    """Slots by wave, in order; the first is the canary where `canary` slots are to go first."""

    waves: tuple[tuple[SlotNow, ...], ...]
    canary: int


@dataclass(frozen=True)
class Stuck:
    """Why there is no layout: `slots` cannot go, of `ready` weight in all only `left` would stay.

    No slots: what is ready is less than the floor before anything is touched.
    """

    slots: tuple[SlotNow, ...]
    ready: int
    left: int


def counts(slot: SlotNow) -> bool:
    """True where the slot's weight is ready weight now."""
    return slot.serves and not slot.held


def pending(slots: Sequence[SlotNow]) -> tuple[SlotNow, ...]:
    """The slots that must move, hosts together, in the order of the inventory."""
    hosts = {host: place for place, host in enumerate(dict.fromkeys(slot.host for slot in slots))}
    return tuple(
        sorted(
            (slot for slot in slots if not (slot.green or slot.left_out)), key=lambda slot: hosts[slot.host]
        )
    )


def canary_size(slots: Sequence[SlotNow], options: Options) -> int:
    """How many slots the canary is to have: of those that must move and serve now."""
    moving = pending(slots)
    if options.canary.value <= 0:
        return 0
    return min(max(1, ceil(options.canary.of(len(moving)))), sum(map(counts, moving)))


def most_out(slots: Sequence[SlotNow], options: Options) -> int:
    """How many slots that serve may be out at once."""
    return max(1, floor(options.max_unavailable.of(len(slots))))


def lay_out(slots: Sequence[SlotNow], bound: Bound, canary: int, most: int) -> Layout | Stuck:
    """Every slot that must move, in waves that keep the bound; at most `most` serving slots in each.

    `canary` slots go first, the lightest: least is at risk there. Slots that do not serve cost nothing: they
    go in the first wave after it, and their weight is ready from then on.
    """
    moving = pending(slots)
    ready = sum(slot.weight for slot in slots if counts(slot))
    waves = []
    if canary:
        lightest = sorted(filter(counts, moving), key=lambda slot: slot.weight)[:canary]
        left = ready - sum(slot.weight for slot in lightest)
        if canary > most or not bound.permits(left):
            return Stuck(tuple(lightest), ready, left)
        names = {slot.name for slot in lightest}
        waves.append(tuple(slot for slot in moving if slot.name in names))
        moving = tuple(slot for slot in moving if slot.name not in names)
    while moving:
        wave = _fill(moving, ready, bound, most)
        if not wave:
            return _stuck(moving, ready, bound)
        waves.append(wave)
        ready += sum(slot.weight for slot in wave if not counts(slot) and not slot.held)
        names = {slot.name for slot in wave}
        moving = tuple(slot for slot in moving if slot.name not in names)
    return Layout(tuple(waves), canary)


def _fill(moving: Sequence[SlotNow], ready: int, bound: Bound, most: int) -> tuple[SlotNow, ...]:
    """The next wave: none where nothing can go."""
    chosen: list[SlotNow] = []
    left, out = ready, 0
    for slot in moving:
        if not counts(slot):
            if bound.soft or ready >= bound.floor:
                chosen.append(slot)
        elif out < most and bound.holds(left - slot.weight):
            chosen.append(slot)
            left -= slot.weight
            out += 1
    if chosen:
        return tuple(chosen)
    return next(((slot,) for slot in moving if counts(slot) and bound.permits(ready - slot.weight)), ())


def _stuck(moving: Sequence[SlotNow], ready: int, bound: Bound) -> Stuck:
    if ready < bound.floor:
        return Stuck((), ready, ready)
    heaviest = max(filter(counts, moving), key=lambda slot: slot.weight)
    return Stuck((heaviest,), ready, ready - heaviest.weight)
