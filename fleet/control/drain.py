"""Drain: no new jobs to some slots, then wait for the jobs they have, and at a deadline end them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from fleet.balancer.workers import InFlight
from fleet.control.balancers import Balancers
from fleet.control.guard import refuse_last
from fleet.control.model import Drained, SlotDrain
from fleet.control.reports import reports
from fleet.errors import FleetError

POLL = 0.25
"""Seconds between two questions while jobs are in flight."""

# A job that is sent as `POST /call` and fetched as `GET /call` is no request in between, so a slot is drained
# when it had none for a moment. Measured from the last time one was seen, this keeps the end within a second
# of the last job's.
_SETTLE = 0.55
_SETTLING_POLL = 0.1
_CUTTING = 6.0

Listen = Callable[[Sequence[SlotDrain]], None]


@dataclass(frozen=True)
class Wait:
    """How long to wait, in seconds, and whether what is left then is cut."""

    deadline: float = 900.0
    cut: bool = False


def drain(
    balancers: Balancers,
    slots: Sequence[str],
    wait: Wait | None,
    listen: Listen = lambda _: None,
    *,
    force: bool = False,
) -> Drained:
    """Drain slots on all balancers; with `wait`, until none of their jobs is in flight on any.

    `listen` gets every slot's state at each look of a wait. Ctrl-C ends it: what is told stays told, and the
    result says `interrupted`. Raises InputError where the service would be down (without `force`), and
    what `Balancers` raises when no balancer is left.
    """
    states = balancers.look()
    if not force:
        refuse_last(states, slots, "draining")
    watch = _Watch(balancers, slots, listen if wait else lambda _: None)
    interrupted = False
    try:
        balancers.drain(slots)
        with suppress(FleetError):  # no balancer is left to ask; each one's error is in its report
            if wait is None:
                watch.look()
            else:
                watch.until_quiet(wait)
    except KeyboardInterrupt:
        interrupted = True
    return Drained(
        slots=tuple(watch.slots.values()),
        balancers=reports(balancers, slots, maint=True),
        deadline=wait.deadline if wait else 0.0,
        seconds=time.monotonic() - watch.started,
        waited=wait is not None,
        interrupted=interrupted,
    )


class _Watch:
    """The wait for some slots. `slots` is what is known of each."""

    def __init__(self, balancers: Balancers, slots: Sequence[str], listen: Listen) -> None:
        self.started = time.monotonic()
        self.slots = {name: SlotDrain(name) for name in slots}
        self._balancers = balancers
        self._listen = listen
        self._held: Mapping[str, InFlight] = {}
        self._busy_at: dict[str, float] = {}

    def until_quiet(self, wait: Wait) -> None:
        """Look until no slot has a job, or until the deadline."""
        self._busy_at = dict.fromkeys(self.slots, time.monotonic())
        until = self.started + wait.deadline
        while not self.look():
            now = time.monotonic()
            if now >= until:
                if wait.cut:
                    self._cut()
                self._give_up()
                return
            pause = POLL if any(each.busy for each in self._held.values()) else _SETTLING_POLL
            time.sleep(max(0.0, min(pause, until - now)))

    def look(self) -> bool:
        """Ask once. True when every slot is drained."""
        asked = time.monotonic()
        self._held = self._balancers.in_flight(tuple(self.slots))
        for name, held in self._held.items():
            slot = self.slots[name]
            if held.busy:
                self._busy_at[name] = asked
            quiet = not held.busy and asked - self._busy_at.get(name, asked) >= _SETTLE
            took = slot.seconds if slot.state == "drained" else time.monotonic() - self.started
            self.slots[name] = replace(
                slot,
                state="drained" if quiet else "draining",
                jobs=held.busy,
                pages=held.pages,
                at_start=max(slot.at_start, held.busy),
                seconds=took,
            )
        self._listen(tuple(self.slots.values()))
        return all(slot.state == "drained" for slot in self.slots.values())

    def _cut(self) -> None:
        """End what is left. Jobs whose events are only about to be fetched can be cut once they are."""
        until = time.monotonic() + _CUTTING
        while (busy := [name for name, held in self._held.items() if held.busy]) and time.monotonic() < until:
            for name, ended in self._balancers.cut(busy).items():
                self.slots[name] = replace(self.slots[name], cut=self.slots[name].cut + ended)
            time.sleep(_SETTLING_POLL)
            self.look()

    def _give_up(self) -> None:
        for name, slot in self.slots.items():
            self.slots[name] = replace(slot, state="in flight" if slot.jobs else "drained")
