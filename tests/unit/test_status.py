import io
import json
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from fleet.balancer.probe import RUNTIME_PROBE
from fleet.console.status import show_status
from fleet.docker.probe import CONTAINERS_PROBE, ENGINE_PROBE
from fleet.errors import TaskError, UnreachableError
from fleet.gpu.container import ContainerSpec
from fleet.gpu.probe import GPU_PROBE
from fleet.model.facts import Answer, Facts
from fleet.model.host import Host
from fleet.status import Status, probes, summarise
from fleet.status.probe import HOST_PROBE, HostFacts, parse_host
from fleet.status.rollout import ROLLOUT_PROBE
from tests.local import LocalRemote
from tests.unit import gpu_world as world
from tests.unit.gpu_world import DIGEST, HOST, IMAGE, inspected, slot

LB = Host("lb-01", {"ansible_host": "10.0.0.9"}, ("balancer",))
SPEC = ContainerSpec(IMAGE)
SYSTEM = Answer(
    0,
    b"os=Debian GNU/Linux 13 (trixie)\nuptime=93784.55\nload=0.42\nkernel=6.12.0\nreboot=\ncpus=16\n"
    b"disk=1024-blocks Available\ndisk=264212084 80784308\n",
)
STATE_HEAD = "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight\n"
STAT_HEAD = "# pxname,svname,qcur,scur,stot,econ,hrsp_5xx,rtime,status,check_status,last_chk,addr,\n"


def gpu_host(*found: dict[str, Any], **answers: Answer) -> Facts:
    return Facts({**world.facts(*found, **answers), HOST_PROBE.key: SYSTEM})


def server(name: str, status: str = "UP", *, admin: int = 0, check: str = "L7OK,HTTP 200", **more: Any):
    """A server's row of `show servers state` and of `show stat`."""
    port = more.get("port", 7860 + int(name[-1]))
    numbers = "{queue},{jobs},{total},{conn},{errors},{ms}".format(
        **({"queue": 0, "jobs": 0, "total": 5, "conn": 0, "errors": 0, "ms": 800} | more)
    )
    return (
        f"3 work 1 {name} 10.0.0.1 2 {admin} 10 10\n",
        f"work,{name},{numbers},{status},{check},10.0.0.1:{port},\n",
    )


def balancer(*servers: tuple[str, str], ours: bool = True) -> Facts:
    text = "now=1772366400\n" + ("FLEET_CONFIG=abc\n" if ours else "") + "\n"
    text += "Name: HAProxy\nVersion: 3.0.11-1+deb13u2\nUptime_sec: 100\nCurrConns: 1\n\n1\n"
    text += STATE_HEAD + "".join(state for state, _ in servers) + "\n"
    text += STAT_HEAD + "".join(row for _, row in servers) + "\n"
    return Facts({HOST_PROBE.key: SYSTEM, RUNTIME_PROBE.key: Answer(0, text.encode())})


RUNNING = (inspected(SPEC, slot(0)), inspected(SPEC, slot(1)))
BOTH = (server("gpu-01-0"), server("gpu-01-1"))


def told(status: Status) -> list[tuple[str, str]]:
    return [(problem.place, problem.what) for problem in status.problems]


def test_all_well():
    status = summarise([HOST, LB], {"gpu-01": gpu_host(*RUNNING), "lb-01": balancer(*BOTH)}, whole=True)
    assert told(status) == []
    assert status.ok
    gpu, lb = status.hosts
    assert (gpu.state, gpu.os, gpu.engine, gpu.driver) == (
        "up",
        "Debian GNU/Linux 13 (trixie)",
        "26.1.5",
        "580.95.05",
    )
    assert (lb.haproxy, lb.engine, lb.driver, lb.address) == ("3.0.11-1+deb13u2", None, None, "10.0.0.9")
    first = status.slots[0]
    assert (first.name, first.state, first.container, first.image, first.digest) == (
        "gpu-01-0",
        "running",
        "fleet-gpu-01-0",
        IMAGE,
        DIGEST,
    )
    assert (first.memory_used, first.memory_total, first.temperature, first.age) == (3, 15360, 38, 3 * 3600)
    assert [(s.server, s.state, s.weight, s.response_time) for s in status.servers] == [
        ("gpu-01-0", "ready", 10, 800),
        ("gpu-01-1", "ready", 10, 800),
    ]


