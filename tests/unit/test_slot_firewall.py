"""slot_firewall: which ports are closed to whom, when the rules are loaded, and what nft says of them."""

import hashlib
import os
import shutil
import subprocess
import sys

import msgspec
import pytest

from fleet.errors import TaskError
from fleet.gpu.container import ContainerSpec
from fleet.gpu.firewall import (
    AFTER_FILE,
    LOADED_PROBE,
    MARK_FILE,
    PROGRAM_FILE,
    PROGRAM_TEXT,
    RULES_FILE,
    UNIT,
    UNIT_FILE,
    UNIT_TEXT,
    Filter,
    networks,
    rules_text,
)
from fleet.gpu.probe import GPU_PROBE
from fleet.model.facts import Answer, Facts
from fleet.model.host import Host
from fleet.model.steps import Run, Upload
from fleet.modules import _apt
from fleet.modules._systemd import unit_probe
from fleet.modules.base import Context
from fleet.modules.slot_firewall import SlotFirewall, SlotFirewallArgs
from tests.unit.gpu_world import HOST, IMAGE, containers, gpu_line, inspected, slot
from tests.unit.modules_world import ABSENT, NO_UNIT, PLACE, RUNNING_UNIT, file_answer

MODULE = SlotFirewall()
DPKG = _apt.packages_probe(("nftables",), virtual=False).key
LBS = {
    "lb-01": Host("lb-01", {"fleet_address": "10.0.0.8"}, ("balancer",)),
    "lb-02": Host("lb-02", {"fleet_address": "2001:db8::9"}, ("balancer",)),
}
GPUS = "".join(gpu_line(index) for index in range(2))
DONE = RUNNING_UNIT.replace("SubState=running", "SubState=exited")
TABLE = hashlib.sha256(b"the table as listed").hexdigest()
EMPTY = Answer(0)
FILES = (RULES_FILE, PROGRAM_FILE, AFTER_FILE, UNIT_FILE)


def plan(
    args=None, *, gpus=GPUS, files=None, unit=NO_UNIT, loaded="nft\n", host=HOST, lbs=LBS, docker=None, **more
):
    answers = {f"file.content:{path}": ABSENT for path in FILES}
    answers |= {f"file.content:{path}": answer for path, answer in (files or {}).items()}
    answers |= {
        GPU_PROBE.key: gpus,
        unit_probe(UNIT).key: unit,
        LOADED_PROBE.key: loaded,
        DPKG: "un \tnftables\t\t\tnot-installed\n",
        "docker.containers": EMPTY,
        **({"docker.containers": docker} if docker else {}),
        **more,
    }
    facts = Facts({k: v if isinstance(v, Answer) else Answer(0, v.encode()) for k, v in answers.items()})
    ctx = Context(host, {host.name: host, **lbs}, place=PLACE)
    wanted = msgspec.convert(args or {}, SlotFirewallArgs)
    asked = {probe.key for probe in MODULE.probes(wanted, ctx)}
    return list(MODULE.plan(wanted, Facts({key: facts[key] for key in facts if key in asked}), ctx))


def summaries(changes):
    return [change.summary for change in changes]


def uploads(changes):
    """The files by the path where they end up."""
    found = (step for change in changes for step in change.steps if isinstance(step, Upload))
    return {step.path.removesuffix(".fleet-new"): step for step in found}


def rules(*args, **more):
    return uploads(plan(*args, **more))[RULES_FILE].content.decode()


def deployed(changes=None):
    made = uploads(changes or plan())
    return {path: file_answer(step.content, step.mode.lstrip("0")) for path, step in made.items()}


def in_force(text=None, table=TABLE):
    """The answer where the file was loaded and nobody has touched the table since."""
    sha = hashlib.sha256((text or rules()).encode()).hexdigest()
    return f"nft\n{table}  -\nmark\n{sha}  -\n{TABLE}  -\n"


