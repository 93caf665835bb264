"""A rollout's end in a few words: how it ended, what serves now, what it took."""

from __future__ import annotations

from collections.abc import Mapping

from fleet.control.spans import in_words
from fleet.rollout.report.data import Report
from fleet.rollout.report.entry_words import counted, short_digest

ENDS: Mapping[str, str] = {
    "finished": "finished",
    "rolled-back": "rolled back",
    "stopped": "stopped",
    "unchanged": "nothing to do",
}

_BETWEEN = ("draining", "drained", "moving", "checking", "restoring", "failed")
"""Phases in which a slot takes no jobs."""


def verdict(report: Report) -> str:
    """One line: `4 of 4 slots run app:v2`, `nothing to do: ...` or `rolled back: REASON`."""
    state = report.outcome.state
    left_out = len(report.header.left_out)
    slots = sum(slot.name not in report.header.left_out for slot in report.slots)
    if state == "finished":
        runs = "slot runs" if slots == 1 else "slots run"
        beside = f", {counted(left_out, 'slot')} left out" if left_out else ""
        return f"{report.green} of {slots} {runs} {report.header.image}{beside}"
    if state == "unchanged":
        run = {0: "every slot runs", 1: "the one slot runs"}.get(slots, f"all {slots} slots run")
        return f"nothing to do: {run} {report.header.image} ({short_digest(report.header.digest)})"
    return f"{ENDS.get(state, state)}: {report.outcome.reason or 'no reason given'}"


def facts(report: Report) -> str:
    """The time, the lowest ready weight, the jobs cut."""
    header = report.header
    lowest = "not sampled" if report.lowest is None else f"{report.lowest:g} of {header.total}"
    cut = "none"
    if report.cut:
        by_slot = ", ".join(f"{slot} {jobs}" for slot, jobs in report.outcome.cut.items() if jobs)
        cut = f"{report.cut} ({by_slot})"
    time = in_words(report.outcome.seconds)
    return f"{time}; lowest ready weight {lowest} (floor {header.floor:g}); jobs cut: {cut}"


def serving(report: Report) -> str:
    """What runs at the end: `3 slots run app:v2, 1 slot runs app:v1`, the wanted image first.

    Slots that the rollout leaves out are not counted. Those that it stopped at are named, not counted.
    """
    mine = {origin.slot for origin in report.header.origins}
    between = [slot.name for slot in report.slots if slot.name in mine and slot.phase in _BETWEEN]
    images: dict[str, int] = {
        report.header.image: sum(
            slot.colour == "green" and slot.name not in (*report.outcome.lost, *between)
            for slot in report.slots
        )
    }
    for slot in report.slots:
        if slot.name in mine and slot.colour == "blue" and slot.name not in (*report.outcome.lost, *between):
            image = slot.before or "no container"
            if image == report.header.image:
                image = f"{image} at {short_digest(slot.before_digest)}"
            images[image] = images.get(image, 0) + 1
    images["what is not known"] = sum(slot.name in report.outcome.lost for slot in report.slots)
    parts = [
        f"{number} {'slot runs' if number == 1 else 'slots run'} {image}"
        for image, number in images.items()
        if number
    ]
    if out := [name for name in between if name not in report.outcome.lost]:
        parts.append(f"not in service: {', '.join(out)}")
    if low := [slot.name for slot in report.slots if slot.name in mine and slot.phase == "ramping"]:
        parts.append(f"below {'its weight' if len(low) == 1 else 'their weights'}: {', '.join(low)}")
    return ", ".join(parts)
