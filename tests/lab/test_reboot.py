"""A GPU host's slots come back by themselves after a reboot, a power cut and a restart of Docker.

Debian's Docker restores containers before it knows of CDI: without the unit that `gpu_containers` installs, none
of them would.
"""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.lab.helpers import server_states, wait_for

pytestmark = pytest.mark.lab

UNIT = "fleet-slots.service"


def outer(*args):
    subprocess.run(["docker", *args], check=True, capture_output=True, timeout=120)


def reboot(lab, host):
    outer("restart", "--time", "60", lab.hosts[host]["container"])


def power_cut(lab, host):
    outer("kill", lab.hosts[host]["container"])
    outer("start", lab.hosts[host]["container"])


def states(lab, host):
    """Each slot's container and its state; nothing where Docker does not answer yet."""
    out = lab.sh(host, "docker ps -a --filter label=fleet.slot --format '{{json .}}'", check=False)
    return {line["Names"]: line["State"] for line in map(json.loads, out.splitlines())}


def started(lab, host):
    """When each slot's container started."""
    names = " ".join(slots(host))
    return lab.sh(host, f"docker inspect -f '{{{{.State.StartedAt}}}}' {names}").split()


def slots(host):
    """The names of its containers; the lab's GPU hosts have two cards."""
    return [f"fleet-{host}-0", f"fleet-{host}-1"]


def all_serve(lab, host):
    """True where both slots run and are in rotation."""
    up = all(server_states(lab, name.removeprefix("fleet-")) == {"UP"} for name in slots(host))
    return up and states(lab, host) == dict.fromkeys(slots(host), "running")


def serve_anew(lab, host, before):
    """True where both slots serve, each by a process started since."""
    return all_serve(lab, host) and not set(started(lab, host)) & set(before)


def changed(lab):
    done = lab.fleet("provision", "--json")
    assert done.code == 0, done.out + done.err
    return done.json["changed"]


@pytest.fixture
def host(lab):
    name = lab.gpu_hosts[0]
    assert lab.sh(name, "ls -d /dev/nvidia[0-9]*").split() == ["/dev/nvidia0", "/dev/nvidia1"]
    wait_for(lambda: all_serve(lab, name), 60, "the slots did not serve before the test")
    yield name
    if not all_serve(lab, name):
        lab.sh(name, "docker start $(docker ps -aq --filter label=fleet.slot)", check=False)


@pytest.mark.parametrize("how", [reboot, power_cut])
def test_slots_run_again_after(lab, host, how):
    before = started(lab, host)
    how(lab, host)
    wait_for(lambda: serve_anew(lab, host, before), 90, "not all slots serve again")
    assert changed(lab) == 0
    # The agent looks at the containers every two seconds, and the balancers ask it as often.
    wait_for(lambda: lab.fleet("status").code == 0, 20, "the status is not well again")


def test_slots_run_again_after_docker_was_stopped_and_started(lab, host):
    before = started(lab, host)
    lab.sh(host, "systemctl stop docker.socket docker.service")
    # Live-restore keeps the containers as long as their shims run; a host that goes down ends these too.
    lab.sh(host, "pkill -KILL -f '[c]ontainerd-shim'")
    lab.sh(host, "systemctl start docker.service")
    wait_for(lambda: serve_anew(lab, host, before), 90, "not all slots serve again")
    assert changed(lab) == 0


def test_a_slot_stopped_by_hand_stays_so_until_the_next_run(lab, host):
    first, second = slots(host)
    lab.sh(host, f"docker stop --time 5 {first}")
    reboot(lab, host)
    wait_for(lambda: states(lab, host).get(second) == "running", 90, f"{second} does not run again")
    wait_for(
        lambda: lab.sh(host, f"systemctl is-active {UNIT}", check=False).strip() == "active",
        30,
        "the unit did not end",
    )
    assert states(lab, host)[first] == "exited"
    assert changed(lab) == 1
    wait_for(lambda: all_serve(lab, host), 60, "the slots do not serve after the run")


def test_a_run_starts_what_was_lost_where_the_unit_could_not(lab, host):
    lab.sh(host, f"systemctl disable {UNIT}")
    reboot(lab, host)
    lost = dict.fromkeys(slots(host), "exited")
    wait_for(lambda: states(lab, host) == lost, 60, f"not lost: {states(lab, host)}")
    shown = lab.fleet("provision", "--check", "--diff")
    assert shown.code == 0, shown.err
    assert f"enable {UNIT}" in shown.words
    assert f"start fleet-{host}-0: Docker could not give it its GPU" in shown.words
    assert changed(lab) == 1
    assert changed(lab) == 0
    assert lab.sh(host, f"systemctl is-enabled {UNIT}").strip() == "enabled"
    wait_for(lambda: all_serve(lab, host), 60, "the slots do not serve after the run")
