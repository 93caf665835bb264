"""A connection to one balancer that is opened anew after it broke."""

from __future__ import annotations

import threading
from collections.abc import Callable

from fleet.errors import FleetError, StepError, UnreachableError
from fleet.model.steps import Run
from fleet.rollout.acting import BalancerError
from fleet.ssh.remote import Remote, Result

OpenOne = Callable[[str], Remote]

PATIENCE = 60.0
"""Seconds for a balancer that cannot be reached, or whose HAProxy restarts, before the rollout stops."""


class Reach:
    """For one thread at a time; others wait.

    `remote` is a connection that is open already and stays the caller's to close; without `open_one` it is
    the only one there will be. Else one is opened when first needed.
    """

    def __init__(self, name: str, open_one: OpenOne | None = None, remote: Remote | None = None) -> None:
        self.name = name
        self._open = open_one
        self._remote = remote
        self._mine = False
        self._lock = threading.Lock()

    def run(self, step: Run, *, timeout: float = 0, queue: float = -1) -> Result:
        """Run a step, within `timeout` seconds where that is less than its own.

        Raises UnreachableError, and StepError at the deadline or where another thread has the connection for
        `queue` seconds. After a deadline the connection counts as broken, too: a flow that a firewall dropped
        looks the same.
        """
        assert step.stdin is None or isinstance(step.stdin, bytes)
        if not self._lock.acquire(timeout=queue):
            raise StepError(f"{self.name}: another command there has not ended within {queue:g} s")
        try:
            limit = min(step.timeout, timeout) if timeout else step.timeout
            return self._connected().run(step.argv, stdin=step.stdin, timeout=limit, env=step.env)
        except (UnreachableError, StepError):
            if self._open is not None:
                self._drop()
            raise
        finally:
            self._lock.release()

    def close(self) -> None:
        """End a connection that was opened here, unless a thread still waits for an answer on it."""
        if self._lock.acquire(blocking=False):
            try:
                self._drop()
            finally:
                self._lock.release()

    def _connected(self) -> Remote:
        if self._remote is None:
            if self._open is None:
                raise UnreachableError(f"{self.name}: the connection is closed")
            self._remote, self._mine = self._open(self.name), True
        return self._remote

    def _drop(self) -> None:
        if self._remote is not None and self._mine:
            self._remote.close()
        self._remote = None


def cannot_be_told(error: FleetError) -> BalancerError:
    """What stops a rollout, made of the error that a balancer gave for all the time of our patience."""
    remedy = f"{without_it(error)}; then go on with --resume"
    return BalancerError(error.message, output=error.output, remedy=remedy)


def without_it(error: FleetError) -> str:
    """The remedy for a balancer that gave the error. All must be told, so one that is gone cannot stay."""
    if not isinstance(error, UnreachableError):
        return error.remedy or "mend it"
    return f"{error.remedy or 'mend it'}; where it is gone for good, take it out of the inventory"
