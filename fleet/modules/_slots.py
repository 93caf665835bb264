"""The slots a balancer serves: those seen in this run, and those of hosts that were not looked at."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Protocol

from fleet.balancer import runtime
from fleet.balancer.stats import BalancerState
from fleet.docker.probe import CONTAINERS_PROBE, parse_containers
from fleet.gpu.slots import ports_of, slots_of
from fleet.gpu.weights import weight_override
from fleet.model.facts import Answer, Facts
from fleet.model.host import Host
from fleet.model.slot import Slot
from fleet.model.steps import Change
from fleet.modules.base import Context


class Deployed(Protocol):
    """A server as the configuration on the balancer has it."""

    @property
    def name(self) -> str:
        """The slot's name."""
        ...

    @property
    def port(self) -> int:
        """The slot's port."""
        ...

    @property
    def weight(self) -> int:
        """The slot's weight."""
        ...


def balanced_slots(group: str, deployed: Iterable[Deployed], ctx: Context) -> tuple[list[Slot], list[Host]]:
    """Every slot to balance, and the hosts that were looked at but whose GPUs are not known.

    A slot's port is the one its container publishes; where nobody asked or nothing runs, the deployed one.
    """
    servers = tuple(deployed)
    known: list[Slot] = []
    unknown: list[Host] = []
    for host in ctx.group(group):
        facts = ctx.fleet.get(host.name)
        slots = slots_of(host, facts) if facts is not None else None
        if facts is None or slots is None:
            slots = tuple(_kept(host, servers))
            if facts is not None and not slots:
                unknown.append(host)
            known += slots
            continue
        ports = {server.name: server.port for server in servers} | _running_ports(host, slots, facts)
        for slot in slots:
            port = ports.get(slot.name)
            known.append(replace(slot, port=port) if port in ports_of(host, slot) else slot)
    return known, unknown


def moved(group: str, deployed: Iterable[Deployed], state: BalancerState, ctx: Context) -> Iterator[Change]:
    """Slots whose container is where the configuration says while HAProxy was told another port.

    A slot whose port in the configuration is another one is left out: a reload brings that.
    """
    configured = {server.name: server.port for server in deployed}
    for host in ctx.group(group):
        facts = ctx.fleet.get(host.name)
        slots = slots_of(host, facts) if facts is not None else None
        if facts is None or slots is None:
            continue
        for name, port in _running_ports(host, slots, facts).items():
            server = state.slot(name)
            now = server.address.rpartition(":")[2] if server is not None else ""
            if configured.get(name) == port and now.isdecimal() and int(now) != port:
                yield Change(
                    f"send {name} to port {port}, where its container runs",
                    f"{name}: port {now} -> {port}\n",
                    (runtime.set_endpoint(name, host.address, port),),
                )


def _running_ports(host: Host, slots: Iterable[Slot], facts: Facts) -> dict[str, int]:
    """By slot, which of its ports is published; without those of which neither or both are."""
    containers = parse_containers(facts.get(CONTAINERS_PROBE.key, Answer(255))) or ()
    found: dict[str, int] = {}
    for slot in slots:
        published = {
            port.host_port
            for container in containers
            if container.slot == slot.name and container.running
            for port in container.ports
        }
        ports = published.intersection(ports_of(host, slot))
        if len(ports) == 1:
            found[slot.name] = ports.pop()
    return found


def _kept(host: Host, deployed: Iterable[Deployed]) -> Iterator[Slot]:
    """The host's slots as the configuration has them; address and weight as the inventory has them now."""
    name = re.compile(rf"{re.escape(host.name)}-(\d+)")
    weight = weight_override("", host.vars)
    for server in deployed:
        if found := name.fullmatch(server.name):
            yield Slot(
                host=host.name,
                index=int(found[1]),
                uuid="",
                address=host.address,
                port=server.port,
                weight=server.weight if weight is None else weight,
            )
