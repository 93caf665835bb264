"""GPU health: what befalls a GPU or its container reaches both balancers and the status, and the service goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fleet.balancer.probe import RUNTIME_PROBE
from fleet.balancer.stats import ServerState, parse_balancer
from fleet.model.facts import Answer
from tests.lab.conftest import Lab
from tests.lab.helpers import wait_for

HOST, SLOT, OTHER = "gpu-01", "gpu-01-0", "gpu-01-1"
GPUS = "/etc/fleet-lab/gpus.json"
TOLD_WITHIN = 5.0
"""Seconds in which the status tells what a balancer knows."""


def balancers(lab: Lab) -> list[str]:
    return [name for name in lab.hosts if name.startswith("lb-")]


def servers(lab: Lab, slot: str = SLOT) -> list[ServerState]:
    """The slot's server on every balancer."""
    found = []
    for name in balancers(lab):
        state = parse_balancer(Answer(0, lab.sh(name, RUNTIME_PROBE.script).encode()))
        server = state.slot(slot) if state else None
        assert server is not None, f"{name} has no server {slot}"
        found.append(server)
    return found


def problems(lab: Lab) -> list[tuple[str, str]]:
    return [(each["place"], each["what"]) for each in lab.fleet("status", "--json").json["problems"]]


def serves(lab: Lab) -> None:
    for _ in range(3):
        done = lab.fleet("translate", "It's on the house.")
        assert done.code == 0, done.out + done.err
        assert "这是免费赠送的" in done.out


def known(lab: Lab, reason: str, slot: str = SLOT, alone: bool = True) -> None:
    """All balancers come to know the reason, the status tells it at once, and jobs are still done."""
    wait_for(
        lambda: all(reason in s.agent_reason for s in servers(lab, slot)), 40, f"nobody was told: {reason}"
    )
    start = time.monotonic()
    found = problems(lab)
    assert time.monotonic() - start < TOLD_WITHIN
    told = [what for place, what in found if place == slot and reason in what]
    assert len(told) == 1, found
    assert not any(s.takes_jobs and s.weight == s.configured_weight for s in servers(lab, slot))
    if alone:
        assert all(not s.agent_reason for s in servers(lab, OTHER))
    serves(lab)


def well(lab: Lab) -> None:
    def back() -> bool:
        return all(
            s.takes_jobs and not s.agent_reason and s.agent_answers and s.weight == s.configured_weight
            for slot in (SLOT, OTHER)
            for s in servers(lab, slot)
        )

    wait_for(back, 90, "the slots did not come back")


@contextmanager
def card(lab: Lab, edit: str) -> Iterator[None]:
    """The first card changed by a sed command."""
    lab.sh(HOST, f"cp {GPUS} /tmp/gpus.json && sed -i '{edit}' {GPUS} && ! cmp -s {GPUS} /tmp/gpus.json")
    try:
        yield
    finally:
        lab.sh(HOST, f"cp /tmp/gpus.json {GPUS}")
        well(lab)


@pytest.fixture(autouse=True)
def agents_answer(lab: Lab) -> None:
    well(lab)


def test_a_lost_gpu(lab: Lab) -> None:
    with card(lab, '0,/"lost": false/s//"lost": true/'):
        known(lab, "GPU is lost")
        assert not any(s.up for s in servers(lab))


