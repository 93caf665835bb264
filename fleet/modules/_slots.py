"""The slots a balancer serves: those seen in this run, and those of hosts that were not looked at."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Protocol

from fleet.gpu.slots import slots_of
from fleet.gpu.weights import weight_override
from fleet.model.host import Host
from fleet.model.slot import Slot
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
    """Every slot to balance, and the hosts that were looked at but whose GPUs are not known."""
    servers = tuple(deployed)
    known: list[Slot] = []
    unknown: list[Host] = []
    for host in ctx.group(group):
        facts = ctx.fleet.get(host.name)
        slots = slots_of(host, facts) if facts is not None else None
        if slots is None:
            slots = tuple(_kept(host, servers))
            if facts is not None and not slots:
                unknown.append(host)
        known += slots
    return known, unknown


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
