"""Jobs while the fleet is worked on: drained, reloaded, weighed anew, killed. Only a killed container's own fail.

All kinds of clients at once keep every balancer busy for as long as the disturbance lasts. `make soak` does the same
for longer.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.lab import soak
from tests.lab.conftest import SOAK, Lab
from tests.lab.helpers import haproxy, needs, server_states, slot_servers, wait_for
from tests.lab.jobs import Tally, by_gradio, in_thread, together
from tests.lab.pages import Browser

pytestmark = [pytest.mark.lab, pytest.mark.soak]

JOBS = 500 if SOAK else 24
AT_ONCE = 12
# How soon a job whose container is gone must have failed.
AT_ONCE_SECONDS = 2.0


async def every_kind(url: str, until: Callable[[], bool]) -> Tally:
    """At least so many jobs of mixed kinds, and more until the disturbance is over; some pages stay all along."""
    browser, bare = Browser(url), Browser(url, cookies=False)
    pages = [bare.page() for _ in range(4)]
    tabs = [browser.page() for _ in range(3)]

    async def job(number: int) -> str:
        kind = number % 7
        if number % 50 == 3:
            return await by_gradio(url, f"disturbed {number}")
        if kind == 0:
            async with Browser(url) as fresh:
                return await fresh.page().translate(f"fresh {number}")
        if kind == 1:
            return await bare.call(f"call {number}")
        if kind == 2:
            return await tabs[number % 3].translate(f"tab {number} " + "a" * 30_000)
        return await pages[number % 4].translate(f"page {number}")

    try:
        return await together(job, JOBS, AT_ONCE, until)
    finally:
        await browser.__aexit__()
        await bare.__aexit__()


def disturbed(lab: Lab, balancer: str, case: str, disturb: Callable[[], None]) -> Tally:
    """Jobs through one balancer while `disturb` does its work; written down."""
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(disturb)
        tally = in_thread(lambda: every_kind(lab.urls[balancer], work.done))
        work.result()
    soak.record(case, balancer, tally, None)
    return tally


def unharmed(tally: Tally) -> None:
    assert tally.jobs >= JOBS
    assert not tally.failed, str(tally)
    assert not tally.refused, f"{len(tally.refused)} of {tally.jobs} were refused"


def slots(lab: Lab) -> list[str]:
    states = haproxy(lab, "lb-01", "show servers state work")
    return sorted(re.findall(r"^\d+ work \d+ (\S+)", states, re.MULTILINE))


def told(lab: Lab, command: str) -> None:
    """A command for all balancers, as `fleet drain` and `fleet weight` give it."""
    for name in lab.balancers:
        assert haproxy(lab, name, command).strip() == ""


@pytest.fixture(params=["lb-01", "lb-02"])
def balancer(lab: Lab, request: pytest.FixtureRequest) -> str:
    name: str = request.param
    needs(name in lab.urls, f"this lab has no {name}")
    for slot in slots(lab):
        wait_for(lambda slot=slot: server_states(lab, slot) == {"UP"}, 60, f"{slot} is not up")
    return name


def test_slots_are_drained_and_come_back(lab: Lab, balancer: str) -> None:
    names = slots(lab)

    def disturb() -> None:
        for turn in range(12 if SOAK else 2):
            slot = names[turn % len(names)]
            told(lab, f"set server work/{slot} state drain")
            time.sleep(3 if SOAK else 1.5)
            told(lab, f"set server work/{slot} state ready")
            time.sleep(0.5)

    unharmed(disturbed(lab, balancer, "a slot drained every few seconds", disturb))


def test_ten_reloads(lab: Lab, balancer: str) -> None:
    def disturb() -> None:
        for _ in range(10 if SOAK else 3):
            lab.sh(balancer, "systemctl reload haproxy")
            time.sleep(random.uniform(0.2, 4) if SOAK else 1)

    unharmed(disturbed(lab, balancer, "ten reloads", disturb))


def test_weights_change(lab: Lab, balancer: str) -> None:
    names = slots(lab)
    weights = {name: _weight(lab, balancer, name) for name in names}

    def disturb() -> None:
        try:
            for turn in range(60 if SOAK else 6):
                told(lab, f"set weight work/{names[turn % len(names)]} {random.choice((1, 5, 60, 256))}")
                time.sleep(0.4)
        finally:
            for name, weight in weights.items():
                told(lab, f"set weight work/{name} {weight}")

    unharmed(disturbed(lab, balancer, "weights change", disturb))


def test_a_killed_container_takes_only_its_own_jobs_along(lab: Lab, balancer: str) -> None:
    """Jobs in flight there fail at once and say so; all others succeed, also those sent to its dead port."""
    slot = slots(lab)[-1]
    host = slot.rpartition("-")[0]
    kills: list[tuple[float, float]] = []
    sent_again: list[int] = []
    before = int(slot_servers(lab, slot, balancer)[0]["wredis"])

    def disturb() -> None:
        for _ in range(3 if SOAK else 1):
            time.sleep(1.5)
            began = time.monotonic()
            lab.sh(host, f"docker kill fleet-{slot}")
            kills.append((began, time.monotonic()))
            # First the balancers do not know yet that it is gone, then they do.
            time.sleep(20 if SOAK else 3)
            sent_again.append(int(slot_servers(lab, slot, balancer)[0]["wredis"]) - before)
            lab.sh(host, f"docker start fleet-{slot}")
            wait_for(lambda: server_states(lab, slot) == {"UP"}, 90, f"{slot} does not come back")

    tally = disturbed(lab, balancer, "a container killed", disturb)
    assert sent_again[-1] > 0, "no job met the dead port, so nothing is proved of those that do"
    for failure in tally.failed:
        assert failure.slot in (slot, ""), f"on {failure.slot}, where nothing happened: {failure.reason}"
        assert any(failure.began < after and before < failure.ended for before, after in kills), failure
        assert any(before < failure.ended < after + AT_ONCE_SECONDS for before, after in kills), failure
    assert len(tally.failed) <= len(kills) * AT_ONCE, str(tally)


def _weight(lab: Lab, balancer: str, slot: str) -> int:
    return int(haproxy(lab, balancer, f"get weight work/{slot}").split()[0])
