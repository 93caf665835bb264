"""Two balancers, one HAProxy 3.0 and one 2.6: they share sessions, and an address that moves when one fails."""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address

import httpx
import pytest

from fleet.balancer.agree import disagreements
from fleet.balancer.probe import RUNTIME_PROBE
from fleet.balancer.stats import BalancerState, parse_balancer
from fleet.model.facts import Answer
from fleet.modules.keepalived import CHECK_FILE, CONFIG_FILE
from tests.lab.conftest import Lab
from tests.lab.helpers import haproxy, slot_servers, wait_for

pytestmark = pytest.mark.lab

FIRST, SECOND = "lb-01", "lb-02"
# What docs/two-balancers.md promises is about three seconds; a busy machine gets some more.
MOVES_WITHIN = 8.0
PREFIX = "/gradio_api"
SLOT = "gpu-01-0"


def expected(text: str) -> str:
    return f"[Chinese] {text}"


class Job:
    """The two requests of a job, each over a balancer of its own; no cookies, as a script would."""

    def __init__(self, urls: dict[str, str]) -> None:
        self.http = {
            name: httpx.Client(base_url=url, timeout=60, trust_env=False) for name, url in urls.items()
        }
        functions = self.http[SECOND].get("/config").raise_for_status().json()["dependencies"]
        self.function = next(each["id"] for each in functions if each["api_name"] == "translate")

    def of_a_page(self, text: str, asked: str, heard: str) -> None:
        session = uuid.uuid4().hex[:11]
        body = {"data": [text, "Chinese"], "fn_index": self.function, "session_hash": session}
        self._post(asked, "/queue/join", body)
        events = self._get(heard, f"/queue/data?session_hash={session}", '"process_completed"')
        assert expected(text) in events, events[-300:]

    def of_a_script(self, text: str, asked: str, heard: str) -> None:
        event = self._post(asked, "/call/translate", {"data": [text, "Chinese"]})["event_id"]
        events = self._get(heard, f"/call/translate/{event}", "event: complete")
        assert expected(text) in events, events[-300:]

    def _post(self, balancer: str, path: str, body: dict[str, object]) -> dict[str, str]:
        self.http[balancer].cookies.clear()
        answer: dict[str, str] = self.http[balancer].post(PREFIX + path, json=body).raise_for_status().json()
        return answer

    def _get(self, balancer: str, path: str, last: str) -> str:
        """The stream of events as plain text, up to the data after the event named `last`."""
        self.http[balancer].cookies.clear()
        seen = ""
        with self.http[balancer].stream("GET", PREFIX + path) as stream:
            stream.raise_for_status()
            for line in stream.iter_lines():
                seen += (
                    json.dumps(json.loads(line[5:]), ensure_ascii=False) if line.startswith("data:") else line
                )
                if last in seen and line.startswith("data:"):
                    break
        return seen


@pytest.fixture(scope="module")
def job(lab: Lab) -> Job:
    return Job(lab.urls)


WAYS = [(FIRST, SECOND), (SECOND, FIRST)]


@pytest.mark.parametrize("kind", ["of_a_page", "of_a_script"])
def test_a_job_asked_for_over_one_is_heard_over_the_other(job: Job, kind: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(getattr(job, kind), f"{kind} {i}", *WAYS[i % 2]) for i in range(40)]
        failures = [str(each.exception())[:200] for each in running if each.exception()]
    assert failures == []


def in_flight(lab: Lab, balancer: str) -> int:
    state = states(lab).get(balancer)
    return sum(server.sessions for server in state.slots()) if state else 0


def states(lab: Lab) -> dict[str, BalancerState]:
    found = {}
    for name in lab.balancers:
        state = parse_balancer(Answer(0, lab.sh(name, RUNTIME_PROBE.script, check=False).encode()))
        if state is not None:
            found[name] = state
    return found


