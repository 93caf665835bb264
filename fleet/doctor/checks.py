"""All checks, in the order in which one builds on the other, and the choice among them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from fleet.doctor import (
    balancers,
    connection,
    containers,
    disk,
    driver,
    firewall,
    health,
    inside,
    packages,
    registry,
    rollout,
    service,
    system,
)
from fleet.doctor.model import GROUPS, Check
from fleet.errors import InputError

ALL: tuple[Check, ...] = (
    *connection.CHECKS,
    *system.CHECKS,
    *disk.CHECKS,
    *registry.CHECKS,
    *packages.CHECKS,
    *driver.CHECKS,
    *health.CHECKS,
    *containers.CHECKS,
    *service.CHECKS,
    *firewall.CHECKS,
    *inside.CHECKS,
    *balancers.CHECKS,
    *rollout.CHECKS,
)


def chosen(only: Iterable[str]) -> Sequence[Check]:
    """The checks of these groups, or by their `group/name` or name; all without any. Raises InputError."""
    wanted = [word for text in only for word in text.split(",") if word]
    if not wanted:
        return ALL
    found: list[Check] = []
    for word in wanted:
        mine = [check for check in ALL if word in (check.group, check.name, check.id)]
        if not mine:
            known = (*GROUPS, *(check.id for check in ALL), *(check.name for check in ALL))
            near = get_close_matches(word, known, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise InputError(f"there is no check {word!r}", remedy=f"{hint}`fleet doctor --list` lists them")
        found += mine
    # Without a connection nothing else can be told.
    return [check for check in ALL if check in found or check in connection.CHECKS]
