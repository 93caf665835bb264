"""All that is known of a rollout after its end: what the report shows and `--json` prints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fleet.rollout.events import Outcome
from fleet.rollout.model import Colour, Entry, Header, Plan
from fleet.rollout.report.entry_words import clean
from fleet.rollout.report.samples import Row


@dataclass(frozen=True)
class Span:
    """A slot's phase from `start` to `end`, in seconds since the rollout's start."""

    phase: str
    start: float
    end: float


@dataclass(frozen=True)
class SlotStory:
    """A slot from beginning to end; `wave` is 0 where the rollout left it alone. `colour` is its last one."""

    name: str
    wave: int
    host: str
    strategy: str
    before: str
    before_digest: str
    colour: Colour
    spans: tuple[Span, ...]

    @property
    def phase(self) -> str:
        """The last one."""
        return self.spans[-1].phase if self.spans else str(self.colour)


@dataclass(frozen=True)
class WaveStory:
    """A wave as it was planned and as it was; None is what is not known or did not come to pass."""

    number: int
    kind: str
    slots: tuple[str, ...]
    planned_seconds: float | None
    planned_lowest: float | None
    start: float | None
    end: float | None
    lowest: float | None

    @property
    def seconds(self) -> float | None:
        """How long it took."""
        return None if self.start is None or self.end is None else self.end - self.start


@dataclass(frozen=True)
class Line:
    """An entry of the journal with its time since the rollout's start, and in words."""

    entry: Entry
    at: float
    text: str


@dataclass(frozen=True)
class Report:
    """A whole rollout. `length` is the time from its start to the last thing known, `every` that of a row.

    `outcome.seconds` is what the last controller took, which is less where a rollout was resumed.
    """

    outcome: Outcome
    plan: Plan | None
    length: float
    slots: tuple[SlotStory, ...]
    waves: tuple[WaveStory, ...]
    lines: tuple[Line, ...]
    rows: tuple[Row, ...]
    every: float
    lowest: float | None

    @property
    def header(self) -> Header:
        """The journal's first entry."""
        return self.outcome.header

    @property
    def green(self) -> int:
        """How many slots run the wanted release at the end."""
        return sum(slot.colour == "green" and slot.name not in self.outcome.lost for slot in self.slots)

    @property
    def cut(self) -> int:
        """How many jobs were ended at drain deadlines."""
        return sum(self.outcome.cut.values())

    def total(self, name: str, colour: Colour | None = None) -> float:
        """The sum of the rows' `requests` or `errors`, of one colour or of both."""
        pairs = [getattr(row, name) for row in self.rows]
        return float(sum(pair.of(colour) if colour else pair.sum for pair in pairs))

    def as_json(self) -> dict[str, Any]:
        """The stable document: plain values; times in seconds, since `started` where they are moments."""
        outcome, header = self.outcome, self.header
        return {
            "id": header.id,
            "kind": header.kind,
            "image": header.image,
            "digest": header.digest,
            "by": header.by,
            "started": round(header.started, 3),
            "state": outcome.state,
            "seconds": round(outcome.seconds, 3),
            "length": round(self.length, 3),
            "reason": clean(outcome.reason),
            "rung": outcome.rung,
            "failed_slot": outcome.failed_slot,
            "log": clean(outcome.log),
            "remedy": clean(outcome.remedy),
            "resume": outcome.resume,
            "notes": [clean(note) for note in outcome.notes],
            "cut": dict(outcome.cut),
            "lost": {slot: clean(why) for slot, why in outcome.lost.items()},
            "total_weight": header.total,
            "floor": header.floor,
            "lowest_ready": self.lowest,
            "options": dict(header.options),
            "plan": plan_json(self.plan) if self.plan else None,
            "waves": [_wave_json(wave) for wave in self.waves],
            "slots": [_slot_json(slot) for slot in self.slots],
            "entries": [_line_json(line) for line in self.lines],
            "samples": {"every": self.every, "rows": [row.as_json() for row in self.rows]},
        }


def plan_json(plan: Plan) -> dict[str, Any]:
    """A plan as plain values: the document of `--check --json`."""
    return {
        "image": plan.image,
        "digest": plan.digest,
        "total_weight": plan.total,
        "floor": round(plan.floor, 3),
        "lowest_ready": round(plan.lowest, 3),
        "seconds": _rounded(plan.seconds),
        "downtime": plan.downtime,
        "to_pull": list(plan.to_pull),
        "unchanged": list(plan.unchanged),
        "notes": list(plan.notes),
        "waves": [
            {
                "number": wave.number,
                "kind": wave.kind,
                "lowest_ready": round(wave.lowest, 3),
                "moves": [
                    {"slot": move.slot, "strategy": move.strategy.value, "why": move.why}
                    for move in wave.moves
                ],
                "steps": [
                    {
                        "action": step.action,
                        "slots": list(step.slots),
                        "ready": round(step.ready, 3),
                        "seconds": _rounded(step.seconds),
                    }
                    for step in wave.steps
                ],
            }
            for wave in plan.waves
        ],
    }


def _wave_json(wave: WaveStory) -> dict[str, Any]:
    return {
        "number": wave.number,
        "kind": wave.kind,
        "slots": list(wave.slots),
        "start": _rounded(wave.start),
        "end": _rounded(wave.end),
        "planned_seconds": _rounded(wave.planned_seconds),
        "seconds": _rounded(wave.seconds),
        "planned_lowest_ready": _rounded(wave.planned_lowest),
        "lowest_ready": _rounded(wave.lowest),
    }


def _slot_json(slot: SlotStory) -> dict[str, Any]:
    return {
        "slot": slot.name,
        "host": slot.host,
        "wave": slot.wave or None,
        "strategy": slot.strategy or None,
        "before": {"image": slot.before, "digest": slot.before_digest} if slot.before else None,
        "colour": slot.colour,
        "phases": [
            {"phase": span.phase, "start": round(span.start, 3), "end": round(span.end, 3)}
            for span in slot.spans
        ],
    }


def _line_json(line: Line) -> dict[str, Any]:
    entry = line.entry
    return {
        "number": entry.number,
        "at": round(line.at, 3),
        "step": entry.step,
        "slots": list(entry.slots),
        "wave": entry.wave or None,
        "detail": dict(entry.detail),
        "text": clean(line.text),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
