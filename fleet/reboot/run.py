"""Reboots of several hosts: a few at a time, and none after one that went wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fleet.engine.everyone import ask_all
from fleet.engine.hostrun import Opener
from fleet.errors import FleetError, InputError
from fleet.inventory import Inventory
from fleet.modules.reboot import what_is_due
from fleet.reboot.batch import Work, reboot_batch, still_drained, work_of
from fleet.reboot.host import HostSide
from fleet.reboot.model import HostOutcome, Rebooted, Say, Wish
from fleet.reboot.room import Room
from fleet.reboot.service import Service


def reboot(
    names: Sequence[str], inventory: Inventory, opener: Opener, command: str, wish: Wish, say: Say
) -> Rebooted:
    """Reboot those of the hosts that need it, `wish.together` at a time at most, as the floor lets.

    `command` is what others read in the lease. Raises InputError where a host is a balancer, LeaseError where
    another command works on the slots; the rest is in the outcomes. Where a host cannot be reached, none is
    rebooted: it may be one that has not come back from the run before. Ctrl-C ends it and is an outcome.
    """
    _refuse_balancers(names, inventory)
    sides = {name: HostSide(name, opener, system=wish.system) for name in names}
    done: dict[str, HostOutcome] = {}
    works: list[Work] = []
    going: list[Work] = []
    interrupted = False
    try:
        works, done = _looked(sides, wish)
        if any(each.state == "not reached" for each in done.values()):
            return _all(names, {work.name: _untouched(work) for work in works} | done)
        with Service(inventory, opener, command, say, allow_down=wish.allow_down) as service:
            room = Room(service, wish, say)
            while works:
                try:
                    going = room.choose(works)
                except FleetError as error:
                    done[works[0].name] = HostOutcome(works[0].name, "failed", works[0].reason, error=error)
                    break
                works = [work for work in works if work not in going]
                done |= {each.host: each for each in reboot_batch(going, service, wish, say)}
                if not all(done[work.name].good for work in going):
                    break
    except KeyboardInterrupt:
        interrupted = True
        ended = {work.name: work.outcome or _interrupted(work) for work in going}
        done = ended | done
    finally:
        for side in sides.values():
            side.close()
    left = [work for work in works if work.name not in done]
    result = _all(names, {work.name: _untouched(work) for work in left} | done)
    return replace(result, interrupted=interrupted)


def pending(names: Sequence[str], inventory: Inventory, opener: Opener, wish: Wish) -> Rebooted:
    """What `reboot` would do; nothing is changed."""
    _refuse_balancers(names, inventory)
    sides = {name: HostSide(name, opener, system=wish.system) for name in names}
    try:
        works, done = _looked(sides, wish)
    finally:
        for side in sides.values():
            side.close()
    due = {
        work.name: HostOutcome(
            work.name, "due", work.reason, work.begun.slots, bool(work.begun.slots and work.seen.reboot.begun)
        )
        for work in works
    }
    return replace(_all(names, due | done), check=True)


def _looked(sides: dict[str, HostSide], wish: Wish) -> tuple[list[Work], dict[str, HostOutcome]]:
    """The hosts with something to do, and the outcomes of the others."""
    works: list[Work] = []
    done: dict[str, HostOutcome] = {}
    for name, seen in ask_all(sides, lambda name: sides[name].look(), "looking at the host").items():
        if isinstance(seen, FleetError):
            done[name] = HostOutcome(name, "not reached", error=seen)
        elif reason := what_is_due(seen.reboot, force=wish.force):
            works.append(work_of(sides[name], seen, reason))
        else:
            done[name] = HostOutcome(name, "not needed")
    return works, done


def _refuse_balancers(names: Sequence[str], inventory: Inventory) -> None:
    for name in names:
        if "balancer" in inventory.hosts[name].groups:
            raise InputError(
                f"{name} is a balancer, and only hosts behind balancers can be drained",
                remedy="name GPU hosts (`gpu`, `gpu-03`, 'all:!balancer'); reboot balancers by hand, one "
                "after the other",
            )


def _untouched(work: Work) -> HostOutcome:
    return HostOutcome(work.name, "untouched", work.reason)


def _interrupted(work: Work) -> HostOutcome:
    return HostOutcome(work.name, "interrupted", work.reason, work.begun.slots, still_drained(work))


def _all(names: Sequence[str], outcomes: dict[str, HostOutcome]) -> Rebooted:
    return Rebooted(tuple(outcomes[name] for name in names if name in outcomes))
