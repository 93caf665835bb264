"""The real world of an executor: GPU hosts and balancers over SSH."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from types import TracebackType
from typing import Any

from fleet.control.targets import host_of
from fleet.docker.answers import Container, Port
from fleet.docker.readiness import Target
from fleet.errors import FleetError, UnreachableError
from fleet.model.slot import Slot
from fleet.rollout.events import Doing, Listen, Recorded
from fleet.rollout.golden import Pair
from fleet.rollout.gpu_memory import Owner
from fleet.rollout.hosts import GpuHost
from fleet.rollout.ladder import Readiness, Wanted, climb, memory_now, shape_before, translate
from fleet.rollout.model import Colour, Entry, Header
from fleet.rollout.setting import Setting
from fleet.rollout.shape import Shape
from fleet.rollout.snapshot import Seen
from fleet.rollout.stages import run_stage
from fleet.rollout.steering import Steering
from fleet.rollout.stopping import Wish
from fleet.rollout.store import Store
from fleet.rollout.swap import in_place, of_slot, release_label
from fleet.rollout.world import RungError, Say, ServerNow


class SshWorld:
    """Implements `fleet.rollout.world.World`. Use as a context manager; it closes the steering.

    `allowed` raises where the lease is not ours any more; it is asked before every change on a host, by
    several threads.
    """

    def __init__(
        self,
        *,
        header: Header,
        hosts: Mapping[str, GpuHost],
        seen: Seen,
        steering: Steering,
        store: Store,
        allowed: Callable[[], None],
        goldens: Sequence[Pair],
        setting: Setting,
        listen: Listen,
        wish: Wish,
    ) -> None:
        self._header = header
        self._hosts = hosts
        self._slots = seen.slots
        self._troubles = seen.snapshot.troubles
        self._steering = steering
        self._store = store
        self._allowed = allowed
        self._setting = setting
        self._listen = listen
        self._wish = wish
        self._steer = Lock()
        self._goldens = tuple(goldens)
        self._profile = seen.profile
        self._shape: Shape | None = None
        self._before: dict[str, Mapping[str, int | None]] = {}
        self._last: dict[str, tuple[Container, ...]] = {}
        self._attributed = any(s.current and s.current.memory is not None for s in seen.snapshot.slots)

    def __enter__(self) -> SshWorld:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._steering.close()

    def servers(self) -> Sequence[ServerNow]:
        """Every slot on every balancer now."""
        with self._steer:
            return self._steering.servers()

    def drain(self, slots: Sequence[str], deadline: float, say: Say) -> Mapping[str, int]:
        """No new jobs, and wait for those in flight."""
        with self._steer:
            return self._steering.drain(slots, deadline, say)

    def admit(self, weights: Mapping[str, int]) -> None:
        """New jobs, at the port that the slot's container publishes."""
        endpoints = {}
        for name in weights:
            slot, container = self._slot(name), self._known(name)
            port = container.ports[0].host_port if container and container.ports else slot.port
            endpoints[name] = (slot.address, port)
        with self._steer:
            self._steering.admit(weights, endpoints)

    def hold(self, slots: Sequence[str]) -> None:
        """No new jobs; nobody waits."""
        with self._steer:
            self._steering.hold(slots)

    def bring(self, hosts: Sequence[str], say: Say) -> None:
        """Have green's bytes on hosts whose sites have a seed."""
        if self._setting.bring is not None:
            targets = {host: self._hosts[host].target for host in hosts}
            self._setting.bring(targets, self._header.image, self._header.digest, say)

    def pull(self, host: str, say: Say) -> None:
        """Have green's bytes on the host."""
        self._hosts[host].pull(self._header.image, self._header.digest, lambda text: say(host, text))

    def place(self, slot: str, to: Colour, say: Say) -> str:
        """The slot's container of this colour runs, and no other one."""
        origin, host = self._header.origin(slot), self._host(slot)
        green = to == "green"
        release = origin.green if green else origin.release
        container = self._container(slot)
        alone = sum(each.running for each in self._last[slot]) < 2
        if container is not None and container.running and release_label(container) == release and alone:
            return _run(container)
        if green:
            self._remember_shape()
        found = host.place(
            self._slot(slot),
            release,
            self._header.image if green else origin.image,
            self._header.digest if green else origin.digest,
            lambda text: say(slot, text),
            rollout=self._header.id,
            seen=self._last[slot],
            discard="" if green else origin.green,
            starting=lambda: self._before.update({slot: self._memory(slot)}),
            allowed=self._allowed,
        )
        self._remember(slot, found)
        container = self._known(slot)
        return _run(container) if container and container.running else ""

    def running(self, slot: str) -> tuple[str, str] | None:
        """The run of the container in the slot's place, and its release.

        A run ends when its process does: the engine's restarts make new ones of the same container.
        """
        container = self._container(slot)
        if container is None or not container.running:
            return None
        return _run(container), release_label(container)

    def beside(self, slot: str, say: Say) -> None:
        """Green's container runs beside blue's, on the slot's other port."""
        self._remember_shape()
        green = self._container(slot, "green")
        if green is None or not green.running:
            self._before[slot] = self._memory(slot)
        found = self._host(slot).beside(
            self._slot(slot),
            self._header.origin(slot).green,
            self._header.image,
            self._header.digest,
            lambda text: say(slot, text),
            rollout=self._header.id,
            allowed=self._allowed,
        )
        self._remember(slot, found)

    def climb(self, slot: str, to: Colour, deadline: float, say: Say, rounds: int = 1) -> float:
        """Every rung of readiness."""
        return climb(self._look(slot, to), self._wanted(slot, to), deadline, say, rounds)

    def golden(self, slot: str, to: Colour = "green", times: int = 1) -> float:
        """The golden translations straight to the slot's container."""
        return translate(self._look(slot, to), self._wanted(slot, to), times)

    def log(self, slot: str) -> str:
        """The end of its container's log: green's, where there is one."""
        to: Colour = "green" if self._container(slot, "green") is not None else "blue"
        return self._look(slot, to)(log=True).log

    def prune(self, host: str, retain: int) -> None:
        """Remove what is older than the retained releases."""
        slots = [self._slot(origin.slot) for origin in self._header.origins if origin.host == host]
        header = self._header
        images = {header.image, *(origin.image for origin in header.origins if origin.image)}
        digests = {header.digest, *(origin.digest for origin in header.origins if origin.digest)}
        self._hosts[host].prune(slots, retain, sorted(images), digests, self._allowed)

    def stage(self, name: str, variables: Mapping[str, Any]) -> None:
        """The user's own tasks."""
        book = self._setting.defaults.stages.get(name)
        if book is not None and book.plays:
            self._listen(Doing("stage", name))
            opener, inventory = self._setting.opener, self._setting.inventory
            run_stage(book, inventory, opener, lambda _: None, variables, name=name)

    def record(self, step: str, slots: Sequence[str] = (), wave: int = 0, **detail: Any) -> Entry:
        """One more entry, on every balancer."""
        entry = Entry(self._store.next_number, round(self.clock(), 3), step, tuple(slots), wave, detail)
        self._store.append(entry)
        self._listen(Recorded(entry))
        return entry

    def pause(self, seconds: float) -> None:
        """Let time pass, or somebody's wish to stop end it."""
        self._wish.doze(seconds)

    def clock(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def _host(self, slot: str) -> GpuHost:
        return self._hosts[self._slot(slot).host]

    def _slot(self, name: str) -> Slot:
        """Raises UnreachableError for a slot of a host that could not be looked at when this run began."""
        if (slot := self._slots.get(name)) is not None:
            return slot
        host = host_of(name)
        why = self._troubles.get(host, "it has no such slot any more")
        raise UnreachableError(f"{host}: {why}", remedy="`fleet status` shows how it is")

    def _release(self, name: str, to: Colour) -> str | None:
        """The release that a colour is on this slot; None for a slot that the rollout does not touch."""
        for origin in self._header.origins:
            if origin.slot == name:
                return origin.green if to == "green" else origin.release
        return None

    def _container(self, name: str, to: Colour | None = None) -> Container | None:
        """What is in the slot's place now; with a colour, that one's container, there or beside it."""
        self._remember(name, self._host(name).containers())
        return self._known(name, to)

    def _remember(self, name: str, found: Sequence[Container]) -> None:
        self._last[name] = of_slot(found, self._slot(name))

    def _known(self, name: str, to: Colour | None = None) -> Container | None:
        """The same as it was when last looked at: a container's name and port stay.

        Never one of the other colour, which could climb in its name.
        """
        if name not in self._last:
            self._remember(name, self._host(name).containers())
        found = self._last[name]
        release = self._release(name, to) if to else None
        if release is None:
            return in_place(found, self._slot(name))
        mine = [each for each in found if release_label(each) == release]
        return next((each for each in mine if each.running), mine[0] if mine else None)

    def _remember_shape(self) -> None:
        """The API that clients know: that of the first blue container that tells it."""
        for origin in self._header.origins if self._shape is None else ():
            try:
                container = self._container(origin.slot)
                if container is None or not container.running or release_label(container) != origin.release:
                    continue
                self._shape = shape_before(self._look(origin.slot, "blue"))
            except FleetError:
                continue
            if self._shape is not None:
                return

    def _memory(self, slot: str) -> Mapping[str, int | None]:
        """What every GPU of the host holds just now; not needed where processes tell their containers."""
        if self._attributed:
            return {}
        try:
            return memory_now(self._look(slot, "blue"))
        except FleetError:
            return {}

    def _look(self, name: str, to: Colour) -> Readiness:
        container = self._known(name, to)
        if container is None:
            raise RungError(name, "running", f"there is no {to} container", remedy="has somebody removed it?")
        port = container.ports[0] if container.ports else Port(self._slot(name).port, "")
        target = Target(container.name, port.host_port, port.local, self._profile)
        return Readiness(target, self._host(name).script)

    def _wanted(self, name: str, to: Colour) -> Wanted:
        slot, container = self._slot(name), self._known(name, to)
        busy = [other.uuid for other in self._slots.values() if other.host == slot.host and other != slot]
        owner = Owner(container.id if container else "", slot.uuid, self._before.get(name, {}), busy)
        shape = self._shape if to == "green" else None
        return Wanted(name, owner, self._goldens, self._profile, shape)


def _run(container: Container) -> str:
    """One run of a container: its id, when it was started, how often it was restarted."""
    started = f"{container.started:%Y%m%dT%H%M%S.%f}" if container.started else ""
    return f"{container.id[:12]} {started} {container.restarts}"
