"""From the fleet as it is to a rollout's waves and steps, or a refusal: a pure function."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fleet.rollout.layout import Bound, Layout, canary_size, counts, lay_out, most_out, pending
from fleet.rollout.model import (
    Move,
    Options,
    Plan,
    PlanStep,
    SlotNow,
    Snapshot,
    Strategy,
    Wave,
    WaveKind,
)
from fleet.rollout.refusal import (
    floor_in_words,
    of_canary,
    of_floor,
    refuse_no_room,
    refuse_taken,
    refuse_troubles,
)


def plan(snapshot: Snapshot, options: Options) -> Plan:
    """Every slot that does not run what it is to run, in waves that keep the floor.

    The expected time leaves out pulling, and is None where the last rollout's times are not known. Raises
    UnreachableError or TaskError where hosts could not be looked at, InputError where a canary or the floor
    asked for cannot be, and where side by side was asked for and has no room.
    """
    refuse_troubles(snapshot)
    slots = snapshot.slots
    total = sum(slot.weight for slot in slots if counts(slot))
    moving = pending(slots)
    moves = {slot.name: _move(slot, options) for slot in moving}
    if options.strategy == "side-by-side":
        refuse_no_room({slot.name: lack for slot in moving if (lack := _lack(slot, options))})
    refuse_taken({slot.name: slot.port_taken for slot in moving if _needs_port(slot, moves[slot.name])})
    bound, layout = _layout(slots, Bound(options.floor.of(total)), options)
    waves = tuple(_waves(snapshot, options, layout, moves))
    seconds = [step.seconds for wave in waves for step in wave.steps]
    known = [each for each in seconds if each is not None]
    hosts = {slot.host for slot in moving}
    to_pull = tuple(host for host in snapshot.to_pull if host in hosts)
    return Plan(
        image=snapshot.image,
        digest=snapshot.digest,
        waves=waves,
        total=total,
        floor=0.0 if bound.soft else bound.floor,
        to_pull=to_pull,
        unchanged=tuple(slot.name for slot in slots if slot.green and not slot.left_out),
        notes=(*_given_up(waves, total, bound, options), *_notes(slots, to_pull, options)),
        seconds=float(sum(known)) if len(known) == len(seconds) else None,
        downtime=bound.soft,
    )


def _layout(slots: Sequence[SlotNow], bound: Bound, options: Options) -> tuple[Bound, Layout]:
    """The layout and the bound it keeps: no more is given up than must be, and only where that is allowed."""
    canary, most = canary_size(slots, options), most_out(slots, options)
    bounds = [bound]
    if options.allow_downtime:
        bounds += [Bound(bound.floor, soft=True), Bound(bound.floor, soft=True, last=True)]
    for each in bounds:
        found = lay_out(slots, each, canary, most)
        if isinstance(found, Layout):
            return each, found
        for smaller in range(min(canary - 1, most), -1, -1):
            if isinstance(lay_out(slots, each, smaller, most), Layout):
                raise of_canary(slots, found, options, each, smaller)
    stuck = lay_out(slots, bound, 0, most)
    assert not isinstance(stuck, Layout)
    raise of_floor(slots, stuck, options, bound)


def _move(slot: SlotNow, options: Options) -> Move:
    if options.strategy == "swap":
        return Move(slot.name, Strategy.SWAP, "asked for")
    if slot.held:
        return Move(slot.name, Strategy.SWAP, "it serves nobody: an operator holds it")
    if slot.current is None or not slot.current.running:
        return Move(slot.name, Strategy.SWAP, "no container runs there")
    if slot.memory_free is None or slot.current.memory is None:
        return Move(slot.name, Strategy.SWAP, "its GPU does not tell the memory in use")
    needed = slot.current.memory + options.memory_margin
    strategy = Strategy.SIDE_BY_SIDE if slot.memory_free >= needed else Strategy.SWAP
    if strategy is Strategy.SIDE_BY_SIDE and options.strategy == "auto" and slot.port_taken:
        return Move(slot.name, Strategy.SWAP, slot.port_taken)
    why = f"needs {needed} MiB beside the running one, {slot.memory_free} MiB are free"
    return Move(slot.name, strategy, why)


def _needs_port(slot: SlotNow, move: Move) -> bool:
    """True where the other one of the slot's two ports is needed, and taken.

    A swap needs it where the running container has the second one: a swapped slot is on the usual one.
    """
    running = slot.current is not None and slot.current.running
    on_second = running and slot.current is not None and slot.current.port != slot.port
    return bool(slot.port_taken) and (on_second or move.strategy is Strategy.SIDE_BY_SIDE)


def _lack(slot: SlotNow, options: Options) -> str:
    """What a slot whose container runs lacks for a second one; empty where it lacks nothing."""
    if slot.held or slot.current is None or not slot.current.running:
        return ""
    if slot.memory_free is None or slot.current.memory is None:
        return "has a GPU that does not tell the memory in use"
    lacking = slot.current.memory + options.memory_margin - slot.memory_free
    return f"lacks {lacking} MiB" if lacking > 0 else ""


def _waves(snapshot: Snapshot, options: Options, layout: Layout, moves: Mapping[str, Move]) -> Iterator[Wave]:
    ready = {slot.name: slot.weight for slot in snapshot.slots if counts(slot)}
    for number, slots in enumerate(layout.waves, 1):
        kind: WaveKind = "wave"
        if number == 1 and layout.canary:
            kind = "canary"
        elif number == len(layout.waves):
            kind = "switch"
        mine = tuple(moves[slot.name] for slot in slots)
        yield Wave(number, kind, mine, tuple(_steps(kind, slots, mine, ready, snapshot, options)))
        ready.update({slot.name: slot.weight for slot in slots if not slot.held})


def _steps(
    kind: WaveKind,
    slots: Sequence[SlotNow],
    moves: Sequence[Move],
    ready: Mapping[str, int],
    snapshot: Snapshot,
    options: Options,
) -> Iterator[PlanStep]:
    """What is done to a wave; `ready` is the weight of every slot that serves when it begins."""
    names = tuple(slot.name for slot in slots)
    beside = tuple(move.slot for move in moves if move.strategy is Strategy.SIDE_BY_SIDE)
    swapped = tuple(name for name in names if name not in beside)
    running = {slot.name for slot in slots if slot.current and slot.current.running}
    before = float(sum(ready.values()))
    others = float(sum(weight for name, weight in ready.items() if name not in names))
    if beside:
        yield PlanStep("start beside", beside, before, 0.0)
        yield PlanStep("check", beside, before, snapshot.load_seconds)
    yield PlanStep("drain", names, others, snapshot.drain_seconds if before > others else 0.0)
    if kind == "switch" and options.soak > 0 and others > 0:
        yield PlanStep("soak", names, others, options.soak)
    if stopped := tuple(name for name in swapped if name in running):
        yield PlanStep("stop", stopped, others, 0.0)
    if swapped:
        yield PlanStep("start", swapped, others, 0.0)
        yield PlanStep("check", swapped, others, snapshot.load_seconds)
    serving = [slot for slot in slots if not slot.held]
    hold = options.ramp_hold if len(options.ramp) > 1 else 0.0
    after = others
    for percent in options.ramp if serving else ():
        # As the balancers get them: whole numbers, and 0 would be no traffic at all.
        after = others + sum(max(1, round(slot.weight * percent / 100)) for slot in serving)
        yield PlanStep(f"ramp {percent}%", tuple(slot.name for slot in serving), after, hold)
    if beside:
        yield PlanStep("stop", beside, after, 0.0)


def _given_up(waves: Sequence[Wave], total: int, bound: Bound, options: Options) -> Iterator[str]:
    """Where --allow-downtime was made use of."""
    if not bound.soft:
        return
    if total < bound.floor:
        yield f"weight {total} is ready now, {floor_in_words(options, bound.floor)}"
    for wave in waves:
        while_replaced = f"while {', '.join(wave.slots)} {'is' if len(wave.slots) == 1 else 'are'} replaced"
        if total and not wave.lowest:
            yield f"the service is down {while_replaced}"
        elif wave.lowest < bound.floor <= total:
            yield f"weight {wave.lowest:g} is left {while_replaced}, {floor_in_words(options, bound.floor)}"


def _notes(slots: Sequence[SlotNow], to_pull: Sequence[str], options: Options) -> Iterator[str]:
    """What the operator should know beside the waves."""
    moving = pending(slots)
    for slot in slots:
        if slot.left_out:
            continue
        if slot.held and not slot.green:
            yield f"{slot.name} is drained by an operator: it is replaced and stays drained"
        elif not slot.serves and not slot.held:
            yield (
                f"{slot.name} runs the release already and takes no jobs: see `fleet status`"
                if slot.green
                else f"{slot.name} takes no jobs now: it serves once it is replaced"
            )
    if moving and options.canary.value > 0 and not any(map(counts, moving)):
        yield "there is no canary: none of the slots to replace serves now"
    if to_pull:
        hosts = "1 host has" if len(to_pull) == 1 else f"{len(to_pull)} hosts have"
        yield f"{hosts} to pull the image first: {', '.join(to_pull)}"
    if options.strategy == "auto" and (short := sum(1 for slot in moving if _lack(slot, options))):
        they = (
            "1 slot is swapped: its GPU has" if short == 1 else f"{short} slots are swapped: their GPUs have"
        )
        yield f"{they} no known room for two containers"
    for slot in moving:
        if slot.port_taken and _move(slot, options).why == slot.port_taken:
            yield f"{slot.name} is swapped, not replaced side by side: {slot.port_taken}"
