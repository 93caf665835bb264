"""The balancers' tasks applied, one balancer after another, and what came of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from fleet.engine.hostrun import Opener
from fleet.engine.results import Event, HostResult, Listener, PlayStarted, RunResult, Stopping, TaskFinished
from fleet.engine.run import RunOptions, run
from fleet.errors import FleetError
from fleet.inventory import Inventory
from fleet.lb.software import Running
from fleet.lb.survey import Planned, Survey, look
from fleet.lb.work import Work

_BACK = "is back in use"
"""What the switching script says when the old configuration serves again."""


@dataclass(frozen=True)
class Outcome:
    """How a push ended on one balancer.

    `state` is "changed", "unchanged", "failed", "unreachable" or "untouched" (an earlier balancer failed).
    `before` and `after` are the hashes of the configuration that ran and runs; None where nothing answers or
    somebody else's runs. `ran` and `answers` tell whether it answered before and after. `rolled_back` is the
    hash of the configuration that did not start.
    """

    host: str
    software: str
    state: str
    wanted: str | None = None
    before: str | None = None
    after: str | None = None
    ran: bool = False
    answers: bool = False
    reloaded: bool = False
    rolled_back: str | None = None
    error: FleetError | None = None


@dataclass(frozen=True)
class Pushed:
    """The run, and each balancer's outcome in order."""

    result: RunResult
    outcomes: tuple[Outcome, ...]


def push(
    work: Work,
    inventory: Inventory,
    opener: Opener,
    listen: Listener,
    options: RunOptions,
    before: Survey,
) -> Pushed:
    """Apply the balancers' tasks. The first balancer that fails is the last one touched.

    With `options.check` nothing is changed and all are planned.
    """
    ended = threading.Event()
    interrupted = threading.Event()

    def watched(event: Event) -> None:
        if not isinstance(event, PlayStarted):
            listen(event)
        if isinstance(event, Stopping):
            interrupted.set()
        elif isinstance(event, TaskFinished) and event.result.status == "failed" and not event.result.ignored:
            ended.set()

    stop = threading.Event() if options.check else ended
    result = run(work.plays, inventory, opener, watched, options, stop=stop, witnesses=work.witnesses)
    result = replace(result, interrupted=interrupted.is_set() or (options.check and result.interrupted))
    after = {} if options.check else look(work, inventory, opener, forks=options.forks)
    return Pushed(result, tuple(_outcomes(work, before, result, after)))


def _outcomes(
    work: Work, before: Survey, result: RunResult, after: Mapping[str, Running | FleetError]
) -> Iterator[Outcome]:
    planned: dict[str, Planned] = {item.host: item for item in before.balancers}
    for name in work.balancers:
        now = after.get(name)
        yield _outcome(planned[name], result.hosts[name], now if isinstance(now, Running) else None)


def _outcome(planned: Planned, host: HostResult, now: Running | None) -> Outcome:
    error = host.error or next((task.error for task in host.tasks if task.error), None)
    then = planned.now
    outcome = Outcome(
        host=planned.host,
        software=planned.software.name,
        state=_state(host),
        wanted=planned.hash,
        before=then.hash,
        ran=then.answers,
        error=error,
    )
    if now is None:
        return outcome
    back = error is not None and _BACK in error.output
    return replace(
        outcome,
        after=now.hash,
        answers=now.answers,
        reloaded=now.generation is not None and now.generation != then.generation,
        rolled_back=planned.hash if back and now.hash == outcome.before else None,
    )


def _state(host: HostResult) -> str:
    if host.status == "ok":
        return "unchanged" if host.tasks else "untouched"
    return host.status