@dataclass(frozen=True)
class Pair:
    """The two balancers with the address they share."""

    lab: Lab
    address: str

    @property
    def holder(self) -> str | None:
        having = [name for name in self.lab.balancers if self.has(name)]
        assert len(having) < 2, "two balancers have the address"
        return having[0] if having else None

    def has(self, name: str) -> bool:
        return f" {self.address}/" in self.lab.sh(name, "ip -o addr show", check=False)

    def answers(self) -> bool:
        try:
            return httpx.get(f"http://{self.address}/health", timeout=0.5, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def outage(self) -> float:
        """Seconds until the address has answered for one second, counted from the last answer missed."""
        began = missed = time.monotonic()
        while time.monotonic() < missed + 1.0 or missed == began:
            if not self.answers():
                missed = time.monotonic()
            elif time.monotonic() > began + MOVES_WITHIN:
                break
            assert missed - began < 60, "the address does not answer any more"
            time.sleep(0.1)
        return missed - began


@pytest.fixture(scope="module")
def pair(lab: Lab) -> Iterator[Pair]:
    address = str(ip_address(lab.hosts[FIRST]["fleet_address"]) + 60)
    shared = ("-e", f"lb_address={address}/24")
    done = lab.fleet("provision", "--json", *shared)
    assert done.code == 0, done.out + done.err
    assert lab.fleet("provision", "--json", *shared).json["changed"] == 0
    pair = Pair(lab, address)
    wait_for(pair.answers, 10, "the shared address does not answer")
    yield pair
    for name in lab.balancers:
        lab.sh(name, f"systemctl disable -q --now keepalived; rm -f {CONFIG_FILE} {CHECK_FILE}", check=False)


def test_one_has_the_address_and_drift_is_mended(pair: Pair) -> None:
    lab, holder = pair.lab, pair.holder
    assert holder is not None
    lab.sh(SECOND, "sed -i s/nopreempt// /etc/keepalived/keepalived.conf; systemctl disable -q keepalived")
    shared = ("-e", f"lb_address={pair.address}/24")
    done = lab.fleet("provision", "--json", *shared)
    assert (done.code, done.json["changed"]) == (0, 1), done.out
    assert lab.sh(SECOND, "systemctl is-enabled keepalived").strip() == "enabled"
    assert lab.fleet("provision", "--json", *shared).json["changed"] == 0
    assert pair.holder == holder, "a reload moved the address"


def test_the_address_leaves_a_balancer_without_haproxy_and_stays_where_it_went(pair: Pair, job: Job) -> None:
    lab, holder = pair.lab, pair.holder
    assert holder is not None
    other = next(name for name in lab.balancers if name != holder)
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(job.of_a_page, f"stop {i}", other, other) for i in range(16)]
        lab.sh(holder, "systemctl stop haproxy")
        assert pair.outage() < MOVES_WITHIN
        assert [str(each.exception()) for each in running if each.exception()] == []
    assert pair.holder == other
    lab.sh(holder, "systemctl start haproxy")
    time.sleep(4)
    assert pair.holder == other, "one that comes back must not take the address again"


def test_a_killed_balancer_takes_no_job_of_the_other_with_it(pair: Pair, job: Job) -> None:
    lab, killed = pair.lab, pair.holder
    assert killed is not None
    other = next(name for name in lab.balancers if name != killed)
    container = lab.hosts[killed]["container"]
    try:
        with ThreadPoolExecutor(6) as mine, ThreadPoolExecutor(6) as theirs:
            kept = [mine.submit(job.of_a_page, f"kept {i}", other, other) for i in range(36)]
            ended = [theirs.submit(job.of_a_page, f"ended {i}", killed, killed) for i in range(36)]
            wait_for(lambda: all(in_flight(lab, name) for name in lab.balancers), 20, "not in flight on both")
            subprocess.run(["docker", "kill", container], check=True, capture_output=True)
            assert pair.outage() < MOVES_WITHIN
            assert [str(each.exception()) for each in kept if each.exception()] == []
            assert any(each.exception() for each in ended), "no job was in flight where the kill was"
        assert pair.has(other)
        haproxy(lab, other, f"set server work/{SLOT} state drain")
    finally:
        subprocess.run(["docker", "start", container], check=True, capture_output=True)
    try:
        wait_for(lambda: killed in states(lab), 60, f"{killed} does not come back")
        found = disagreements(states(lab))
        assert [(each.slot, each.what, each.said[other], each.said[killed]) for each in found] == [
            (SLOT, "state", "drain", "ready")
        ]
        known = [len(haproxy(lab, name, "show table owner").splitlines()) for name in (killed, other)]
        assert known[0] >= known[1] - 2 > 20, "it did not learn the sessions of the other"
    finally:
        for name in lab.balancers:
            wait_for(lambda name=name: name in states(lab), 30, f"{name} does not answer")
            haproxy(lab, name, f"set server work/{SLOT} state ready")
    assert disagreements(states(lab)) == []
    assert pair.has(other)
    wait_for(
        lambda: {s["status"] for n in lab.balancers for s in slot_servers(lab, SLOT, n)} == {"UP"}, 30, "down"
    )
