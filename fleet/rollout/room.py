"""The floor, held against what the balancers say now, whatever the plan expected."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from fleet.errors import TaskError
from fleet.rollout.model import Header, Options
from fleet.rollout.world import ServerNow, World

PATIENCE = 60.0
"""Seconds to wait for other slots to come back before a wave is given up."""


class RoomError(TaskError):
    """Without these slots too little of the service would be left."""


class Room:
    """How much ready weight there is, and what may be taken of it. `wait` lets time pass.

    `servers` are as they were at the last look, which is what the last answer was given by.
    """

    def __init__(self, world: World, header: Header, options: Options, wait: Callable[[float], None]) -> None:
        self._world = world
        self._header = header
        self._floor = header.floor
        self._least = header.floor if options.allow_downtime else max(header.floor, 1.0)
        self._downtime = options.allow_downtime or not header.total
        self._wait = wait
        self.servers: Sequence[ServerNow] = ()

    def make(self, slots: Sequence[str]) -> None:
        """Return once the others carry the floor on every balancer. Raises RoomError after a minute."""
        until = self._world.clock() + PATIENCE
        while (short := self._short(slots)) is not None:
            if self._world.clock() >= until:
                raise RoomError(
                    f"without {', '.join(slots)} only {short[1]:g} of the ready weight would be left on "
                    f"{short[0]}, the floor is {self._least:g}{self._who_is_out(slots)}",
                    remedy="see `fleet status` for the slots that are out, or lower --floor",
                )
            self._wait(1.0)

    def batch(self, slots: Sequence[str]) -> list[str]:
        """The slots that go back at once: those that serve nobody, else as many, in order, as the floor lets.

        On the way back the floor cannot always be kept, such as after a host was lost: then it is one slot
        at a time. None where each is the last one that serves, unless a downtime is allowed, or nobody served
        before the rollout either.
        """
        ready = self._ready()
        idle = [slot for slot in slots if not any(by_slot.get(slot, 0) for by_slot in ready.values())]
        if idle:
            return idle
        chosen: list[str] = []
        for slot in slots:
            if self._left(ready, [*chosen, slot]) >= max(self._floor, 1.0):
                chosen.append(slot)
        if chosen:
            return chosen
        return [slot for slot in slots if self._downtime or self._left(ready, [slot]) > 0][:1]

    def _short(self, slots: Sequence[str]) -> tuple[str, float] | None:
        """The balancer with the least that would be left, where that is less than the floor.

        Slots that take no jobs there cost nothing, however little the others have.
        """
        left = _left_by_balancer(self._ready(), slots)
        if not left:
            return None
        balancer = min(left, key=left.__getitem__)
        return (balancer, left[balancer]) if left[balancer] < self._least else None

    @staticmethod
    def _left(ready: Mapping[str, Mapping[str, float]], slots: Sequence[str]) -> float:
        return min(_left_by_balancer(ready, slots).values(), default=float("inf"))

    def _ready(self) -> Mapping[str, Mapping[str, float]]:
        """By balancer: the weight of every slot that takes jobs."""
        found: dict[str, dict[str, float]] = defaultdict(dict)
        self.servers = self._world.servers()
        for server in self.servers:
            found[server.balancer][server.slot] = server.weight if server.takes_jobs else 0.0
        return found

    def _who_is_out(self, slots: Sequence[str]) -> str:
        out: dict[str, str] = {}
        for server in self.servers:
            if not server.takes_jobs and server.slot not in slots:
                out.setdefault(server.slot, server.why)
        listed = ", ".join(f"{slot} ({why})" if why else slot for slot, why in out.items())
        return f"; out are {listed}" if listed else ""


def _left_by_balancer(ready: Mapping[str, Mapping[str, float]], slots: Sequence[str]) -> Mapping[str, float]:
    """What stays ready without the slots, on the balancers where they take jobs."""
    return {
        balancer: sum(weight for slot, weight in by_slot.items() if slot not in slots)
        for balancer, by_slot in ready.items()
        if any(by_slot.get(slot, 0) for slot in slots)
    }
