"""A slot's container gives way to another one: the steps, and what a run that ended among them left.

The new one is made under the slot's next name, before the old one stops, and has the slot's own name only
once it has proved itself. What the engine refuses to make costs the slot nothing; where the new one does not
stay up, or never answers, the old one runs again (docs/decisions/0017-made-before-the-old-one-stops.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fleet.docker.answers import Container
from fleet.gpu.container import container_name, kept_name, next_name
from fleet.model.slot import Slot
from fleet.model.steps import Change, EngineCall, Step


def removal(container: Container, stop_timeout: int) -> tuple[Step, ...]:
    """The steps after which the container is gone; it is given `stop_timeout` seconds to end."""
    remove = on("remove", container)
    if not container.holds:
        return (remove,)
    return on("stop", container, timeout=stop_timeout), remove


def on(operation: str, container: Container, **more: Any) -> EngineCall:
    """A step for this very container, whatever it is called by then: names change hands."""
    return EngineCall(operation, {"name": container.name, "id": container.id, **more})


@dataclass(frozen=True)
class Replacing:
    """How one slot changes containers.

    `containers` are all that are there. The old one is given `stop_timeout` seconds to end; `proof` are the
    steps by which the new one shows, under the slot's next name, that it may stay.
    """

    slot: Slot
    containers: Sequence[Container]
    stop_timeout: int
    proof: Sequence[Step] = ()

    def steps(self, current: Container, body: Mapping[str, Any]) -> tuple[list[Step], list[Step]]:
        """From `current` to the container of `body`: what can be undone, and the end, which cannot."""
        create = EngineCall("create", {"name": next_name(self.slot), "body": body})
        stop = self._stop(current)
        # What runs goes on until the engine has taken the new one; what does not is the way back as well.
        begin: list[Step] = [create, stop] if current.holds else [stop, create]
        return [*begin, *self._start({"name": next_name(self.slot)})], [
            on("remove", current, force=True),
            *(self._aside(other) for other in self._own() if other is not current),
            EngineCall("rename", {"name": next_name(self.slot), "to": container_name(self.slot)}),
        ]

    def finishing(self, found: Container, others: Iterable[Container], *, proved: bool) -> Change:
        """The end of a replacement that was interrupted while `found` had the next name.

        Unless it has `proved` itself, it has to where one of the slot's `others` is there yet, and that one
        runs again where it does not.
        """
        own = container_name(self.slot)
        summary = f"rename {found.name} to {own}, which it replaces"
        before = sorted(others, key=lambda c: (c.name == own, c.finished.timestamp() if c.finished else 0.0))
        gone = [on("remove", each, force=True) for each in before[-1:] if each.name == own]
        named = on("rename", found, to=own)
        if proved or not before:
            return Change(summary, steps=(*gone, named))
        start = self._start({"name": found.name, "id": found.id})
        return Change(summary, steps=(self._stop(before[-1]), *start), then=(*gone, named))

    def _stop(self, old: Container) -> Step:
        return replace(on("stop", old, timeout=self.stop_timeout), undo=on("start", old))

    def _start(self, which: Mapping[str, Any]) -> Iterable[Step]:
        # It must be gone before the old one can have the port again.
        yield EngineCall("start", which, undo=EngineCall("remove", {**which, "force": True}))
        yield from self.proof

    def _own(self) -> Iterable[Container]:
        return (each for each in self.containers if each.name == container_name(self.slot))

    def _aside(self, other: Container) -> Step:
        """One that bears the slot's name and does not serve: a rollback may want it."""
        name = kept_name(self.slot, other.labels.get("fleet.release", ""))
        if any(each.name == name for each in self.containers):
            return on("remove", other, force=True)
        return on("rename", other, to=name)
