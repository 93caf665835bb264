"""One host's way through a run: look, then task by task plan, apply, look again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from fleet.engine.bind import BoundTask
from fleet.engine.look import look, merged
from fleet.engine.results import (
    HostEvent,
    HostResult,
    Listener,
    Status,
    TaskFinished,
    TaskProgress,
    TaskResult,
    TaskStarted,
)
from fleet.engine.runner import Runner
from fleet.engine.taken import check_not_deferred, check_taken
from fleet.engine.turns import Turn, Turns
from fleet.engine.undo import taken_back
from fleet.errors import FleetError, InternalError, TaskError, UnreachableError
from fleet.model.facts import Facts, Probe
from fleet.model.steps import Change, Operation, Run, Step, Throttle
from fleet.ssh.remote import Remote

LOOK_TIMEOUT = 120.0
"""Seconds for one look: above nvidia-smi without persistence mode on an eight-GPU host (tens of seconds)."""

_TOLD = 4
"""So many changes are named in the error of a later one."""

Opener = Callable[[str], tuple[Remote, Runner]]

Operate = Callable[[str, Mapping[str, Any], Callable[[str], None], Callable[[], bool]], None]
"""Does an operation for a host, with its arguments: says how far it is, asks first whether to stop.
Raises FleetError."""


@dataclass(frozen=True)
class Gate:
    """What must be so before anything is done on a host; asked in the first look, at no exchange of its own.

    `refuse` gives the reason why the host's work cannot come to its end, or None. It is pure.
    """

    probes: Callable[[str], Sequence[Probe]]
    refuse: Callable[[str, Facts], FleetError | None]


@dataclass(frozen=True)
class Settings:
    """What a run may do. `stop` is asked between steps: true ends the host's work at a safe point.

    `operations` are what it can do beyond one host, by name. `turns` are the whole run's.
    """

    check: bool
    listen: Listener
    stop: Callable[[], bool]
    operations: Mapping[str, Operate] = field(default_factory=dict)
    gate: Gate | None = None
    turns: Turns = field(default_factory=Turns)


class HostRun:
    """State of one host during a run. Not thread-safe: one thread at a time works on a host."""

    def __init__(self, host: str, tasks: Sequence[BoundTask], opener: Opener, settings: Settings) -> None:
        self.result = HostResult(host)
        self.facts = Facts()
        self._host = host
        self._pending = list(tasks)
        self._open = opener
        self._set = settings
        self._remote: Remote | None = None
        self._runner: Runner | None = None

    @property
    def alive(self) -> bool:
        """False once the host failed or was lost: no further task runs on it."""
        return self.result.status not in ("failed", "unreachable")

    def observe(self) -> None:
        """Connect and ask everything that any task of the run will need, in one exchange."""
        self._set.listen(HostEvent(self._host, "connecting"))
        try:
            self._remote, self._runner = self._open(self._host)
            self._set.listen(HostEvent(self._host, "looking"))
            gate = self._set.gate
            self._look(self._pending, gate.probes(self._host) if gate else ())
            if gate and (reason := gate.refuse(self._host, self.facts)):
                raise reason
            self._set.listen(HostEvent(self._host, "ready"))
        except FleetError as error:
            self._lost(error)
        except Exception as error:
            self._lost(internal("looking at the host", error))

    def work(
        self,
        tasks: Sequence[BoundTask],
        handlers: Sequence[BoundTask],
        fleet: Callable[[], Mapping[str, Facts]],
    ) -> None:
        """Run a play's tasks, then the handlers they notified (also when a later task failed)."""
        notified: set[str] = set()
        for bound in tasks:
            if not self.alive or self._set.stop():
                break
            result = self._task(bound, fleet)
            if result.status == "changed":
                notified.update(bound.task.notify)
        due = [handler for handler in handlers if handler.task.name in notified]
        if due and self.result.error is None and not self._set.stop():
            self._handle(due, fleet)

    def close(self) -> None:
        """End the connection."""
        try:
            self._disconnect()
        finally:
            self._set.listen(HostEvent(self._host, "done"))

    def _handle(self, due: Sequence[BoundTask], fleet: Callable[[], Mapping[str, Facts]]) -> None:
        """Run handlers on facts of now: they were not asked about before, most runs need none of them."""
        if not self._set.check:
            try:
                self._look([*due, *self._pending])
            except FleetError as error:
                self._lost(error)
                return
            for handler in due:
                self._task(handler, fleet)
            return
        for handler in due:
            self._listed(handler)

    def _listed(self, handler: BoundTask) -> None:
        """In check mode a handler is only said to be due: what it would find is not there yet."""
        change = Change("would be run by its notification")
        result = TaskResult(self._host, handler.play, handler.name, handler.task.module, "changed", (change,))
        self.result.tasks.append(result)
        self._set.listen(TaskFinished(result))

    def _task(self, bound: BoundTask, fleet: Callable[[], Mapping[str, Facts]]) -> TaskResult:
        started = time.monotonic()
        changes: tuple[Change, ...] = ()
        status: Status = "ok"
        reason = bound.skipped
        error: FleetError | None = None
        self._pending = [later for later in self._pending if later is not bound]
        try:
            if bound.skipped:
                status = "skipped"
            else:
                changes = self._plan(bound, fleet)
                if changes:
                    status = "changed"
                    done = None if self._set.check else self._apply(bound, changes, fleet)
                    if done is not None:
                        changes, reason = done, "the run was interrupted"
                        status = "changed" if done else "skipped"
        except UnreachableError as lost:
            status, error = "failed", lost
            self._lost(lost)
        except FleetError as failed:
            status, error = "failed", failed
        except Exception as bug:
            status, error = "failed", internal(f"task {bound.name!r} ({bound.task.module})", bug)
        if error is not None and error.place is None:
            error.place = bound.task.place
        result = TaskResult(
            host=self._host,
            play=bound.play,
            task=bound.name,
            module=bound.task.module,
            status=status,
            changes=changes,
            error=error,
            reason=reason,
            seconds=time.monotonic() - started,
            ignored=bound.task.ignore_errors and error is not None and self.result.error is None,
        )
        self.result.tasks.append(result)
        self._set.listen(TaskFinished(result))
        return result

    def _plan(self, bound: BoundTask, fleet: Callable[[], Mapping[str, Facts]]) -> tuple[Change, ...]:
        assert bound.module is not None
        ctx = replace(bound.ctx, fleet=fleet() if getattr(bound.module, "needs_fleet", False) else {})
        return tuple(bound.module.plan(bound.args, self.facts, ctx))

    def _apply(
        self, bound: BoundTask, changes: Sequence[Change], fleet: Callable[[], Mapping[str, Facts]]
    ) -> tuple[Change, ...] | None:
        """Execute the changes, look again, and hold the module to its word.

        Where the run is to end, those that were done are returned, and the others left.
        """
        assert self._runner is not None
        check_not_deferred(changes)
        self._set.listen(TaskStarted(self._host, bound.name))
        done: list[Change] = []
        try:
            while changes:
                if changes[0].throttle is None:
                    self._carry_out(changes[0], bound.name)
                    done.append(changes[0])
                    changes = changes[1:]
                    continue
                with self._turn(changes[0].throttle, changes[0].summary, bound.name) as turn:
                    if turn is None:
                        return tuple(done)
                    # The turn may have been waited for as long as all other hosts took.
                    self._look_once_more([bound, *self._pending])
                    changes = self._plan(bound, fleet)
                    check_not_deferred(changes)
                    if changes:
                        turn.begun = True
                        self._carry_out(changes[0], bound.name)
                        done.append(changes[0])
                        self._look([bound, *self._pending])
                        changes = self._plan(bound, fleet)
                        check_taken(changes, done)
            self._look([bound, *self._pending])
            if getattr(bound.module, "verifies", True):
                check_taken(self._plan(bound, fleet))
        except FleetError as error:
            if done:
                more = f" and {len(done) - _TOLD} more" if len(done) > _TOLD else ""
                error.message += f"; done before that: {', '.join(c.summary for c in done[:_TOLD])}{more}"
            raise
        return None

    def _turn(self, wish: Throttle, what: str, task: str) -> AbstractContextManager[Turn | None]:
        report = self._progress(task)
        return self._set.turns.turn(
            self._host, wish, self._set.stop, lambda text: report(f"{text}: {what}", 0, 0)
        )

    def _carry_out(self, change: Change, task: str) -> None:
        self._set.listen(TaskProgress(self._host, task, change.summary))
        with taken_back(lambda: self._runner) as begun:
            for step in change.steps:
                begun.append(step)
                self._execute(step, task)
        for step in change.then:
            self._execute(step, task)

    def _execute(self, step: Step, task: str) -> None:
        assert self._runner is not None
        if isinstance(step, Operation):
            self._operate(step, task)
        else:
            report = self._progress(task)
            if isinstance(step, Run) and step.says:
                report(step.says, 0, 0)
            self._runner.execute(step, report)

    def _operate(self, step: Operation, task: str) -> None:
        """Have it done, and connect anew: the host may have started anew meanwhile."""
        operate = self._set.operations.get(step.name)
        if operate is None and step.otherwise is not None:
            assert self._runner is not None
            self._runner.execute(step.otherwise, self._progress(task))
            return
        if operate is None:
            raise TaskError(
                f"this run cannot {step.name} hosts", remedy="use `fleet provision` or `fleet run` for it"
            )
        report = self._progress(task)
        operate(self._host, step.arguments, lambda text: report(text, 0, 0), self._set.stop)
        self._disconnect()
        self._remote, self._runner = self._open(self._host)

    def _disconnect(self) -> None:
        remote, runner = self._remote, self._runner
        self._remote = self._runner = None
        try:
            if runner is not None:
                runner.close()
        finally:
            if remote is not None:
                remote.close()

    def _progress(self, task: str) -> Callable[[str, float, float], None]:
        def report(text: str, done: float, total: float) -> None:
            self._set.listen(TaskProgress(self._host, task, text, done, total))

        return report

    def _look(self, tasks: Iterable[BoundTask], more: Sequence[Probe] = ()) -> None:
        assert self._remote is not None
        probes: list[Probe] = [*(probe for bound in tasks for probe in bound.probes()), *more]
        self.facts = merged(self.facts, look(self._remote, probes, timeout=LOOK_TIMEOUT))

    def _look_once_more(self, tasks: Iterable[BoundTask]) -> None:
        """Look, on a new connection where the one of before is lost."""
        try:
            self._look(tasks)
        except UnreachableError:
            self._disconnect()
            self._remote, self._runner = self._open(self._host)
            self._look(tasks)

    def _lost(self, error: FleetError) -> None:
        self.result.error = error
        state = "unreachable" if isinstance(error, UnreachableError) else "failed"
        self._set.listen(HostEvent(self._host, state, error))


def internal(what: str, error: Exception) -> InternalError:
    """A mistake of fleet's own, told as such, with where it happened."""
    import traceback

    frame = traceback.extract_tb(error.__traceback__)[-1]
    notes = getattr(error, "__notes__", ())
    return InternalError(
        "; ".join((f"internal error while {what}: {type(error).__name__}: {error}", *notes)),
        output=f"at {frame.filename.rpartition('/')[2]}:{frame.lineno} in {frame.name}",
        remedy="this is a bug in fleet: please report it with this text; FLEET_DEBUG=1 shows more",
    )
