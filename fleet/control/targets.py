"""Which slots a person means: slots, hosts and groups, by name or pattern."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from fleet.errors import InputError
from fleet.inventory import Inventory
from fleet.inventory.patterns import split

_FLEXIBLE = re.compile(r"^[~@]|[*?\[]")


def host_of(slot: str) -> str:
    """The host of a slot named `HOST-INDEX`."""
    return slot.rpartition("-")[0]


def select_slots(targets: Sequence[str], slots: Sequence[str], inventory: Inventory) -> tuple[str, ...]:
    """The slots that any target means, in the order of `slots`.

    A target is a slot, a glob over slots, or an inventory pattern whose hosts' slots are meant; terms between
    commas or colons are united, those after `&` keep only what they mean, those after `!` take it out. Raises
    InputError where a term means nothing, and where nothing is left.
    """
    meant: set[str] = set()
    for target in targets:
        meant |= _evaluate(split(target), slots, inventory)
    if not meant:
        raise InputError(
            f"no slot is left of {' '.join(targets)!r}", remedy=f"the slots are: {_listed(slots)}"
        )
    return tuple(slot for slot in slots if slot in meant)


def _evaluate(terms: Sequence[str], slots: Sequence[str], inventory: Inventory) -> set[str]:
    united = [term for term in terms if term[0] not in "&!"]
    meant = set(slots) if terms and not united else set()
    for term in united:
        meant |= _term(term, slots, inventory)
    for sign in "&!":
        for term in terms:
            if term[0] == sign:
                those = _term(term[1:].strip(), slots, inventory)
                meant = meant & those if sign == "&" else meant - those
    return meant


def _term(term: str, slots: Sequence[str], inventory: Inventory) -> set[str]:
    if term in slots:
        return {term}
    if term in ("all", "*"):
        return set(slots)
    fitting = {slot for slot in slots if fnmatchcase(slot, term)}
    try:
        hosts = {host.name for host in inventory.select(term)}
    except InputError as error:
        # `gpu-0[12]`: of these characters, where Ansible would count hosts of a group `gpu-0`.
        fitting |= {slot for slot in slots if fnmatchcase(host_of(slot), term)}
        if fitting:
            return fitting
        if _FLEXIBLE.search(term):
            raise InputError(
                f"{term!r} fits no slot: {error.message}", remedy=f"the slots are: {_listed(slots)}"
            ) from error
        raise _unknown(term, slots, inventory) from error
    theirs = {slot for slot in slots if host_of(slot) in hosts}
    if not fitting | theirs:
        raise InputError(
            f"no balancer has a slot of {term!r}",
            remedy=f"the slots are: {_listed(slots)}; `fleet provision` brings those of new hosts",
        )
    return fitting | theirs


def _unknown(term: str, slots: Sequence[str], inventory: Inventory) -> InputError:
    from difflib import get_close_matches

    known = dict.fromkeys((*slots, *inventory.hosts, *inventory.groups))
    near = get_close_matches(term, list(known), n=4, cutoff=0.6)
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    return InputError(
        f"no slot, host or group is named {term!r}", remedy=f"{meant}the slots are: {_listed(slots)}"
    )


def _listed(slots: Sequence[str], most: int = 12) -> str:
    """The slots' names, so many as one reads."""
    more = f" and {len(slots) - most} more" if len(slots) > most else ""
    return ", ".join(slots[:most]) + more
