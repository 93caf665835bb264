"""From one host's answers to its row, its slots' rows, and what is wrong there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from fleet.balancer.probe import RUNTIME_PROBE
from fleet.balancer.stats import parse_balancer
from fleet.docker.answers import Container
from fleet.docker.probe import CONTAINERS_PROBE, ENGINE_PROBE, parse_containers, parse_engine
from fleet.errors import FleetError, UnreachableError
from fleet.gpu.container import is_next
from fleet.gpu.probe import GPU_PROBE, driver_problem, faulty_gpus, parse_gpus
from fleet.gpu.slots import slots_of
from fleet.model.facts import Answer, Facts
from fleet.model.host import Host
from fleet.model.problem import Problem
from fleet.model.slot import Gpu, Slot
from fleet.status.model import FAILED, UNREACHABLE, UP, HostStatus, SlotStatus
from fleet.status.probe import GPU_GROUP, HOST_PROBE, parse_host

NO_CONTAINER = "none"
UNKNOWN = "unknown"
_ABSENT = Answer(255)
_NEVER = datetime.min.replace(tzinfo=UTC)
_PROVISION = "run `fleet provision`"
_LOOK = "look at `dmesg | grep -i -e nvrm -e xid` there"


@dataclass(frozen=True)
class HostReport:
    """What one host gives to the status."""

    host: HostStatus
    slots: tuple[SlotStatus, ...] = ()
    problems: tuple[Problem, ...] = ()


def report(host: Host, seen: Facts | FleetError) -> HostReport:
    """The report of one host, reached or not."""
    if isinstance(seen, FleetError):
        state = UNREACHABLE if isinstance(seen, UnreachableError) else FAILED
        reason = seen.message.removeprefix(f"{host.name}: ")
        row = HostStatus(host.name, host.groups, host.address, state, reason=reason)
        return HostReport(row, problems=(Problem(host.name, reason, seen.remedy),))
    engine = parse_engine(seen.get(ENGINE_PROBE.key, _ABSENT))
    gpus = parse_gpus(seen.get(GPU_PROBE.key, _ABSENT))
    balancer = parse_balancer(seen.get(RUNTIME_PROBE.key, _ABSENT))
    row = HostStatus(
        host.name,
        host.groups,
        host.address,
        UP,
        haproxy=balancer.version if balancer else None,
        engine=engine.version if engine else None,
        driver=gpus[0].driver_version if gpus else None,
        **asdict(parse_host(seen.get(HOST_PROBE.key))),
    )
    if GPU_GROUP not in host.groups:
        return HostReport(row)
    containers = parse_containers(seen.get(CONTAINERS_PROBE.key, _ABSENT))
    by_uuid = {gpu.uuid: gpu for gpu in gpus or ()}
    now = engine.time if engine else None
    found = slots_of(host, seen)
    if found is None:
        found = _remembered(host, containers or ())
    slots = tuple(_slot(slot, by_uuid.get(slot.uuid), containers, now) for slot in found)
    problems = (
        *_reboot_problems(row),
        *_host_problems(host, seen, gpus, containers, row),
        *_slot_problems(slots, containers),
    )
    return HostReport(row, slots, problems)


def _remembered(host: Host, containers: tuple[Container, ...]) -> tuple[Slot, ...]:
    """The slots as their containers' labels tell them: one lost GPU silences nvidia-smi for all."""
    found: dict[str, Slot] = {}
    for container in sorted(containers, key=lambda container: container.running):
        name, _, index = (container.slot or "").rpartition("-")
        if name == host.name and index.isdigit() and container.ports:
            uuid, port = container.labels.get("fleet.gpu", ""), container.ports[0].host_port
            found[index] = Slot(host.name, int(index), uuid, host.address, port, weight=0)
    return tuple(found[index] for index in sorted(found, key=int))


