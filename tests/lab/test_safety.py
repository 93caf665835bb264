"""Safety, tried from elsewhere: who reaches the slots' ports, what a container may, and no port of the engine.

The tests share one provision, and go on from each other in their order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fleet.docker.exposure import EXPOSURE_PROBE, engine_doors
from fleet.gpu.firewall import AFTER_FILE, RULES_FILE, UNIT
from fleet.model.facts import Answer
from tests.lab.conftest import PROVISION, Done, Lab, fleet
from tests.lab.helpers import wait_for

pytestmark = pytest.mark.lab

HOST, NEIGHBOUR, OUTSIDE, MOVED = "gpu-01", "gpu-02", "registry-01", "lb-02"
SLOT, SECOND, AGENT = 7860, 7876, 7859
CONFINED = {
    "non_root": True,
    "read_only": True,
    "cap_drop": ["ALL"],
    "no_new_privileges": True,
    "shm_size": "128MiB",
}


_LISTEN = (
    f"$s = IO::Socket::INET->new(LocalPort => {SECOND}, Listen => 9, ReuseAddr => 1) or die; "
    "close $c while $c = $s->accept"
)


@dataclass(frozen=True)
class Closed:
    """The lab with its slots closed, and the second GPU host's containers confined."""

    lab: Lab
    more: Path

    def provision(self, *words: str, **variables: object) -> Done:
        """With the settings of the file `more` over the lab's inventory."""
        extra = [word for key, value in variables.items() for word in ("-e", f"{key}={json.dumps(value)}")]
        inventories = ("-i", self.lab.inventory, "-i", str(self.more))
        return fleet("provision", *PROVISION, *extra, *words, *inventories)

    def changes(self, *words: str, **variables: object) -> int:
        """How many a provision took."""
        done = self.provision("--json", *words, **variables)
        assert done.code == 0, done.out + done.err
        return int(done.json["changed"])


def reaches(lab: Lab, who: str, port: int, host: str = HOST, source: str = "eth0") -> bool:
    """Whether a connection is made at all; what does not answer in a second is closed."""
    ask = f"curl -s -m 1 --interface {source} -o /dev/null -w '%{{time_connect}}' telnet://{host}:{port}"
    return float(lab.sh(who, f"{ask} </dev/null; true")) > 0


def page(lab: Lab, who: str, host: str = HOST) -> str:
    return lab.sh(who, f"curl -s -m 5 -o /dev/null -w '%{{http_code}}' http://{host}:{SLOT}/config; true")


def serves(lab: Lab, host: str = HOST) -> None:
    wait_for(lambda: page(lab, "lb-01", host) == "200", 60, f"the slot of {host} does not answer")


def background(lab: Lab, host: str, unit: str, script: str) -> None:
    """Have a shell script run there as a unit, until that is stopped."""
    lab.sh(
        host, f"cat >/run/{unit}.sh <<'END'\n{script}\nEND\nsystemd-run -q -G --unit={unit} sh /run/{unit}.sh"
    )


@pytest.fixture(scope="module")
def closed(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Closed]:
    """With a program on the second port of the first slot, and without nftables on its host before."""
    more = tmp_path_factory.mktemp("safety") / "more.yml"
    inventory = {"gpu": {"vars": {"slot_firewall": True}, "hosts": {NEIGHBOUR: {"slot_safety": CONFINED}}}}
    more.write_text(json.dumps(inventory))
    lab.sh(HOST, "apt-get -qq purge -y nftables >/dev/null")
    background(lab, HOST, "second-port", f"exec perl -MIO::Socket::INET -e '{_LISTEN}'")
    one = Closed(lab, more)
    try:
        wait_for(lambda: reaches(lab, OUTSIDE, SECOND), 10, "the second port does not answer")
        assert reaches(lab, OUTSIDE, SLOT)
        assert one.changes() > 0
        yield one
    finally:
        lab.sh(HOST, "systemctl stop second-port", check=False)
        if "inet fleet" in lab.sh(NEIGHBOUR, "nft list tables", check=False):
            assert lab.fleet("provision", *PROVISION).code == 0


def test_the_balancers_reach_the_slots_and_nobody_else_does(closed: Closed) -> None:
    lab = closed.lab
    for balancer in lab.balancers:
        assert page(lab, balancer) == "200"
        assert all(reaches(lab, balancer, port) for port in (SLOT + 1, SECOND, AGENT))
    for other, ports in ((NEIGHBOUR, (SLOT,)), (OUTSIDE, (SLOT, SLOT + 1, SECOND, AGENT))):
        for port in ports:
            assert not reaches(lab, other, port), (other, port)
        assert reaches(lab, other, 22)
    # The host itself, by any of its addresses.
    address = lab.sh(HOST, "hostname -i").split()[0]
    assert [page(lab, HOST, at) for at in ("127.0.0.1", address)] == ["200", "200"]
    done = lab.fleet("translate", "It's on the house.")
    assert "这是免费赠送的" in done.out, done.words


