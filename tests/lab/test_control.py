"""Drain, ready and weight as an operator uses them, with pages open and jobs on their way through all balancers."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.lab.conftest import ROOT, Lab
from tests.lab.helpers import wait_for

pytestmark = pytest.mark.lab

SLOT = "gpu-01-0"
PAGES = 40
JOBS = 20  # a balancer, on one slot and one after another; it lets in 25
_TLS = ssl.create_default_context()  # making one takes longer than a request


@pytest.fixture
def urls(lab: Lab) -> Iterator[dict[str, str]]:
    """Every balancer's service; afterwards all slots take jobs again."""
    found = {}
    for name, host in lab.hosts.items():
        if host["kind"] == "balancer":
            found[name] = f"http://{host['service']}:{host['ports']['80']}"
    yield found
    # A container that is busy with what was cut may miss a health check.
    wait_for(lambda: lab.fleet("ready", "all").code == 0, 60, "not all slots take jobs again")


class Job(threading.Thread):
    """A job as a page sends it. `answered` says whether its answer came, `ended` when it ended."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.answered = False
        self.ended = 0.0
        self._session = secrets.token_hex(6)
        self._http = httpx.Client(base_url=f"{url}/gradio_api", timeout=60, verify=_TLS)
        body = {"data": ["text", "Chinese"], "fn_index": 0, "session_hash": self._session}
        self._http.post("/queue/join", json=body).raise_for_status()
        self.start()

    def run(self) -> None:
        with suppress(httpx.HTTPError), self._http.stream("GET", "/queue/data", params=self._query) as events:
            for line in events.iter_lines():
                message = json.loads(line[5:]) if line.startswith("data:") else {}
                if message.get("msg") == "process_completed":
                    self.answered = message["success"] and message["output"]["data"] == ["[Chinese] text"]
        self.ended = time.monotonic()

    @property
    def _query(self) -> dict[str, str]:
        return {"session_hash": self._session}


@contextmanager
def pages(urls: dict[str, str], count: int) -> Iterator[None]:
    """Idle pages, each with its heartbeat open, through all balancers."""
    with ExitStack() as stack:
        for number in range(count):
            url = list(urls.values())[number % len(urls)]
            http = stack.enter_context(httpx.Client(base_url=url, timeout=60, verify=_TLS))
            beat = http.stream("GET", f"/gradio_api/heartbeat/{secrets.token_hex(6)}")
            assert stack.enter_context(beat).status_code == 200
        yield


def jobs_on(lab: Lab, urls: dict[str, str], slot: str) -> list[Job]:
    """Jobs that all wait for one slot, through all balancers; the other slots take jobs again afterwards."""
    others = (
        "echo 'show servers state work' | socat stdio /run/haproxy/admin.sock |"
        f' awk \'$2 == "work" && $4 != "{slot}" {{ print "set server work/" $4 " state %s" }}\' |'
        ' while read -r line; do echo "$line" | socat stdio /run/haproxy/admin.sock; done'
    )
    for name in urls:
        lab.sh(name, others % "drain")
    jobs = [Job(list(urls.values())[number % len(urls)]) for number in range(JOBS * len(urls))]
    for name in urls:
        lab.sh(name, others % "ready")
    return jobs


def admin_states(lab: Lab, balancers: dict[str, str], slot: str) -> dict[str, str]:
    """By balancer: the bits that HAProxy keeps of what operators decided. 0 is ready."""
    found = {}
    for name in balancers:
        said = lab.sh(name, "echo 'show servers state work' | socat stdio /run/haproxy/admin.sock")
        rows = [line.split() for line in said.splitlines() if f" {slot} " in line]
        found[name] = rows[0][6]
    return found


@pytest.mark.alone
def test_a_drain_ends_within_a_second_of_its_last_job(lab, urls):
    """With idle pages open, jobs through every balancer, and one of them reloaded while it has some."""
    with pages(urls, PAGES):
        jobs = jobs_on(lab, urls, SLOT)
        first = next(iter(urls))
        lab.sh(first, "systemctl reload haproxy")
        done = lab.fleet("drain", SLOT, "--json")
        ended = time.monotonic()
    assert done.code == 0, done.out + done.err
    for job in jobs:
        job.join(30)
    assert all(job.answered for job in jobs)
    assert done.json["slots"][0]["jobs_at_start"] > 1, "the jobs were over before the drain began"
    assert 0 <= ended - max(job.ended for job in jobs) < 1
    (slot,) = done.json["slots"]
    assert slot["state"] == "drained"
    assert slot["pages"] > 0
    assert slot["cut"] == slot["jobs"] == 0
    assert [(each["name"], each["told"]) for each in done.json["balancers"]] == [(lb, True) for lb in urls]

    drained = admin_states(lab, urls, SLOT)
    assert "0" not in drained.values()
    for name in urls:
        lab.sh(name, "systemctl reload haproxy")
    assert admin_states(lab, urls, SLOT) == drained
    assert lab.fleet("ready", SLOT).code == 0
    assert set(admin_states(lab, urls, SLOT).values()) == {"0"}


def test_the_deadline_cuts_and_counts(lab, urls):
    jobs = jobs_on(lab, urls, SLOT)
    done = lab.fleet("drain", SLOT, "--deadline", "0.5s")
    assert done.code == 0, done.words
    for job in jobs:
        job.join(30)
    lost = sum(not job.answered for job in jobs)
    assert lost > 0
    said = re.search(r"cut (\d+) job", done.words)
    assert said, done.words
    # One may end by itself between the count and the cut, which has no part in it then.
    assert lost <= int(said[1]) <= lost + 1, (lost, done.words)
    assert "0" not in admin_states(lab, urls, SLOT).values()


def test_ctrl_c_leaves_it_drained(lab, urls):
    jobs = jobs_on(lab, urls, SLOT)
    drain = subprocess.Popen(
        [str(Path(sys.executable).parent / "fleet"), "drain", SLOT, "-i", lab.inventory],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert drain.stdout is not None
    line = drain.stdout.readline()
    assert "in flight" in line
    drain.send_signal(signal.SIGINT)
    said, _ = drain.communicate(timeout=30)
    assert drain.returncode == 130, said
    assert f"fleet ready {SLOT}" in said
    assert "Traceback" not in said
    assert "0" not in admin_states(lab, urls, SLOT).values()
    for job in jobs:
        job.join(30)
    assert all(job.answered for job in jobs)


def test_mistakes_are_told_and_nothing_is_done(lab, urls):
    unknown = lab.fleet("drain", "gpu-01-9")
    assert unknown.code == 2
    assert "no slot, host or group is named 'gpu-01-9'" in unknown.words
    assert "did you mean gpu-01-" in unknown.words
    last = lab.fleet("drain", "all")
    assert last.code == 2
    assert "the service would be down" in last.words
    assert set(admin_states(lab, urls, SLOT).values()) == {"0"}


def test_a_weight_holds_until_the_next_provision(lab, urls):
    shown = lab.fleet("weight", SLOT, "--json").json["slots"][0]["servers"]
    assert [server["balancer"] for server in shown] == list(urls)
    configured = {server["configured_weight"] for server in shown}
    done = lab.fleet("weight", SLOT, "77")
    assert done.code == 0
    assert "`weight: 77`" in done.words
    assert {s["weight"] for s in lab.fleet("weight", SLOT, "--json").json["slots"][0]["servers"]} == {77}
    assert lab.fleet("provision", "--limit", "balancer").code == 0
    after = lab.fleet("weight", SLOT, "--json").json["slots"][0]["servers"]
    assert {server["weight"] for server in after} == configured
