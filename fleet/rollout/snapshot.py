"""The fleet as a rollout finds it: GPU hosts and balancers looked at, put together slot by slot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from fleet.balancer.stats import Admin, BalancerState, ServerState
from fleet.docker.answers import Container
from fleet.docker.probe import CONTAINERS_PROBE, IMAGES_PROBE, parse_containers, parse_images
from fleet.docker.profile import profile_of
from fleet.docker.readiness import Profile
from fleet.engine.everyone import ask_all
from fleet.errors import FleetError, TaskError, UnreachableError
from fleet.gpu.container import release_of
from fleet.gpu.probe import (
    GPU_PROBE,
    GPU_PROCESSES_PROBE,
    GpuProcess,
    parse_gpu_processes,
    parse_gpus,
)
from fleet.gpu.slots import ports_of
from fleet.model.facts import Facts
from fleet.model.slot import Gpu, Slot
from fleet.rollout.hosts import GpuHost, known_digests
from fleet.rollout.model import ContainerNow, SlotNow, Snapshot
from fleet.rollout.ports import LISTENERS_PROBE, other_port, parse_listeners, taken_by
from fleet.rollout.swap import in_place, of_slot, release_label


@dataclass(frozen=True)
class Seen:
    """A snapshot, each slot as its host has it, and what the containers run (gradio where nobody told)."""

    snapshot: Snapshot
    slots: Mapping[str, Slot]
    profile: Profile = "gradio"


def observe(
    hosts: Mapping[str, GpuHost],
    states: Mapping[str, BalancerState],
    image: str,
    digest: str,
    wanted: Callable[[str], bool] = lambda slot: True,
) -> Seen:
    """Look at all hosts at once. `wanted` chooses among slots by name; the others are left out."""
    looked = ask_all(hosts, lambda name: hosts[name].look(), "looking at the host")
    slots: list[SlotNow] = []
    known: dict[str, Slot] = {}
    troubles: dict[str, str] = {}
    reached: set[str] = set()
    to_pull: list[str] = []
    for name, facts in looked.items():
        try:
            if isinstance(facts, FleetError):
                raise facts
            mine, has = _slots(hosts[name], facts, states, image, digest)
            if not mine:
                raise TaskError(f"{name}: the NVIDIA driver finds no GPU")
        except FleetError as error:
            troubles[name] = error.message.removeprefix(f"{name}: ")
            if not isinstance(error, UnreachableError):
                reached.add(name)
            continue
        slots += [now if wanted(now.name) else replace(now, left_out=True) for _, now in mine]
        known.update({now.name: slot for slot, now in mine})
        if not has and any(wanted(now.name) for _, now in mine):
            to_pull.append(name)
    profiles = [
        found for facts in looked.values() if isinstance(facts, Facts) and (found := profile_of(facts))
    ]
    snapshot = Snapshot(image, digest, tuple(slots), tuple(to_pull), troubles, frozenset(reached))
    return Seen(snapshot, known, profiles[0] if profiles else "gradio")


def _slots(
    host: GpuHost, facts: Facts, states: Mapping[str, BalancerState], image: str, digest: str
) -> tuple[list[tuple[Slot, SlotNow]], bool]:
    """A host's slots, and whether it has green's bytes."""
    spec = host.spec(facts)
    images = parse_images(facts[IMAGES_PROBE.key]) or ()
    digests = known_digests(images, image, digest)
    names = [release_of(spec, each) for each in (digest, *digests)]
    containers = parse_containers(facts[CONTAINERS_PROBE.key]) or ()
    gpus = {gpu.uuid: gpu for gpu in parse_gpus(facts[GPU_PROBE.key]) or ()}
    processes = parse_gpu_processes(facts[GPU_PROCESSES_PROBE.key]) or ()
    listeners = parse_listeners(facts.get(LISTENERS_PROBE.key))
    found = []
    for slot in host.slots(facts):
        current = in_place(containers, slot)
        # The same bytes go by several digests: what runs under another one of them is green already.
        wanted = next(
            (name for name in names if current is not None and release_label(current) == name), names[0]
        )
        servers = [server for state in states.values() if (server := state.slot(slot.name)) is not None]
        now = _slot(slot, wanted, current, containers, gpus.get(slot.uuid), processes, servers)
        port = other_port(ports_of(host.target.host, slot), current)
        if not _stands_beside(of_slot(containers, slot), wanted, port) and (
            has := taken_by(port, spec.bind, listeners, containers)
        ):
            now = replace(now, port_taken=f"port {port} is taken by {has}")
        found.append((slot, now))
    return found, bool(digests)


def _slot(
    slot: Slot,
    wanted: str,
    current: Container | None,
    containers: Sequence[Container],
    gpu: Gpu | None,
    processes: Sequence[GpuProcess],
    servers: Sequence[ServerState],
) -> SlotNow:
    total, used = (gpu.memory_total, gpu.memory_used) if gpu else (None, None)
    others = [each for each in of_slot(containers, slot) if each is not current]
    return SlotNow(
        name=slot.name,
        host=slot.host,
        index=slot.index,
        uuid=slot.uuid,
        gpu=slot.gpu_name,
        address=slot.address,
        port=slot.port,
        weight=_weight(slot, servers),
        serves=bool(servers) and all(server.takes_jobs for server in servers),
        wanted=wanted,
        held=any(_held(server) for server in servers),
        current=_container(current, slot, processes) if current else None,
        kept=tuple(_container(each, slot, processes) for each in others),
        memory_total=total,
        memory_free=total - used if total is not None and used is not None else None,
    )


def _stands_beside(mine: Sequence[Container], wanted: str, port: int) -> bool:
    """True where the second container is there already: its port is not another's."""
    return any(
        each.running and release_label(each) == wanted and each.ports and each.ports[0].host_port == port
        for each in mine
    )


def _held(server: ServerState) -> bool:
    """True where an operator keeps jobs away: drained, in maintenance, or told a weight of 0."""
    return server.admin is not Admin.READY or (not server.weight and not server.agent_holds)


def _weight(slot: Slot, servers: Sequence[ServerState]) -> int:
    """The weight the slot has when it serves: set at run time, unless its agent lowered it for the moment."""
    for server in servers:
        if server.agent_holds or not server.weight:
            return server.configured_weight or slot.weight
        return server.weight
    return slot.weight


def _container(container: Container, slot: Slot, processes: Sequence[GpuProcess]) -> ContainerNow:
    memory = [
        process.memory
        for process in processes
        if process.container == container.id and process.gpu_uuid == slot.uuid and process.memory is not None
    ]
    return ContainerNow(
        name=container.name,
        id=container.id,
        image=container.labels.get("fleet.image") or container.image,
        digest=container.labels.get("fleet.digest", ""),
        release=release_label(container),
        running=container.running,
        port=container.ports[0].host_port if container.ports else slot.port,
        memory=sum(memory) if memory else None,
    )
