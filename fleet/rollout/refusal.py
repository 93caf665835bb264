"""Why a rollout cannot be planned as asked, in numbers, and what would make it possible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fleet.errors import InputError, TaskError, UnreachableError
from fleet.rollout.layout import Bound, Layout, Stuck, canary_size, counts, lay_out, most_out
from fleet.rollout.model import Options, SlotNow, Snapshot


def refuse_troubles(snapshot: Snapshot) -> None:
    """Raise UnreachableError where hosts could not be looked at, TaskError where all of them answered."""
    troubles = snapshot.troubles
    if not troubles:
        return
    reasons = "; ".join(f"{host}: {reason}" for host, reason in troubles.items())
    without = "".join(f":!{host}" for host in troubles)
    it, hosts = ("it", "a host") if len(troubles) == 1 else ("them", f"{len(troubles)} hosts")
    leave = f", or leave {it} out with --limit 'all{without}'" if snapshot.slots else ""
    error = TaskError if snapshot.reached.issuperset(troubles) else UnreachableError
    raise error(
        f"{hosts} could not be looked at: {reasons}",
        remedy=f"mend {it} (`fleet doctor` says how){leave}",
    )


def refuse_no_room(reasons: Mapping[str, str]) -> None:
    """Raise InputError where slots (each with the reason) cannot be replaced side by side as asked."""
    if reasons:
        listed = "; ".join(f"{slot} {reason}" for slot, reason in reasons.items())
        raise InputError(
            f"no room for two containers side by side: {listed}",
            remedy="use --strategy auto, which swaps where there is no room, or --strategy swap",
        )


def refuse_taken(reasons: Mapping[str, str]) -> None:
    """Raise InputError where the ports that new containers need are taken, by slot."""
    if reasons:
        listed = "; ".join(f"{slot}: {reason}" for slot, reason in reasons.items())
        raise InputError(
            f"a new container cannot have its port: {listed}",
            remedy="end what has it (`ss -ltnp` there names processes), or set another slot_port_beside",
        )


def of_canary(
    slots: Sequence[SlotNow], stuck: Stuck, options: Options, bound: Bound, fits: int
) -> InputError:
    """The canary as asked is too large; one of `fits` slots would do."""
    asked, most = len(stuck.slots), most_out(slots, options)
    remedies = [f"use --canary {fits}"]
    if asked > most:
        message = (
            f"the canary is {_slots(asked)}, and --max-unavailable {options.max_unavailable} lets {most} of "
            f"{len(slots)} be out at once"
        )
        if isinstance(lay_out(slots, bound, asked, asked), Layout):
            remedies.append(f"raise --max-unavailable to {asked}")
    else:
        message = (
            f"the canary is {_slots(asked)} ({_names(stuck.slots)}) with weight {stuck.ready - stuck.left} "
            f"of {stuck.ready}, without {'it' if asked == 1 else 'them'} {_left(stuck, options, bound)}"
        )
        if (percent := possible_floor(slots, options)) is not None:
            remedies.append(f"lower --floor to {percent}%")
    return InputError(message, remedy=", or ".join(remedies))


def of_floor(slots: Sequence[SlotNow], stuck: Stuck, options: Options, bound: Bound) -> InputError:
    """The floor cannot be held, with whatever canary."""
    percent = possible_floor(slots, options)
    lower = f"lower --floor to {percent}%, " if percent is not None else ""
    if not stuck.slots:
        lower = lower if stuck.ready else "lower --floor to 0, "
        # Whoever writes 50 may well mean 50%.
        likely = stuck.ready and percent is not None and options.floor.value <= percent
        if likely and not options.floor.percent:
            lower = f"write --floor {options.floor}% for a share of it, {lower}"
        return InputError(
            f"weight {stuck.ready} is ready now, {floor_in_words(options, bound.floor)}",
            remedy=f"{lower}bring more slots into service first, or insist with --allow-downtime",
        )
    (slot,) = stuck.slots
    return InputError(
        f"{slot.name} has weight {slot.weight} of {stuck.ready}, without it {_left(stuck, options, bound)}",
        remedy=f"{lower}have more slots in service, or insist with --allow-downtime",
    )


def possible_floor(slots: Sequence[SlotNow], options: Options) -> int | None:
    """The highest whole percent of the weight that serves now that can be the floor; None where none can."""
    total = sum(slot.weight for slot in slots if counts(slot))
    canary, most = canary_size(slots, options), most_out(slots, options)
    possible = None
    low, high = 0, 100
    while low <= high:
        percent = (low + high) // 2
        if isinstance(lay_out(slots, Bound(total * percent / 100), canary, most), Layout):
            possible, low = percent, percent + 1
        else:
            high = percent - 1
    return possible


def floor_in_words(options: Options, weight: float) -> str:
    """`the floor is 75 (50%)`."""
    return f"the floor is {weight:g}" + (f" ({options.floor})" if options.floor.percent else "")


def _left(stuck: Stuck, options: Options, bound: Bound) -> str:
    if not stuck.left:
        return "no slot is left that serves"
    are = "is" if stuck.left == 1 else "are"
    return f"{stuck.left} {are} left, {floor_in_words(options, bound.floor)}"


def _slots(number: int) -> str:
    return f"{number} slot" if number == 1 else f"{number} slots"


def _names(slots: Sequence[SlotNow], most: int = 4) -> str:
    more = f" and {len(slots) - most} more" if len(slots) > most else ""
    return ", ".join(slot.name for slot in slots[:most]) + more
