"""Paths of charts, as SVG writes them, from rows and scales. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fleet.rollout.report.axes import Scale
from fleet.rollout.report.samples import Row


@dataclass(frozen=True)
class Shape:
    """A path. `look` is the name of its style, `title` its tooltip."""

    look: str
    path: str
    title: str = ""


def stacked(
    rows: Sequence[Row], values: Sequence[tuple[float, float]], every: float, time: Scale, scale: Scale
) -> tuple[Shape, ...]:
    """Blue below, green above it, as areas with steps."""
    blue, green = [], []
    for run in _runs(rows, every):
        blue.append(_area(rows, run, every, time, lambda i: (scale.at(0), scale.at(values[i][0]))))
        green.append(
            _area(rows, run, every, time, lambda i: (scale.at(values[i][0]), scale.at(sum(values[i]))))
        )
    return (
        Shape("area-blue", " ".join(blue), "blue"),
        Shape("area-green", " ".join(green), "green"),
    )


def line(
    rows: Sequence[Row],
    values: Sequence[float | None],
    every: float,
    time: Scale,
    scale: Scale,
    *,
    steps: bool = False,
) -> str:
    """A path through the values, broken where one is not known: at the intervals' middles, or in steps."""
    paths: list[str] = []
    for run in _runs(rows, every):
        points: list[str] = []
        for index in run:
            value = values[index]
            if value is None:
                paths += _path(points)
                points = []
                continue
            start, y = rows[index].at, scale.at(value)
            if steps:
                points.append(f"{time.at(start)},{y}")
                points.append(f"{time.at(_end(rows, index, every))},{y}")
            else:
                points.append(f"{time.at(start + every / 2)},{y}")
        paths += _path(points)
    return " ".join(paths)


def box(left: float, right: float, bottom: float, top: float) -> str:
    """A bar, wide enough to be seen."""
    right = max(left + 1.5, right - 0.5)
    return f"M{left},{bottom} L{left},{top} L{right},{top} L{right},{bottom} Z"


def _area(
    rows: Sequence[Row],
    run: Sequence[int],
    every: float,
    time: Scale,
    edges: Callable[[int], tuple[float, float]],
) -> str:
    """A closed path: along the upper edge there, along the lower one back."""
    there, back = [], []
    for index in run:
        low, high = edges(index)
        start, end = time.at(rows[index].at), time.at(_end(rows, index, every))
        there.append(f"{start},{high} L{end},{high}")
        back.append(f"{end},{low} L{start},{low}")
    return f"M{' L'.join(there)} L{' L'.join(reversed(back))} Z"


def _path(points: Sequence[str]) -> list[str]:
    """One point alone is drawn as a dot: a line of no length with round ends."""
    if not points:
        return []
    return [f"M{' L'.join(points if len(points) > 1 else [*points, *points])}"]


def _runs(rows: Sequence[Row], every: float) -> Iterable[list[int]]:
    """Indexes of rows that follow one another; where samples are missing a new run begins."""
    run: list[int] = []
    for index, row in enumerate(rows):
        if run and row.at - rows[index - 1].at > _gap(every):
            yield run
            run = []
        run.append(index)
    if run:
        yield run


def _end(rows: Sequence[Row], index: int, every: float) -> float:
    """Until when a row is drawn: to the next one of its run."""
    at = rows[index].at
    after = rows[index + 1].at if index + 1 < len(rows) else at + every
    return after if after - at <= _gap(every) else at + every


def _gap(every: float) -> float:
    """How far apart rows of one run may be: samples come late where balancers are slow to answer."""
    return max(3 * every, 5.0)
