"""Five times more jobs than the slots can do: what is let in is done, the rest is told at once to come back.

Jobs arrive at a constant rate, whatever becomes of those before them, as those of many users do. `make soak` keeps
it up for a minute.
"""

from __future__ import annotations

import asyncio
import re
import time
from statistics import quantiles

import pytest

from tests.lab import soak
from tests.lab.conftest import SOAK, Lab
from tests.lab.helpers import haproxy, server_states, wait_for
from tests.lab.jobs import Tally, in_thread, one
from tests.lab.pages import Browser
from tests.lab.seen import Seen

pytestmark = [pytest.mark.lab, pytest.mark.soak, pytest.mark.alone]

JOB_SECONDS = 0.3
SECONDS = 60 if SOAK else 8
TIMES = 5
# How soon a refusal must be there, and how soon after the flood a job must find no other before it.
AT_ONCE = 1.0
RECOVERY = 15.0


async def flood(url: str, rate: float, seconds: float) -> tuple[Tally, float]:
    """New jobs at a constant rate, half of them as pages, half as plain calls; and how long until all is calm.

    Calm is when a job is let in and waits for no other.
    """
    tally = Tally()
    async with Browser(url, cookies=False) as browser, asyncio.TaskGroup() as jobs:
        began = time.monotonic()
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            text = f"flood {number}"
            job = browser.page().translate(text) if number % 2 else browser.call(text)
            jobs.create_task(one(job, tally))
        over = time.monotonic()
        sent = number / (over - began)
        assert sent > 3 / TIMES * rate, f"this machine sent only {sent:.0f} jobs a second, which is no flood"
        while True:
            later = Tally()
            await one(browser.call("after the flood"), later)
            tally.failed += later.failed
            if later.seconds and later.seconds[0] < 2 * JOB_SECONDS + 0.5:
                return tally, time.monotonic() - over
            await asyncio.sleep(0.2)


def still_the_same(lab: Lab, balancer: str) -> list[str]:
    """What must not change: the containers that run, since when, and HAProxy's worker."""
    running = (
        "docker ps -q | xargs docker inspect -f '{{.Name}} {{.State.StartedAt}} {{.RestartCount}}' | sort"
    )
    worker = re.findall(r"^Pid: (\d+)", haproxy(lab, balancer, "show info"), re.MULTILINE)
    return [lab.sh(host, running) for host in lab.gpu_hosts] + worker


@pytest.fixture(scope="module")
def usual_lab(lab: Lab) -> Lab:
    """Jobs of the usual length: a flood of short ones is more than this machine can send."""
    if SOAK:
        done = lab.fleet("provision", "--json")
        assert done.code == 0, done.out + done.err
    return lab


@pytest.mark.parametrize("balancer", ["lb-01", "lb-02"])
def test_a_flood_of_jobs(usual_lab: Lab, balancer: str) -> None:
    lab = usual_lab
    if balancer not in lab.urls:
        pytest.skip(f"this lab has no {balancer}")
    slots = re.findall(
        r"^\d+ work \d+ (\S+)", haproxy(lab, balancer, "show servers state work"), re.MULTILINE
    )
    for slot in slots:
        wait_for(lambda slot=slot: server_states(lab, slot) == {"UP"}, 60, f"{slot} is not up")
    before = still_the_same(lab, balancer)
    url = lab.urls[balancer]

    seen = Seen(lab, balancer)
    tally, calm = in_thread(lambda: flood(url, TIMES * len(slots) / JOB_SECONDS, SECONDS))

    note = f"calm after {calm:.0f} s"
    soak.record(f"{TIMES} times the capacity", balancer, tally, None, note)
    assert not tally.failed, str(tally)
    assert tally.refused, f"all of {tally.jobs} jobs were let in: this was no flood"
    # By the balancer's clock: that of the clients also tells how late they themselves were, thousands in one process.
    refusals = seen.refusals()
    assert len(refusals) >= len(tally.refused)
    assert max(refusals) < AT_ONCE, f"a refusal took {max(refusals):.1f} s"
    assert quantiles(tally.refused, n=20)[-1] < AT_ONCE
    # As many as the slots can do meanwhile, less what the machine under the lab is short of.
    assert len(tally.seconds) >= 0.5 * SECONDS * len(slots) / JOB_SECONDS, f"{len(tally.seconds)} jobs done"
    assert still_the_same(lab, balancer) == before
    assert {state for slot in slots for state in server_states(lab, slot)} == {"UP"}
    assert calm < RECOVERY, f"{calm:.0f} s until a job found its slot free again"
