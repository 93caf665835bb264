"""One host as the checks see it: its inventory entry, its answers, and the answers of the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from fleet.balancer.probe import RUNTIME_PROBE
from fleet.balancer.stats import BalancerState, parse_balancer
from fleet.docker.answers import Container, Engine, Image
from fleet.docker.probe import (
    CONTAINERS_PROBE,
    ENGINE_PROBE,
    IMAGES_PROBE,
    parse_containers,
    parse_engine,
    parse_images,
)
from fleet.gpu.probe import GPU_PROBE, parse_gpus
from fleet.gpu.slots import slots_of
from fleet.model.facts import Answer, Facts
from fleet.model.host import Host
from fleet.model.slot import Gpu, Slot

ABSENT = Answer(255)


@dataclass(frozen=True)
class Patient:
    """A host that answered.

    `fleet` are the facts of every host that did; `hosts` all of the inventory. The host was asked between
    `before` and `after`, in seconds since the epoch by the controller's clock.
    """

    host: Host
    facts: Facts
    hosts: Mapping[str, Host] = field(default_factory=dict)
    fleet: Mapping[str, Facts] = field(default_factory=dict)
    before: float = 0.0
    after: float = 0.0

    def text(self, key: str) -> str:
        """What a probe printed; empty where it was not asked."""
        return self.facts.get(key, ABSENT).text

    def pairs(self, key: str) -> dict[str, str]:
        """A probe's `name=value` lines."""
        lines = self.text(key).splitlines()
        return dict(line.partition("=")[::2] for line in lines if "=" in line)

    @cached_property
    def gpus(self) -> tuple[Gpu, ...] | None:
        """The GPUs; None where no driver answers."""
        return parse_gpus(self.facts.get(GPU_PROBE.key, ABSENT))

    @cached_property
    def engine(self) -> Engine | None:
        """The Docker Engine; None where none answers."""
        return parse_engine(self.facts.get(ENGINE_PROBE.key, ABSENT))

    @cached_property
    def images(self) -> tuple[Image, ...] | None:
        """The local images; None where no engine answers."""
        return parse_images(self.facts.get(IMAGES_PROBE.key, ABSENT))

    @cached_property
    def containers(self) -> tuple[Container, ...] | None:
        """What runs and what is fleet's; None where no engine answers."""
        return parse_containers(self.facts.get(CONTAINERS_PROBE.key, ABSENT))

    @cached_property
    def running(self) -> tuple[Container, ...]:
        """The slots' containers that run."""
        return tuple(each for each in self.containers or () if each.slot and each.running)

    @cached_property
    def slots(self) -> tuple[Slot, ...] | None:
        """The host's slots; None where no driver answers. Raises InputError for variables that are wrong."""
        return slots_of(self.host, self.facts)

    def of_slot(self, name: str) -> tuple[Container, ...]:
        """The slot's containers, on whichever host that answered; the one that tells most of it first.

        That is one that runs or is about to, then the one with the slot's name; others wait for a rollback.
        """
        facts = self.fleet.get(name.rpartition("-")[0], self.facts)
        found = parse_containers(facts.get(CONTAINERS_PROBE.key, ABSENT)) or ()
        mine = (each for each in found if each.slot == name)
        return tuple(sorted(mine, key=lambda each: (not each.holds, each.name != f"fleet-{name}")))

    def log_of(self, name: str) -> str:
        """What shows the log of a slot's container."""
        mine = self.of_slot(name)
        return f"`docker logs {mine[0].name if mine else f'fleet-{name}'}`"

    def slot_name(self, gpu: Gpu) -> str:
        """The slot of a GPU: its number stays with its containers where the driver counts otherwise."""
        found = (slot.name for slot in self.slots or () if slot.uuid == gpu.uuid)
        return next(found, f"{self.host.name}-{gpu.index}")

    @cached_property
    def balancer(self) -> BalancerState | None:
        """The running HAProxy; None where none answers."""
        return parse_balancer(self.facts.get(RUNTIME_PROBE.key, ABSENT))
