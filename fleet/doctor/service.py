"""The group `service`: the slots' ports, one container for each GPU, and the agent."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

from fleet.docker.answers import Container
from fleet.docker.probe import CONTAINERS_PROBE
from fleet.doctor.model import Check, Fix, Trouble, Verdict, bad, judged, skipped, well
from fleet.doctor.patient import ABSENT, Patient
from fleet.errors import InputError
from fleet.gpu.agent import DEFAULT_PORT, PROGRAM_FILE, UNIT
from fleet.gpu.container import is_next
from fleet.gpu.probe import GPU_PROBE, GPU_PROCESSES_PROBE, parse_gpu_processes
from fleet.gpu.slots import port_base, ports_of
from fleet.model.facts import Probe
from fleet.model.steps import Run
from fleet.modules._systemd import SYSTEMCTL

PORTS_PROBE = Probe("doctor.ports", "command -v ss >/dev/null || exit 127\nss -Hltnp\n")

AGENT_PROBE = Probe(
    "doctor.agent",
    f"""\
[ -x {PROGRAM_FILE} ] || {{ echo absent; exit 0; }}
systemctl show -p ActiveState,SubState,ActiveEnterTimestampMonotonic {UNIT}
read -r uptime rest </proc/uptime
echo "uptime=$uptime"
timeout 10 {PROGRAM_FILE} show 2>&1 | sed 's/^/said=/'
exit 0
""",
)

LISTENS = re.compile(
    r"^\S+\s+\d+\s+\d+\s+\S*:(\d+)\s+\S+(?:\s+users:\(\(\"([^\"]*)\",pid=(\d+))?", re.MULTILINE
)
_PROXY = "docker-proxy"
_SHARES_GPUS = "nvidia-cuda-mps-server"
_KNOWS_ENOUGH = 30.0
_START = Run(("sh", "-c", SYSTEMCTL, "systemctl", "restart", UNIT), title=f"systemctl restart {UNIT}")
_PROVISION = "`fleet provision --limit {host}`"


def check_ports(patient: Patient) -> Verdict:
    """The slots' ports are free, or their own containers'."""
    answer = patient.facts.get(PORTS_PROBE.key, ABSENT)
    if not answer.ok:
        return skipped("ss is not installed there (iproute2)")
    try:
        slots = patient.slots
        base = port_base(patient.host)
    except InputError as error:
        return bad("the slots' ports are wrong in the inventory", error.remedy, error.message)
    beside = {ports_of(patient.host, slot)[1]: slot.name for slot in slots or ()}
    if slots is None:
        wanted = {base: ""}  # no card is known; the first slot's port is sure
    else:
        wanted = {slot.port: slot.name for slot in slots} | beside
    if patient.host.vars.get("gpu_agent", True):
        wanted[DEFAULT_PORT] = ""
    ours = {port.host_port for each in patient.running for port in each.ports}
    others = {
        port.host_port: each
        for each in patient.containers or ()
        if not each.slot and each.running
        for port in each.ports
    }
    troubles = []
    for text, program, pid in dict.fromkeys(LISTENS.findall(answer.text)):
        port = int(text)
        if (
            port not in wanted
            or port in ours
            or (port == DEFAULT_PORT and program in ("perl", "fleet-gpu-agent"))
        ):
            continue
        if port in others:
            who = f"the container {others[port].name} ({others[port].image})"
        elif program == _PROXY and patient.containers is None:
            continue
        else:
            who = f"{program} (process {pid})" if program else "a program"
        option = "slot_port_beside" if port in beside else "slot_port_base"
        remedy = f"end {who} on {{host}}, or set {option} to ports that are free"
        troubles.append(
            Trouble("a port that a slot needs is taken", remedy, f"{port} by {who}", wanted.get(port, ""))
        )
    return judged(f"{len(wanted)} free or their own", troubles)


def check_slots(patient: Patient) -> Verdict:
    """One container for each GPU: by the containers' labels, and by the driver's processes."""
    if patient.containers is None:
        return skipped("no engine answers")
    if patient.gpus is None:
        return skipped("no driver answers")
    troubles = [*_by_labels(patient), *_by_processes(patient)]
    return judged(f"{len(patient.gpus)} GPUs, one container each", troubles)


def _by_labels(patient: Patient) -> Iterator[Trouble]:
    by_gpu: dict[str, list[Container]] = defaultdict(list)
    for each in patient.running:
        by_gpu[each.labels.get("fleet.gpu", "")].append(each)
    for gpu in patient.gpus or ():
        slot = patient.slot_name(gpu)
        mine = by_gpu.pop(gpu.uuid, [])
        if not mine:
            yield Trouble(
                "a GPU has no running container",
                f"{_PROVISION}; where it does not stay up, {patient.log_of(slot)} on {{host}}",
                _ended(patient, slot),
                slot,
            )
        elif len(mine) > 1:
            names = ", ".join(each.name for each in mine)
            yield Trouble(
                "several containers run on one GPU", f"{_PROVISION} leaves the right one", names, slot
            )
        elif is_next(mine[0]):
            yield Trouble(
                "a container was to be replaced, and that has not ended",
                f"where `fleet provision` is not at work: {_PROVISION}",
                f"{mine[0].name} runs",
                slot,
            )
        elif mine[0].slot != slot:
            yield Trouble(
                "a container is on another GPU than its slot's",
                f"{_PROVISION} puts it right",
                f"{mine[0].name} is on GPU {gpu.index}",
                slot,
            )
    for uuid, containers in by_gpu.items():
        names = ", ".join(each.name for each in containers)
        yield Trouble(
            "a container is for a GPU that is not there", _PROVISION, f"{names}: {uuid or 'no GPU'}"
        )


def _ended(patient: Patient, slot: str) -> str:
    """How its container ended, where it has one."""
    mine = patient.of_slot(slot)
    if not mine:
        return ""
    code = f", exit code {mine[0].exit_code}" if mine[0].state == "exited" else ""
    return f"{mine[0].name} is {mine[0].state}{code}"


def _by_processes(patient: Patient) -> Iterator[Trouble]:
    known = {each.id: each for each in patient.containers or ()}
    names = {gpu.uuid: patient.slot_name(gpu) for gpu in patient.gpus or ()}
    for process in parse_gpu_processes(patient.facts.get(GPU_PROCESSES_PROBE.key, ABSENT)) or ():
        if process.gpu_uuid not in names or process.name == _SHARES_GPUS:
            continue
        slot = names[process.gpu_uuid]
        owner = known.get(process.container or "")
        memory = f", {process.memory} MiB" if process.memory is not None else ""
        what = f"{process.name} (process {process.pid}{memory})"
        if owner is None or not owner.slot:
            who = f"{what} of container {owner.name}" if owner else what
            yield Trouble(
                "something else computes on a slot's GPU", f"end it on {{host}}: {process.pid}", who, slot
            )
        elif owner.labels.get("fleet.gpu") != process.gpu_uuid:
            yield Trouble(
                "a container computes on another slot's GPU",
                f"does its image choose its card itself (CUDA_VISIBLE_DEVICES)? `docker logs {owner.name}`; "
                + _PROVISION,
                f"{owner.name}: {what}",
                slot,
            )


def check_agent(patient: Patient) -> Verdict:
    """The agent runs and knows its slots."""
    if not patient.host.vars.get("gpu_agent", True):
        return skipped("gpu_agent is false in the inventory")
    text = patient.text(AGENT_PROBE.key)
    if "absent" in text.splitlines():
        return bad("the GPU agent is not installed", _PROVISION)
    pairs = patient.pairs(AGENT_PROBE.key)
    if pairs.get("ActiveState") != "active":
        return bad(
            "the GPU agent does not run",
            f"`systemctl restart {UNIT}` on {{host}}; `journalctl -u {UNIT} -n 20` there says why it ended",
            f"its unit is {pairs.get('ActiveState') or 'unknown'}",
            fix=Fix(f"start {UNIT}", (_START,)),
        )
    said = [line.partition("=")[2] for line in text.splitlines() if line.startswith("said=")]
    # Just after its start it says nothing: it waits until it knows enough.
    if said and all(line.endswith("no answer") for line in said) and _seconds_up(pairs) > _KNOWS_ENOUGH:
        return bad(
            "the GPU agent does not answer",
            f"`systemctl restart {UNIT}` on {{host}}; `journalctl -u {UNIT} -n 20` there",
            fix=Fix(f"restart {UNIT}", (_START,)),
        )
    return well("answers")


def _seconds_up(pairs: dict[str, str]) -> float:
    try:
        return float(pairs["uptime"]) - int(pairs["ActiveEnterTimestampMonotonic"]) / 1e6
    except (KeyError, ValueError):
        return 0.0


CHECKS = (
    Check(
        "service",
        "ports",
        "a container whose port is taken does not start",
        check_ports,
        lambda host: (PORTS_PROBE, CONTAINERS_PROBE, GPU_PROBE),
    ),
    Check(
        "service",
        "slots",
        "two models on one card run out of memory; a card without one earns nothing",
        check_slots,
        lambda host: (CONTAINERS_PROBE, GPU_PROBE, GPU_PROCESSES_PROBE),
    ),
    Check(
        "service",
        "agent",
        "without it the balancers learn of a sick card from failed jobs",
        check_agent,
        lambda host: (AGENT_PROBE,),
    ),
)
