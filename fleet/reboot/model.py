"""What is wished of reboots, and what came of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from fleet.errors import ExitCode, FleetError, TaskError, UnreachableError
from fleet.rollout.model import Share

Say = Callable[[str, str], None]
"""Tells how far a place (a host, slot or balancer) is."""

State = Literal[
    "due",
    "not needed",
    "rebooted",
    "finished",
    "failed",
    "not back",
    "interrupted",
    "not reached",
    "untouched",
]


class NotBackError(UnreachableError):
    """A host was told to reboot and does not answer any more (exit code 3)."""


class GivenUpError(TaskError):
    """The wait for a host was ended by Ctrl-C."""


@dataclass(frozen=True)
class Wish:
    """How to reboot. Times in seconds.

    `force`: also where nothing asks for it; `system`: heed what the system's packages ask for. `deadline` is
    for the jobs in flight, and `cut` ends what is left then, where else the host is not rebooted. `timeout`
    is for a host to come back, and again for its containers to answer. `allow_down`: even the only host that
    takes jobs. At most `together` hosts are rebooted at a time, and as many as leave `floor` of the weight
    that serves ready; None is half of it, below which one host alone may still go.
    """

    force: bool = False
    system: bool = True
    deadline: float = 900.0
    cut: bool = False
    timeout: float = 900.0
    allow_down: bool = False
    together: int = 1
    floor: Share | None = None


@dataclass(frozen=True)
class HostOutcome:
    """How it went with one host.

    `state`: due (with `--check`), not needed, rebooted, finished (a reboot of before was gone on with, and
    its slots are back), failed (before the reboot, or not whole after it), not back, interrupted, not
    reached, untouched (another one stopped the run). `slots` are those drained for it; `drained` is true
    where they still are. `seconds` is the time from the first drain to the end.
    """

    host: str
    state: State
    reason: str = ""
    slots: tuple[str, ...] = ()
    drained: bool = False
    seconds: float = 0.0
    error: FleetError | None = None

    @property
    def good(self) -> bool:
        """True where nothing is left to do."""
        return self.state in ("due", "not needed", "rebooted", "finished")

    def as_json(self) -> dict[str, Any]:
        """For `--json`; the error is left to the console."""
        return {
            "name": self.host,
            "state": self.state,
            "reason": self.reason,
            "slots": list(self.slots),
            "drained": self.drained,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True)
class Rebooted:
    """All hosts, in the order of the inventory; those that were not looked at before Ctrl-C are left out."""

    hosts: tuple[HostOutcome, ...]
    check: bool = False
    interrupted: bool = False

    @property
    def left(self) -> tuple[str, ...]:
        """The hosts with something left to do."""
        return tuple(each.host for each in self.hosts if not each.good)

    @property
    def exit_code(self) -> ExitCode:
        """Interrupted, then a host that failed, then one that is not back or was not reached, then done.

        INVALID only where no host was rebooted.
        """
        states = {each.state for each in self.hosts}
        if self.interrupted:
            return ExitCode.INTERRUPTED
        if failed := [each.error for each in self.hosts if each.state == "failed"]:
            codes = {error.exit_code for error in failed if error is not None}
            if codes == {ExitCode.INVALID} and states & {"rebooted", "finished"}:
                return ExitCode.HOST_FAILED  # a floor that ended the run is no mistake of which nothing came
            return codes.pop() if len(codes) == 1 else ExitCode.HOST_FAILED
        return ExitCode.UNREACHABLE if states & {"not back", "not reached"} else ExitCode.DONE

    def as_json(self) -> dict[str, Any]:
        """The stable document, described in docs/reboot.md."""
        return {
            "check": self.check,
            "interrupted": self.interrupted,
            "hosts": [each.as_json() for each in self.hosts],
            "exit_code": int(self.exit_code),
        }