def test_both_ports_of_every_slot_and_the_agents_are_closed_to_all_but_the_balancers():
    changes = plan()
    assert summaries(changes) == [
        f"create {RULES_FILE}",
        f"create {PROGRAM_FILE}",
        f"create {AFTER_FILE}",
        f"create {UNIT_FILE}",
        f"load {RULES_FILE}: its rules are not in force",
    ]
    made = uploads(changes)
    assert made[RULES_FILE].content.decode() == (
        "# Written by fleet: only these reach the slots and the GPU agent.\n"
        "table inet fleet\n"
        "delete table inet fleet\n"
        "\n"
        "table inet fleet {\n"
        "\tset allowed4 {\n"
        "\t\ttype ipv4_addr\n"
        "\t\tflags interval\n"
        "\t\telements = { 10.0.0.8 }\n"
        "\t}\n"
        "\tset allowed6 {\n"
        "\t\ttype ipv6_addr\n"
        "\t\tflags interval\n"
        "\t\telements = { 2001:db8::9 }\n"
        "\t}\n"
        "\tset agent4 {\n"
        "\t\ttype ipv4_addr\n"
        "\t\tflags interval\n"
        "\t}\n"
        "\tset agent6 {\n"
        "\t\ttype ipv6_addr\n"
        "\t\tflags interval\n"
        "\t}\n"
        "\n"
        "\tchain slots {\n"
        "\t\tip saddr @allowed4 accept\n"
        "\t\tip6 saddr @allowed6 accept\n"
        "\t\tcounter drop\n"
        "\t}\n"
        "\n"
        "\tchain agent {\n"
        "\t\tip saddr @allowed4 accept\n"
        "\t\tip6 saddr @allowed6 accept\n"
        "\t\tip saddr @agent4 accept\n"
        "\t\tip6 saddr @agent6 accept\n"
        "\t\tcounter drop\n"
        "\t}\n"
        "\n"
        "\tchain incoming {\n"
        "\t\ttype filter hook prerouting priority raw; policy accept;\n"
        '\t\tiifname "lo" accept\n'
        "\t\ttcp dport { 7860, 7861, 7876, 7877 } fib daddr type local goto slots\n"
        "\t\ttcp dport 7859 fib daddr type local goto agent\n"
        '\t\ttcp dport 7860 iifname != "docker0" fib daddr oifname "docker0" goto slots\n'
        "\t}\n"
        "}\n"
    )
    # nft checks the new file before it takes the old one's place.
    assert any(
        step.argv[-4:] == ("nft", "-c", "-f", f"{RULES_FILE}.fleet-new") for step in changes[0].steps[1:]
    )
    assert (made[PROGRAM_FILE].mode, made[UNIT_FILE].content) == ("0755", UNIT_TEXT.encode())
    assert changes[-1].steps[0].argv[-2:] == ("reload-or-restart", UNIT)


def test_a_second_run_changes_nothing():
    assert plan(files=deployed(), unit=DONE, loaded=in_force()) == []


def test_nftables_is_installed_where_it_is_missing():
    changes = plan(loaded="none\n")
    assert "nftables" in changes[0].summary
    assert len(changes) == 6
    with pytest.raises(TaskError, match="no dpkg"):
        plan(loaded="none\n", **{DPKG: Answer(127)})
    # Where nft is there, nobody asks how it came.
    assert len(plan(**{DPKG: Answer(127)})) == 5


@pytest.mark.parametrize(
    ("loaded", "why"),
    [
        ("nft\n", "its rules are not in force"),
        ("none\n", "its rules are not in force"),
        (in_force(table="0" * 64), "others changed what is in force"),
        (f"nft\n{TABLE}  -\nmark\n", "others changed what is in force"),
        (in_force("older"), "older rules are in force"),
    ],
)
def test_rules_that_are_not_in_force_are_loaded_again(loaded, why):
    installed = {DPKG: "ii \tnftables\tamd64\t1.1.3-1\tinstalled\n"}
    (change,) = plan(files=deployed(), unit=DONE, loaded=loaded, **installed)
    assert change.summary == f"load {RULES_FILE}: {why}"


@pytest.mark.parametrize(
    "unit",
    [
        DONE.replace("ActiveState=active", "ActiveState=inactive"),
        DONE.replace("UnitFileState=enabled", "UnitFileState=disabled"),
    ],
)
def test_a_unit_that_would_not_load_them_at_boot_is_enabled(unit):
    assert summaries(plan(files=deployed(), unit=unit, loaded=in_force())) == [f"start {UNIT}, and at boot"]


def test_a_balancer_that_moved_changes_the_rules_and_loads_them():
    moved = LBS | {"lb-01": Host("lb-01", {"fleet_address": "10.0.0.88"}, ("balancer",))}
    first, second = plan(files=deployed(), unit=DONE, loaded=in_force(), lbs=moved)
    assert "-\t\telements = { 10.0.0.8 }" in first.diff
    assert "+\t\telements = { 10.0.0.88 }" in first.diff
    assert second.summary == f"load {RULES_FILE}: older rules are in force"