def test_a_route_through_the_host_to_a_container_is_closed_too(closed: Closed) -> None:
    lab = closed.lab
    inner = lab.sh(HOST, f"docker inspect -f '{{{{.NetworkSettings.IPAddress}}}}' fleet-{HOST}-0").strip()
    lab.sh(NEIGHBOUR, f"ip route add {inner}/32 via $(getent hosts {HOST} | awk '{{ print $1; exit }}')")
    try:
        assert not reaches(lab, NEIGHBOUR, SLOT, inner)
        lab.sh(HOST, f"systemctl stop {UNIT}")
        open_then = reaches(lab, NEIGHBOUR, SLOT, inner)
        lab.sh(HOST, f"systemctl start {UNIT}")
        assert open_then, "nothing but the rules closed it"
        assert not reaches(lab, NEIGHBOUR, SLOT, inner)
    finally:
        lab.sh(NEIGHBOUR, f"ip route del {inner}/32")


def test_containers_are_confined_as_asked_and_still_translate(closed: Closed) -> None:
    lab, name = closed.lab, f"fleet-{NEIGHBOUR}-0"
    status = lab.sh(NEIGHBOUR, f"cat /proc/$(docker inspect -f '{{{{.State.Pid}}}}' {name})/status")
    found = {key: value.split() for key, _, value in (line.partition(":") for line in status.splitlines())}
    assert found["Uid"] == ["1000"] * 4  # the image's own
    assert found["NoNewPrivs"] == ["1"]
    for held in ("CapInh", "CapPrm", "CapEff", "CapBnd"):
        assert int(found[held][0], 16) == 0, held
    tried = lab.sh(
        NEIGHBOUR, f"docker exec {name} sh -c 'touch /app/x /etc/x; touch /tmp/x && echo tmp' 2>&1"
    )
    assert tried.count("Read-only file system") == 2
    assert "tmp" in tried.splitlines()
    serves(lab, NEIGHBOUR)
    body = '{"data": ["Good morning.", "Chinese"]}'
    url = f"http://{NEIGHBOUR}:{SLOT}/gradio_api/call/translate"
    asked = f"curl -s -m 20 -H 'Content-Type: application/json' -d '{body}' {url}"
    event = json.loads(lab.sh("lb-01", asked))["event_id"]
    answer = lab.sh("lb-01", f"curl -s -m 20 {url}/{event}")
    assert "早上好" in json.loads(answer.partition("data: ")[2].splitlines()[0])[0]


def test_a_second_run_changes_nothing(closed: Closed) -> None:
    assert closed.changes() == 0


@pytest.mark.parametrize("word", ["start", "reload", "restart"])
def test_the_hosts_own_nftables_flushes_everything_and_the_slots_are_closed_still(
    closed: Closed, word: str
) -> None:
    lab = closed.lab
    lab.sh(HOST, "grep -q '^flush ruleset' /etc/nftables.conf && nft add table inet own")
    lab.sh(HOST, f"systemctl {word} nftables")
    assert lab.sh(HOST, "nft list tables").split("\n").count("table inet own") == 0
    assert not reaches(lab, OUTSIDE, SLOT)
    assert not reaches(lab, OUTSIDE, SECOND)
    assert all(reaches(lab, balancer, SECOND) for balancer in lab.balancers)


def test_no_port_of_the_engine_is_open_and_one_from_a_drop_in_is_seen(closed: Closed) -> None:
    lab = closed.lab

    def doors() -> list[str]:
        answer = Answer(0, lab.sh(HOST, EXPOSURE_PROBE.script).encode())
        return [door.address for door in engine_doors(answer) if door.open]

    assert doors() == []
    # In /run, so that the reboot below takes it away.
    folder = "/run/systemd/system/docker.service.d"
    start = "$(systemctl cat docker | sed -n 's/^ExecStart=//p' | tail -n 1) -H tcp://127.0.0.1:2375"
    lab.sh(
        HOST,
        f'mkdir -p {folder}; printf "[Service]\nExecStart=\nExecStart=%s\n" "{start}" >{folder}/door.conf;'
        "systemctl daemon-reload && systemctl restart docker",
    )
    assert doors() == ["tcp://127.0.0.1:2375"]


