"""gpu_agent's plan: what is written and when the agent is started again."""

import msgspec
import pytest

from fleet.data import data_dir
from fleet.errors import TaskError
from fleet.gpu.agent import CONFIG_FILE, PROGRAM_FILE, UNIT, UNIT_FILE, AgentSlot, config_slots
from fleet.gpu.probe import GPU_PROBE
from fleet.model.facts import Answer, Facts
from fleet.model.host import Host
from fleet.model.steps import Upload
from fleet.modules._systemd import unit_probe
from fleet.modules.base import Context
from fleet.modules.gpu_agent import ADDRESSES_PROBE, GpuAgent, GpuAgentArgs
from tests.unit.gpu_world import HOST, gpu_line, uuid
from tests.unit.modules_world import ABSENT, NO_UNIT, PLACE, RUNNING_UNIT, file_answer

STARTED = 1795391293.737551  # RUNNING_UNIT's start as a file's time
PROGRAM = (data_dir("templates") / "fleet-gpu-agent.pl").read_bytes()
LBS = {
    "lb-01": Host("lb-01", {"fleet_address": "10.0.0.8"}, ("balancer",)),
    "lb-02": Host("lb-02", {"ansible_host": "203.0.113.9", "fleet_address": "10.0.0.9"}, ("balancer",)),
}
GPUS = "".join(gpu_line(index) for index in range(2))
DEAD = Answer(9, b"NVIDIA-SMI has failed\n")
FILES = {path: f"file.content:{path}" for path in (PROGRAM_FILE, CONFIG_FILE, UNIT_FILE)}


def plan(
    args=None, *, gpus=GPUS, files=None, unit=NO_UNIT, addresses="172.17.0.1 10.0.0.1 \n", host=HOST, lbs=LBS
):
    answers = dict.fromkeys(FILES.values(), ABSENT) | {
        FILES[path]: answer for path, answer in (files or {}).items()
    }
    answers |= {GPU_PROBE.key: gpus, unit_probe(UNIT).key: unit, ADDRESSES_PROBE.key: addresses}
    facts = Facts({k: v if isinstance(v, Answer) else Answer(0, v.encode()) for k, v in answers.items()})
    ctx = Context(host, {host.name: host, **lbs}, place=PLACE)
    return list(GpuAgent().plan(msgspec.convert(args or {}, GpuAgentArgs), facts, ctx))


def uploads(changes):
    return {step.path: step for change in changes for step in change.steps if isinstance(step, Upload)}


def deployed(changes=None, mtime=STARTED - 1, **more):
    """The files as they are once the changes are made."""
    made = uploads(changes or plan())
    modes = {PROGRAM_FILE: "755"}
    return {
        path: more.get(path) or file_answer(step.content, modes.get(path, "644"), mtime=mtime)
        for path, step in made.items()
    }


def summaries(changes):
    return [change.summary for change in changes]


def test_a_bare_host_gets_program_configuration_and_unit_and_a_start():
    changes = plan()
    assert summaries(changes) == [
        f"create {PROGRAM_FILE}",
        f"create {CONFIG_FILE}",
        f"create {UNIT_FILE}",
        f"start {UNIT}, and at boot",
    ]
    made = uploads(changes)
    assert (made[PROGRAM_FILE].content, made[PROGRAM_FILE].mode) == (PROGRAM, "0755")
    assert made[CONFIG_FILE].content.decode().splitlines() == [
        "# Written by fleet.",
        "listen 10.0.0.1 7859",
        "allow 10.0.0.8",
        "allow 10.0.0.9",
        "hot 90",
        f"slot gpu-01-0 {uuid(0)} 00000000:3B:00.0",
        f"slot gpu-01-1 {uuid(1)} 00000000:3C:00.0",
    ]
    unit = made[UNIT_FILE].content.decode()
    assert "\nIPAddressDeny=any\nIPAddressAllow=localhost 10.0.0.1 10.0.0.8 10.0.0.9\n" in unit


def test_what_is_there_and_runs_is_left_alone():
    assert plan(files=deployed(), unit=RUNNING_UNIT) == []


