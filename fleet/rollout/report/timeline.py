"""Collects a rollout's events into its story: what it is at now, and the report of it all. No I/O."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import RLock

from fleet.rollout.events import Began, Doing, Event, Outcome, Phase, Recorded, Sampled, Soaking, Stopping
from fleet.rollout.model import Colour, Entry, Header, Plan, Wave
from fleet.rollout.report.data import Line, Report, SlotStory, Span, WaveStory
from fleet.rollout.report.entry_words import Words
from fleet.rollout.report.moment import Moment, SlotAt, WaveAt
from fleet.rollout.report.samples import Pair, Samples, serves

_LAST_LINES = 12

# Journals may be stamped a little coarser than the clock here.
_EARLIER = 2.0

_AFTER: Mapping[str, str] = {
    "draining": "draining",
    "drained": "drained",
    "ramped": "ramping",
    "accepted": "green",
    "restored": "blue",
}


@dataclass
class _Slot:
    phase: str
    since: float
    colour: Colour
    spans: list[Span] = field(default_factory=list)
    weight: float = 0.0
    jobs: int = 0


class Timeline:
    """Hears a rollout's events, from any thread. `clock` is seconds since the epoch, as the journal's.

    Where a rollout goes on, the entries of its earlier controllers are to be sent as `Recorded` after
    `Began`: what happened then is told from them.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = RLock()
        self._header: Header | None = None
        self._plan: Plan | None = None
        self._slots: dict[str, _Slot] = {}
        self._lines: dict[int, Line] = {}
        self._times: dict[int, tuple[float, float]] = {}
        self._done: set[int] = set()
        self._broken: float | None = None
        self._pulled = False
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self._doing: dict[str, str] = {}
        self._heard_since = 0.0
        self._words = Words()
        self._samples = Samples()
        self._latest = 0.0
        self._soak_ends: float | None = None
        self._stopping = ""
        self._back = False

    def __call__(self, event: Event) -> str:
        """Take an event in. For an entry of the journal: the line that tells of it; empty for all else.

        Empty too where it has been heard already, or is one of an earlier controller.
        """
        with self._lock:
            if isinstance(event, Recorded) and event.entry.number in self._lines:
                return ""
            text = self._words.hear(event)
            if isinstance(event, Began):
                self._began(event)
            elif self._header is None:
                return ""
            elif isinstance(event, Recorded):
                self._recorded(event.entry, text)
                return "" if event.entry.at < self._heard_since - _EARLIER else text
            elif isinstance(event, Phase):
                self._phase(event.slot, event.phase, self._now())
            elif isinstance(event, Doing):
                self._doing[event.place] = event.text
            elif isinstance(event, Sampled):
                self._sampled(event)
            elif isinstance(event, Soaking):
                self._soak_ends = self._now() + event.seconds
            elif isinstance(event, Stopping):
                self._stopping = event.to
            return text

    def moment(self) -> Moment | None:
        """The rollout now; None before it began."""
        with self._lock:
            header = self._header
            if header is None:
                return None
            now = self._now()
            rows = self._samples.rows
            return Moment(
                header=header,
                waves=self._waves_at(header),
                elapsed=now,
                remaining=self._remaining(header, now),
                ready=rows[-1].ready if rows else None,
                weight=rows[-1].weight if rows else Pair(),
                rate=self._samples.rate(now) if rows else None,
                errors=round(sum(row.errors.sum for row in rows)),
                jobs=sum(slot.jobs for slot in self._slots.values()),
                doing=tuple(self._doing.items()),
                lines=tuple(self._last),
                soak_left=None if self._soak_ends is None else max(0.0, self._soak_ends - now),
                stopping=self._stopping,
                back=self._back,
            )

    def report(self, outcome: Outcome) -> Report:
        """The whole story, at its end."""
        with self._lock:
            if self._header is None:
                self._words.began(outcome.header, None)
                self._began(Began(outcome.header))
            for entry in outcome.entries:
                if entry.number not in self._lines:
                    self._recorded(entry, self._words.of(entry))
            length = max(self._latest, 0.001)
            return Report(
                outcome=outcome,
                plan=self._plan,
                length=length,
                slots=self._stories(outcome, length),
                waves=self._waves(outcome.header),
                lines=tuple(self._lines[number] for number in sorted(self._lines)),
                rows=tuple(self._samples.rows),
                every=self._samples.every,
                lowest=self._samples.lowest,
            )

    def _began(self, event: Began) -> None:
        self._header, self._plan = event.header, event.plan
        self._heard_since = self._clock()
        for origin in event.header.origins:
            colour: Colour = "green" if origin.release and origin.release == origin.green else "blue"
            self._slots[origin.slot] = _Slot(colour, 0.0, colour)
        for slot in event.plan.unchanged if event.plan else event.header.unchanged:
            self._slots.setdefault(slot, _Slot("green", 0.0, "green"))
        self._now()

    def _recorded(self, entry: Entry, text: str) -> None:
        at = self._at(entry.at)
        self._lines[entry.number] = Line(entry, at, text)
        if entry.wave:
            start, end = self._times.get(entry.wave, (at, at))
            self._times[entry.wave] = (min(start, at), max(end, at))
        self._last.append(text)
        phase = _AFTER.get(entry.step, "")
        if entry.step == "moving":
            phase = "restoring" if entry.detail.get("to") == "blue" else "moving"
        for slot in entry.slots:
            if phase:
                self._phase(slot, phase, at)
            if entry.step == "ready" and slot in self._slots:
                self._doing.pop(slot, None)
                self._slots[slot].colour = "blue" if entry.detail.get("to") == "blue" else "green"
        if entry.step == "accepted":
            self._done.add(entry.wave)
        if entry.step in ("rolling-back", "stopped"):
            self._broken = at
        if entry.step in ("soaked", "rolling-back", "stopped"):
            self._soak_ends = None
        if entry.step == "rolling-back":
            self._back = True
        if entry.step == "pulled":
            self._pulled = True
            self._doing = {place: text for place, text in self._doing.items() if place in self._slots}

    def _phase(self, name: str, phase: str, at: float) -> None:
        slot = self._slots.setdefault(name, _Slot("blue", 0.0, "blue"))
        if phase in ("green", "ramping"):
            slot.colour = "green"
        elif phase == "blue":
            slot.colour = "blue"
        if phase in ("blue", "green", "drained", "lost", "failed"):
            self._doing.pop(name, None)
        if phase == slot.phase:
            return
        at = max(at, slot.since)
        if at > slot.since:
            slot.spans.append(Span(slot.phase, slot.since, at))
        slot.phase, slot.since = phase, at

    def _sampled(self, event: Sampled) -> None:
        self._samples.add(self._at(event.at), event.servers, self._colour)
        balancers = len({server.balancer for server in event.servers}) or 1
        weights: dict[str, float] = {}
        jobs: dict[str, int] = {}
        for server in event.servers:
            taken = server.weight if serves(server) else 0
            weights[server.slot] = weights.get(server.slot, 0.0) + taken / balancers
            jobs[server.slot] = jobs.get(server.slot, 0) + server.jobs
        for name, weight in weights.items():
            colour = self._colour(name)
            slot = self._slots.setdefault(name, _Slot(colour, 0.0, colour))
            slot.weight, slot.jobs = weight, jobs[name]

    def _colour(self, name: str) -> Colour:
        """What a slot runs. One that the rollout leaves out runs something else than green."""
        return self._slots[name].colour if name in self._slots else "blue"

    def _at(self, epoch: float) -> float:
        """Seconds since the rollout's start."""
        at = max(0.0, epoch - self._header.started) if self._header else 0.0
        self._latest = max(self._latest, at)
        return at

    def _now(self) -> float:
        return self._at(self._clock())

    def _waves_at(self, header: Header) -> tuple[WaveAt, ...]:
        waves = [
            WaveAt(number, self._words.wave(number), tuple(self._slot_at(name) for name in slots))
            for number, slots in enumerate(header.waves, 1)
        ]
        moved = {slot for slots in header.waves for slot in slots}
        rest = tuple(self._slot_at(name) for name in self._slots if name not in moved)
        return (*waves, WaveAt(0, "unchanged", rest)) if rest else tuple(waves)

    def _slot_at(self, name: str) -> SlotAt:
        slot = self._slots.get(name)
        return SlotAt(name, slot.phase, slot.weight, slot.jobs) if slot else SlotAt(name, "blue")

    def _remaining(self, header: Header, now: float) -> float | None:
        """By the plan, else by the waves so far; None where nothing tells, or on the way back."""
        if self._back:
            return None
        planned = {wave.number: wave_seconds(wave) for wave in self._plan.waves} if self._plan else {}
        done = {number for number, slots in enumerate(header.waves, 1) if self._accepted(slots)}
        took = [self._times[number][1] - self._times[number][0] for number in done if number in self._times]
        typical = sum(took) / len(took) if took else None
        left = self._before_waves(now)
        for number in range(1, len(header.waves) + 1):
            if number in done:
                continue
            expected = planned.get(number)
            expected = typical if expected is None else expected
            if expected is None:
                return None
            start = self._times[number][0] if number in self._times else now
            left += max(0.0, expected - (now - start))
        return left

    def _before_waves(self, now: float) -> float:
        """What the plan's time has beyond its waves, such as the pull, while that goes on."""
        if self._pulled or self._plan is None or self._plan.seconds is None:
            return 0.0
        waves = sum(wave_seconds(wave) or 0.0 for wave in self._plan.waves)
        return max(0.0, self._plan.seconds - waves - now)

    def _accepted(self, slots: tuple[str, ...]) -> bool:
        return all(name in self._slots and self._slots[name].phase == "green" for name in slots)

    def _waves(self, header: Header) -> tuple[WaveStory, ...]:
        planned = {wave.number: wave for wave in self._plan.waves} if self._plan else {}
        return tuple(
            self._wave(number, slots, planned.get(number), header)
            for number, slots in enumerate(header.waves, 1)
        )

    def _wave(self, number: int, slots: tuple[str, ...], planned: Wave | None, header: Header) -> WaveStory:
        start, end = self._times.get(number, (None, None))
        if end is not None and number not in self._done and self._broken is not None:
            end = max(end, self._broken)
        lowest = None if start is None or end is None else self._samples.lowest_between(start, end)
        return WaveStory(
            number=number,
            kind=planned.kind if planned else "".join(header.kinds[number - 1 : number]),
            slots=slots,
            planned_seconds=wave_seconds(planned) if planned else None,
            planned_lowest=planned.lowest if planned else None,
            start=start,
            end=end,
            lowest=lowest,
        )

    def _stories(self, outcome: Outcome, length: float) -> tuple[SlotStory, ...]:
        header = outcome.header
        origins = {origin.slot: origin for origin in header.origins}
        wave_of = {slot: number for number, slots in enumerate(header.waves, 1) for slot in slots}
        names = [*wave_of, *(name for name in self._slots if name not in wave_of)]
        stories = []
        for name in names:
            slot = self._slots.get(name) or _Slot("blue", 0.0, "blue")
            origin = origins.get(name)
            stories.append(
                SlotStory(
                    name=name,
                    wave=wave_of.get(name, 0),
                    host=origin.host if origin else "",
                    strategy=origin.strategy.value if origin else "",
                    before=origin.image if origin else "",
                    before_digest=origin.digest if origin else "",
                    colour=slot.colour,
                    spans=(*slot.spans, Span(slot.phase, slot.since, max(length, slot.since))),
                )
            )
        return tuple(stories)


def wave_seconds(wave: Wave) -> float | None:
    """What a wave is expected to take; None where that is not known of every step."""
    seconds = [step.seconds for step in wave.steps]
    if not seconds or any(each is None for each in seconds):
        return None
    return sum(each for each in seconds if each is not None)
