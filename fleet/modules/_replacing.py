"""A slot's container gives way to another one: the steps, and what a run that ended among them left.

The new one is made first, under the slot's next name, and starts before the old one is removed. What the
engine refuses to make costs the slot nothing; where the new one does not stay up, the old one runs again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fleet.docker.answers import Container
from fleet.docker.staying import stays_up
from fleet.gpu.container import container_name
from fleet.model.slot import Slot
from fleet.model.steps import Change, EngineCall, Step

_HOLDS = ("running", "paused", "restarting")


def holds(container: Container) -> bool:
    """True where the container has its GPU and port, or will have them again by itself."""
    return container.state in _HOLDS


def next_name(slot: Slot) -> str:
    """The name of a container that is about to have the slot's own."""
    return f"{container_name(slot)}.next"


def removal(container: Container, stop_timeout: int) -> tuple[Step, ...]:
    """The steps after which the container is gone; it is given `stop_timeout` seconds to end."""
    name = {"name": container.name}
    remove = EngineCall("remove", name)
    if not holds(container):
        return (remove,)
    return EngineCall("stop", {**name, "timeout": stop_timeout}), remove


def replacing(
    slot: Slot, current: Container, body: Mapping[str, Any], *, stop_timeout: int, settle: float
) -> tuple[list[Step], list[Step]]:
    """The steps until the container of `body` runs in place of `current`, and those after which it is alone.

    The first can be undone. With them it must have stayed up for `settle` seconds; 0 does not wait. With the
    others it has the slot's name.
    """
    old, own = {"name": current.name}, container_name(slot)
    new = {"name": next_name(slot) if current.name == own else own}
    away = EngineCall("remove", {**new, "force": True})
    steps: list[Step] = [EngineCall("create", {**new, "body": body}, undo=away)]
    if holds(current):
        stop = {**old, "timeout": stop_timeout}
        steps.append(EngineCall("stop", stop, undo=EngineCall("start", old)))
    # It must be gone before the old one can have the port again.
    steps.append(EngineCall("start", new, undo=away))
    if settle > 0:
        steps.append(stays_up(new["name"], settle))
    then: list[Step] = [EngineCall("remove", old)]
    if new["name"] != own:
        then.append(EngineCall("rename", {**new, "to": own}))
    return steps, then


def leftover(slot: Slot, container: Container) -> bool:
    """True for the container of an interrupted replacement that does not run."""
    return container.name == next_name(slot) and not holds(container)


def finishing(slot: Slot, current: Container, others: Iterable[Container]) -> Iterable[Change]:
    """The end of a replacement that was interrupted after its container had started."""
    if current.name != next_name(slot):
        return
    own = container_name(slot)
    gone = tuple(EngineCall("remove", {"name": other.name}) for other in others if other.name == own)
    rename = EngineCall("rename", {"name": current.name, "to": own})
    yield Change(f"rename {current.name} to {own}, which it replaced", steps=(*gone, rename))