def test_a_running_agent_is_restarted_for_what_is_newer_than_it():
    edited = {PROGRAM_FILE: file_answer(PROGRAM + b"exit;\n", "755")}
    changes = plan(files=deployed(**edited), unit=RUNNING_UNIT)
    assert summaries(changes) == [f"change {PROGRAM_FILE}", f"restart {UNIT}"]
    assert summaries(plan(files=deployed(mtime=STARTED + 1), unit=RUNNING_UNIT)) == [f"restart {UNIT}"]
    stale = RUNNING_UNIT.replace("NeedDaemonReload=no", "NeedDaemonReload=yes")
    assert summaries(plan(files=deployed(), unit=stale)) == [f"have systemd read {UNIT} again"]


@pytest.mark.parametrize(
    "unit",
    [
        RUNNING_UNIT.replace("=active", "=failed").replace("=running", "=failed"),
        RUNNING_UNIT.replace("=running", "=auto-restart"),
        RUNNING_UNIT.replace("UnitFileState=enabled", "UnitFileState=disabled"),
    ],
)
def test_one_that_does_not_run_or_not_at_boot_is_started(unit):
    assert summaries(plan(files=deployed(), unit=unit)) == [f"start {UNIT}, and at boot"]


def test_a_changed_gpu_is_told_to_the_agent():
    changes = plan(gpus=gpu_line(0), files=deployed(), unit=RUNNING_UNIT)
    assert summaries(changes) == [f"change {CONFIG_FILE}", f"restart {UNIT}"]
    assert f"-slot gpu-01-1 {uuid(1)}" in changes[0].diff


def test_it_keeps_its_slots_where_the_driver_does_not_answer():
    assert plan(gpus=DEAD, files=deployed(), unit=RUNNING_UNIT) == []
    (change,) = plan(gpus=DEAD)
    assert change.deferred
    assert "once the NVIDIA driver works (NVIDIA-SMI has failed)" in change.summary


def test_names_of_balancers_are_resolved_by_the_agent_and_not_filtered_by_the_kernel():
    lbs = {"lb-01": Host("lb-01", {"fleet_address": "lb.example.com"}, ("balancer",))}
    made = uploads(plan(lbs=lbs))
    assert b"\nallow lb.example.com\n" in made[CONFIG_FILE].content
    assert b"IPAddress" not in made[UNIT_FILE].content


def test_others_that_may_ask():
    made = uploads(plan({"allow": ["198.51.100.0/28"], "port": 9000, "hot": 80}))
    text = made[CONFIG_FILE].content.decode()
    assert "\nlisten 10.0.0.1 9000\n" in text
    assert "\nallow 10.0.0.9\nallow 198.51.100.0/28\nhot 80\n" in text


def test_an_address_that_is_not_the_hosts_own_is_not_listened_on():
    for host in (HOST, Host("gpu-01", {"ansible_host": "gpu-01.example.com"}, ("gpu",))):
        made = uploads(plan(addresses="192.168.1.5", host=host))
        assert b"\nlisten * 7859\n" in made[CONFIG_FILE].content


def test_a_slots_port_is_refused():
    with pytest.raises(TaskError, match="port 7861 is a slot's"):
        plan({"port": 7861})


def test_a_balancers_address_that_could_end_a_line_is_refused():
    with pytest.raises(TaskError, match="neither an address nor a name"):
        plan(lbs={"lb-01": Host("lb-01", {"fleet_address": "10.0.0.8\nallow 0.0.0.0/0"}, ("balancer",))})


@pytest.mark.parametrize("args", [{"port": 0}, {"hot": 20}, {"allow": ["10.0.0.0/99"]}, {"allow": ["a b"]}])
def test_arguments_that_mean_nothing(args):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(args, GpuAgentArgs)


def test_absent_removes_it_once():
    assert plan({"state": "absent"}) == []
    (change,) = plan({"state": "absent"}, files=deployed(), unit=RUNNING_UNIT)
    assert change.summary == f"remove {UNIT}"
    (step,) = change.steps
    for path in (PROGRAM_FILE, CONFIG_FILE, UNIT_FILE, "disable --now"):
        assert path in step.argv[2]
    keys = [probe.key for probe in GpuAgent().probes(GpuAgentArgs(state="absent"), Context(HOST))]
    assert GPU_PROBE.key not in keys


def test_slots_are_read_back():
    text = uploads(plan())[CONFIG_FILE].content.decode()
    assert config_slots(text)[1] == AgentSlot("gpu-01-1", uuid(1), "00000000:3C:00.0")
    assert config_slots("slot gpu-01-0 GPU-1\n") == (AgentSlot("gpu-01-0", "GPU-1"),)