def test_a_host_that_does_not_answer_is_a_row_with_its_reason():
    lost = UnreachableError("gpu-01: connection refused", remedy="start sshd")
    status = summarise([HOST, LB], {"gpu-01": lost, "lb-01": balancer(*BOTH)})
    assert status.hosts[0].state == "unreachable"
    assert status.hosts[0].reason == "connection refused"
    assert told(status) == [("gpu-01", "connection refused")]
    assert status.unreachable
    assert len(status.servers) == 2


def test_slots_are_remembered_where_the_driver_fails():
    lost = Answer(15, b"Unable to determine the device handle for GPU1: GPU is lost.\n")
    kept = inspected(SPEC, slot(0), name="fleet-gpu-01-0-blue", state="exited")
    seen = {"gpu-01": gpu_host(kept, *RUNNING, gpu=lost), "lb-01": balancer(*BOTH)}
    status = summarise([HOST, LB], seen)
    assert [(s.name, s.port, s.state, s.temperature, s.weight) for s in status.slots] == [
        ("gpu-01-0", 7860, "running", None, None),
        ("gpu-01-1", 7861, "running", None, None),
    ]
    assert status.slots[1].uuid == world.uuid(1)
    (problem,) = status.problems
    assert problem.what.startswith("the NVIDIA driver does not answer: Unable to determine")
    assert "xid" in problem.remedy


def test_a_host_that_could_not_be_looked_at_is_not_unreachable():
    status = summarise([HOST, LB], {"gpu-01": TaskError("sudo asks for a password")})
    assert [host.state for host in status.hosts] == ["failed", "failed"]
    assert not status.unreachable
    assert not status.ok


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ({"gpu": Answer(127)}, "the NVIDIA driver does not answer: nvidia-smi is not installed"),
        ({"gpu": Answer(6, b"No devices were found\n")}, "the NVIDIA driver finds no GPU"),
        (
            {"docker_engine": Answer(7), "docker_containers": Answer(7)},
            "the Docker Engine does not answer",
        ),
    ],
)
def test_what_is_wrong_with_a_host(answers, problem):
    status = summarise([HOST], {"gpu-01": gpu_host(*RUNNING, **answers)})
    assert told(status) == [("gpu-01", problem)]


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ({"state": "restarting", "exit_code": 3}, "its container is restarting with exit code 3"),
        ({"state": "exited", "exit_code": 137}, "its container has exited with exit code 137"),
        ({"state": "paused"}, "its container is paused"),
        ({"state": "created"}, "its container is created"),
    ],
)
def test_what_is_wrong_with_a_container(how, problem):
    status = summarise([HOST], {"gpu-01": gpu_host(inspected(SPEC, slot(0), **how), RUNNING[1])})
    assert told(status) == [("gpu-01-0", problem)]
    assert status.slots[0].state == how["state"]


def test_a_slot_without_a_container_and_one_with_two():
    second = inspected(SPEC, slot(1), name="fleet-gpu-01-1-green")
    status = summarise([HOST], {"gpu-01": gpu_host(RUNNING[1], second)})
    assert told(status) == [
        ("gpu-01-0", "no container"),
        ("gpu-01-1", "several containers run on one GPU: fleet-gpu-01-1, fleet-gpu-01-1-green"),
    ]
    assert status.slots[0].state == "none"


def test_a_stopped_one_kept_for_rollback_is_not_the_slot():
    kept = inspected(replace(SPEC, user="7"), slot(0), name="fleet-gpu-01-0-blue", state="exited")
    status = summarise([HOST], {"gpu-01": gpu_host(kept, *RUNNING)})
    assert status.ok
    assert status.slots[0].container == "fleet-gpu-01-0"


