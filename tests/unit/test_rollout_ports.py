"""Who has a port that a second container needs: found in the kernel's tables, before anything is changed."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest

from fleet.docker.answers import Container, Port
from fleet.docker.probe import CONTAINERS_PROBE
from fleet.gpu.container import ContainerSpec, container_name, release_of
from fleet.model.facts import Answer, Facts
from fleet.rollout.hosts import GpuHost
from fleet.rollout.ports import LISTENERS_PROBE, other_port, parse_listeners, taken_by
from fleet.rollout.snapshot import observe
from fleet.rollout.swap import kept_name
from tests.local import LocalRemote
from tests.unit import gpu_world as world

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
REST = "00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0"
SPEC = ContainerSpec(world.IMAGE)
D2 = "sha256:" + "2" * 64


def listening(*places: str, state: str = "0A") -> Answer:
    rows = (f"   0: {place} 00000000:0000 {state} {REST}\n" for place in places)
    return Answer(0, (HEAD + "".join(rows)).encode())


def test_the_kernels_tables_are_read():
    mapped = "0000000000000000FFFF00000100000A"
    answer = listening(
        "00000000:1EC4", "0100007F:0016", f"{'0' * 32}:0050", f"{mapped}:0051", f"{'1' * 32}:1"
    )
    assert parse_listeners(answer) == {
        ("0.0.0.0", 7876),
        ("127.0.0.1", 22),
        ("0.0.0.0", 80),
        ("10.0.0.1", 81),
    }
    assert parse_listeners(listening("00000000:1EC4", state="01")) == set()
    assert parse_listeners(Answer(0, b"what is this\n")) == parse_listeners(None) == set()


def test_this_machine_tells_who_listens():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = LocalRemote("here").script(LISTENERS_PROBE.script, timeout=10)
        assert ("127.0.0.1", port) in parse_listeners(Answer(result.rc, result.out))


@pytest.mark.parametrize(
    ("bind", "address", "taken"),
    [
        ("0.0.0.0", "127.0.0.1", True),
        ("10.0.0.1", "0.0.0.0", True),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "127.0.0.1", False),
    ],
)
def test_a_port_is_taken_where_the_addresses_meet(bind, address, taken):
    assert bool(taken_by(7876, bind, {(address, 7876)}, ())) == taken
    assert not taken_by(7877, bind, {(address, 7876)}, ())


def test_a_container_that_has_the_port_is_named_while_it_runs():
    other = Container("1", "grafana", state="running", ports=(Port(7876, "80/tcp"),))
    assert taken_by(7876, "0.0.0.0", {("0.0.0.0", 7876)}, (other,)) == "the container grafana"
    assert taken_by(7876, "0.0.0.0", (), (Container("1", "old", state="exited", ports=other.ports),)) == ""


def test_the_other_port_is_the_one_that_the_container_leaves():
    first, second = (Container("1", "x", ports=(Port(port, "7860/tcp"),)) for port in (7860, 7876))
    assert [other_port((7860, 7876), each) for each in (first, second, None)] == [7876, 7860, 7860]


def seen(*containers: dict, listeners: Answer):
    """What an upgrade to D2 finds of slot 0 on a host with these containers."""
    facts = {**world.facts(*containers), LISTENERS_PROBE.key: listeners}
    target = SimpleNamespace(host=world.HOST, spec=lambda engine: SPEC, auth=lambda: None)
    host = GpuHost(target, lambda name: None)
    host.look = lambda probes=(): Facts(facts)
    snapshot = observe({"gpu-01": host}, {}, world.IMAGE, D2).snapshot
    assert snapshot.troubles == {}
    return snapshot.slot("gpu-01-0")


def test_a_snapshot_tells_whether_the_second_port_is_free():
    blue = world.inspected(SPEC, world.slot(0))
    assert seen(blue, listeners=listening("00000000:1EB4")).port_taken == ""
    taken = seen(blue, listeners=listening("00000000:1EB4", "00000000:1EC4"))
    assert taken.port_taken == "port 7876 is taken by a process of the host"


def test_the_second_container_itself_takes_nobody_s_port():
    blue = world.inspected(SPEC, world.slot(0))
    green = world.inspected(
        SPEC, world.slot(0, 7876), D2, name=kept_name(world.slot(0), release_of(SPEC, D2))
    )
    assert container_name(world.slot(0)) == blue["Name"].lstrip("/")
    assert CONTAINERS_PROBE.key in world.facts(blue, green)
    assert seen(blue, green, listeners=listening("00000000:1EC4")).port_taken == ""