def test_docker_was_restarted_and_the_slots_are_closed_still(closed: Closed) -> None:
    assert not reaches(closed.lab, OUTSIDE, SLOT)
    serves(closed.lab)


def test_no_packet_reaches_a_slot_while_its_host_starts_anew(closed: Closed) -> None:
    lab = closed.lab
    ask = "curl -s -m 0.4 -o /dev/null -w '%{time_connect}'"
    each = f"for p in 22 {SLOT}; do echo $p $({ask} telnet://{HOST}:$p </dev/null); done"
    background(lab, OUTSIDE, "tries", f"exec >/run/tries\nwhile :; do {each}; sleep 0.05; done")
    boot = lab.sh(HOST, "cat /proc/sys/kernel/random/boot_id")
    try:
        lab.sh(HOST, "systemctl reboot", check=False)
        again = "cat /proc/sys/kernel/random/boot_id 2>/dev/null"
        wait_for(lambda: lab.sh(HOST, again, check=False) not in ("", boot), 60, "it does not come back")
        serves(lab)
    finally:
        lab.sh(OUTSIDE, "systemctl stop tries")
    made = [line.split() for line in lab.sh(OUTSIDE, "cat /run/tries; rm /run/tries").splitlines()]
    reached = {port for port, *time in made if time and float(time[0]) > 0}
    assert reached == {"22"}
    shown = lab.sh(HOST, f"systemctl show -p Before -p UnitFileState -p ActiveState {UNIT}")
    assert "network-pre.target" in shown
    assert "docker.service" in shown
    assert "ActiveState=active" in shown


def test_rules_changed_by_hand_and_a_balancer_that_moved_are_shown_and_mended(closed: Closed) -> None:
    lab = closed.lab
    old = lab.sh(MOVED, "hostname -i").split()[0]
    new = f"{old.rpartition('.')[0]}.199"
    lab.sh(MOVED, f"ip address add {new}/24 dev eth0")
    closed.more.write_text(
        json.dumps(
            {
                "gpu": {"vars": {"slot_firewall": True, "slot_firewall_allow": [OUTSIDE]}},
                "balancer": {"hosts": {MOVED: {"fleet_address": new}}},
            }
        )
    )
    try:
        lab.sh(HOST, "nft flush chain inet fleet slots")
        assert reaches(lab, NEIGHBOUR, SLOT)
        check = closed.provision("--check", "--diff", "--limit", HOST)
        assert "others changed what is in force" in check.words
        assert RULES_FILE in check.words
        assert any(line.lstrip(" │").startswith("+") and new in line for line in check.out.splitlines())
        assert reaches(lab, NEIGHBOUR, SLOT), "a check changes nothing"
        assert closed.changes("--limit", HOST) > 0
        assert not reaches(lab, NEIGHBOUR, SLOT)
        assert [reaches(lab, MOVED, SLOT, source=address) for address in (new, old)] == [True, False]
        assert page(lab, OUTSIDE) == "200", "who is named may"
    finally:
        lab.sh(MOVED, f"ip address del {new}/24 dev eth0")


def test_a_limit_the_kernel_has_no_means_for_is_told(closed: Closed) -> None:
    lab = closed.lab
    controllers = lab.sh(NEIGHBOUR, "cat /sys/fs/cgroup/cgroup.controllers").split()
    before = lab.sh(NEIGHBOUR, "docker ps --no-trunc -q")
    done = closed.provision("--json", "--limit", NEIGHBOUR, slot_safety={"pids_limit": 500})
    if "pids" in controllers:
        assert done.code == 0, done.out + done.err
        pids = lab.sh(NEIGHBOUR, f"docker exec fleet-{NEIGHBOUR}-0 cat /sys/fs/cgroup/pids.max")
        assert pids.strip() == "500"
    else:
        assert done.code == 1
        assert f"pids_limit cannot be limited on {NEIGHBOUR}" in done.words
        assert lab.sh(NEIGHBOUR, "docker ps --no-trunc -q") == before


def test_turned_off_the_rules_and_all_they_were_made_of_are_gone(closed: Closed) -> None:
    lab = closed.lab
    done = lab.fleet("provision", "--json", *PROVISION)
    assert done.code == 0, done.out + done.err
    for host in lab.gpu_hosts:
        left = lab.sh(
            host,
            f"nft list table inet fleet 2>/dev/null; systemctl cat {UNIT} 2>/dev/null; ls {RULES_FILE} {AFTER_FILE} 2>/dev/null; true",
        )
        assert left == "", host
    assert reaches(lab, OUTSIDE, SLOT)
    assert reaches(lab, NEIGHBOUR, SLOT)