def test_a_replacement_that_has_not_ended_is_told():
    new = inspected(SPEC, slot(0), name="fleet-gpu-01-0.next")
    old = inspected(replace(SPEC, user="7"), slot(0), state="exited")
    status = summarise([HOST], {"gpu-01": gpu_host(new, old, RUNNING[1])})
    what = "its container was to be replaced, and that has not ended: fleet-gpu-01-0.next runs"
    assert told(status) == [("gpu-01-0", what)]
    # One that never started is nothing but a leftover.
    unused = inspected(
        SPEC, slot(0), name="fleet-gpu-01-0.next", state="created", started="0001-01-01T00:00:00Z"
    )
    assert summarise([HOST], {"gpu-01": gpu_host(unused, *RUNNING)}).ok


def test_an_unhealthy_container():
    sick = inspected(SPEC, slot(0))
    sick["State"]["Health"] = {"Status": "unhealthy"}
    status = summarise([HOST], {"gpu-01": gpu_host(sick, RUNNING[1])})
    assert told(status) == [("gpu-01-0", "its container fails its own health check")]


@pytest.mark.parametrize(
    ("row", "state", "problem"),
    [
        (
            server("gpu-01-0", "DOWN", check="L4CON,Connection refused"),
            "down",
            "lb-01 finds it down: L4CON Connection refused",
        ),
        (
            server("gpu-01-0", "DOWN", admin=8, check="L4TOUT,"),
            "drain",
            "it is drained, and lb-01 finds it down: L4TOUT",
        ),
        (server("gpu-01-0", "DRAIN", admin=8), "drain", None),
        (server("gpu-01-0", "MAINT", admin=1), "maint", None),
        (server("gpu-01-0", "no check", check=","), "ready", None),
    ],
)
def test_the_state_of_a_server(row, state, problem):
    seen = {"gpu-01": gpu_host(*RUNNING), "lb-01": balancer(row, BOTH[1])}
    status = summarise([HOST, LB], seen)
    assert status.servers[0].state == state
    assert [what for _, what in told(status)] == ([problem] if problem else [])


def test_a_drained_server_that_does_not_answer_is_both():
    row = server("gpu-01-0", "DOWN", admin=8, check="L4CON,Connection refused")
    status = summarise([HOST, LB], {"gpu-01": gpu_host(*RUNNING), "lb-01": balancer(row, BOTH[1])})
    assert [each.down for each in status.servers] == [True, False]
    (line,) = [line for line in shown(status).splitlines() if line.startswith("gpu-01-0  drain")]
    assert line.startswith("gpu-01-0  drain, down ")
    assert status.as_json()["servers"][0]["state"] == "drain"


def test_slots_and_servers_must_agree():
    rows = (server("gpu-01-0", port=9999), server("gpu-01-7", port=7867), server("gpu-02-0"))
    seen = {"gpu-01": gpu_host(*RUNNING), "lb-01": balancer(*rows)}
    known_host = [
        ("lb-01", "it reaches gpu-01-0 at 10.0.0.1:9999, not port 7860"),
        ("lb-01", "its server gpu-01-7 is no slot"),
        ("lb-01", "slot gpu-01-1 is not among its servers"),
    ]
    assert told(summarise([HOST, LB], seen)) == known_host
    assert ("lb-01", "its server gpu-02-0 is no slot") in told(summarise([HOST, LB], seen, whole=True))


def test_a_balancer_that_serves_nothing():
    none = (server("gpu-01-0", "DRAIN", admin=8), server("gpu-01-1", "MAINT", admin=1))
    seen = {"gpu-01": gpu_host(*RUNNING), "lb-01": balancer(*none)}
    assert told(summarise([HOST, LB], seen)) == [("lb-01", "no slot takes new jobs: the service is down")]


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        (Facts({RUNTIME_PROBE.key: Answer(0, b"absent\n")}), "HAProxy does not answer"),
        (Facts(), "HAProxy does not answer"),
        (balancer(*BOTH, ours=False), "HAProxy runs a configuration that is not fleet's"),
    ],
)
def test_what_is_wrong_with_a_balancer(facts, problem):
    assert told(summarise([LB], {"lb-01": facts})) == [("lb-01", problem)]


