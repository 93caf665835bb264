"""One container per GPU, which sees its own GPU only; a killed one leaves rotation and comes back."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.lab.helpers import server_states, wait_for

pytestmark = pytest.mark.lab


def containers(lab, host):
    out = lab.sh(host, "docker ps --no-trunc --filter label=fleet.slot --format '{{json .}}'")
    return [json.loads(line) for line in out.splitlines()]


def gpus(lab, host):
    """index -> UUID, as nvidia-smi on the host says."""
    out = lab.sh(host, "nvidia-smi --query-gpu=index,uuid --format=csv,noheader")
    return {int(line.split(", ")[0]): line.split(", ")[1] for line in out.splitlines()}


def status(lab):
    return lab.fleet("status", "--json").json


def test_each_gpu_has_exactly_one_container(lab):
    for host in lab.gpu_hosts:
        wanted = sorted(gpus(lab, host).values())
        found = lab.sh(host, "docker inspect -f '{{index .Config.Labels \"fleet.gpu\"}}' $(docker ps -q)")
        assert sorted(found.split()) == wanted
        assert len(wanted) == 2


def test_a_container_sees_its_own_gpu_only(lab):
    for host in lab.gpu_hosts:
        for index, uuid in gpus(lab, host).items():
            name = f"fleet-{host}-{index}"
            devices = lab.sh(host, f"docker exec {name} sh -c 'ls -d /dev/nvidia[0-9]*'").split()
            assert devices == [f"/dev/nvidia{index}"]
            seen = lab.sh(host, f"docker exec {name} nvidia-smi --query-gpu=uuid --format=csv,noheader")
            assert seen.split() == [uuid]


def translate(url, timeout=30):
    with httpx.Client(base_url=url, timeout=timeout, trust_env=False) as client:
        job = client.post("/gradio_api/call/translate", json={"data": ["It's on the house.", "Chinese"]})
        job.raise_for_status()
        with client.stream("GET", f"/gradio_api/call/translate/{job.json()['event_id']}") as stream:
            text = "".join(stream.iter_text())
    assert "event: complete" in text, text
    return text


def test_a_killed_container_leaves_rotation_the_others_serve_and_it_comes_back(lab):
    slot = f"{lab.gpu_hosts[0]}-0"
    host = lab.gpu_hosts[0]
    before = lab.sh(
        host, f"docker inspect -f '{{{{.State.Pid}}}} {{{{.RestartCount}}}}' fleet-{slot}"
    ).split()
    assert server_states(lab, slot) == {"UP"}
    # The container may not come back at once, so that its absence is seen: its program stops before it ends.
    lab.sh(host, f"kill -STOP {before[0]}; kill -STOP $(pgrep -P {before[0]}) 2>/dev/null; true")
    wait_for(lambda: server_states(lab, slot) == {"DOWN"}, 60, "the server did not leave rotation")
    for _ in range(6):
        translate(lab.url)
    document = status(lab)
    assert lab.fleet("status").code != 0
    assert any(slot in json.dumps(problem) for problem in document["problems"])
    lab.sh(host, f"kill -KILL {before[0]}")
    wait_for(lambda: server_states(lab, slot) == {"UP"}, 90, "the server did not come back")
    after = lab.sh(host, f"docker inspect -f '{{{{.State.Pid}}}} {{{{.RestartCount}}}}' fleet-{slot}").split()
    assert after[0] != before[0]
    assert int(after[1]) == int(before[1]) + 1
    assert lab.fleet("status").code == 0
    assert lab.fleet("provision", "--json").json["changed"] == 0
