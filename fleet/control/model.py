"""What `fleet drain`, `ready` and `weight` tell when they are done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fleet.balancer.stats import Admin, ServerState
from fleet.errors import ExitCode, FleetError, UnreachableError
from fleet.model.problem import Problem

DrainState = Literal["drained", "in flight", "draining"]


@dataclass(frozen=True)
class BalancerReport:
    """How one balancer took it.

    `told`: it carried out the command; `error` is what kept it from that, or ended the wait there. `missing`
    are slots it has no server for, `maint` those it has in maintenance (a drain leaves them so); `mute`
    counts its old HAProxy processes that could not be asked what they still hold.
    """

    name: str
    told: bool = True
    error: FleetError | None = None
    missing: tuple[str, ...] = ()
    maint: tuple[str, ...] = ()
    mute: int = 0

    def as_json(self) -> dict[str, Any]:
        """For `--json`; the error is left to the console."""
        return {
            "name": self.name,
            "told": self.told,
            "missing": list(self.missing),
            "maint": list(self.maint),
            "old_processes_unknown": self.mute,
        }


def exit_code(balancers: tuple[BalancerReport, ...], failed: bool) -> ExitCode:
    """A failure goes first, then an unreachable balancer."""
    errors = [report.error for report in balancers if report.error is not None]
    if failed or any(not isinstance(error, UnreachableError) for error in errors):
        return ExitCode.HOST_FAILED
    return ExitCode.UNREACHABLE if errors else ExitCode.DONE


@dataclass(frozen=True)
class SlotDrain:
    """One slot during and after a drain.

    `state` is drained, in flight (jobs are left and nobody waits any more) or draining; `jobs` those in
    flight, `pages` open ones, `at_start` the jobs when it was told, `cut` jobs ended at the deadline,
    `seconds` how long it took or has taken.
    """

    name: str
    state: DrainState = "draining"
    jobs: int = 0
    pages: int = 0
    at_start: int = 0
    cut: int = 0
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "name": self.name,
            "state": self.state,
            "jobs": self.jobs,
            "pages": self.pages,
            "jobs_at_start": self.at_start,
            "cut": self.cut,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True)
class Drained:
    """The end of `fleet drain`. `waited` is false with `--no-wait`; `deadline` in seconds."""

    slots: tuple[SlotDrain, ...]
    balancers: tuple[BalancerReport, ...]
    deadline: float
    seconds: float
    waited: bool = True
    interrupted: bool = False

    @property
    def left(self) -> tuple[SlotDrain, ...]:
        """The slots with jobs in flight that nobody waits for any more."""
        return tuple(slot for slot in self.slots if slot.state == "in flight")

    @property
    def exit_code(self) -> ExitCode:
        """Interrupted, then jobs left or a failed balancer, then an unreachable one, then done."""
        if self.interrupted:
            return ExitCode.INTERRUPTED
        return exit_code(self.balancers, bool(self.left))

    def as_json(self) -> dict[str, Any]:
        """The stable document, described in docs/control.md."""
        return {
            "slots": [slot.as_json() for slot in self.slots],
            "balancers": [report.as_json() for report in self.balancers],
            "waited": self.waited,
            "deadline": self.deadline,
            "seconds": round(self.seconds, 3),
            "interrupted": self.interrupted,
            "exit_code": int(self.exit_code),
        }


@dataclass(frozen=True)
class Told:
    """The end of `fleet ready` and `fleet weight`.

    `before` and `servers` are each slot's servers by slot and balancer, before and after; `wanted` what was
    asked for, None where nothing was.
    """

    slots: tuple[str, ...]
    before: Mapping[str, Mapping[str, ServerState]]
    servers: Mapping[str, Mapping[str, ServerState]]
    balancers: tuple[BalancerReport, ...]
    wanted: Admin | int | None = None
    problems: tuple[Problem, ...] = field(default=())

    @property
    def exit_code(self) -> ExitCode:
        """A slot that is not as wanted or a failed balancer, then an unreachable one, then done."""
        return exit_code(self.balancers, bool(self.problems))

    def as_json(self) -> dict[str, Any]:
        """The stable document, described in docs/control.md."""
        return {
            "slots": [
                {
                    "name": slot,
                    "servers": [
                        {"balancer": balancer, **_server_json(server)}
                        for balancer, server in self.servers[slot].items()
                    ],
                }
                for slot in self.slots
            ],
            "balancers": [report.as_json() for report in self.balancers],
            "problems": [
                {"place": each.place, "what": each.what, "remedy": each.remedy} for each in self.problems
            ],
            "exit_code": int(self.exit_code),
        }


def _server_json(server: ServerState) -> dict[str, Any]:
    return {
        "state": server.word,
        "down": server.down,
        "weight": server.weight,
        "configured_weight": server.configured_weight,
        "takes_jobs": server.takes_jobs,
        "check": f"{server.check_status} {server.check_detail}".strip() or None,
    }
