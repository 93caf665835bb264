"""The keepalived module: who holds the service's address, planned from facts."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import msgspec
import pytest

from fleet.data import data_dir
from fleet.errors import Place, TaskError
from fleet.model.facts import Answer, Facts
from fleet.model.host import Host
from fleet.model.slot import Slot
from fleet.model.steps import Run, Upload
from fleet.modules._apt import packages_probe
from fleet.modules._files import file_probe
from fleet.modules._systemd import unit_probe
from fleet.modules.base import Context
from fleet.modules.keepalived import (
    ADDRESSES_PROBE,
    CHECK_FILE,
    CONFIG_FILE,
    PACKAGES,
    SINCE_PROBE,
    UNIT,
    Keepalived,
    KeepalivedArgs,
)
from fleet.playbook.templating import render_text
from tests.unit.haproxy_world import free_port, running, web_server
from tests.unit.modules_world import NO_UNIT, RUNNING_UNIT, file_answer

LBS = tuple(
    Host(f"lb-0{n}", {"ansible_host": f"203.0.113.{n}", "fleet_address": f"10.0.0.{n}"}, ("balancer",))
    for n in (1, 2, 3)
)
ARGS = KeepalivedArgs(address="10.0.0.100/24")
BEFORE = "StateChangeTimestamp=Sat 2026-11-21 23:48:13.737551 UTC\n"
AFTER = "StateChangeTimestamp=Mon 2026-11-23 23:48:13.737551 UTC\n"
ADDRESSES = (
    "1: lo    inet 127.0.0.1/8 scope host lo\\ valid_lft forever\n"
    "2: eth0    inet 203.0.113.{n}/24 brd 203.0.113.255 scope global eth0\\ valid_lft forever\n"
    "3: eth1    inet 10.0.0.{n}/24 brd 10.0.0.255 scope global eth1\\ valid_lft forever\n"
    "3: eth1    inet6 fe80::1/64 scope link \\ valid_lft forever\n"
)
INSTALLED = "".join(f"ii \t{name}\tamd64\t1.0\tinstalled\n" for name in PACKAGES)
KEYS = {
    "packages": packages_probe(PACKAGES).key,
    "addresses": ADDRESSES_PROBE.key,
    "since": SINCE_PROBE.key,
    "unit": unit_probe(UNIT).key,
    "config": file_probe(CONFIG_FILE, "content").key,
    "check": file_probe(CHECK_FILE, "content").key,
}


def ctx(host=LBS[0], hosts=LBS) -> Context:
    return Context(host=host, hosts={h.name: h for h in hosts})


def plan(args=ARGS, where=None, **answers):
    """The plan on a bare host, but for `answers`."""
    where = where or ctx()
    bare = {
        "packages": "",
        "addresses": ADDRESSES.format(n=where.host.name[-1]),
        "since": "StateChangeTimestamp=\n",
        "unit": NO_UNIT,
        "config": "absent\n",
        "check": "absent\n",
        **answers,
    }
    facts = {KEYS[k]: v if isinstance(v, Answer) else Answer(0, v.encode()) for k, v in bare.items()}
    return list(Keepalived().plan(args, Facts(facts), where))


def uploads(changes) -> dict[str, bytes]:
    steps = [step for change in changes for step in change.steps]
    return {s.path.removesuffix(".fleet-new"): s.content for s in steps if isinstance(s, Upload)}


def config(changes) -> list[str]:
    return [line.strip() for line in uploads(changes)[CONFIG_FILE].decode().splitlines()]


def settled(**more):
    written = uploads(plan())
    return {
        "packages": INSTALLED,
        "unit": RUNNING_UNIT,
        "since": AFTER,
        "config": file_answer(written[CONFIG_FILE]),
        "check": file_answer(written[CHECK_FILE], mode="755"),
        **more,
    }


def summaries(changes):
    return [change.summary for change in changes]


def test_a_bare_host_gets_packages_check_and_configuration():
    changes = plan()
    assert summaries(changes) == [
        "install keepalived, socat",
        f"create {CHECK_FILE}",
        f"create {CONFIG_FILE}",
    ]
    runs = [step for step in changes[-1].steps if isinstance(step, Run)]
    assert [run.title for run in runs] == [
        f"keepalived -t -f {CONFIG_FILE}",
        f"systemctl reload-or-restart {UNIT}",
    ]


def test_a_settled_host_needs_nothing():
    assert plan(**settled()) == []


@pytest.mark.parametrize(
    ("drift", "summary"),
    [
        ({"config": file_answer(b"vrrp_instance x {}\n")}, f"change {CONFIG_FILE}"),
        ({"check": file_answer(b"#!/bin/sh\n", mode="755")}, f"change {CHECK_FILE}"),
        ({"unit": RUNNING_UNIT.replace("=active", "=inactive")}, f"start {UNIT}"),
        ({"unit": RUNNING_UNIT.replace("=enabled", "=disabled")}, f"start {UNIT} at boot"),
        ({"since": BEFORE}, f"reload {UNIT}: {CONFIG_FILE} is newer than what it runs"),
    ],
    ids=["config", "check", "stopped", "disabled", "not reloaded"],
)
def test_drift_is_mended_alone(drift, summary):
    assert summaries(plan(**settled(**drift))) == [summary]


def test_each_balancer_speaks_from_its_own_address_to_the_others():
    lines = config(plan(where=ctx(LBS[1])))
    assert "interface eth1" in lines
    assert "unicast_src_ip 10.0.0.2" in lines
    at = lines.index("unicast_peer {")
    assert lines[at + 1 : at + 4] == ["10.0.0.1", "10.0.0.3", "}"]
    assert "10.0.0.100/24 dev eth1" in lines
    assert "nopreempt" in lines


def test_the_first_of_the_inventory_goes_first():
    def priority(host):
        return next(int(line.split()[1]) for line in config(plan(where=ctx(host))) if "priority" in line)

    assert [priority(host) for host in LBS] == [250, 200, 150]


def test_many_balancers_still_have_a_priority_each():
    many = tuple(Host(f"lb-{n:02}", {"fleet_address": f"10.0.1.{n}"}, ("balancer",)) for n in range(1, 100))
    addresses = "2: eth0    inet 10.0.1.{n}/16 scope global eth0\n"
    found = []
    for n in (1, 2, 98, 99):
        lines = config(plan(where=ctx(many[n - 1], many), addresses=addresses.format(n=n)))
        found += [int(line.split()[1]) for line in lines if line.startswith("priority")]
    assert found == sorted(set(found), reverse=True)
    assert found[-1] >= 1


@pytest.mark.parametrize(
    ("host", "address", "words"),
    [
        ({"ansible_host": "lb.example"}, "10.0.0.100/24", "needs the IP address"),
        ({"ansible_host": "198.51.100.7"}, "10.0.0.100/24", "is an address of no interface it has"),
        ({"fleet_address": "10.0.0.1"}, "10.0.0.2/24", "own address of lb-02"),
        ({"fleet_address": "10.0.0.1"}, "fd00::5/64", "not both IPv6"),
        ({"fleet_address": "fe80::2%\n  }\n  notify evil\n"}, "fd00::5/64", "needs the IP address"),
    ],
    ids=["a name", "behind NAT", "taken", "another kind", "a scope with lines in it"],
)
def test_what_cannot_work_is_told_with_a_remedy(host, address, words):
    first = Host("lb-01", host, ("balancer",))
    with pytest.raises(TaskError, match=words) as raised:
        plan(KeepalivedArgs(address=address), ctx(first, (first, *LBS[1:])))
    assert raised.value.remedy


def test_the_address_of_another_host_of_the_fleet_is_not_shared():
    gpu = Host("gpu-01", {"ansible_host": "10.0.0.100"}, ("gpu",))
    with pytest.raises(TaskError, match=r"10\.0\.0\.100 is the own address of gpu-01"):
        plan(where=ctx(hosts=(*LBS, gpu)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"address": "nonsense"},
        {"address": "fe80::1%x\n}/64"},
        {"router_id": 256},
        {"router_id": 0},
        {"interface": "eth0 {"},
        {"port": 0},
    ],
)
def test_wrong_arguments_are_refused(wrong):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"address": "10.0.0.100", **wrong}, KeepalivedArgs)


def may_hold(balancer, peer_port) -> bool:
    """The check script's answer on a real HAProxy's host, with another balancer at `peer_port`."""
    path = data_dir("templates") / "keepalived-check.sh.j2"
    variables = {"socket": balancer.settings.socket, "peers": ["127.0.0.1"], "port": peer_port}
    script = render_text(path.read_text(), variables, Place(str(path)))
    return subprocess.run(["sh", "-c", script], timeout=10).returncode == 0


def test_a_balancer_gives_the_address_up_only_to_one_that_can_serve(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    slots = [Slot("gpu-01", 0, "", "127.0.0.1", free_port())]
    checks = {"check_interval": 1, "check_retry": 1, "fall": 1}
    with running(tmp_path / "a", slots, **checks) as idle:
        idle.until(lambda: idle.look().slot("gpu-01-0").status == "DOWN")
        with web_server() as web:
            with running(tmp_path / "b", [replace(slots[0], port=web)], **checks) as serving:
                assert may_hold(serving, idle.port)
                assert not may_hold(idle, serving.port)
            assert not may_hold(serving, idle.port), "its HAProxy has ended"
        assert may_hold(idle, free_port()), "an address that says 503 beats one that nobody has"
