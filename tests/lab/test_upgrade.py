"""An upgrade from the users' side: nothing fails, nothing hangs, nothing gets slow, and the way back is as smooth.

One way there and back here; `make soak` goes ten times, with ramps too and with pages in Chromium.
"""

from __future__ import annotations

import getpass
import signal
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.lab.conftest import ROOT, SOAK, Done, Lab, fleet
from tests.lab.helpers import wait_for
from tests.lab.test_00_provision import FILES
from tests.lab.upgrade_eyes import Eyes, containers, slots
from tests.lab.upgrade_images import Registry, without_registry
from tests.lab.upgrade_load import Clients, Jobs, Load, capacity
from tests.lab.upgrades import (
    HALF,
    PLAIN,
    all_serve,
    entries,
    floor_kept,
    gentle,
    going,
    module,
    other,
    resume,
    row,
    runs,
    settle,
    under_load,
    unharmed,
    upgrade,
    wait_out,
)

pytestmark = [pytest.mark.lab, pytest.mark.soak]

TURNS = 10 if SOAK else 1
CALM = 30.0 if SOAK else 10.0
TABS = 2 if SOAK else 1
SLOWER = 1.5
FLOOR = 0.75
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP] if SOAK else [signal.SIGTERM]


@pytest.fixture(scope="module", autouse=True)
def releases(lab: Lab) -> Iterator[None]:
    yield from module(lab)


@pytest.fixture
def version(lab: Lab) -> str:
    """What every slot runs when the test begins, v1 or v2."""
    return settle(lab)


@pytest.fixture(scope="module")
def busy(lab: Lab) -> Clients:
    """All kinds of clients at 70 % of what the fleet can do."""
    urls = tuple(lab.urls.values())
    return Clients(urls, rate=0.7 * capacity(urls, len(slots(lab))), pages=16, tabs=TABS)


@pytest.mark.alone
@pytest.mark.timeout(4 * 3600 if SOAK else 1200)
def test_nobody_notices_an_upgrade_and_the_way_back(lab: Lab, busy: Clients) -> None:
    settle(lab, "v1")
    for turn in range(TURNS):
        how = ("--ramp", "10,50,100", "--soak", "5s") if turn % 2 else PLAIN
        options = ("--floor", f"{FLOOR:.0%}", *how)
        kind = "with a ramp" if turn % 2 else "without a ramp"
        there = unnoticed(lab, busy, f"v1 to v2 {kind}", "v2", partial(upgrade, lab, "v2", *options))
        assert kept(lab) == {slot: ["v1"] for slot in slots(lab)}
        told = lab.fleet("history", "--json")
        assert told.code == 0, told.words
        assert there.json["id"] in told.out
        shown = lab.fleet("release", "show", "--json")
        assert shown.code == 0, shown.words
        assert there.json["digest"] in shown.out
        with without_registry(lab, *lab.gpu_hosts):
            back = partial(lab.fleet, "rollback", "--yes", "--json", *options)
            unnoticed(lab, busy, f"back to v1 {kind}", "v1", back)
        assert kept(lab) == {slot: ["v2"] for slot in slots(lab)}


def unnoticed(lab: Lab, busy: Clients, case: str, tag: str, work: Callable[[], Done]) -> Done:
    """Load as before and load during the work; the users see no difference."""
    with Eyes(lab) as eyes, Load(busy) as load:
        time.sleep(CALM)
        began = time.monotonic()
        done = work()
        ended = time.monotonic()
        jobs = load.stop()
    assert done.code == 0, done.words
    assert done.json["state"] == "finished"
    before = Jobs(tuple(job for job in jobs.all if job.ended < began))
    during = jobs.between(began, ended)
    lowest = floor_kept(eyes, FLOOR)
    row(
        case,
        during,
        f"{busy.rate:.1f} jobs a second, p99 {before.percentile(0.99):.2f} s before, ready {lowest:.0%}",
    )
    unharmed(jobs)
    assert set(jobs.versions) == {"v1", "v2"}, "one of the releases answered nobody"
    assert during.percentile(0.99) <= SLOWER * before.percentile(0.99)
    assert runs(lab, tag)
    assert all_serve(lab)
    return done


def kept(lab: Lab) -> dict[str, list[str]]:
    """By slot: the versions of its stopped containers."""
    found: dict[str, list[str]] = {}
    for held in containers(lab):
        if not held.running:
            found.setdefault(held.slot, []).append(held.version)
    return found


def test_an_upgrade_to_what_runs_changes_nothing_and_says_so(lab: Lab, version: str) -> None:
    before = containers(lab)
    with Eyes(lab) as eyes:
        done = upgrade(lab, version)
        said = lab.fleet("upgrade", Registry(lab).reference(version), "--blue-green", "--yes")
    assert (done.code, done.json["state"]) == (0, "unchanged"), done.words
    assert said.code == 0
    assert "already" in said.words or "nothing" in said.words, said.words
    assert containers(lab) == before
    assert eyes.out() == {}
    assert eyes.lowest().ready == eyes.whole


