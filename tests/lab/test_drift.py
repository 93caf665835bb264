"""Drift is found, shown, and mended alone: nothing else changes."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.lab


def changes(document):
    """(host, task's module, summaries) of every change."""
    return [
        (host, task["module"], " ".join(change["summary"] for change in task["changes"]))
        for host, state in document["hosts"].items()
        for task in state["tasks"]
        if task["status"] == "changed"
    ]


def mended(lab, host, module, *words):
    """The drift is in the plan with a diff or a telling summary, is mended alone, and then gone."""
    planned = lab.fleet("provision", "--check", "--diff", "--json").json
    assert [(h, m) for h, m, _ in changes(planned)] == [(host, module)], changes(planned)
    text = json.dumps(planned, ensure_ascii=False)
    for word in words:
        assert word in text, word
    applied = lab.fleet("provision", "--json")
    assert applied.code == 0, applied.out + applied.err
    assert [(h, m) for h, m, _ in changes(applied.json)] == [(host, module)]
    assert lab.fleet("provision", "--json").json["changed"] == 0


def ids(lab):
    return {
        host: dict(
            line.split()
            for line in lab.sh(
                host, "docker ps --no-trunc --filter label=fleet.slot --format '{{.Names}} {{.ID}}'"
            ).splitlines()
        )
        for host in lab.gpu_hosts
    }


def test_a_stopped_container_is_started_again(lab):
    before = ids(lab)
    lab.sh("gpu-02", "docker stop -t 5 fleet-gpu-02-1")
    mended(lab, "gpu-02", "gpu_containers", "gpu-02-1")
    assert ids(lab) == before


def test_a_removed_container_is_made_again(lab):
    before = ids(lab)
    lab.sh("gpu-02", "docker rm -f fleet-gpu-02-0")
    mended(lab, "gpu-02", "gpu_containers", "gpu-02-0")
    after = ids(lab)
    assert after["gpu-02"].pop("fleet-gpu-02-0") != before["gpu-02"].pop("fleet-gpu-02-0")
    assert after == before


def test_a_container_with_other_settings_is_replaced(lab):
    lab.sh(
        "gpu-01",
        "docker rm -f fleet-gpu-01-1; image=$(docker inspect -f '{{.Image}}' fleet-gpu-01-0);"
        "docker run -d --init --name fleet-gpu-01-1 --label fleet.slot=gpu-01-1 -p 7861:7860 $image",
    )
    mended(lab, "gpu-01", "gpu_containers", "gpu-01-1")


def test_an_edited_daemon_json_is_mended_and_foreign_keys_stay(lab):
    before = ids(lab)
    lab.sh(
        "gpu-01",
        """sed -i 's/"live-restore": *true/"live-restore": false, "shutdown-timeout": 21/' /etc/docker/daemon.json""",
    )
    mended(lab, "gpu-01", "docker_engine", "live-restore")
    config = json.loads(lab.sh("gpu-01", "cat /etc/docker/daemon.json"))
    assert config["live-restore"] is True
    assert config["shutdown-timeout"] == 21
    assert ids(lab) == before


def test_a_weight_changed_by_hand_is_set_back_without_a_reload(lab):
    pid = lab.sh("lb-01", "systemctl show -P MainPID haproxy")
    workers = lab.sh("lb-01", f"pgrep -P {pid.strip()}")
    lab.sh("lb-01", "echo 'set server work/gpu-01-0 weight 7' | socat stdio /run/haproxy/admin.sock")
    mended(lab, "lb-01", "haproxy", "gpu-01-0", "7")
    assert lab.sh("lb-01", f"pgrep -P {pid.strip()}") == workers


def test_an_edited_config_is_put_back(lab):
    good = lab.sh("lb-01", "cat /etc/haproxy/haproxy.cfg")
    lab.sh("lb-01", "sed -i 's/leastconn/roundrobin/' /etc/haproxy/haproxy.cfg")
    mended(lab, "lb-01", "haproxy", "roundrobin", "leastconn")
    assert lab.sh("lb-01", "cat /etc/haproxy/haproxy.cfg") == good


def test_a_deleted_config_is_written_again(lab):
    good = lab.sh("lb-01", "cat /etc/haproxy/haproxy.cfg")
    lab.sh("lb-01", "rm /etc/haproxy/haproxy.cfg")
    mended(lab, "lb-01", "haproxy", "haproxy.cfg")
    assert lab.sh("lb-01", "cat /etc/haproxy/haproxy.cfg") == good


def test_a_stopped_balancer_is_started(lab):
    lab.sh("lb-01", "systemctl stop haproxy")
    assert lab.fleet("status").code != 0
    mended(lab, "lb-01", "haproxy", "start")


def test_a_drained_server_is_an_operators_decision_and_stays(lab):
    lab.sh("lb-01", "echo 'set server work/gpu-01-0 state drain' | socat stdio /run/haproxy/admin.sock")
    try:
        assert lab.fleet("provision", "--json").json["changed"] == 0
        stat = lab.sh("lb-01", "echo 'show stat' | socat stdio /run/haproxy/admin.sock")
        assert any("DRAIN" in line for line in stat.splitlines() if ",gpu-01-0," in line)
    finally:
        lab.sh("lb-01", "echo 'set server work/gpu-01-0 state ready' | socat stdio /run/haproxy/admin.sock")
