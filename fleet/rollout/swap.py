"""From what a slot has to the one container it shall run: the steps, a pure function.

The container that serves bears the slot's name, `fleet-HOST-INDEX`; one that is kept for a rollback is
stopped and bears its release behind it, `fleet-HOST-INDEX.RELEASE`. Names change hands, so a step that is for
a container which exists carries its id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fleet.docker.answers import Container
from fleet.gpu.container import container_name, kept_name, next_name
from fleet.model.slot import Slot
from fleet.model.steps import EngineCall, Step


def release_label(container: Container) -> str:
    """The release a container was made for; empty where it is not known."""
    return container.labels.get("fleet.release", "")


def of_slot(containers: Iterable[Container], slot: Slot) -> tuple[Container, ...]:
    """The slot's containers, the newest start first."""
    mine = [container for container in containers if container.slot == slot.name]
    return tuple(sorted(mine, key=lambda c: c.started.timestamp() if c.started else 0.0, reverse=True))


def in_place(containers: Iterable[Container], slot: Slot) -> Container | None:
    """The container in the slot's place: one that holds the GPU, else the one that bears the slot's name."""
    mine = of_slot(containers, slot)
    return next((c for c in mine if c.holds and c.name == container_name(slot)), None) or next(
        (c for c in mine if c.holds),
        next((c for c in mine if c.name == container_name(slot)), None),
    )


def place_steps(
    slot: Slot,
    containers: Sequence[Container],
    release: str,
    body: Mapping[str, Any] | None,
    *,
    stop_timeout: int,
    discard: str = "",
) -> list[Step]:
    """The steps after which the slot runs `release` and nothing else; none where it does already.

    An empty release is nothing at all. `body` makes the container where there is none yet. What else the slot
    has is stopped and set aside; what is of the release `discard` is removed. Each step leaves a state from
    which the same function goes on. Raises ValueError where there is no such container and no body.
    """
    mine = of_slot(containers, slot)
    target = _target(mine, slot, release) if release else None
    name = container_name(slot)
    others = [each for each in mine if each is not target]
    steps: list[Step] = [_call("stop", other, timeout=stop_timeout) for other in others if other.holds]
    aside: dict[str, Container] = {}
    for each in others:
        # A provision that was interrupted may have left the one that serves under the next name.
        if each.name in (name, next_name(slot)) and not _goes(each, release, discard, slot):
            aside.setdefault(kept_name(slot, release_label(each)), each)
    # An older container of the same release makes room for the name.
    gone = [
        each
        for each in others
        if each not in aside.values()
        and (_goes(each, release, discard, slot) or each.name in (*aside, name, next_name(slot)))
    ]
    steps += [_call("remove", each) for each in gone]
    steps += [_call("rename", each, to=to) for to, each in aside.items()]
    if not release:
        return steps
    if target is None:
        if body is None:
            raise ValueError(f"{slot.name} has no container of release {release}")
        return [
            *steps,
            EngineCall("create", {"name": name, "body": body}),
            EngineCall("start", {"name": name}),
        ]
    if target.name != name:
        steps.append(_call("rename", target, to=name))
    if target.state == "paused":
        steps.append(_call("stop", target, timeout=stop_timeout))
    if target.state not in ("running", "restarting"):
        steps.append(_call("start", target))
    return steps


def beside_steps(
    slot: Slot,
    containers: Sequence[Container],
    release: str,
    body: Mapping[str, Any] | None,
) -> list[EngineCall]:
    """The steps after which a container of `release` runs beside the slot's own, which stays as it is.

    One that runs is left as it is, whichever port it has: it may serve. One that was kept from before stands
    on the slot's usual port and is made anew. Raises ValueError without a body where there is none.
    """
    name = kept_name(slot, release)
    theirs = [each for each in of_slot(containers, slot) if release_label(each) == release]
    if any(each.running for each in theirs):
        return []
    steps = [_call("remove", each, **({"force": True} if each.holds else {})) for each in theirs]
    if body is None:
        raise ValueError(f"nothing says how {slot.name}'s container of release {release} is made")
    return [*steps, EngineCall("create", {"name": name, "body": body}), EngineCall("start", {"name": name})]


def _call(operation: str, container: Container, **more: Any) -> EngineCall:
    return EngineCall(operation, {"name": container.name, "id": container.id, **more})


def _goes(container: Container, release: str, discard: str, slot: Slot) -> bool:
    """True for what is not kept: of no release, of the one to be discarded, a second one of the wanted.

    So is one that was made to be the slot's next and never started.
    """
    unused = container.name == next_name(slot) and container.started is None
    return unused or release_label(container) in ("", release, discard)


def _target(mine: Sequence[Container], slot: Slot, release: str) -> Container | None:
    """The slot's container of a release, on its GPU: one that runs goes first, then the newest."""
    fitting = [
        container
        for container in mine
        if release_label(container) == release
        and container.gpus == (slot.uuid,)
        and container.state not in ("dead", "removing")
    ]
    return max(fitting, key=lambda c: (c.state == "running", c.name == container_name(slot)), default=None)


def excess(mine: Sequence[Container], retain: int) -> tuple[Container, ...]:
    """Those of a slot's stopped containers that go: beyond the `retain` newest releases."""
    stopped = [container for container in mine if not container.holds]
    kept: list[str] = []
    gone = []
    for container in stopped:
        release = release_label(container)
        if release and release not in kept and len(kept) < retain:
            kept.append(release)
        else:
            gone.append(container)
    return tuple(gone)
