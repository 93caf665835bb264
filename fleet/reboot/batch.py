"""A few hosts rebooted at a time: drained together, down together, and each back as soon as it is whole."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Protocol

from fleet.control.targets import host_of
from fleet.errors import FleetError, TaskError
from fleet.modules._reboot import Begun
from fleet.reboot.host import HostSeen
from fleet.reboot.model import GivenUpError, HostOutcome, NotBackError, Say, State, Wish
from fleet.reboot.service import Service
from fleet.rollout.operate import operator


class Side(Protocol):
    """What a batch needs of a host; `fleet.reboot.host.HostSide` is it."""

    name: str

    def remember(self, begun: Begun) -> None:
        """Keep it where it outlives both ends."""
        ...

    def forget(self) -> None:
        """Remove it."""
        ...

    def order(self) -> None:
        """Reboot."""
        ...

    def wait_back(self, begun: Begun, timeout: float, say: Callable[[str], None]) -> None:
        """Until it answers from another boot."""
        ...

    def wait_whole(self, begun: Begun, timeout: float, say: Callable[[str], None]) -> None:
        """Until all is there again."""
        ...

    def give_up(self) -> None:
        """End a wait that another thread is in."""
        ...


@dataclass
class Work:
    """One host of a batch. `begun` is what is kept of it; `back` where it has rebooted already.

    `given_back` is true once its slots were told to take jobs again. `outcome` is there once it has ended.
    """

    side: Side
    seen: HostSeen
    reason: str
    begun: Begun
    back: bool = False
    given_back: bool = False
    outcome: HostOutcome | None = None

    @property
    def name(self) -> str:
        """The host."""
        return self.side.name

    @property
    def serves(self) -> bool:
        """True where the balancers have to do with it."""
        return self.seen.serves or bool(self.begun.slots)


def work_of(side: Side, seen: HostSeen, reason: str) -> Work:
    """The work that a host needs; what an earlier command kept there is gone on with."""
    if seen.reboot.begun is not None:
        return Work(side, seen, reason, seen.reboot.begun, seen.reboot.is_back)
    begun = Begun(
        boot_id=seen.reboot.boot_id,
        gpus=tuple(sorted(seen.cards)),
        containers=tuple(sorted(seen.running)),
        reasons=seen.reboot.reasons,
        by=operator(),
        since=int(time.time()),
    )
    return Work(side, seen, reason, begun)


def reboot_batch(works: Sequence[Work], service: Service, wish: Wish, say: Say) -> list[HostOutcome]:
    """Reboot these hosts at the same time; how each of them went.

    Whatever ends it before the first one is told to reboot gives back at once what was drained. What ends it
    later leaves those drained that are not whole, and what is known of them on their disks. Ctrl-C is raised.
    """
    started = time.monotonic()
    going = [work for work in works if not work.back]
    try:
        _drain(going, service, wish, say)
        service.check()
    except BaseException as error:
        _undo(going, service, say)
        if not isinstance(error, FleetError):
            raise
        return [_failed(work, error, started) for work in works]
    errors: dict[str, FleetError] = {}
    for work in going:
        try:
            say(work.name, "is told to reboot")
            work.side.order()
        except FleetError as refused:
            errors[work.name] = refused
            _undo([work], service, say)

    def end(work: Work) -> HostOutcome:
        trouble = errors.get(work.name) or _bring_back(work, service, wish, say)
        if isinstance(trouble, GivenUpError):
            raise trouble
        work.outcome = _ended(work, trouble, started)
        return work.outcome

    if len(works) == 1:
        return [end(works[0])]
    with ThreadPoolExecutor(len(works)) as pool:
        ending = [pool.submit(end, work) for work in works]
        try:
            wait(ending)
        except BaseException:
            for work in works:
                work.side.give_up()
            raise
    return [each.result() for each in ending]


def _drain(works: Sequence[Work], service: Service, wish: Wish, say: Say) -> None:
    """Remember, then drain and wait. What was kept of an earlier command is added to."""
    serving = [work for work in works if work.serves]
    if serving:
        ready, taking = service.slots({work.name for work in serving})
        service.refuse_last(ready, [work.name for work in serving])
        for work in serving:
            work.begun = replace(
                work.begun,
                slots=_with(work.begun.slots, ready, work.name),
                serving=_with(work.begun.serving, taking, work.name),
            )
    for work in works:
        work.side.remember(work.begun)
    slots = [slot for work in works for slot in work.begun.slots]
    if not slots:
        return
    for work in works:
        if work.begun.slots:
            say(work.name, f"draining {', '.join(work.begun.slots)}")
    left = {slot: jobs for slot, jobs in service.empty(slots, wish.deadline, cut=wish.cut).items() if jobs}
    if not left:
        return
    told = ", ".join(f"{jobs} of {slot}" for slot, jobs in left.items())
    if wish.cut:
        say(works[0].name, f"jobs cut at the deadline: {told}")
        return
    raise TaskError(
        f"jobs are still in flight {wish.deadline:g} s after the drain: {told}; the host was not "
        "rebooted, and its slots take jobs again",
        remedy="wait longer (--deadline 2h; in a playbook, `deadline: 7200`), or end them then (--cut; "
        "`cut: true`)",
    )


def _bring_back(work: Work, service: Service, wish: Wish, say: Say) -> FleetError | None:
    """Wait until it is back and whole, give its slots back, and forget; else why not."""

    def tell(text: str) -> None:
        say(work.name, text)

    try:
        if not work.back:
            since = time.monotonic()
            work.side.wait_back(work.begun, wish.timeout, tell)
            tell(f"is back after {time.monotonic() - since:.0f} s")
        work.side.wait_whole(work.begun, wish.timeout, tell)
        tell(_whole(work.begun))
        service.check()
        service.give_back(work.begun.slots, work.begun.serving, wish.timeout)
        work.given_back = True
        work.side.forget()
    except FleetError as error:
        return error
    if work.begun.slots:
        tell(f"{', '.join(work.begun.slots)} {_plural(work.begun.slots, 'takes', 'take')} jobs again")
    return None


def _undo(works: Sequence[Work], service: Service, say: Say) -> None:
    """Give back what was drained for a reboot that is not made; what cannot be told stays remembered."""
    for work in works:
        with contextlib.suppress(FleetError):
            if work.begun.slots:
                service.ready(work.begun.slots)
                work.given_back = True
                say(work.name, "is not rebooted; what was drained for it takes jobs again")
            work.side.forget()


def _failed(work: Work, error: FleetError, started: float) -> HostOutcome:
    seconds = time.monotonic() - started
    return HostOutcome(
        work.name, "failed", work.reason, work.begun.slots, still_drained(work), seconds, error
    )


def still_drained(work: Work) -> bool:
    """Whether slots of it wait to be given back."""
    return bool(work.begun.slots) and not work.given_back


def _ended(work: Work, error: FleetError | None, started: float) -> HostOutcome:
    state: State = "finished" if work.back else "rebooted"
    if error is not None:
        state = "not back" if isinstance(error, NotBackError) else "failed"
    seconds = time.monotonic() - started
    return HostOutcome(work.name, state, work.reason, work.begun.slots, still_drained(work), seconds, error)


def _with(kept: Sequence[str], found: Sequence[str], host: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*kept, *(slot for slot in found if host_of(slot) == host))))


def _whole(begun: Begun) -> str:
    answer = f"{len(begun.containers)} {_plural(begun.containers, 'container answers', 'containers answer')}"
    if not begun.gpus:  # no driver answered then
        return f"is whole: {answer}; its GPUs were not known before"
    return f"is whole: {len(begun.gpus)} {_plural(begun.gpus, 'GPU', 'GPUs')}, {answer}"


def _plural(those: Sequence[str], one: str, many: str) -> str:
    return one if len(those) == 1 else many