def test_a_check_shows_the_plan_and_touches_nothing(lab: Lab, version: str) -> None:
    hosts = [*lab.gpu_hosts, *lab.balancers]
    files = {host: lab.sh(host, FILES) for host in hosts}
    before = containers(lab)
    image = Registry(lab).reference(other(version))
    with Eyes(lab) as eyes:
        shown = lab.fleet("upgrade", image, "--blue-green", "--check", "--json", *HALF)
        pending = lab.fleet("upgrade", image, "--blue-green", "--check", "--exit-code", *HALF)
    assert (shown.code, pending.code) == (0, 10), shown.words + pending.words
    waves = shown.json["plan"]["waves"]
    moves = [move["slot"] for wave in waves for move in wave["moves"]]
    assert sorted(moves) == slots(lab)
    assert len(waves[0]["moves"]) == 1, "the canary is one slot"
    assert all(slot in pending.words for slot in moves)
    assert containers(lab) == before
    assert eyes.out() == {}
    assert {host: lab.sh(host, FILES) for host in hosts} == files


def test_a_check_finds_what_the_upgrade_would_refuse(lab: Lab, version: str, tmp_path: Path) -> None:
    own = tmp_path / "playbooks" / "upgrade.yml"
    own.parent.mkdir()
    image = Registry(lab).reference(other(version))
    for text, words in (
        ("golden:\n  - {text: hello, contains: x}\n", "unknown field `text`"),
        ("stages:\n  after:\n    - hosts: balancer\n      tasks:\n        - {command: {cmdd: ls}}\n", "cmdd"),
        (
            "stages:\n  after:\n    - hosts: gpu\n      tasks:\n        - {command: {cmd: '{{ nobody }}'}}\n",
            "nobody",
        ),
    ):
        own.write_text(text)
        refused = fleet("upgrade", image, "--check", *HALF, "-i", str(ROOT / lab.inventory), cwd=tmp_path)
        assert refused.code == 2, refused.words
        assert words in refused.words
        assert "upgrade.yml:" in refused.words
    alone = lab.fleet("upgrade", other(version), "--check")
    assert alone.code == 2, alone.words
    assert image in alone.words, "the whole name is offered for a tag alone"


def test_a_tag_that_moved_is_seen_by_its_digest(lab: Lab, version: str) -> None:
    registry = Registry(lab)
    check = ("upgrade", registry.reference("moved"), "--blue-green", "--check", "--exit-code")
    registry.tag(version, "moved")
    same = lab.fleet(*check)
    assert same.code == 0, same.words
    registry.tag(other(version), "moved")
    moved = lab.fleet(*check, "--json")
    assert moved.code == 10, moved.words
    assert moved.json["plan"]["digest"] == registry.digest(other(version))


def test_a_second_operator_is_told_who_is_at_work(lab: Lab, version: str) -> None:
    second: list[Done] = []

    def work() -> Done:
        with going(lab, other(version), "--floor", "50%", "--ramp", "10,100", "--soak", "0") as first:
            wait_out(lab, first, slots(lab))
            second.append(upgrade(lab, version))
            return first.done()

    done, jobs, eyes = under_load(lab, work, gentle(lab))
    assert second[0].code == 5, second[0].words
    assert f"{getpass.getuser()}@{socket.gethostname()}" in second[0].words
    assert done.code == 0, done.words
    unharmed(jobs)
    floor_kept(eyes, 0.5)
    assert runs(lab, other(version))
    assert all_serve(lab)
    row("a second operator during an upgrade", jobs, "turned away with exit code 5")


@pytest.mark.parametrize("word", SIGNALS, ids=lambda word: word.name)
def test_a_signal_stops_it_after_the_step_and_resume_finishes(
    lab: Lab, version: str, word: signal.Signals
) -> None:
    stopped: list[Done] = []

    def work() -> Done:
        with going(lab, other(version), *HALF) as first:
            wait_out(lab, first, slots(lab))
            first.tell(word)
            stopped.append(first.done())
        return resume(lab, "--resume")

    done, jobs, eyes = under_load(lab, work, gentle(lab))
    assert stopped[0].code == 4, stopped[0].words
    assert stopped[0].json["state"] == "stopped"
    assert "fleet upgrade --resume" in stopped[0].words
    assert done.code == 0, done.words
    assert done.json["id"] == stopped[0].json["id"]
    assert len(entries(done.json, "stopped")) == 1
    unharmed(jobs)
    floor_kept(eyes, 0.5)
    assert runs(lab, other(version))
    assert all_serve(lab)
    row(f"stopped by {word.name} and resumed", jobs, "")


def test_ctrl_c_twice_goes_back_to_blue(lab: Lab, version: str) -> None:
    def work() -> Done:
        with going(lab, other(version), *HALF) as first:
            wait_out(lab, first, slots(lab))
            first.tell(signal.SIGINT)
            # Two at once would be one; and once it has stopped, a second one comes too late.
            time.sleep(0.1)
            first.tell(signal.SIGINT)
            return first.done()

    before = {held.slot: held.id for held in containers(lab) if held.running}
    done, jobs, eyes = under_load(lab, work, gentle(lab))
    assert done.code == 4, done.words
    assert done.json["state"] == "rolled-back"
    unharmed(jobs)
    floor_kept(eyes, 0.5)
    assert runs(lab, version)
    assert {held.slot: held.id for held in containers(lab) if held.running} == before
    wait_for(lambda: all_serve(lab), 10, "not every slot serves again")
    row("Ctrl-C twice", jobs, "back to blue")
