"""From what a host runs on its GPUs to what it should run: the pure part of `gpu_containers`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TypeGuard

from fleet.docker.answers import Container, Port
from fleet.docker.boot import lost
from fleet.docker.heard import Heard
from fleet.docker.staying import answers, stays_up
from fleet.gpu.container import ContainerSpec, container_name, create_body, next_name, release_of
from fleet.gpu.probe import GpuProcess
from fleet.gpu.slots import ports_of
from fleet.model.slot import Slot
from fleet.model.steps import Change, EngineCall, Run, Step, Throttle
from fleet.modules._replacing import Replacing, on, removal
from fleet.modules.base import Context
from fleet.modules.gpu_container_diff import (
    NOT_APPLIED,
    actual_fields,
    changed_names,
    not_applied,
    removed_env,
    show_diff,
    wanted_fields,
    wanted_port,
)

_JUST_NOW = timedelta(seconds=60)
_ASKED_TO_STOP = (0, 137, 143)  # ended by itself in order, SIGKILL, SIGTERM
_ALL = 1_000_000
_SHARES_GPUS = "nvidia-cuda-mps-server"


@dataclass(frozen=True)
class SlotPlanner:
    """One host's slots, what runs there, and the release that should.

    `digests` are all digests the release's image goes by, the preferred one first. `now` is the host's clock.
    `settle` is the wait in seconds after the last start, for what ends at once to have ended. What replaces
    another one is given `ready` seconds to answer; 0 does not wait. `heard` is what the ports say now; at
    most `throttle` hosts at a time replace what may serve (0: all, after the first slot).
    """

    ctx: Context
    spec: ContainerSpec
    digests: tuple[str, ...]
    slots: tuple[Slot, ...]
    containers: tuple[Container, ...]
    processes: tuple[GpuProcess, ...] = ()
    now: datetime | None = None
    share_gpu: bool = False
    settle: float = 3.0
    heard: Heard = field(default_factory=Heard)
    ready: float = 600.0
    throttle: int = 1

    def changes(self) -> list[Change]:
        """First what is in the way goes, then each slot gets its container, one after the other.

        The next container is replaced only when the one before has proved itself.
        """
        changes = list(self._changes())
        starting = [place for place, change in enumerate(changes) if any(map(_is_start, change.steps))]
        if starting and self.settle > 0:
            last = changes[starting[-1]]
            # What replaces another one is waited for before that one goes.
            if _is_start(last.steps[-1]):
                wait = Run(("sleep", f"{self.settle:g}"), timeout=self.settle + 30)
                changes[starting[-1]] = replace(last, steps=(*last.steps, wait))
        return changes

    def _changes(self) -> Iterator[Change]:
        gone = dict(self._in_the_way())
        for container, why in gone.values():
            yield Change(f"remove {container.name}: {why}", steps=removal(container, self.spec.stop_timeout))
        left = tuple(container for container in self.containers if container.id not in gone)
        for slot in self.slots:
            yield from self._settled(slot, self._current(slot, left), left)

    def _settled(
        self, slot: Slot, current: Container | None, left: tuple[Container, ...]
    ) -> Iterator[Change]:
        """One slot's changes; `left` are the containers that are not in the way."""
        if current is not None and current.name == next_name(slot) and current.state != "paused":
            self._check_name(slot)
            others = [each for each in left if each.slot == slot.name and each is not current]
            proved = current.running and bool(_ports(current) & self.heard.answer)
            change = self._replacing(slot, left, *current.ports).finishing(current, others, proved=proved)
            yield change if proved or not others else self._throttled(change, current)
            if others and self._fits(current, slot):
                return
            own = container_name(slot)
            left = tuple(each for each in left if each is not current and each.name != own)
            current = replace(current, name=own)
            left += (current,)
        if current is not None and self._fits(current, slot):
            yield from self._kept_alive(current)
        else:
            yield self._placed(slot, current, left)

    def _replacing(self, slot: Slot, containers: tuple[Container, ...], *ports: Port) -> Replacing:
        """The new one has to stay up, and to answer at `ports`."""
        name = next_name(slot)
        proof = [stays_up(name, self.settle)] if self.settle else []
        if self.ready:
            proof += (answers(name, self._bound(port), self.ready) for port in ports)
        return Replacing(slot, containers, self.spec.stop_timeout, proof)

    def _bound(self, port: Port) -> Port:
        return port if port.host_ip else replace(port, host_ip=self.spec.bind)

    def _throttled(self, change: Change, current: Container) -> Change:
        """A change of a slot's container is felt where that serves; where nobody waits, all go at once."""
        if not self.ready:
            return change
        most = (self.throttle or _ALL) if self._may_serve(current) else 0
        return replace(change, throttle=Throttle(most, current.slot or ""))

    def _may_serve(self, container: Container) -> bool:
        """True unless it surely does not, and will not soon: one that is silent may be loading its model."""
        if not container.running or not self._silent(container):
            return container.running
        since = container.started
        return self.now is not None and since is not None and self.now - since < timedelta(seconds=self.ready)

    def _silent(self, container: Container) -> bool:
        return bool(_ports(container) & self.heard.silent)

    @property
    def _ours(self) -> tuple[Container, ...]:
        return tuple(container for container in self.containers if container.slot is not None)

    def _current(self, slot: Slot, containers: Iterable[Container]) -> Container | None:
        """The slot's container: rather one that is right and runs than one that bears the name."""
        mine = [container for container in containers if container.slot == slot.name]
        if not mine:
            return None
        return max(
            mine,
            key=lambda c: (c.holds and self._fits(c, slot), c.holds, c.name == container_name(slot)),
        )

    def _fits(self, container: Container, slot: Slot) -> bool:
        port = self._port(container, slot)
        return (
            container.labels.get("fleet.release") in {release_of(self.spec, d) for d in self.digests}
            and container.gpus == (slot.uuid,)
            and container.ports == (wanted_port(self.spec, slot, port),)
            and container.state != "dead"
        )

    def _port(self, container: Container | None, slot: Slot) -> int:
        """The slot's second port where the container was made for that; else the usual one."""
        usual, second = ports_of(self.ctx.host, slot)
        label = container.labels.get("fleet.port") if container is not None else None
        return second if label == str(second) else usual

    def _in_the_way(self) -> Iterator[tuple[str, tuple[Container, str]]]:
        """Containers of ours that must go before any slot is filled, by id, each with the reason.

        A stopped one beside the slot's own stays: it is what a rollback starts again.
        """
        by_name = {slot.name: slot for slot in self.slots}
        for container in self._ours:
            slot = by_name.get(container.slot or "")
            if slot is None:
                yield container.id, (container, f"no GPU is slot {container.slot}")
                continue
            current = self._current(slot, self._ours)
            if self._given_up(container, slot, current):
                why = f"a run that was to replace {container_name(slot)} ended early"
                yield container.id, (container, why)
            elif not container.holds:
                continue
            elif container is not current:
                yield container.id, (container, f"a second container of slot {slot.name}")
            elif other := self._taken_from(container, slot):
                yield container.id, (container, f"it holds what slot {other.name} needs")

    def _given_up(self, container: Container, slot: Slot, current: Container | None) -> bool:
        """True for what was to be the slot's next container and never proved itself, beside others of it."""
        others = [each for each in self._ours if each.slot == slot.name and each is not container]
        if container.name != next_name(slot) or not others:
            return False
        if container is not current or not container.holds:
            return True
        well = container.running and not container.restarts and not self._silent(container)
        return not well and not self._fits(container, slot)

    def _taken_from(self, container: Container, slot: Slot) -> Slot | None:
        """The other slot whose GPU or port the container holds (the GPUs or ports were renumbered)."""
        if self._fits(container, slot):
            return None
        for other in self.slots:
            if other is not slot and (other.uuid in container.gpus or other.port in _ports(container)):
                return other
        return None

    def _kept_alive(self, container: Container) -> Iterator[Change]:
        """Nothing for the right container that runs; its start where it was stopped or lost."""
        crashed = container.exit_code not in _ASKED_TO_STOP or container.oom_killed
        since = container.started if container.running else container.finished
        fresh = self.now is not None and since is not None and self.now - since < _JUST_NOW
        # Once is what a restart policy is for: somebody killed it, and it is back.
        looping = container.running and container.restarts > 1 and fresh
        if container.state == "restarting" or looping:
            raise self._failing(container, f"does not stay up, it was restarted {container.restarts} times")
        if container.running:
            self._check_applied(container)
            return
        if container.state == "paused":
            raise self.ctx.fail(
                f"{container.name} was paused by hand",
                remedy=f"run `docker unpause {container.name}` there",
            )
        if container.state == "exited" and crashed and fresh and not lost(container):
            raise self._failing(container, "ended right after its start")
        why = f"it had ended with exit code {container.exit_code}" if container.state == "exited" else ""
        if lost(container) and container.error:
            why = f"Docker could not give it its GPU ({container.error})"
        yield Change(
            f"start {container.name}" + (f": {why}" if why else ""),
            steps=(on("start", container),),
        )

    def _check_applied(self, container: Container) -> None:
        """Raise where what was asked for its safety is not so. It serves, so it is not stopped for that."""
        if missing := not_applied(self.spec, container):
            raise self.ctx.fail(
                f"{container.name} runs without what was asked for it ({'; '.join(missing)})",
                remedy=NOT_APPLIED.format(name=container.name),
            )

    def _failing(self, container: Container, how: str) -> Exception:
        why = "out of memory" if container.oom_killed else f"exit code {container.exit_code}"
        return self.ctx.fail(
            f"{container.name} {how} ({why}{': ' + container.error if container.error else ''})",
            output=container.log,
            remedy=f"mend what its log names, or set another image; the whole log: "
            f"`docker logs {container.name}` on {self.ctx.host.name}",
        )

    def _placed(self, slot: Slot, current: Container | None, left: tuple[Container, ...]) -> Change:
        """The slot's container is created, in place of the present one."""
        self._check_rolled_out(current)
        # A replacement is where the balancers know the one before it to be.
        port = self._port(current if current is not None and current.holds else None, slot)
        self._check_free(slot, port)
        name = container_name(slot)
        body = create_body(self.spec, slot, self.digests[0], port)
        after = wanted_fields(self.spec, slot, self.digests[0], port)
        if current is not None:
            after |= dict.fromkeys(removed_env(current, after), "")
        before = actual_fields(current, tuple(after)) if current else {}
        release = current.labels.get("fleet.release", "") if current else ""
        diff = show_diff(name, before, after, (release, release_of(self.spec, self.digests[0])))
        if current is None:
            gpu = f"GPU {slot.index}" + (f" ({slot.gpu_name})" if slot.gpu_name else "")
            steps = EngineCall("create", {"name": name, "body": body}), EngineCall("start", {"name": name})
            return Change(f"start {name} on {gpu}: {self.spec.image}", diff, steps)
        what = ", ".join(changed_names(before, after)) or "settings"
        at = wanted_port(self.spec, slot, port)
        begin, then = self._replacing(slot, left, at).steps(current, body)
        change = Change(f"replace {current.name}: other {what}", diff, tuple(begin), tuple(then))
        return self._throttled(change, current)

    def _check_rolled_out(self, current: Container | None) -> None:
        """Raise where an upgrade started what runs: another image here would replace it without draining."""
        if current is None or not current.holds or not current.labels.get("fleet.rollout"):
            return
        digest = current.labels.get("fleet.digest", "")
        if digest in self.digests:
            return
        runs = current.labels.get("fleet.image") or current.image
        raise self.ctx.fail(
            f"{current.slot} runs {runs} ({digest[:19]}) since the rollout "
            f"{current.labels['fleet.rollout']}; the playbook says {self.spec.image}",
            remedy=f"write the image that runs into the inventory, or drain and replace it: "
            f"`fleet upgrade {self.spec.image}`",
        )

    def _check_free(self, slot: Slot, number: int) -> None:
        """Raise where something that is not ours holds the slot's name, this port or the GPU."""
        self._check_name(slot)
        port = wanted_port(self.spec, slot, number)
        for other in self.containers:
            if other.slot is not None:
                continue
            for taken in other.ports:
                same_address = not taken.host_ip or not port.host_ip or taken.host_ip == port.host_ip
                if other.holds and taken.host_port == port.host_port and same_address:
                    raise self.ctx.fail(
                        f"port {number} of slot {slot.name} is taken by the container "
                        f"{other.name} ({other.image})",
                        remedy="stop that container, or set slot_port_base to free ports",
                    )
        if not self.share_gpu:
            self._check_gpu_free(slot)

    def _check_name(self, slot: Slot) -> None:
        for other in self.containers:
            if other.slot is None and other.name in (container_name(slot), next_name(slot)):
                raise self.ctx.fail(
                    f"a container named {other.name} exists that fleet did not create ({other.image})",
                    remedy=f"rename or remove it: `docker rename {other.name} NEW_NAME`",
                )

    def _check_gpu_free(self, slot: Slot) -> None:
        # "all" is what monitoring asks for: it sees the GPU but does not load it.
        users = [
            f"container {other.name} ({other.image})"
            for other in self.containers
            if other.slot is None and other.holds and {slot.uuid, str(slot.index)} & set(other.gpus)
        ]
        ours = {container.id for container in self._ours}
        for process in self.processes:
            if process.gpu_uuid != slot.uuid or process.container in ours or process.name == _SHARES_GPUS:
                continue
            memory = f", {process.memory} MiB" if process.memory is not None else ""
            users.append(f"{process.name} (process {process.pid}{memory})")
        if users:
            raise self.ctx.fail(
                f"GPU {slot.index} of {slot.host} ({slot.gpu_name}, {slot.uuid}) is in use by "
                + ", ".join(users),
                remedy="end it, or set share_gpu: true where both are meant to share the GPU",
            )


def _ports(container: Container) -> set[int]:
    return {port.host_port for port in container.ports}


def _is_start(step: Step) -> TypeGuard[EngineCall]:
    return isinstance(step, EngineCall) and step.operation == "start"
