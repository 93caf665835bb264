"""Upgrades that fail: the fleet ends on the release it had, the reason is told, and no client has lost a job.

Only jobs in flight on a machine that itself died may fail, and they are counted. A sample here, all in `make soak`.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pytest

from tests.lab.conftest import SOAK, Done, Lab
from tests.lab.helpers import wait_for
from tests.lab.upgrade_eyes import containers, one_release, slots
from tests.lab.upgrade_images import Registry, without_registry, without_space
from tests.lab.upgrade_load import Job, Jobs
from tests.lab.upgrades import (
    HALF,
    LEAST_JOBS,
    all_serve,
    floor_kept,
    gentle,
    going,
    module,
    other,
    row,
    runs,
    settle,
    under_load,
    unharmed,
    upgrade,
    wait_out,
)

pytestmark = [pytest.mark.lab, pytest.mark.soak]

# With the ramp's gates, which some of these need, and a deadline that fits images which load nothing.
GATED = ("--floor", "50%", "--ramp", "10,50,100", "--soak", "0", "--ready-deadline", "20s")


@dataclass(frozen=True)
class Fault:
    """An image, the rungs or gates that may find what it does wrong, and whether it prints nothing."""

    tag: str
    rungs: tuple[str, ...]
    silent: bool = False
    takes_jobs_along: bool = False


FAULTS = [
    Fault("v2-never-ready", ("port",), silent=True),
    Fault("v2-wrong", ("golden",)),
    Fault("v2-dies", ("running", "golden")),
    Fault("v2-slow", ("golden", "time")),
    Fault("v2-stuck", ("golden",)),
    Fault("v2-wrong-gpu", ("memory",)),
    # The same as v2-dies, but only after it has passed readiness and serves.
    Fault("v2-dies-later", ("running", "errors", "golden"), takes_jobs_along=True),
]
SAMPLE = ("v2-never-ready", "v2-wrong", "v2-dies")


@pytest.fixture(scope="module", autouse=True)
def releases(lab: Lab) -> Iterator[None]:
    registry = Registry(lab)
    registry.larger("v2", "v2-larger", megabytes=4)
    registry.variant("v2", "v2-dies-later", {"FLEET_LAB_DIE_AFTER": "12"})
    yield from module(lab)


@pytest.fixture
def version(lab: Lab) -> str:
    """What every slot runs when the test begins, v1 or v2."""
    return settle(lab)


@pytest.mark.parametrize("fault", [f for f in FAULTS if SOAK or f.tag in SAMPLE], ids=lambda fault: fault.tag)
def test_an_image_that_fails_goes_back_and_no_client_notices(lab: Lab, version: str, fault: Fault) -> None:
    before = {held.slot: held.id for held in containers(lab) if held.running}
    done, jobs, eyes = under_load(lab, lambda: upgrade(lab, fault.tag, *GATED), gentle(lab))
    assert done.code == 4, done.words
    assert done.json["state"] == "rolled-back"
    assert done.json["rung"] in fault.rungs, done.json["reason"]
    failed = done.json["failed_slot"]
    assert failed in before
    assert fault.silent or done.json["log"].strip(), "the container's log is not shown"
    assert failed in done.words
    row(f"an image that fails: {fault.tag}", jobs, f"rung {done.json['rung']}, exit code 4")
    if fault.takes_jobs_along:
        assert len(jobs.all) >= LEAST_JOBS
        assert all(job.slot in (failed, "") for job in jobs.failed), f"{jobs}: {jobs.failed[:5]}"
        assert not jobs.hung
    else:
        unharmed(jobs)
    floor_kept(eyes, 0.5)
    assert {held.slot: held.id for held in containers(lab) if held.running} == before
    assert runs(lab, version)
    assert all_serve(lab)


PULLS: dict[str, tuple[Callable[[Lab, str], AbstractContextManager[None]], str]] = {
    "registry": (without_registry, "connection refused"),
    "disk": (without_space, "no space left"),
}


@pytest.mark.parametrize("kind", PULLS)
def test_a_pull_that_fails_on_one_host_touches_no_container(lab: Lab, version: str, kind: str) -> None:
    broken, words = PULLS[kind]
    before = containers(lab)
    host = lab.gpu_hosts[-1]
    with broken(lab, host):
        done, jobs, eyes = under_load(lab, lambda: upgrade(lab, "v2-larger", *HALF), gentle(lab))
    assert done.code == 4, done.words
    assert host in done.words
    assert words in done.words.lower()
    assert eyes.out() == {}
    assert containers(lab) == before
    assert runs(lab, version)
    unharmed(jobs)
    row(f"a pull that fails on one host: {kind}", jobs, "exit code 4")


def test_a_balancer_restarted_by_hand_does_not_disturb_it(lab: Lab, version: str) -> None:
    """What was decided survives the restart; only jobs that came by that balancer just then end with it."""
    restarted: list[float] = []
    name = lab.balancers[0]

    def work() -> Done:
        with going(lab, other(version), *HALF) as first:
            wait_out(lab, first, slots(lab))
            restarted.append(time.monotonic())
            lab.sh(name, "systemctl restart haproxy")
            restarted.append(time.monotonic())
            return first.done()

    done, jobs, eyes = under_load(lab, work, gentle(lab))
    assert done.code == 0, done.words
    began, ended = restarted

    def met_it(job: Job) -> bool:
        return job.url == lab.urls[name] and job.began < ended + 1 and job.ended > began

    spared = Jobs(tuple(job for job in jobs.all if not (job.reason and met_it(job))))
    row("a balancer restarted during an upgrade", jobs, "failures: jobs that came by it just then")
    unharmed(spared)
    assert not jobs.hung
    floor_kept(eyes, 0.5)
    assert runs(lab, other(version))
    assert all_serve(lab)


if SOAK:

    @pytest.mark.parametrize("loss", ["kill", "pause"])
    def test_a_host_lost_in_the_middle_leaves_the_others_on_one_release(
        lab: Lab, version: str, loss: str
    ) -> None:
        """Jobs on that host may fail, and no others; when it is back, fleet brings it to the same release."""
        host = lab.gpu_hosts[-1]
        container = lab.hosts[host]["container"]
        lost_at: list[float] = []
        mine = [slot for slot in slots(lab) if slot.rpartition("-")[0] == host]

        def work() -> Done:
            with going(
                lab, other(version), *HALF, "--drain-deadline", "20s", "--ready-deadline", "30s"
            ) as first:
                wait_out(lab, first, mine)
                lost_at.append(time.monotonic())
                subprocess.run(["docker", loss, container], check=True, capture_output=True)
                return first.done()

        try:
            done, jobs, _ = under_load(lab, work, gentle(lab, deadline=30.0))
            assert done.code == 4, done.words
            assert set(done.json["lost"]) <= set(mine)
            assert host in done.words
            survivor = one_release(lab, *(name for name in lab.gpu_hosts if name != host))
            row(f"a host lost during an upgrade: {loss}", jobs, "failures: jobs in flight on it")
            for job in jobs.failed:
                assert job.slot in (*mine, ""), job
                assert job.ended > lost_at[0], job
                # A request that was on its way to the host when it went away is not answered by another one. One
                # that is frozen still accepts connections, until the third health check of it had no answer.
                assert job.slot or job.began < lost_at[0] + {"kill": 15, "pause": 30}[loss], job
        finally:
            back = {"kill": "start", "pause": "unpause"}[loss]
            subprocess.run(["docker", back, container], check=True, capture_output=True)
            wait_for(
                lambda: "active" in lab.sh(host, "systemctl is-active docker", check=False).split(),
                120,
                f"{host} does not come back",
            )
        settle(lab, survivor.version)
        assert one_release(lab).image == survivor.image
        assert all_serve(lab)
