"""Scales of charts: where a value lies, and which round values are written beside an axis. No I/O."""

from __future__ import annotations

import math
from dataclasses import dataclass

_SPANS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: its coordinate and what is written there."""

    at: float
    label: str


@dataclass(frozen=True)
class Scale:
    """Values from 0 to `most` on coordinates from `first` to `last`."""

    most: float
    first: float
    last: float

    def at(self, value: float) -> float:
        """The coordinate of a value, rounded to a tenth; what lies outside is put on the edge."""
        share = min(1.0, max(0.0, value / self.most)) if self.most > 0 else 0.0
        return round(self.first + (self.last - self.first) * share, 1)


def time_ticks(scale: Scale, most: int = 10) -> tuple[Tick, ...]:
    """Round moments, at most `most` and one."""
    step = next((span for span in _SPANS if scale.most / span <= most), 0)
    if not step:
        step = math.ceil(scale.most / most / 86400) * 86400
    return tuple(Tick(scale.at(at), clock(at)) for at in range(0, int(scale.most) + 1, step))


def value_scale(
    most: float, first: float, last: float, *, whole: bool = False
) -> tuple[Scale, tuple[Tick, ...]]:
    """A scale up to a round value above `most`, and three to five ticks; `whole` for counts."""
    step = _round_step(most / 4)
    if whole:
        step = max(1.0, math.ceil(step))
    steps = max(1, math.ceil(most / step - 1e-9))
    scale = Scale(steps * step, first, last)
    return scale, tuple(Tick(scale.at(number * step), f"{number * step:g}") for number in range(steps + 1))


def clock(seconds: float) -> str:
    """A moment since the start: 0:05, 12:30, 1:02:30."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def _round_step(step: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    if step <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(step))
    return next((power * each for each in (1, 2, 2.5, 5) if step <= power * each * (1 + 1e-9)), power * 10)
