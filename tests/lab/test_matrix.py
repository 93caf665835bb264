"""The balancer's acceptance: all ways in which users send jobs, through each balancer; not one job may fail.

A lean sample here; `make soak` (FLEET_SOAK=1) sends 500 jobs each way and asks for a spread within a tenth of the
slots' weights. Which slot got a job is read from the balancer's own log, for all kinds of clients alike.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from tests.lab import soak
from tests.lab.conftest import SOAK, Lab
from tests.lab.helpers import needs, server_states, slot_servers, wait_for
from tests.lab.idle import Idle, answer, running_chromium, translate
from tests.lab.jobs import Tally, by_gradio, in_thread, one, spread, together
from tests.lab.pages import Browser, Page
from tests.lab.seen import Seen

pytestmark = [pytest.mark.lab, pytest.mark.soak]

JOBS = 500 if SOAK else 20
AT_ONCE = 16
# A sample this small tells no more than that every slot takes part.
FARTHEST = 0.10 if SOAK else 0.99
IDLE = 300.0 if SOAK else 17.0

Case = Callable[[str, int], Awaitable[Tally]]


async def new_sessions(url: str, jobs: int) -> Tally:
    """A new page, or client without cookies, for each job; every tenth is the real gradio_client."""

    async def job(number: int) -> str:
        if number % 10 == 0:
            return await by_gradio(url, f"new {number}")
        async with Browser(url, cookies=number % 2 == 0) as browser:
            return await browser.page().translate(f"new {number}")

    return await together(job, jobs, AT_ONCE)


async def sessions_with_many_jobs(url: str, jobs: int) -> Tally:
    """Four sessions, each with one job after another."""
    async with Browser(url, cookies=False) as browser:
        pages = [browser.page() for _ in range(4)]
        return await _by_turns(pages, jobs, 1)


async def two_jobs_at_once_in_a_session(url: str, jobs: int) -> Tally:
    """The next job is sent the moment one of the session's two ends: joins meet streams that just end."""
    async with Browser(url, cookies=False) as browser:
        pages = [browser.page() for _ in range(8)]
        return await _by_turns(pages, jobs, 2)


async def calls_without_cookies(url: str, jobs: int) -> Tally:
    async with Browser(url, cookies=False) as browser:
        return await together(lambda number: browser.call(f"call {number}"), jobs, AT_ONCE)


async def tabs_that_share_a_cookie(url: str, jobs: int) -> Tally:
    """Eight browsers with two tabs each, short and long texts in turn."""
    browsers = [Browser(url) for _ in range(8)]
    pages = [browser.page() for browser in browsers for _ in range(2)]
    try:
        return await _by_turns(pages, jobs, 1, lambda number: f"tab {number} " + "a" * (number % 3 * 10_000))
    finally:
        for browser in browsers:
            await browser.__aexit__()