def test_others_may_reach_slots_and_some_only_the_agent():
    text = rules(
        {"allow": ["10.0.0.0/24", "10.0.0.77"], "agent_allow": ["198.51.100.0/28", "2001:db8:1::/64"]}
    )
    assert (
        "\tset allowed4 {\n\t\ttype ipv4_addr\n\t\tflags interval\n\t\telements = { 10.0.0.0/24 }\n" in text
    )
    assert (
        "\tset agent4 {\n\t\ttype ipv4_addr\n\t\tflags interval\n\t\telements = { 198.51.100.0/28 }\n" in text
    )
    assert "elements = { 2001:db8:1::/64 }" in text


def test_the_agents_port_and_routes_to_containers_can_be_left_alone():
    text = rules({"agent_port": None, "container_port": None})
    assert "agent" not in text.partition("\n")[2]
    assert "docker0" not in text


def test_ports_of_the_inventory_and_of_containers_whose_gpu_is_gone_are_closed_too():
    host = Host(
        "gpu-01", {"ansible_host": "10.0.0.1", "slot_port_base": 9000, "slot_port_beside": 100}, ("gpu",)
    )
    gone = inspected(ContainerSpec(IMAGE), slot(7, 9007))
    text = rules(host=host, docker=containers(gone))
    assert "tcp dport { 9000, 9001, 9007, 9100, 9101 } fib" in text


def test_names_are_resolved_on_the_host():
    lbs = {"lb-01": Host("lb-01", {"fleet_address": "lb.example.com"}, ("balancer",))}
    names = {
        "firewall.names:lb.example.com": "lb.example.com 10.0.0.8 STREAM lb\nlb.example.com 2001:db8::9 STREAM\n"
    }
    text = rules(lbs=lbs, **names)
    assert "elements = { 10.0.0.8 }" in text
    assert "elements = { 2001:db8::9 }" in text
    with pytest.raises(TaskError, match=r"gpu-01 cannot resolve 'lb\.example\.com'") as error:
        plan(lbs=lbs, **{"firewall.names:lb.example.com": ""})
    assert "fleet_address" in error.value.remedy


@pytest.mark.parametrize(
    ("args", "variables"),
    [
        ({}, {"slot_port_base": 22}),
        ({}, {"slot_port_base": 8022, "ansible_port": 8022}),
        ({"agent_port": 22}, {}),
    ],
)
def test_the_port_of_ssh_is_never_closed(args, variables):
    host = Host("gpu-01", {"ansible_host": "10.0.0.1", **variables}, ("gpu",))
    with pytest.raises(TaskError, match="is SSH's"):
        plan(args, host=host)


def test_rules_that_would_let_nobody_in_are_refused():
    with pytest.raises(TaskError, match="nobody could reach its slots") as error:
        plan(lbs={})
    assert "group balancer" in error.value.remedy
    assert plan({"allow": ["10.0.0.0/24"]}, lbs={})


def test_without_a_driver_the_ports_wait_for_one():
    (change,) = plan(gpus=Answer(9, b"NVIDIA-SMI has failed\n"))
    assert change.deferred
    assert "once the NVIDIA driver works (NVIDIA-SMI has failed)" in change.summary


def test_absent_takes_away_everything_and_asks_for_nothing_else():
    assert plan({"state": "absent"}) == []
    assert plan({"state": "absent"}, loaded="none\n") == []
    (change,) = plan({"state": "absent"}, files=deployed(), unit=DONE, loaded=in_force())
    assert change.summary == f"remove {UNIT}"
    assert change.diff.splitlines() == [
        f"{RULES_FILE}: present -> absent",
        f"{PROGRAM_FILE}: present -> absent",
        f"{AFTER_FILE}: present -> absent",
        f"{UNIT_FILE}: present -> absent",
        "table inet fleet: present -> absent",
    ]
    # A table that somebody's unload left behind goes as well.
    assert summaries(plan({"state": "absent"}, loaded=in_force())) == [f"remove {UNIT}"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"allow": ["a b"]}, "`allow` has 'a b'"),
        ({"agent_allow": ["10.0.0.0/99"]}, "`agent_allow` has '10.0.0.0/99'"),
        ({"agent_port": 0}, "`agent_port` is 0"),
        ({"container_port": 70000}, "`container_port` is 70000"),
    ],
)
def test_wrong_arguments_are_named(wrong, said):
    with pytest.raises(msgspec.ValidationError, match=said):
        msgspec.convert(wrong, SlotFirewallArgs)


