"""Many open pages do not hold up an upgrade: a drain waits for jobs, and no longer than the longest of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.conftest import Lab
from tests.lab.upgrade_eyes import slots
from tests.lab.upgrade_load import Clients, Jobs, capacity
from tests.lab.upgrades import (
    HALF,
    all_serve,
    entries,
    floor_kept,
    module,
    other,
    row,
    runs,
    settle,
    under_load,
    unharmed,
    upgrade,
)

pytestmark = [pytest.mark.lab, pytest.mark.soak, pytest.mark.alone]

PAGES = 200


@pytest.fixture(scope="module", autouse=True)
def releases(lab: Lab) -> Iterator[None]:
    yield from module(lab)


def test_a_drain_ends_within_a_second_of_its_longest_job_with_200_pages_open(lab: Lab) -> None:
    version = settle(lab)
    urls = tuple(lab.urls.values())
    rate = 0.6 * capacity(urls, len(slots(lab)), seconds=3)
    crowd = Clients(urls, rate=rate, pages=PAGES, gradio=False)
    done, jobs, eyes = under_load(lab, lambda: upgrade(lab, other(version), *HALF), crowd)
    assert done.code == 0, done.words
    unharmed(jobs)
    floor_kept(eyes, 0.5)
    began = done.json["started"]
    starts = entries(done.json, "draining")
    ends = entries(done.json, "drained")
    assert [start["slots"] for start in starts] == [end["slots"] for end in ends]
    assert sorted(slot for end in ends for slot in end["slots"]) == slots(lab)
    longest = [
        longest_job(jobs, start["slots"], began + start["at"], began + end["at"])
        for start, end in zip(starts, ends, strict=True)
    ]
    assert any(longest), "no slot had a job in flight when it was drained"
    for end, job in zip(ends, longest, strict=True):
        assert end["detail"]["seconds"] <= job + 1, f"{end['slots']}: the longest job took {job:.2f} s"
        assert not end["detail"].get("cut")
    assert runs(lab, other(version))
    assert all_serve(lab)
    drains = ", ".join(f"{end['detail']['seconds']:.1f}" for end in ends)
    row(f"{PAGES} pages open during an upgrade", jobs, f"drains took {drains} s")


def longest_job(jobs: Jobs, among: list[str], began: float, ended: float) -> float:
    """How long the longest job took that was on these slots while they were drained; 0 where there was none."""
    there = [job for job in jobs.all if job.slot in among and job.at[0] < ended and job.at[1] > began]
    return max((job.seconds for job in there), default=0.0)