async def long_and_short_texts_at_once(url: str, jobs: int) -> Tally:
    """Tabs with long texts beside tabs with short ones, and sessions with both at the same time."""
    browsers = [Browser(url) for _ in range(4)]
    pages = [browser.page() for browser in browsers for _ in range(2)]
    try:
        mixed = await _by_turns(pages[:4], jobs // 2, 2, lambda number: "x" + "a" * (number % 3 * 200_000))
        long = _by_turns(pages[4::2], jobs // 4, 1, lambda number: f"long {number} " + "a" * 400_000)
        short = _by_turns(pages[5::2], jobs - jobs // 2 - jobs // 4, 1)
        for tally in await asyncio.gather(long, short):
            mixed.add(tally)
        return mixed
    finally:
        for browser in browsers:
            await browser.__aexit__()


def bodies_of(size: int) -> Case:
    async def case(url: str, jobs: int) -> Tally:
        """Eight browsers at a time, with four texts of this size each."""
        whole = Tally()

        async def four(number: int) -> None:
            async with Browser(url) as browser:
                tab = browser.page()
                for turn in range(4):
                    await one(tab.translate(f"{number} {turn} " + "a" * size), whole)

        await together(four, jobs // 4, 8)
        return whole

    return case


async def uploads_and_downloads(url: str, jobs: int) -> Tally:
    """A file sent and fetched again, and a text in between; every other client keeps no cookies."""

    async def job(number: int) -> str:
        async with Browser(url, cookies=number % 2 == 0) as browser:
            content = f"file {number} {time.time()}\n".encode() * 2000
            path = await browser.upload(f"text-{number}.txt", content)
            slot = await browser.page().translate(f"between {number}")
            found = await browser.download(path)
            assert found == content, f"download: {len(found)} bytes instead of {len(content)}"
        return slot

    return await together(job, jobs, 8)


async def documents(url: str, jobs: int) -> Tally:
    """A file sent, a job on it, the file that the job made; every other client keeps no cookies."""

    async def job(number: int) -> str:
        async with Browser(url, cookies=number % 2 == 0) as browser:
            return await browser.document(number)

    return await together(job, jobs, 8)


CASES: dict[str, Case] = {
    "new sessions": new_sessions,
    "sessions with many jobs": sessions_with_many_jobs,
    "two jobs at once in a session": two_jobs_at_once_in_a_session,
    "two tabs with one cookie": tabs_that_share_a_cookie,
    "bodies of 1 KB": bodies_of(1_000),
    "bodies of 20 KB": bodies_of(20_000),
    "bodies of 100 KB": bodies_of(100_000),
    "bodies of 1 MB": bodies_of(1_000_000),
    "long and short texts at once": long_and_short_texts_at_once,
    "calls without cookies": calls_without_cookies,
    "uploads and downloads": uploads_and_downloads,
    "documents": documents,
}


async def _by_turns(
    pages: list[Page], jobs: int, at_once: int, text: Callable[[int], str] = "job {}".format
) -> Tally:
    """All pages at once, each with its share of the jobs, `at_once` of them at a time."""
    whole = Tally()
    shares = [jobs // len(pages) + (number < jobs % len(pages)) for number in range(len(pages))]
    work = (
        together(lambda number, page=page: page.translate(text(number)), share, at_once)
        for page, share in zip(pages, shares, strict=True)
    )
    for tally in await asyncio.gather(*work):
        whole.add(tally)
    return whole


@pytest.fixture(scope="module", params=["lb-01", "lb-02"])
def balancer(lab: Lab, request: pytest.FixtureRequest) -> str:
    name: str = request.param
    needs(name in lab.urls, f"this lab has no {name}")
    slots = [row["svname"] for row in _servers(lab, name)]
    for slot in slots:
        wait_for(lambda slot=slot: server_states(lab, slot) == {"UP"}, 60, f"{slot} is not up")
    version = lab.sh(name, "haproxy -v | sed -n '1s/^HA-*Proxy version \\([^ ]*\\) .*/\\1/p'").strip()
    soak.about(**{f"HAProxy on {name}": version, "slots": str(len(slots))})
    return name


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with running_chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def idle(lab: Lab, balancer: str, chromium: Any) -> Iterator[Idle]:
    idle = Idle(lab.urls[balancer], chromium, 50 if SOAK else 8)
    yield idle
    idle.close()


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("case", CASES)
def test_no_job_fails(lab: Lab, balancer: str, case: str) -> None:
    seen = Seen(lab, balancer)
    tally = in_thread(lambda: CASES[case](lab.urls[balancer], JOBS))
    counts = seen.jobs()
    weights = {row["svname"]: float(row["weight"]) for row in _servers(lab, balancer)}
    far = spread(counts, weights) if counts.total() else None
    soak.record(case, balancer, tally, far)
    assert tally.jobs >= JOBS
    assert not tally.failed, f"{tally}; the balancer's log: {seen.odd()}"
    assert not tally.refused, f"{len(tally.refused)} of {tally.jobs} were refused"
    if far is not None:
        assert counts.total() == tally.jobs
        assert far <= FARTHEST, f"{far:.0%} off: {counts} for {weights}"


def test_sessions_whose_requests_come_by_both_balancers(lab: Lab, balancer: str) -> None:
    """A job is asked for here, and its events there, as when one balancer takes the other's address over."""
    other = next((url for name, url in lab.urls.items() if name != balancer), None)
    needs(other, "this lab has one balancer")
    assert other is not None

    async def jobs() -> Tally:
        async with Browser(lab.urls[balancer], cookies=False) as here, Browser(other, cookies=False) as there:
            # A balancer that sees no events come counts a job for a second: few at a time are not refused.
            pages = [here.page(there) for _ in range(2)]
            return await _by_turns(pages, JOBS, 1)

    tally = in_thread(jobs)
    soak.record("events by the other balancer", balancer, tally, None)
    assert tally.jobs >= JOBS
    assert not tally.failed, str(tally)
    assert not tally.refused, f"{len(tally.refused)} of {tally.jobs} were refused"


def test_two_tabs_of_a_real_browser(lab: Lab, balancer: str, chromium: Any) -> None:
    """Chromium: browsers with two tabs each, which share a cookie; all tabs with a job at the same time."""
    contexts = [chromium.new_context() for _ in range(4 if SOAK else 1)]
    tabs = [context.new_page() for context in contexts for _ in range(2)]
    for tab in tabs:
        tab.goto(lab.urls[balancer], wait_until="domcontentloaded")
    tally = Tally()
    for turn in range(JOBS // len(tabs) + 1 if SOAK else 3):
        for number, tab in enumerate(tabs):
            translate(tab, f"tab {number} turn {turn}", start_only=True)
        for number, tab in enumerate(tabs):
            answer(tab, f"tab {number} turn {turn}")
            tally.seconds.append(0)
    for context in contexts:
        context.close()
    soak.record("two tabs of Chromium", balancer, tally, None)


def test_pages_that_were_idle_for_long(balancer: str, idle: Idle) -> None:
    """The same pages still work, in Chromium and in sessions whose heartbeat was open all the time."""
    time.sleep(max(0.0, IDLE - idle.seconds))
    waited = idle.seconds
    tally = idle.wake()
    soak.record(f"idle for {waited / 60:.0f} minutes", balancer, tally, None)
    assert not tally.failed, str(tally)


def _servers(lab: Lab, balancer: str) -> list[dict[str, str]]:
    names = lab.sh(
        balancer, "sed -n 's/^  server \\([^ ]*\\) .* weight .*/\\1/p' /etc/haproxy/haproxy.cfg"
    ).split()
    return [slot_servers(lab, name, balancer)[0] for name in names]
