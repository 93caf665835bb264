"""A real HAProxy asks the real agent: what each answer does to jobs, weights and operators' decisions."""

import urllib.request
from dataclasses import replace

import pytest

from fleet.balancer.stats import Admin
from tests.unit.agent_world import UUIDS, agent, container, row
from tests.unit.haproxy_world import running, slots, web_server

QUICK = {"agent_interval": 1, "check_interval": 1, "check_retry": 1}


@pytest.fixture
def world(tmp_path):
    for part in ("agent", "haproxy"):
        (tmp_path / part).mkdir()
    with agent(tmp_path / "agent") as gpus, web_server() as web:
        two = [replace(slot, port=web, weight=40) for slot in slots(2)]
        with running(tmp_path / "haproxy", two, agent_port=gpus.port, **QUICK) as balancer:
            gpus.balancer = balancer
            until(gpus, lambda one: one.agent_status == "L7OK" and one.up)
            yield gpus, balancer


def server(gpus, name="gpu-01-0"):
    return gpus.balancer.look().slot(name)


def until(gpus, true, name="gpu-01-0"):
    gpus.balancer.until(lambda: true(server(gpus, name)), 15)


def reached(balancer, count=6, cookie=""):
    """The slots that `count` requests reach."""
    found = set()
    for _ in range(count):
        request = urllib.request.Request(f"http://127.0.0.1:{balancer.port}/", headers={"Cookie": cookie})
        with urllib.request.urlopen(request, timeout=5) as answer:
            set_cookie = answer.headers.get("Set-Cookie")
            found.add(
                set_cookie.partition("=")[2].partition(";")[0] if set_cookie else cookie.partition("=")[2]
            )
    return found


def test_a_sick_gpu_gets_no_new_jobs_keeps_its_own_and_comes_back_with_its_weight(world):
    gpus, balancer = world
    gpus.gpus(row(0, ecc=3), row(1))
    until(gpus, lambda one: one.weight == 0)
    one = server(gpus)
    assert (one.admin, one.up, one.agent_answers, one.agent_holds) == (Admin.READY, True, True, True)
    assert one.agent_reason == "3 uncorrected memory errors"
    assert reached(balancer) == {"gpu-01-1"}
    assert reached(balancer, 1, "FLEET=gpu-01-0") == {"gpu-01-0"}
    gpus.well()
    until(gpus, lambda one: one.weight == 40)
    assert not server(gpus).agent_holds
    assert reached(balancer) == {"gpu-01-0", "gpu-01-1"}


def test_a_lost_gpu_is_out_and_comes_back(world):
    gpus, balancer = world
    gpus.log("NVRM: Xid (PCI:0000:3b:00): 79, pid=1, GPU has fallen off the bus.")
    until(gpus, lambda one: not one.up)
    one = server(gpus)
    assert (one.agent_reason, one.weight, one.agent_holds) == ("GPU lost (Xid 79)", 40, False)
    assert reached(balancer, 2, "FLEET=gpu-01-0") == {"gpu-01-1"}
    gpus.log("NVRM: loading NVIDIA UNIX x86_64 Kernel Module  580.95.05")
    until(gpus, lambda one: one.up and not one.agent_reason)


def test_what_operators_set_is_theirs(world):
    gpus, balancer = world
    balancer.ask("set weight work/gpu-01-1 7")
    balancer.ask("set server work/gpu-01-0 state drain")
    gpus.gpus(row(0, 95), row(1))
    until(gpus, lambda one: one.weight == 20)
    gpus.engine.running = [container("gpu-01-1", UUIDS[1])]
    until(gpus, lambda one: one.agent_reason == "no running container")
    gpus.engine.running.append(container("gpu-01-0", UUIDS[0]))
    gpus.well()
    until(gpus, lambda one: one.weight == 40 and one.up)
    assert server(gpus).admin is Admin.DRAIN
    assert server(gpus, "gpu-01-1").weight == 7


def test_an_agent_that_dies_changes_nothing(world):
    gpus, _ = world
    gpus.gpus(row(0, ecc=3), row(1))
    until(gpus, lambda one: one.weight == 0)
    gpus.stop()
    until(gpus, lambda one: one.agent_answers is False)
    one, other = server(gpus), server(gpus, "gpu-01-1")
    assert (one.up, one.weight, one.agent_reason, one.agent_holds) == (True, 0, "", True)
    assert (other.up, other.weight, other.agent_holds) == (True, 40, False)
    gpus.well()
    gpus.start()
    until(gpus, lambda one: one.agent_answers and one.weight == 40)


def test_a_reload_in_between_loses_no_weight(world):
    gpus, balancer = world
    gpus.gpus(row(0, ecc=3), row(1))
    until(gpus, lambda one: one.weight == 0)
    balancer.save_state()
    balancer.reload()
    assert server(gpus).weight == 0
    gpus.well()
    until(gpus, lambda one: one.weight == 40)


def test_up_of_the_agent_does_not_outvote_a_failing_check(tmp_path):
    for part in ("agent", "haproxy"):
        (tmp_path / part).mkdir()
    with agent(tmp_path / "agent") as gpus, web_server(500) as web:
        two = [replace(slot, port=web) for slot in slots(2)]
        with running(tmp_path / "haproxy", two, agent_port=gpus.port, **QUICK) as balancer:
            gpus.balancer = balancer
            until(gpus, lambda one: one.agent_status == "L7OK" and not one.up)
            assert server(gpus).check_status == "L7STS"
