"""From a rollout's slots to bars over time: who was in which phase when. Coordinates in pixels, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fleet.control.spans import in_words
from fleet.rollout.report.axes import Scale, Tick, clock, time_ticks
from fleet.rollout.report.charts import RIGHT, WIDTH
from fleet.rollout.report.data import Report, SlotStory, WaveStory

PHASES: dict[str, str] = {
    "blue": "serves as blue",
    "draining": "draining",
    "drained": "drained",
    "moving": "moving: changing containers",
    "checking": "checking: is it ready?",
    "ramping": "ramping: weight rising",
    "green": "serves as green",
    "restoring": "restoring: back to blue",
    "failed": "failed",
    "lost": "lost",
}
"""Every phase, and what it is called."""

_LONGEST_NAME = 26
_HEAD = 34.0
_WAVE_ROW = 20.0
_MOST_WAVE_ROWS = 24
_BELOW = 26.0


@dataclass(frozen=True)
class Bar:
    """A phase of a slot. `label` is what fits into it."""

    look: str
    x: float
    width: float
    title: str
    label: str = ""


@dataclass(frozen=True)
class BarRow:
    """A slot's bars at `y`; `name` is cut to its room, `full` is not."""

    name: str
    full: str
    y: float
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Heading:
    """A wave's name above its slots."""

    text: str
    y: float


@dataclass(frozen=True)
class Gantt:
    """The whole picture; bars are `bar` high, names are written in `font` pixels."""

    left: float
    top: float
    bottom: float
    height: float
    bar: float
    font: float
    rows: tuple[BarRow, ...]
    headings: tuple[Heading, ...]
    x: tuple[Tick, ...]
    phases: tuple[tuple[str, str], ...]
    width: float = WIDTH
    right: float = RIGHT


def left_edge(report: Report) -> float:
    """Where all plots begin, so that the slots' names have room."""
    longest = max((len(slot.name) for slot in report.slots), default=0)
    return 24 + max(6, min(longest, _LONGEST_NAME)) * 7.2


def gantt(report: Report, left: float) -> Gantt:
    """Every slot, wave by wave; those that the rollout left alone come last."""
    time = Scale(report.length, left, RIGHT)
    many = len(report.slots)
    step, bar, font = (
        (24.0, 17.0, 12.0) if many <= 24 else (17.0, 13.0, 11.0) if many <= 80 else (12.0, 9.0, 9.0)
    )
    headed = len(report.waves) <= _MOST_WAVE_ROWS
    rows: list[BarRow] = []
    headings: list[Heading] = []
    y = _HEAD
    for name, slots in _groups(report.slots, report.waves):
        if headed:
            headings.append(Heading(name, y + 14))
            y += _WAVE_ROW
        for slot in slots:
            rows.append(BarRow(_cut(slot.name), slot.name, round(y, 1), _bars(slot, time, bar)))
            y += step
        y += 4 if headed else 0
    seen = {span.phase for slot in report.slots for span in slot.spans}
    return Gantt(
        left=left,
        top=_HEAD,
        bottom=round(y, 1),
        height=round(y + _BELOW, 1),
        bar=bar,
        font=font,
        rows=tuple(rows),
        headings=tuple(headings),
        x=time_ticks(time),
        phases=tuple((phase, words) for phase, words in PHASES.items() if phase in seen),
    )


def _groups(slots: Sequence[SlotStory], waves: Sequence[WaveStory]) -> list[tuple[str, list[SlotStory]]]:
    groups = []
    for wave in waves:
        kind = f", {wave.kind}" if wave.kind not in ("", "wave") else ""
        groups.append((f"Wave {wave.number}{kind}", [slot for slot in slots if slot.wave == wave.number]))
    groups.append(("Not touched", [slot for slot in slots if not slot.wave]))
    return [(name, members) for name, members in groups if members]


def _bars(slot: SlotStory, time: Scale, high: float) -> tuple[Bar, ...]:
    bars = []
    for span in slot.spans:
        x, end = time.at(span.start), time.at(span.end)
        width = round(max(1.5, end - x - 0.6), 1)
        words = PHASES.get(span.phase, span.phase)
        length = in_words(span.end - span.start)
        title = f"{slot.name}: {words}, {clock(span.start)} to {clock(span.end)} ({length})"
        fits = high >= 13 and len(span.phase) * 6.2 + 10 <= width
        look = span.phase if span.phase in PHASES else "other"
        bars.append(Bar(look, x, width, title, span.phase if fits else ""))
    return tuple(bars)


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
