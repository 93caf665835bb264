"""A slot's container gives way to another one: the steps, and what a run that ended among them left.

The new one is made under the slot's next name, before the old one stops, and has the slot's own name only
once it has proved itself. What the engine refuses to make costs the slot nothing; where the new one does not
stay up, or never answers, the old one runs again (docs/decisions/0017-made-before-the-old-one-stops.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fleet.docker.answers import Container
from fleet.gpu.container import container_name, kept_name, next_name
from fleet.model.slot import Slot
from fleet.model.steps import Change, EngineCall, Step


def removal(container: Container, stop_timeout: int) -> tuple[Step, ...]:
    """The steps after which the container is gone; it is given `stop_timeout` seconds to end."""
    name = {"name": container.name}
    remove = EngineCall("remove", name)
    if not container.holds:
        return (remove,)
    return EngineCall("stop", {**name, "timeout": stop_timeout}), remove


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
        return [*begin, *self._start()], [
            EngineCall("remove", {"name": current.name, "force": True}),
            *(self._aside(other) for other in self._own() if other is not current),
            *self._named(),
        ]

    def finishing(self, found: Container, others: Iterable[Container]) -> Change:
        """The end of a replacement that was interrupted while `found` had the next name.

        Where one of the slot's `others` is there yet, `found` has to prove itself first, and that one runs
        again where it does not.
        """
        own = container_name(self.slot)
        summary = f"rename {found.name} to {own}, which it replaces"
        before = sorted(others, key=lambda c: (c.name == own, c.finished.timestamp() if c.finished else 0.0))
        if not before:
            return Change(summary, steps=tuple(self._named()))
        gone = [EngineCall("remove", {"name": own, "force": True})] if before[-1].name == own else []
        return Change(summary, steps=(self._stop(before[-1]), *self._start()), then=(*gone, *self._named()))

    def _stop(self, old: Container) -> Step:
        name = {"name": old.name}
        return EngineCall("stop", {**name, "timeout": self.stop_timeout}, undo=EngineCall("start", name))

    def _start(self) -> Iterable[Step]:
        name = next_name(self.slot)
        # It must be gone before the old one can have the port again.
        yield EngineCall("start", {"name": name}, undo=EngineCall("remove", {"name": name, "force": True}))
        yield from self.proof

    def _named(self) -> Iterable[Step]:
        yield EngineCall("rename", {"name": next_name(self.slot), "to": container_name(self.slot)})

    def _own(self) -> Iterable[Container]:
        return (each for each in self.containers if each.name == container_name(self.slot))

    def _aside(self, other: Container) -> Step:
        """One that bears the slot's name and does not serve: a rollback may want it."""
        name = kept_name(self.slot, other.labels.get("fleet.release", ""))
        if any(each.name == name for each in self.containers):
            return EngineCall("remove", {"name": other.name, "force": True})
        return EngineCall("rename", {"name": other.name, "to": name})