def test_networks_that_contain_each_other_are_told_once():
    assert networks(["10.0.0.8", "10.0.0.0/24", "10.0.1.0/24", "fd00::1"], 4) == ("10.0.0.0/23",)
    assert networks(["10.0.0.8", "fd00::1", "fd00::/64"], 6) == ("fd00::/64",)


# From here on with the kernel's own packet filter, in networks that exist for the test alone.

real = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("nft", "ip", "unshare"))), reason="needs root and nft"
)
WANTED = Filter((7860, 7876), ("10.9.0.2", "10.8.0.0/16", "fd09::2"), ("10.9.0.3",), 7859, 7860)


def inside(script, timeout=60):
    """A sh script in a network namespace of its own."""
    return subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-eu"],
        input=script,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@real
def test_nft_takes_the_rules_and_takes_them_again(tmp_path):
    file = tmp_path / "rules.nft"
    for wanted in (WANTED, Filter((), ()), Filter((7860,), ("fd09::2",))):
        file.write_text(rules_text(wanted))
        done = inside(
            f"nft -c -f {file}; nft -f {file}; nft -s list table inet fleet >{tmp_path}/one\n"
            f"nft -f {file}; nft -s list table inet fleet >{tmp_path}/two; cmp {tmp_path}/one {tmp_path}/two\n"
            "nft list tables\n"
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == "table inet fleet\n"


@real
def test_what_the_program_loads_is_known_again_and_what_others_do_to_it_is_seen(tmp_path):
    file = tmp_path / "rules.nft"
    file.write_text(rules())
    here = {RULES_FILE: str(file), MARK_FILE.rpartition("/")[0]: str(tmp_path)}
    program, look = PROGRAM_TEXT, LOADED_PROBE.script
    for there, instead in here.items():
        program, look = program.replace(there, instead), look.replace(there, instead)
    (tmp_path / "program").write_text(program)
    (tmp_path / "look").write_text(look)
    run, see = f"sh {tmp_path}/program", f"echo '--'; sh {tmp_path}/look"
    done = inside(
        f"{see}; {run} load; {see}; {run} load; {see}; nft flush chain inet fleet slots; {see}\n"
        f"{run} load; {see}; echo '# ' >>{file}; {see}; {run} unload; {see}; {run} unload\n"
    )
    assert done.returncode == 0, done.stderr
    bare, loaded, again, flushed, mended, edited, unloaded = done.stdout.split("--\n")[1:]
    for right in (
        loaded,
        again,
        mended,
        edited,
    ):  # a file that was not loaded changes nothing that is in force
        assert plan(files=deployed(), unit=DONE, loaded=right) == []
    (change,) = plan(files=deployed(), unit=DONE, loaded=flushed)
    assert change.summary == f"load {RULES_FILE}: others changed what is in force"
    for missing in (bare, unloaded):
        assert missing == "nft\n"


@real
def test_the_rules_stay_while_the_host_shuts_down(tmp_path):
    (tmp_path / "systemctl").write_text("#!/bin/sh\necho stopping\n")
    (tmp_path / "systemctl").chmod(0o755)
    (tmp_path / "rules").write_text(rules())
    program = PROGRAM_TEXT.replace(RULES_FILE, f"{tmp_path}/rules").replace(
        MARK_FILE.rpartition("/")[0], str(tmp_path)
    )
    (tmp_path / "program").write_text(program)
    done = inside(
        f"sh {tmp_path}/program load; PATH={tmp_path}:$PATH sh {tmp_path}/program unload; nft list tables"
    )
    assert (done.stdout, done.returncode) == ("table inet fleet\n", 0), done.stderr


# The host at .1, a balancer at .2 and a neighbour at .3 on one wire. Docker's part on the host is played by what it
# does: an address translation from a slot's port to a container behind docker0, and for the other ports programs
# that listen themselves, as its proxy and the agent do. Everything ends with the processes that hold the networks.
NETWORK = r"""
trap 'kill $held' EXIT
hold() { unshare --net sleep 60 & held="$held $!"; eval "$1=$!"; until [ "$(readlink /proc/$!/ns/net)" != "$own" ]; do :; done; }
on() { who=$1; shift; nsenter -t "$who" -n "$@"; }
plug() {
  ip link add "$2" type veth peer name eth0 netns "$1"
  ip link set "$2" master "$3" up
  on "$1" ip link set lo up; on "$1" ip link set eth0 up
  for address in $4; do on "$1" ip addr add "$address" dev eth0 $(case $address in *:*) echo nodad ;; esac); done
}
held= own=$(readlink /proc/self/ns/net)
hold balancer; hold neighbour; hold container
ip link set lo up
ip link add wire type bridge; ip link set wire up
ip addr add 10.9.0.1/24 dev wire; ip addr add fd09::1/64 dev wire nodad
ip link add docker0 type bridge; ip link set docker0 up; ip addr add 172.17.0.1/16 dev docker0
plug $balancer w2 wire '10.9.0.2/24 fd09::2/64'
plug $neighbour w3 wire '10.9.0.3/24 fd09::3/64'
plug $container d2 docker0 172.17.0.2/16
on $container ip route add default via 172.17.0.1
on $neighbour ip route add 172.17.0.0/16 via 10.9.0.1
echo 1 >/proc/sys/net/ipv4/ip_forward
nft -f - <<'DOCKER'
table ip nat {
  chain prerouting {
    type nat hook prerouting priority dstnat
    fib daddr type local tcp dport 7860 dnat to 172.17.0.2:7860
  }
}
DOCKER
nsenter -t $container -n "$PYTHON" -IS -c "$SERVER" 7860 & held="$held $!"
"$PYTHON" -IS -c "$SERVER" 22 7859 7876 & held="$held $!"
everything='10.9.0.1_22 10.9.0.1_7859 10.9.0.1_7860 10.9.0.1_7876 fd09::1_7859 fd09::1_7876 172.17.0.2_7860'
reach() { echo "$1: $(on "$2" "$PYTHON" -IS -c "$CLIENT" $3)"; }
until [ "$(on $neighbour "$PYTHON" -IS -c "$CLIENT" $everything | wc -w)" = 7 ]; do sleep 0.1; done
nft -f "$RULES"
reach balancer $balancer "$everything"
reach neighbour $neighbour "$everything"
own_ports='127.0.0.1_7876 10.9.0.1_7876 10.9.0.1_7859 fd09::1_7876 172.17.0.2_7860'
echo "host: $("$PYTHON" -IS -c "$CLIENT" $own_ports)"
nft delete table inet fleet
reach freed $neighbour "$everything"
"""
SERVER = """
import selectors, socket, sys
ready = selectors.DefaultSelector()
for port in sys.argv[1:]:
    ready.register(socket.create_server(("", int(port)), family=socket.AF_INET6, dualstack_ipv6=True), 1)
while True:
    for key, _ in ready.select():
        key.fileobj.accept()[0].close()
"""
CLIENT = """
import concurrent.futures, socket, sys
def reached(where):
    host, _, port = where.rpartition("_")
    try:
        socket.create_connection((host, int(port)), timeout=0.3).close()
    except OSError:
        return False
    return True
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    print(*(where for where, well in zip(sys.argv[1:], pool.map(reached, sys.argv[1:])) if well))
"""


@real
def test_the_balancer_reaches_the_slots_and_a_neighbour_does_not(tmp_path, monkeypatch):
    file = tmp_path / "rules.nft"
    file.write_text(rules_text(WANTED))
    for name, value in (
        ("PYTHON", sys.executable),
        ("SERVER", SERVER),
        ("CLIENT", CLIENT),
        ("RULES", str(file)),
    ):
        monkeypatch.setenv(name, value)
    done = inside(NETWORK)
    assert done.returncode == 0, done.stderr
    everything = "10.9.0.1_22 10.9.0.1_7859 10.9.0.1_7860 10.9.0.1_7876 fd09::1_7859 fd09::1_7876"
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert said["balancer"] == everything  # it has no route to the container, and is told nothing else
    # The neighbour may ask the agent by its IPv4 address, and SSH is nobody's business here.
    assert said["neighbour"] == "10.9.0.1_22 10.9.0.1_7859"
    assert said["host"] == "127.0.0.1_7876 10.9.0.1_7876 10.9.0.1_7859 fd09::1_7876 172.17.0.2_7860"
    assert said["freed"] == f"{everything} 172.17.0.2_7860"


def test_the_program_is_a_script_that_sh_understands():
    done = subprocess.run(["sh", "-n"], input=PROGRAM_TEXT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    steps = [step for change in plan() for step in change.steps if isinstance(step, Run)]
    for step in steps:
        if step.argv[:2] == ("sh", "-c"):
            assert subprocess.run(["sh", "-nc", step.argv[2]]).returncode == 0