def test_each_host_is_asked_what_it_is_for():
    assert [probe.key for probe in probes(Host("x"))] == ["status.host"]
    assert {probe.key for probe in probes(HOST)} == {
        HOST_PROBE.key,
        GPU_PROBE.key,
        ENGINE_PROBE.key,
        CONTAINERS_PROBE.key,
    }
    assert [probe.key for probe in probes(LB)] == [HOST_PROBE.key, RUNTIME_PROBE.key, ROLLOUT_PROBE.key]
    assert len(probes(Host("both", groups=("balancer", "gpu")))) == 6


def test_this_machine_answers_the_host_probe():
    result = LocalRemote("here").script(HOST_PROBE.script, timeout=10)
    found = parse_host(Answer(result.rc, result.out))
    assert (result.rc, result.err) == (0, b"")
    assert None not in (found.cpus, found.kernel, found.os, found.uptime, found.load)
    assert 0 < (found.disk_free or 0) <= (found.disk_total or 0)


@pytest.mark.parametrize(
    ("word", "required", "begun"), [("", False, 0), ("yes", True, 0), ("begun", True, 1)]
)
def test_a_reboot_that_was_begun_and_has_not_ended_is_told(word, required, begun):
    said = Answer(0, SYSTEM.out.replace(b"reboot=", f"reboot={word}".encode()))
    status = summarise([HOST], {"gpu-01": Facts({**gpu_host(*RUNNING), HOST_PROBE.key: said})})
    assert (status.hosts[0].reboot_required, status.hosts[0].reboot_begun) == (required, bool(begun))
    remedies = [problem.remedy for problem in status.problems if "has not ended" in problem.what]
    assert len(remedies) == begun
    assert all("`fleet reboot gpu-01` goes on" in each for each in remedies)


def test_a_host_that_says_nothing_is_unknown():
    assert parse_host(None) == parse_host(Answer(1, b"")) == HostFacts()


def shown(status: Status, *, width: int | None = None) -> str:
    """What a person sees on a terminal of that width; without width what a pipe gets."""
    out = io.StringIO()
    console = Console(file=out, width=width or 80, force_terminal=width is not None, color_system=None)
    show_status(status, console)
    return out.getvalue()


def fleet() -> Status:
    seen = {"gpu-01": gpu_host(*RUNNING), "lb-01": balancer(*BOTH)}
    return summarise([HOST, LB], seen, whole=True)


def test_a_pipe_gets_aligned_text_that_is_never_cut():
    host = replace(HOST, name="translator-in-a-very-long-named-place-01", vars={"ansible_host": "h" * 60})
    lost = UnreachableError("timed out after 10 s; " * 8 + "gone", remedy="look at its console")
    text = shown(summarise([host, LB], {host.name: lost, "lb-01": balancer(*BOTH)}))
    assert host.name in text
    assert "h" * 60 in text
    assert "timed out after 10 s; " * 8 + "gone" in text
    assert "…" not in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_a_pipe_gets_every_column():
    assert shown(fleet()).splitlines() == [
        "Hosts",
        "host    groups    address   state  system     service         driver     disk free  load  up",
        "gpu-01  gpu       10.0.0.1  up     Debian 13  docker 26.1.5   580.95.05     77 GiB   0.4  1d",
        "lb-01   balancer  10.0.0.9  up     Debian 13  haproxy 3.0.11  -             77 GiB   0.4  1d",
        "",
        "Slots of registry.example:5000/hunyuan-mt-webui",
        "slot      GPU       used GiB  use %  °C  container    for  restarts  image  digest",
        "gpu-01-0  Tesla T4  0.0/15.0      0  38  running    3h00m         0  v1     111111111111",
        "gpu-01-1  Tesla T4  0.0/15.0      0  38  running    3h00m         0  v1     111111111111",
        "",
        "Balancer lb-01",
        "server    state  weight  jobs  queue  5xx  conn err   ms  check",
        "gpu-01-0  ready      10     0      0    0         0  800  L7OK",
        "gpu-01-1  ready      10     0      0    0         0  800  L7OK",
        "",
        "2 hosts, 2 slots, 1 balancer: all well",
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120])
def test_a_terminal_is_never_overrun(width):
    text = shown(fleet(), width=width)
    assert max(map(len, text.splitlines())) <= width
    for name in ("gpu-01-0", "gpu-01-1", "lb-01", "running", "ready"):
        assert name in text


