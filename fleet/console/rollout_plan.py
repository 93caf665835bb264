"""A rollout's plan on the screen: what changes in which order, what stays ready, how long it takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from fleet.console.table import Column, show_table
from fleet.control.spans import in_words
from fleet.docker.references import repository
from fleet.rollout.model import Plan, SlotNow, Snapshot, Strategy, Wave
from fleet.rollout.report.entry_words import clean, counted, named, short_digest
from fleet.rollout.report.timeline import wave_seconds

if TYPE_CHECKING:
    from rich.console import Console

_NAME, _WARN, _DIM, _GOOD = "bold", "yellow", "dim", "green"
_WORDS = {Strategy.SWAP: "swap", Strategy.SIDE_BY_SIDE: "side by side"}
_FEW = 4

_COLUMNS = (
    Column("wave", right=True),
    Column("kind", drop=2),
    Column("slots"),
    Column("how", drop=1),
    Column("ready/floor", right=True),
    Column("expected", right=True, drop=3),
)


def show_plan(plan: Plan, snapshot: Snapshot, console: Console | None = None, *, quiet: bool = False) -> None:
    """Print a plan, or that there is nothing to do. `quiet` (for --json) prints to stderr, for a person."""
    from rich.console import Console

    console = console or Console(stderr=quiet, highlight=False)
    if quiet and not console.is_terminal:
        return
    if not plan.waves:
        _say(console, nothing_to_do(plan), _GOOD)
        _notes(console, plan)
        return
    for number, line in enumerate(plan_lines(plan, snapshot)):
        _say(console, line, _NAME if number == 0 else "")
    if plan.downtime:
        _say(console, "the service will be down meanwhile: this plan takes the last ready slot", _WARN)
    console.print()
    show_table(console, "Waves", _COLUMNS, [_row(wave, plan) for wave in plan.waves])
    _notes(console, plan)
    _say(console, f"expected time: {expected(plan.seconds)}")


def plan_lines(plan: Plan, snapshot: Snapshot) -> list[str]:
    """The plan's head: the image, what the slots run now, tags that moved, what is pulled first."""
    moving = [snapshot.slot(move.slot) for move in plan.moves]
    lines = [f"{plan.image} ({short_digest(plan.digest)})"]
    lines += [
        f"  {counted(len(slots), 'slot')} from {release}" for release, slots in _releases(moving).items()
    ]
    if plan.unchanged:
        lines.append(f"  {counted(len(plan.unchanged), 'slot')} {_verb(plan.unchanged)} it already")
    lines += _moved_tags(plan, moving)
    if plan.to_pull:
        lines.append(f"pulled first, with traffic untouched: {named(plan.to_pull)}")
    return [clean(line) for line in lines]


def nothing_to_do(plan: Plan) -> str:
    """The one sentence of a plan that changes nothing."""
    slots = len(plan.unchanged)
    who = "the one slot runs" if slots == 1 else f"all {slots} slots run"
    return clean(f"nothing to do: {who} {plan.image} ({short_digest(plan.digest)})")


def expected(seconds: float | None) -> str:
    """The time in words, or why there is none."""
    return "not known: no rollout was measured yet" if seconds is None else f"about {in_words(seconds)}"


def _releases(slots: Iterable[SlotNow]) -> dict[str, list[SlotNow]]:
    groups: dict[str, list[SlotNow]] = {}
    for slot in slots:
        groups.setdefault(_release(slot), []).append(slot)
    return dict(sorted(groups.items(), key=lambda group: -len(group[1])))


def _release(slot: SlotNow) -> str:
    if slot.current is None:
        return "nothing: no container is there"
    stopped = "" if slot.current.running else ", stopped"
    return f"{slot.current.image} ({short_digest(slot.current.digest)}{stopped})"


def _moved_tags(plan: Plan, slots: Sequence[SlotNow]) -> list[str]:
    """A tag that means other bytes now than when a slot got it; the same bytes with other settings."""
    moved: dict[str, list[str]] = {}
    settings = []
    for slot in slots:
        if slot.current is None or slot.current.image != plan.image:
            continue
        if slot.current.digest != plan.digest:
            moved.setdefault(slot.current.digest, []).append(slot.name)
        elif slot.current.release != slot.wanted:
            settings.append(slot.name)
    tag = plan.image.removeprefix(repository(plan.image)).lstrip(":") or plan.image
    lines = [
        f"{tag} is {short_digest(plan.digest)} now; "
        f"{named(names)} {_verb(names)} {tag} at {short_digest(digest)}"
        for digest, names in moved.items()
    ]
    if settings:
        lines.append(f"{named(settings)} {_verb(settings)} these bytes with other settings")
    return lines


def _row(wave: Wave, plan: Plan) -> list[tuple[str, str]]:
    seconds = wave_seconds(wave)
    tight = wave.lowest <= plan.floor
    return [
        (str(wave.number), ""),
        (wave.kind, ""),
        (clean(_slots(wave)), _NAME),
        (_how(wave), ""),
        (f"{wave.lowest:g}/{plan.floor:g} of {plan.total}", _WARN if tight else ""),
        ("not known" if seconds is None else in_words(seconds), _DIM if seconds is None else ""),
    ]


def _slots(wave: Wave) -> str:
    names = wave.slots
    if len(names) <= _FEW:
        return ", ".join(names)
    return f"{len(names)}: {names[0]}, {names[1]} ... {names[-1]}"


def _how(wave: Wave) -> str:
    """`swap`; of a few slots `swap, side by side` in their order; of many `38 swap, 2 side by side`."""
    counts = {word: sum(move.strategy is way for move in wave.moves) for way, word in _WORDS.items()}
    used = {word: number for word, number in counts.items() if number}
    if len(used) == 1:
        return next(iter(used))
    if len(wave.moves) <= _FEW:
        return ", ".join(_WORDS[move.strategy] for move in wave.moves)
    return ", ".join(f"{number} {word}" for word, number in used.items())


def _notes(console: Console, plan: Plan) -> None:
    for note in plan.notes:
        _say(console, clean(f"note: {note}"), _DIM)


def _say(console: Console, text: str, style: str = "") -> None:
    from rich.text import Text

    console.print(Text(text, style=style), soft_wrap=not console.is_terminal)


def _verb(names: Sequence[str]) -> str:
    return "runs" if len(names) == 1 else "run"