def _slot(
    slot: Slot, gpu: Gpu | None, containers: tuple[Container, ...] | None, now: datetime | None
) -> SlotStatus:
    mine = [container for container in containers or () if container.slot == slot.name]
    # A stopped one beside the running one is kept for a rollback: it is not the slot's state.
    container = max(
        mine, key=lambda c: (c.running, c.state == "restarting", c.started or _NEVER), default=None
    )
    shown = SlotStatus(
        name=slot.name,
        host=slot.host,
        index=slot.index,
        uuid=slot.uuid,
        gpu=slot.gpu_name,
        address=slot.address,
        port=slot.port,
        weight=slot.weight or None,
        state=UNKNOWN if containers is None else NO_CONTAINER,
        memory_used=gpu.memory_used if gpu else None,
        memory_total=gpu.memory_total if gpu else None,
        utilization=gpu.utilization if gpu else None,
        temperature=gpu.temperature if gpu else None,
    )
    if container is None:
        return shown
    since = container.started if container.running else container.finished
    return replace(
        shown,
        state=container.state,
        container=container.name,
        health=container.health,
        exit_code=None if container.running else container.exit_code,
        image=container.labels.get("fleet.image") or container.image,
        digest=container.labels.get("fleet.digest"),
        release=container.labels.get("fleet.release"),
        age=max(0, int((now - since).total_seconds())) if now and since else None,
        restarts=container.restarts,
        # One that a rollout started beside another is on the slot's second port.
        port=container.ports[0].host_port if container.running and container.ports else slot.port,
    )


def _reboot_problems(row: HostStatus) -> Iterator[Problem]:
    if row.reboot_begun:
        remedy = f"`fleet reboot {row.name}` goes on with it, and gives back the slots that it drained"
        yield Problem(row.name, "a reboot of it was begun and has not ended", remedy)


def _host_problems(
    host: Host,
    facts: Facts,
    gpus: tuple[Gpu, ...] | None,
    containers: tuple[Container, ...] | None,
    row: HostStatus,
) -> Iterator[Problem]:
    if gpus is None:
        answer = facts.get(GPU_PROBE.key, _ABSENT)
        reason = driver_problem(answer) or ""
        remedy = _PROVISION if answer.rc in (127, _ABSENT.rc) else _LOOK
        if row.reboot_required and not row.reboot_begun:
            remedy = f"`fleet reboot {host.name}`, which it waits for (`--check` says why); else {remedy}"
        yield Problem(host.name, f"the NVIDIA driver does not answer: {reason}", remedy)
    elif not gpus:
        yield Problem(host.name, "the NVIDIA driver finds no GPU", _LOOK)
    for fault in faulty_gpus(facts.get(GPU_PROBE.key, _ABSENT)):
        yield Problem(host.name, fault, f"{_LOOK}; `fleet reboot {host.name} --force` may bring it back")
    for gpu in gpus or ():
        if gpu.mig:
            what = f"GPU {gpu.index} ({gpu.name}) is cut into MIG instances and cannot be used whole"
            yield Problem(host.name, what, f"`nvidia-smi -i {gpu.uuid} -mig 0` there")
    if containers is None:
        yield Problem(
            host.name, "the Docker Engine does not answer", f"`systemctl status docker`, or {_PROVISION}"
        )


def _slot_problems(
    slots: tuple[SlotStatus, ...], containers: tuple[Container, ...] | None
) -> Iterator[Problem]:
    for slot in slots:
        if slot.state == NO_CONTAINER:
            yield Problem(slot.name, "no container", _PROVISION)
        elif slot.state not in ("running", UNKNOWN):
            code = f" with exit code {slot.exit_code}" if slot.state in ("exited", "restarting") else ""
            word = "has" if slot.state == "exited" else "is"
            log = f"{_PROVISION}; its log: `docker logs {slot.container}` on {slot.host}"
            yield Problem(slot.name, f"its container {word} {slot.state}{code}", log)
        elif slot.health == "unhealthy":
            yield Problem(slot.name, "its container fails its own health check")
        elif any(is_next(each) and each.name == slot.container for each in containers or ()):
            yield Problem(
                slot.name,
                f"its container was to be replaced, and that has not ended: {slot.container} runs",
                f"where `fleet provision` is not at work: {_PROVISION}",
            )
        running = [c.name for c in containers or () if c.slot == slot.name and c.running]
        if len(running) > 1:
            yield Problem(slot.name, f"several containers run on one GPU: {', '.join(running)}", _PROVISION)
