"""What the balancers counted during a rollout, second by second and by colour."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fleet.rollout.model import Colour
from fleet.rollout.world import ServerNow

MOST_ROWS = 3600


@dataclass(frozen=True)
class Pair:
    """The same figure for both colours."""

    blue: float = 0.0
    green: float = 0.0

    def __add__(self, other: Pair) -> Pair:
        return Pair(self.blue + other.blue, self.green + other.green)

    @property
    def sum(self) -> float:
        """Both together."""
        return self.blue + self.green

    def of(self, colour: Colour) -> float:
        """One of them."""
        return self.blue if colour == "blue" else self.green


@dataclass(frozen=True)
class Row:
    """The fleet in one interval, which begins `at` seconds after the rollout.

    `ready` is the least weight that was ready on any balancer, `weight` the same by colour, `jobs` those in
    flight; `requests` and `errors` were answered in the interval, and `busy` is the time the requests took.
    """

    at: float
    ready: float
    weight: Pair
    jobs: Pair
    requests: Pair = Pair()
    errors: Pair = Pair()
    busy: Pair = Pair()

    def mean(self, colour: Colour) -> float | None:
        """The mean time of a request in seconds; None where there was none."""
        requests = self.requests.of(colour)
        return max(0.0, self.busy.of(colour) / requests) if requests else None

    def with_next(self, later: Row) -> Row:
        """Both intervals as one: the lower ready weight, the later state, what both counted."""
        return replace(
            later,
            at=self.at,
            ready=min(self.ready, later.ready),
            requests=self.requests + later.requests,
            errors=self.errors + later.errors,
            busy=self.busy + later.busy,
        )

    def as_json(self) -> dict[str, Any]:
        """Plain values, rounded."""
        document: dict[str, Any] = {"at": round(self.at, 3), "ready": round(self.ready, 3)}
        for name in ("weight", "jobs", "requests", "errors"):
            pair = getattr(self, name)
            document[name] = {"blue": round(pair.blue, 3), "green": round(pair.green, 3)}
        blue, green = self.mean("blue"), self.mean("green")
        document["mean"] = {
            "blue": None if blue is None else round(blue, 4),
            "green": None if green is None else round(green, 4),
        }
        return document


class Samples:
    """Rows of `every` seconds. When they become too many, two make one, so that a night's rollout fits."""

    def __init__(self, most: int = MOST_ROWS) -> None:
        self.every = 1.0
        self.rows: list[Row] = []
        self.lowest: float | None = None
        self._most = most
        self._before: dict[tuple[str, str], ServerNow] = {}

    def add(self, at: float, servers: Sequence[ServerNow], colour: Callable[[str], Colour]) -> None:
        """Take a sample, `at` seconds after the rollout's start; `colour` is what a slot runs now."""
        if not servers:
            return
        at = max(0.0, at)
        sums = {"blue": _Sum(), "green": _Sum()}
        ready: dict[str, float] = {}
        for server in servers:
            weight = server.weight if serves(server) else 0
            ready[server.balancer] = ready.get(server.balancer, 0.0) + weight
            mine = sums[colour(server.slot)]
            mine.weight += weight
            mine.jobs += server.jobs
            self._count(server, mine)
        row = _row(at // self.every * self.every, min(ready.values()), sums, len(ready))
        self.lowest = row.ready if self.lowest is None else min(self.lowest, row.ready)
        if self.rows and self.rows[-1].at >= row.at:
            self.rows[-1] = self.rows[-1].with_next(row)
        else:
            self.rows.append(row)
        if len(self.rows) > self._most:
            self.every *= 2
            self.rows = merged(self.rows, self.every)

    def rate(self, at: float, over: float = 5.0) -> float:
        """Requests a second in the last `over` seconds before `at`."""
        over = max(over, 2 * self.every)
        recent = [row for row in self.rows[-64:] if row.at > at - over]
        length = min(over, max(at - recent[0].at, self.every)) if recent else over
        return sum(row.requests.sum for row in recent) / length

    def lowest_between(self, start: float, end: float) -> float | None:
        """The least ready weight in the rows from `start` to `end`; None where there is none.

        The row in which it ends counts only where it is the only one: the next wave may begin in it.
        """
        rows = [row for row in self.rows if start < row.at + self.every and row.at <= end]
        whole = [row for row in rows if row.at + self.every <= end]
        return min((row.ready for row in whole or rows), default=None)

    def _count(self, server: ServerNow, mine: _Sum) -> None:
        """Add what the server did since the last sample of it."""
        key = (server.balancer, server.slot)
        before = self._before.get(key)
        self._before[key] = server
        if before is None:
            return
        if before.process != server.process or before.requests > server.requests:
            before = replace(server, requests=0, errors=0, mean=0.0)
        requests = server.requests - before.requests
        mine.requests += requests
        mine.errors += max(0, server.errors - before.errors)
        mine.busy += requests * mean_between(before, server)


@dataclass
class _Sum:
    """One colour in one sample."""

    weight: float = 0.0
    jobs: int = 0
    requests: int = 0
    errors: int = 0
    busy: float = 0.0


def serves(server: ServerNow) -> bool:
    """True where its weight counts: new jobs go there, and its checks pass."""
    return server.takes_jobs and server.up


def mean_between(before: ServerNow, after: ServerNow) -> float:
    """The mean time in seconds of the requests between two samples of one process.

    HAProxy keeps a sum that each request lets fade by one part in `window`, and shows it divided by the
    window, or by the requests so far where these are fewer. With that undone, the new requests remain.
    What HAProxy shows is rounded, so a few requests in a full window may come out even below 0; over several
    samples such errors cancel out, and so they are left in.
    """
    new = after.requests - before.requests
    if new <= 0:
        return 0.0
    window = max(2, after.window)
    fading = (1 - 1 / window) ** new
    first = before.mean * min(before.requests, window)
    last = after.mean * min(after.requests, window)
    return (last - first * fading) / (window * (1 - fading))


def merged(rows: Iterable[Row], every: float) -> list[Row]:
    """Rows of `every` seconds from finer ones."""
    coarse: list[Row] = []
    for row in rows:
        at = row.at // every * every
        if coarse and coarse[-1].at == at:
            coarse[-1] = coarse[-1].with_next(row)
        else:
            coarse.append(replace(row, at=at))
    return coarse


def _row(at: float, ready: float, sums: Mapping[str, _Sum], balancers: int) -> Row:
    """A sample as a row; the weight by colour is the balancers' mean."""
    blue, green = sums["blue"], sums["green"]
    return Row(
        at=at,
        ready=ready,
        weight=Pair(blue.weight / balancers, green.weight / balancers),
        jobs=Pair(blue.jobs, green.jobs),
        requests=Pair(blue.requests, green.requests),
        errors=Pair(blue.errors, green.errors),
        busy=Pair(blue.busy, green.busy),
    )
