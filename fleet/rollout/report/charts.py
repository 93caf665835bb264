"""From a rollout's data to the shapes of its charts: coordinates in pixels, no I/O, nothing escaped yet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fleet.rollout.model import Colour
from fleet.rollout.report.axes import Scale, Tick, clock, time_ticks, value_scale
from fleet.rollout.report.chart_paths import Shape, box, line, stacked
from fleet.rollout.report.data import Report
from fleet.rollout.report.samples import Row, merged

WIDTH = 1100.0
RIGHT = WIDTH - 16
_TOP, _PLOT, _BELOW = 12.0, 150.0, 24.0
_COLOURS: tuple[Colour, ...] = ("blue", "green")


@dataclass(frozen=True)
class Rule:
    """A line across at a value, with its name."""

    at: float
    label: str
    look: str


@dataclass(frozen=True)
class Mark:
    """A moment that all charts show; `level` is its label's line, 0 or 1, None where there is no room."""

    at: float
    label: str
    look: str
    level: int | None = None


@dataclass(frozen=True)
class Chart:
    """A chart with its plot from `left` to `right`, `top` to `bottom`; `empty` says why it has no shapes."""

    title: str
    unit: str
    left: float
    top: float
    bottom: float
    height: float
    x: tuple[Tick, ...]
    y: tuple[Tick, ...]
    shapes: tuple[Shape, ...]
    legend: tuple[tuple[str, str], ...] = ()
    rules: tuple[Rule, ...] = ()
    empty: str = ""
    width: float = WIDTH
    right: float = RIGHT


def charts(report: Report, left: float) -> tuple[Chart, ...]:
    """Traffic, ready weight, mean time and errors over time, their plots beginning at `left`."""
    time = Scale(report.length, left, RIGHT)
    return (
        _traffic(report, time),
        _ready(report, time),
        _mean(report, time),
        _errors(report, time),
    )


def marks(report: Report, left: float) -> tuple[Mark, ...]:
    """Moments of the whole rollout, in order, their labels so placed that none covers another."""
    time = Scale(report.length, left, RIGHT)
    ends = [left - 1000.0, left - 1000.0]
    found = []
    for told in report.lines:
        if told.entry.step not in _MARKS:
            continue
        label, look = _MARKS[told.entry.step]
        at = time.at(told.at)
        wide = len(label) * 6.2 + 10
        start = min(at, RIGHT - wide)
        level = next((number for number, end in enumerate(ends) if start > end), None)
        if level is not None:
            ends[level] = start + wide
        found.append(Mark(at, label, look, level))
    return tuple(found)


_MARKS = {
    "pulled": ("image pulled", "plain"),
    "soaked": ("soak over", "plain"),
    "rolling-back": ("going back to blue", "bad"),
    "stopped": ("stopped", "bad"),
}


def _traffic(report: Report, time: Scale) -> Chart:
    every, rows = _bins(report, 150, 1.0)
    per_second = [
        (row.requests.blue / length, row.requests.green / length)
        for row, length in zip(rows, _lengths(rows, every), strict=True)
    ]
    scale, y = _y(max((sum(each) for each in per_second), default=0.0))
    shapes = stacked(rows, per_second, every, time, scale)
    return _chart(
        "Traffic",
        "requests per second",
        time,
        y,
        shapes if any(sum(each) for each in per_second) else (),
        legend=(("area-blue", "blue"), ("area-green", "green")),
        empty="no requests were counted",
    )


def _ready(report: Report, time: Scale) -> Chart:
    every, rows = _bins(report, 600, 1.0)
    header = report.header
    weights = [(row.weight.blue, row.weight.green) for row in rows]
    scale, y = _y(max([float(header.total), *(sum(each) for each in weights)]))
    lowest = line(rows, [row.ready for row in rows], every, time, scale, steps=True)
    shapes = (
        *stacked(rows, weights, every, time, scale),
        Shape("line-ready", lowest, "lowest ready weight"),
    )
    floor = Rule(scale.at(header.floor), f"floor {header.floor:g}", "floor")
    return _chart(
        "Ready weight",
        "weight of the slots that take jobs",
        time,
        y,
        shapes if rows else (),
        rules=(floor,) if header.floor > 0 else (),
        legend=(
            ("area-blue", "blue"),
            ("area-green", "green"),
            ("line-ready", "lowest on any balancer"),
            ("floor", "floor"),
        ),
        empty="no samples were taken",
    )


def _mean(report: Report, time: Scale) -> Chart:
    every, rows = _bins(report, 60, 2.0)
    means = {colour: [row.mean(colour) for row in rows] for colour in _COLOURS}
    known = [mean for both in means.values() for mean in both if mean is not None]
    scale, y = _y(max(known, default=0.0))
    shapes = [
        Shape(f"line-{colour}", line(rows, means[colour], every, time, scale), f"mean time on {colour}")
        for colour in _COLOURS
        if any(mean is not None for mean in means[colour])
    ]
    return _chart(
        "Mean time of a request",
        "seconds",
        time,
        y,
        tuple(shapes),
        legend=(("line-blue", "blue"), ("line-green", "green")),
        empty="no requests were counted",
    )


def _errors(report: Report, time: Scale) -> Chart:
    every, rows = _bins(report, 110, 1.0)
    scale, y = _y(max((row.errors.sum for row in rows), default=0.0), whole=True)
    shapes = []
    for row in rows:
        base = 0.0
        for colour in _COLOURS:
            number = row.errors.of(colour)
            if number:
                path = box(time.at(row.at), time.at(row.at + every), scale.at(base), scale.at(base + number))
                shapes.append(Shape(f"bar-{colour}", path, f"{clock(row.at)}: {number:g} on {colour}"))
            base += number
    return _chart(
        "Errors",
        f"errors in each {every:g} s",
        time,
        y,
        tuple(shapes),
        legend=(("bar-blue", "blue"), ("bar-green", "green")),
        empty="no errors" if rows else "no samples were taken",
    )


def _chart(
    title: str,
    unit: str,
    time: Scale,
    y: tuple[Tick, ...],
    shapes: tuple[Shape, ...],
    *,
    legend: tuple[tuple[str, str], ...],
    empty: str,
    rules: tuple[Rule, ...] = (),
) -> Chart:
    return Chart(
        title=title,
        unit=unit,
        left=time.first,
        top=_TOP,
        bottom=_TOP + _PLOT,
        height=_TOP + _PLOT + _BELOW,
        x=time_ticks(time),
        y=y if shapes else (),
        shapes=shapes,
        legend=legend if shapes else (),
        rules=rules if shapes else (),
        empty="" if shapes else empty,
    )


def _y(most: float, *, whole: bool = False) -> tuple[Scale, tuple[Tick, ...]]:
    return value_scale(most, _TOP + _PLOT, _TOP, whole=whole)


def _lengths(rows: Sequence[Row], every: float) -> list[float]:
    """The time in which each row's requests were counted: since the row before, which may be long ago."""
    before = [rows[0].at - every, *(row.at for row in rows[:-1])] if rows else []
    return [row.at - at for row, at in zip(rows, before, strict=True)]


def _bins(report: Report, most: int, least: float) -> tuple[float, list[Row]]:
    """The rows in at most `most` intervals of whole seconds, none shorter than `least`."""
    wanted = max(least, report.every, report.length / most)
    every = report.every * math.ceil(wanted / report.every - 1e-9)
    return every, merged(report.rows, every)