def test_at_100_columns_nothing_is_left_out():
    text = shown(fleet(), width=100)
    for column in ("groups", "address", "service", "driver", "digest", "restarts", "conn err", "check"):
        assert column in text


def test_problems_come_with_what_to_do():
    seen = {"gpu-01": gpu_host(RUNNING[1])}
    lines = shown(summarise([HOST], seen)).splitlines()
    assert lines[-2:] == ["gpu-01-0: no container", "  try: run `fleet provision`"]


def test_two_balancers_are_told_apart():
    other = replace(LB, name="lb-02")
    status = summarise([LB, other], {"lb-01": balancer(*BOTH), "lb-02": balancer(*BOTH)})
    text = shown(status)
    assert "Balancers\nbalancer  server    state" in text
    assert "lb-02     gpu-01-1  ready" in text


def test_different_images_are_named_in_full():
    other = replace(SPEC, image="elsewhere.example/other:v9")
    status = summarise([HOST], {"gpu-01": gpu_host(RUNNING[0], inspected(other, slot(1)))})
    text = shown(status)
    assert "\nSlots\n" in text
    assert "hunyuan-mt-webui:v1" in text
    assert "other:v9" in text
    bare = inspected(replace(SPEC, image="sha256:" + "5" * 64), slot(1))
    text = shown(summarise([HOST], {"gpu-01": gpu_host(RUNNING[0], bare)}))
    assert "  555555555555  " in text
    assert "5" * 13 not in text


def test_no_markup_comes_from_hosts():
    odd = Host("h", groups=("gpu",))
    assert "[red]lost[/]" in shown(summarise([odd], {"h": UnreachableError("[red]lost[/]")}))


def test_the_document():
    document = json.loads(json.dumps(fleet().as_json()))
    assert set(document) == {"ok", "hosts", "slots", "servers", "problems"}
    assert document["ok"] is True
    assert document["hosts"][0]["disk_free"] == 80784308 * 1024
    assert document["slots"][0] == {
        "name": "gpu-01-0",
        "host": "gpu-01",
        "index": 0,
        "uuid": world.uuid(0),
        "gpu": "Tesla T4",
        "address": "10.0.0.1",
        "port": 7860,
        "weight": 10,
        "state": "running",
        "memory_used": 3,
        "memory_total": 15360,
        "utilization": 0,
        "temperature": 38,
        "container": "fleet-gpu-01-0",
        "health": None,
        "exit_code": None,
        "image": IMAGE,
        "digest": DIGEST,
        "release": RUNNING[0]["Config"]["Labels"]["fleet.release"],
        "age": 10800,
        "restarts": 0,
    }


def test_a_slots_port_is_the_one_its_container_publishes():
    moved = inspected(SPEC, slot(0, 7876))
    seen = {"gpu-01": gpu_host(moved, RUNNING[1]), "lb-01": balancer(server("gpu-01-0", port=7876), BOTH[1])}
    status = summarise([HOST, LB], seen)
    assert [one.port for one in status.slots] == [7876, 7861]
    assert told(status) == []
    stopped = inspected(SPEC, slot(0, 7876), state="exited")
    assert summarise([HOST], {"gpu-01": gpu_host(stopped)}).slots[0].port == 7860
