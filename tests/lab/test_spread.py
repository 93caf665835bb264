"""Jobs spread in proportion to the slots' weights, where weights mean something: when all slots have work.

HAProxy's leastconn gives a job to the slot with the fewest jobs in flight for its weight. While some slot is idle,
that is an idle one, whatever its weight, and nobody waits. When none is, two things must hold:

- the jobs in flight (worked on or waiting at the slot) are in proportion to the weights. This is what the balancer
  decides, and a sample suffices to see it;
- where a slot's speed is in proportion to its weight, as the built-in weights mean it, the jobs *done* are too. Slots
  that all worked at the same speed would all do the same number of jobs under any weights, with longer queues at the
  heavier. `make soak` makes the slots of one host faster, by their job's length, and counts what each was given.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from tests.lab import soak
from tests.lab.conftest import PROVISION, SOAK, Lab
from tests.lab.helpers import haproxy, server_states, wait_for
from tests.lab.jobs import Tally, in_thread, spread, together
from tests.lab.pages import Browser
from tests.lab.seen import Seen

pytestmark = [pytest.mark.lab, pytest.mark.soak, pytest.mark.alone]

WEIGHTS = {"gpu-01-0": 28, "gpu-01-1": 10, "gpu-02-0": 28, "gpu-02-1": 10}
FAST, SLOW = 28, 10
FAST_SECONDS = 0.15
# More than the slots work on, less than the balancer lets wait.
AT_ONCE = 76 if SOAK else 38
BALANCERS = ("lb-01", "lb-02")


def saturate(url: str, jobs: int, over: threading.Event | None = None) -> Tally:
    """So many jobs at once, each of a session of its own."""

    async def work() -> Tally:
        async with Browser(url, cookies=False) as browser:

            async def job(number: int) -> str:
                return await browser.page().translate(f"spread {number}")

            return await together(job, jobs, AT_ONCE, over.is_set if over else None)

    return in_thread(work)


def in_flight(lab: Lab, balancer: str) -> Counter[str]:
    names, *rows = haproxy(lab, balancer, "show stat").removeprefix("# ").splitlines()
    columns = names.split(",")
    slots = (dict(zip(columns, row.split(","), strict=False)) for row in rows if row)
    mine = (row for row in slots if row["pxname"] == "work" and row["svname"] in WEIGHTS)
    return Counter({row["svname"]: int(row["scur"]) for row in mine})


def all_up(lab: Lab) -> None:
    for slot in WEIGHTS:
        wait_for(lambda slot=slot: server_states(lab, slot) == {"UP"}, 90, f"{slot} is not up")


@pytest.fixture
def weighed(lab: Lab) -> Iterator[Lab]:
    """The lab, with other weights for a while, given as `fleet weight` gives them."""
    if not set(WEIGHTS) <= {
        f"{host}-{index}" for host in lab.gpu_hosts for index in range(lab.hosts[host]["gpus"])
    }:
        pytest.skip("this lab has other slots")
    all_up(lab)
    before = {slot: haproxy(lab, "lb-01", f"get weight work/{slot}").split()[0] for slot in WEIGHTS}
    for name in lab.balancers:
        for slot, weight in WEIGHTS.items():
            assert haproxy(lab, name, f"set weight work/{slot} {weight}").strip() == ""
    yield lab
    for name in lab.balancers:
        for slot, was in before.items():
            assert haproxy(lab, name, f"set weight work/{slot} {was}").strip() == ""


@pytest.mark.parametrize("balancer", BALANCERS)
def test_jobs_in_flight_are_in_proportion_to_the_weights(weighed: Lab, balancer: str) -> None:
    if balancer not in weighed.urls:
        pytest.skip(f"this lab has no {balancer}")
    over = threading.Event()
    counts: Counter[str] = Counter()
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(saturate, weighed.urls[balancer], AT_ONCE, over)
        try:
            time.sleep(2)
            for _ in range(60 if SOAK else 10):
                counts += in_flight(weighed, balancer)
                time.sleep(0.3)
        finally:
            over.set()
        tally = work.result()
    far = spread(counts, WEIGHTS)
    soak.record("in flight, weights 28:10:28:10", balancer, tally, far)
    assert not tally.failed, str(tally)
    assert not tally.refused
    assert far <= 0.10, f"{far:.0%} off: {counts} for {WEIGHTS}"


@pytest.fixture(scope="module")
def uneven(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The lab with one host whose cards are 2.8 times as fast as the other's, and weighed so."""
    hosts = {
        "gpu-01": {"weight": FAST, "slot_env": {"FLEET_LAB_JOB_SECONDS": str(FAST_SECONDS)}},
        "gpu-02": {
            "weight": SLOW,
            "slot_env": {"FLEET_LAB_JOB_SECONDS": f"{FAST_SECONDS * FAST / SLOW:.3f}"},
        },
    }
    more: Path = tmp_path_factory.mktemp("uneven") / "speeds.yml"
    more.write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    done = lab.fleet("provision", "--json", "-i", str(more))
    assert done.code == 0, done.out + done.err
    all_up(lab)
    yield lab
    back = lab.fleet("provision", "--json", *PROVISION)
    assert back.code == 0, back.out + back.err


@pytest.mark.skipif(not SOAK, reason="only `make soak` changes the slots' speed")
@pytest.mark.parametrize("balancer", BALANCERS)
def test_jobs_done_are_in_proportion_to_weight_and_speed(uneven: Lab, balancer: str) -> None:
    weights = {slot: FAST if slot.startswith("gpu-01") else SLOW for slot in WEIGHTS}
    seen = Seen(uneven, balancer)
    tally = saturate(uneven.urls[balancer], 1000)
    counts = seen.jobs()
    far = spread(counts, weights)
    soak.record("jobs done, speeds and weights 28:28:10:10", balancer, tally, far)
    assert not tally.failed, str(tally)
    assert not tally.refused
    assert counts.total() == tally.jobs
    assert far <= 0.10, f"{far:.0%} off: {counts} for {weights}"