def test_memory_errors_and_heat(lab: Lab) -> None:
    with card(lab, '0,/"ecc_errors": 0/s//"ecc_errors": 2/; s/"temperature": 39/"temperature": 97/'):
        known(lab, "2 uncorrected memory errors", alone=False)
        assert all((s.up, s.weight) == (True, 0) for s in servers(lab))
        known(lab, "hot: 97 C", OTHER, alone=False)
        assert all(s.weight == s.configured_weight // 2 for s in servers(lab, OTHER))
        # What the agent lowered is not mended as if somebody had, though a look may come while it is being asked.
        for _ in range(40):
            assert all(s.agent_reason and s.agent_holds for s in (*servers(lab), *servers(lab, OTHER)))
        again = lab.fleet("provision", "--json")
        assert (again.code, again.json["changed"]) == (0, 0), again.out


def test_an_xid_until_it_is_accepted(lab: Lab) -> None:
    bus = lab.sh(HOST, "nvidia-smi -i 0 --query-gpu=pci.bus_id --format=csv,noheader").strip()
    device = bus.lower()[4:-2]
    lab.sh(HOST, f"logger -t kernel 'NVRM: Xid (PCI:{device}): 43, pid=1, name=python'")
    lab.sh(HOST, f"logger -t kernel 'NVRM: Xid (PCI:{device}): 79, pid=1, GPU has fallen off the bus.'")
    try:
        known(lab, "GPU lost (Xid 79)")
    finally:
        lab.sh(HOST, f"sleep 1; fleet-gpu-agent accept {SLOT}")
    well(lab)


def test_a_stopped_container(lab: Lab) -> None:
    lab.sh(HOST, f"docker stop -t 5 fleet-{SLOT}")
    try:
        known(lab, "no running container")
    finally:
        lab.sh(HOST, f"docker start fleet-{SLOT}")
    well(lab)


def test_a_dead_agent_harms_nobody(lab: Lab) -> None:
    lab.sh(HOST, "systemctl stop fleet-gpu-agent")
    try:
        wait_for(lambda: all(s.agent_answers is False for s in servers(lab)), 20, "nobody noticed")
        found = problems(lab)
        assert [what for place, what in found if place == HOST] == [
            f"the GPU agent does not answer {' and '.join(balancers(lab))}"
        ]
        assert all(s.takes_jobs for slot in (SLOT, OTHER) for s in servers(lab, slot))
        serves(lab)
    finally:
        done = lab.fleet("provision", "--limit", HOST)
        assert done.code == 0, done.words
    well(lab)


def test_a_killed_agent_is_started_again(lab: Lab) -> None:
    before = lab.sh(HOST, "systemctl show -p MainPID --value fleet-gpu-agent")
    lab.sh(HOST, "systemctl kill -s KILL fleet-gpu-agent")

    def again() -> bool:
        now = lab.sh(HOST, "systemctl show -p MainPID --value fleet-gpu-agent; fleet-gpu-agent show").split()
        return now[0] not in ("0", before.strip()) and "no" not in now

    wait_for(again, 30, "it was not started again")


def test_only_balancers_may_ask(lab: Lab) -> None:
    address = lab.sh(HOST, "hostname -I").split()
    listening = lab.sh(HOST, "cat /etc/fleet/gpu-agent.conf").split("listen ")[1].split()
    assert listening[0] in address
    ask = ASK.format(slot=SLOT, address=listening[0], port=listening[1])
    for name in balancers(lab):
        assert lab.sh(name, ask) == "up\n"
    assert lab.sh("registry-01", ask, check=False) == ""


ASK = """\
timeout 5 perl -MSocket -e '
  socket(my $s, PF_INET, SOCK_STREAM, 0);
  connect($s, sockaddr_in({port}, inet_aton("{address}"))) or exit 1;
  syswrite $s, "{slot}\\n"; print <$s>'
"""


def test_provision_is_done_and_removes_it_where_it_is_not_wanted(lab: Lab, tmp_path: Path) -> None:
    assert lab.fleet("provision", "--json").json["changed"] == 0
    done = lab.fleet("provision", "-e", "gpu_agent=false")
    assert done.code == 0, done.words
    try:
        assert "agent-check" not in lab.sh("lb-01", "cat /etc/haproxy/haproxy.cfg")
        assert lab.sh(HOST, "ls /etc/fleet /usr/local/sbin/fleet-gpu-agent 2>/dev/null", check=False) == ""
        assert problems(lab) == []
    finally:
        done = lab.fleet("provision")
        assert done.code == 0, done.words
    well(lab)
