"""Steady load from all kinds of clients, in a process of its own, which counts every job it sent.

Open loop: jobs begin by the clock, whatever became of those before. A job that has no answer by its deadline hangs.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.lab.jobs import Failure, Tally, in_thread, together
from tests.lab.pages import Browser

ROOT = Path(__file__).resolve().parents[2]
HUNG = "hung"
READY, END = "ready", "end"
"""What the clients' process writes before and after its jobs."""


@dataclass(frozen=True)
class Clients:
    """Who sends how much.

    `rate` jobs a second in all, to the balancers at `urls` in turn; `pages` stay open with their heartbeats, and so
    do `tabs` in Chromium, each of which has a job a second beside the others. A job hangs after `deadline` seconds.
    """

    urls: tuple[str, ...]
    rate: float
    pages: int = 8
    tabs: int = 0
    gradio: bool = True
    deadline: float = 60.0


@dataclass(frozen=True)
class Job:
    """One job: `began` and `ended` on the monotonic clock (seconds), which is the same for all processes here.

    `slot` and `version` are empty where the client is not told; `reason` says why it failed, HUNG that nothing came.
    """

    kind: str
    url: str
    began: float
    ended: float
    slot: str = ""
    version: str = ""
    reason: str = ""

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def at(self) -> tuple[float, float]:
        """When it began and ended, in seconds since the epoch."""
        offset = time.time() - time.monotonic()
        return self.began + offset, self.ended + offset


@dataclass(frozen=True)
class Jobs:
    """What became of them, in the order in which they ended."""

    all: tuple[Job, ...]

    @property
    def failed(self) -> list[Job]:
        return [job for job in self.all if job.reason]

    @property
    def hung(self) -> list[Job]:
        return [job for job in self.all if job.reason == HUNG]

    @property
    def versions(self) -> list[str]:
        """Every version that answered, in the order of their first answers."""
        return list(dict.fromkeys(job.version for job in self.all if job.version))

    def between(self, began: float, ended: float) -> Jobs:
        """Those that were on their way at some time in between, on the monotonic clock."""
        return Jobs(tuple(job for job in self.all if job.ended > began and job.began < ended))

    def percentile(self, share: float) -> float:
        """The job time that so many (0.99) of the good translations did not exceed, in seconds."""
        times = sorted(job.seconds for job in self.all if not job.reason and not job.version)
        assert times, "no job succeeded"
        return times[int(len(times) * share)]

    def tally(self) -> Tally:
        """The same for the soak's table."""
        return Tally(
            seconds=[job.seconds for job in self.all if not job.reason],
            failed=[Failure(job.reason, job.slot, job.began, job.ended) for job in self.failed],
        )

    def __str__(self) -> str:
        return f"{self.tally()}, {len(self.hung)} of them hung"


class Load:
    """The running load. `with Load(clients) as load:` ... `load.stop()` tells of every job."""

    def __init__(self, clients: Clients) -> None:
        self.clients = clients
        self._folder = tempfile.TemporaryDirectory(prefix="fleet-load-")
        self._out = Path(self._folder.name) / "jobs"
        self._err = Path(self._folder.name) / "errors"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Load:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def start(self) -> None:
        """Returns when every client is connected and the first jobs are on their way."""
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.lab.upgrade_clients", json.dumps(asdict(self.clients))],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                cwd=ROOT,
            )
        deadline = time.monotonic() + 120
        while READY not in self._out.read_text("utf-8").splitlines():
            assert self._process.poll() is None, self._err.read_text("utf-8")
            assert time.monotonic() < deadline, "the clients are not ready"
            time.sleep(0.1)

    def so_far(self) -> Jobs:
        """The jobs that have ended by now."""
        lines = self._out.read_text("utf-8").split("\n")[:-1]
        return Jobs(tuple(Job(**json.loads(line)) for line in lines if line not in (READY, END)))

    def stop(self) -> Jobs:
        """No new jobs; waits for those on their way, at most for their deadline."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            code = self._process.wait(self.clients.deadline + 60)
        finally:
            self._process.kill()
        assert code == 0, self._err.read_text("utf-8")
        assert self._out.read_text("utf-8").endswith(f"{END}\n"), (
            "the load ended before it had counted its jobs"
        )
        return self.so_far()


def capacity(urls: Sequence[str], slots: int, seconds: float = 5.0) -> float:
    """Jobs a second that the fleet does at most: two at once for each slot, the next one when one ends."""

    async def work() -> float:
        browsers = [Browser(url, cookies=False) for url in urls]
        tabs = [browsers[number % len(browsers)].page() for number in range(slots * 2)]

        async def job(_: int) -> str:
            tab = tabs.pop()
            try:
                return await tab.translate("as many as can be")
            finally:
                tabs.append(tab)

        began = time.monotonic()
        # Every worker ends with a job of its own, so the time of the last ones is time at saturation, too.
        tally = await together(job, 0, slots * 2, lambda: time.monotonic() - began > seconds)
        took = time.monotonic() - began
        await asyncio.gather(*(browser.http.aclose() for browser in browsers))
        assert not tally.failed, str(tally)
        return len(tally.seconds) / took

    return in_thread(work)
