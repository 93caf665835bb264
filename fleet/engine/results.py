"""What a run says of itself: results of tasks, hosts and the whole, and the events on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from fleet.errors import ExitCode, FleetError, HeldBackError, InputError, UnreachableError
from fleet.model.steps import Change

Status = Literal["ok", "changed", "failed", "unreachable", "skipped"]


@dataclass(frozen=True)
class TaskResult:
    """How one task went on one host.

    `changes` are those applied or, in check mode, those pending; with "failed", those that were tried.
    `seconds` is wall time. `ignored`: it failed and the play went on, as its author asked.
    """

    host: str
    play: str
    task: str
    module: str
    status: Status
    changes: tuple[Change, ...] = ()
    error: FleetError | None = None
    reason: str = ""
    seconds: float = 0.0
    ignored: bool = False


@dataclass
class HostResult:
    """All results of one host, in order; `error` where it could not be reached."""

    host: str
    tasks: list[TaskResult] = field(default_factory=list)
    error: UnreachableError | FleetError | None = None

    def count(self, status: Status) -> int:
        """How many tasks ended with `status`; a host that could not even be looked at counts as one."""
        if self.error is not None and status == self.status and not any(t.error for t in self.tasks):
            return 1
        if status == "unreachable":
            return int(self.status == status)
        return sum(1 for task in self.tasks if task.status == status)

    @property
    def status(self) -> Status:
        """The host's worst: unreachable, failed, changed, ok."""
        if self.error is not None:
            return "unreachable" if isinstance(self.error, UnreachableError) else "failed"
        if any(task.status == "failed" and not task.ignored for task in self.tasks):
            return "failed"
        return "changed" if self.count("changed") else "ok"

    @property
    def held_back(self) -> bool:
        """True where it failed for no reason of its own: another host had failed before."""
        errors = self._errors
        return self.error is None and bool(errors) and all(isinstance(e, HeldBackError) for e in errors)

    @property
    def stood_back(self) -> bool:
        """True where it failed since another command holds the balancers' lease."""
        errors = self._errors
        return self.error is None and bool(errors) and all(e.exit_code == ExitCode.LEASE_HELD for e in errors)

    @property
    def _errors(self) -> list[FleetError]:
        failed = (task.error for task in self.tasks if task.status == "failed" and not task.ignored)
        return [error for error in failed if error is not None]


@dataclass(frozen=True)
class RunResult:
    """The whole run: one HostResult per host, in inventory order."""

    hosts: Mapping[str, HostResult]
    check: bool
    seconds: float
    interrupted: bool = False

    @property
    def changed(self) -> int:
        """Changed tasks over all hosts."""
        return sum(host.count("changed") for host in self.hosts.values())

    @property
    def exit_code(self) -> ExitCode:
        """Worst first: interrupted, a failed host, an unreachable host, done.

        Where the failed hosts failed by what the user wrote (a key file that is not there), it is INVALID;
        LEASE_HELD where they stood back for another command.
        Hosts that were held back count where no other host tells why.
        """
        states = {host.status for host in self.hosts.values()}
        if self.interrupted:
            return ExitCode.INTERRUPTED
        failed = [host for host in self.hosts.values() if host.status == "failed"]
        if "unreachable" in states or not all(host.held_back for host in failed):
            failed = [host for host in failed if not host.held_back]
        if failed and all(isinstance(host.error, InputError) for host in failed):
            return ExitCode.INVALID
        if failed and all(host.stood_back for host in failed):
            return ExitCode.LEASE_HELD
        if failed:
            return ExitCode.HOST_FAILED
        if "unreachable" in states:
            return ExitCode.UNREACHABLE
        return ExitCode.DONE


@dataclass(frozen=True)
class HostEvent:
    """A host's state moved on: "connecting", "looking", "ready", "unreachable", "failed", "done"."""

    host: str
    state: str
    error: FleetError | None = None


@dataclass(frozen=True)
class TaskStarted:
    """A host begins to change something for a task (a task without changes never starts, it is "ok")."""

    host: str
    task: str


@dataclass(frozen=True)
class TaskProgress:
    """How far the current step of a host is; `done` of `total` in the unit `text` names (0: unknown)."""

    host: str
    task: str
    text: str
    done: float = 0
    total: float = 0


@dataclass(frozen=True)
class TaskFinished:
    """A task ended on a host."""

    result: TaskResult


@dataclass(frozen=True)
class PlayStarted:
    """A play begins on its hosts."""

    name: str
    hosts: tuple[str, ...]


@dataclass(frozen=True)
class Stopping:
    """Ctrl-C was pressed: every host ends at its next safe point, the end of its current task."""


Event = HostEvent | TaskStarted | TaskProgress | TaskFinished | PlayStarted | Stopping
Listener = Callable[[Event], None]
