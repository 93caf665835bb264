"""What an executor needs of the world: real hosts and balancers, or a model of them in tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fleet.errors import ExitCode, TaskError
from fleet.rollout.model import Colour, Entry


@dataclass(frozen=True)
class ServerNow:
    """A slot as one balancer has it now.

    `takes_jobs`: new jobs may go there; `up`: its checks pass; `held`: drained or in maintenance there.
    The counts are since the balancer's process started (`process` tells which one that is): `requests`
    answered, `errors` among them (5xx, connection errors, broken responses), `mean` time of a request in
    seconds over the last ones (`window` of them, as HAProxy averages).
    """

    balancer: str
    slot: str
    weight: int
    takes_jobs: bool
    up: bool
    held: bool
    jobs: int = 0
    requests: int = 0
    errors: int = 0
    mean: float = 0.0
    window: int = 512
    process: int = 0
    why: str = ""


class RungError(TaskError):
    """A readiness rung that was not reached. `rung` is its name; `output` the container's log."""

    def __init__(self, slot: str, rung: str, message: str, *, output: str = "", remedy: str = "") -> None:
        super().__init__(f"{slot}: {message}", output=output, remedy=remedy)
        self.slot = slot
        self.rung = rung


class GateError(TaskError):
    """Green is worse than it may be. `gate` is errors, time or golden, `slot` where that was found."""

    def __init__(self, gate: str, message: str, *, slot: str = "", remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.gate = gate
        self.slot = slot


class LeaseError(TaskError):
    """Another operator holds the lease, or took it over: nothing more may be written (exit code 5)."""

    exit_code = ExitCode.LEASE_HELD


Say = Callable[[str, str], None]
"""Progress of long work: a slot or host, and what it is at."""


class World(Protocol):
    """Everything an executor does goes through here. Calls block until what they do is done.

    Errors are FleetErrors. Methods that name one slot or host may be called side by side for different
    hosts; the others are called by one thread at a time.
    """

    def servers(self) -> Sequence[ServerNow]:
        """Every slot on every balancer now."""
        ...

    def drain(self, slots: Sequence[str], deadline: float, say: Say) -> Mapping[str, int]:
        """No new jobs to the slots, and wait for those in flight; at the deadline (seconds) end them.

        By slot: how many jobs were ended. The floor has been checked by the caller.
        """
        ...

    def admit(self, weights: Mapping[str, int]) -> None:
        """Let slots take jobs with these weights, at once: they are known to be well."""
        ...

    def hold(self, slots: Sequence[str]) -> None:
        """No new jobs to the slots; does not wait."""
        ...

    def bring(self, hosts: Sequence[str], say: Say) -> None:
        """Have green's bytes on those hosts that get them from one another; touches no container."""
        ...

    def pull(self, host: str, say: Say) -> None:
        """Have green's bytes on a host; touches no container."""
        ...

    def place(self, slot: str, to: Colour, say: Say) -> str:
        """Have the slot's container be the one of this colour, running, and no other one; its id.

        What else the slot has is stopped, and kept where green takes blue's place; green's is removed when
        blue comes back. Where nothing ran before the rollout, blue is nothing. Does nothing where it already
        is so.
        """
        ...

    def running(self, slot: str) -> tuple[str, str] | None:
        """The id and release of the container that runs in the slot's place; None where none does."""
        ...

    def climb(self, slot: str, to: Colour, deadline: float, say: Say, rounds: int = 1) -> float:
        """Every rung of readiness, golden translations `rounds` times over; the mean seconds of one round.

        Raises RungError.
        """
        ...

    def beside(self, slot: str, say: Say) -> None:
        """Have green's container run beside blue's, which serves on. Does nothing where it already is so."""
        ...

    def golden(self, slot: str, to: Colour = "green", times: int = 1) -> float:
        """The golden translations straight to the slot's container, `times` over; the mean of one round.

        In seconds. Raises RungError.
        """
        ...

    def log(self, slot: str) -> str:
        """The end of the log of the container in the slot's place."""
        ...

    def prune(self, host: str, retain: int) -> None:
        """Remove a host's containers and images beyond those retained."""
        ...

    def stage(self, name: str, variables: Mapping[str, Any]) -> None:
        """Run the user's own tasks of a stage (before, after_pull, ...)."""
        ...

    def record(self, step: str, slots: Sequence[str] = (), wave: int = 0, **detail: Any) -> Entry:
        """Append to the journal on every balancer, as holder of the lease. Raises LeaseError."""
        ...

    def pause(self, seconds: float) -> None:
        """Let time pass."""
        ...

    def clock(self) -> float:
        """Seconds since the epoch."""
        ...
