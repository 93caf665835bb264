"""Jobs, many at once, and what became of each."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tests.lab.pages import DEADLINE, LANGUAGE, JobError, RefusedError, expected, name_of, same

T = TypeVar("T")


@dataclass(frozen=True)
class Failure:
    """One failed job: why, where (empty: not known), and from when to when on the monotonic clock (seconds)."""

    reason: str
    slot: str
    began: float
    ended: float


@dataclass
class Tally:
    """What became of some jobs: how long the good ones took (seconds), and why the others failed."""

    seconds: list[float] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    slots: Counter[str] = field(default_factory=Counter)

    @property
    def jobs(self) -> int:
        return len(self.seconds) + len(self.failed) + len(self.refused)

    def add(self, other: Tally) -> None:
        self.seconds += other.seconds
        self.failed += other.failed
        self.refused += other.refused
        self.slots += other.slots

    def __str__(self) -> str:
        reasons = Counter(failure.reason for failure in self.failed).most_common(4)
        worst = "; ".join(f"{count} x {reason}" for reason, count in reasons)
        return f"{len(self.failed)} of {self.jobs} jobs failed" + (f": {worst}" if worst else "")


async def together(
    job: Callable[[int], Awaitable[str | None]],
    count: int,
    at_once: int,
    until: Callable[[], bool] | None = None,
) -> Tally:
    """`count` jobs, `at_once` of them at a time; all run, whatever becomes of the others.

    With `until`, jobs go on past `count` as long as it says False.
    """
    tally = Tally()
    numbers = iter(range(10**9))

    async def worker() -> None:
        while (number := next(numbers)) < count or (until is not None and not until()):
            await one(job(number), tally)

    await asyncio.gather(*(worker() for _ in range(at_once)))
    return tally


async def one(job: Awaitable[str | None], tally: Tally) -> None:
    """Run one job into the tally."""
    began = time.monotonic()
    try:
        slot = await job
    except RefusedError as error:
        tally.refused.append(time.monotonic() - began)
        if error.retry_after is None:
            tally.failed.append(Failure("refused without Retry-After", "", began, time.monotonic()))
    except Exception as error:
        text = str(error) if isinstance(error, JobError | AssertionError) else name_of(error)
        tally.failed.append(Failure(text, getattr(error, "slot", ""), began, time.monotonic()))
    else:
        tally.seconds.append(time.monotonic() - began)
        if slot:
            tally.slots[slot] += 1


def in_thread(work: Callable[[], Awaitable[T]]) -> T:
    """Run asynchronous work to its end, in a thread of its own: playwright keeps this one's loop to itself."""

    async def whole() -> T:
        return await work()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, whole()).result()


def gradio(url: str) -> Any:
    """The real client."""
    from gradio_client import Client

    return Client(url, verbose=False)


async def by_gradio(url: str, text: str) -> str:
    """One job of a new gradio_client; it cannot tell which slot served it."""

    def work() -> str:
        client = gradio(url)
        try:
            answer = client.submit(text, LANGUAGE, api_name="/translate").result(timeout=DEADLINE)
        finally:
            client.close()
        same("answer", answer, expected(text))
        return ""

    return await asyncio.to_thread(work)


def spread(counts: Mapping[str, int], weights: Mapping[str, float]) -> float:
    """How far the slot that is farthest off is from its share by weight: 0.1 is ten percent."""
    total, whole = sum(counts.values()), sum(weights.values())
    return max(abs(counts.get(slot, 0) / (total * weight / whole) - 1) for slot, weight in weights.items())
