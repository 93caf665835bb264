"""Before a run takes the next slot away, the balancers send jobs to all that had some at its beginning."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping

from fleet.balancer.software import software
from fleet.balancer.stats import Admin, BalancerState
from fleet.control.balancers import GROUP, Balancers
from fleet.engine.hostrun import Opener
from fleet.errors import FleetError, TaskError
from fleet.inventory import Inventory
from fleet.rollout.at_work import refuse

PATIENCE = 90.0
"""Seconds for health checks to find a container that answers: it takes them some ten."""


class AsWhole:
    """Asked before each turn of a run. Thread-safe.

    Raises LeaseError where somebody else's rollout is at work by now, which `command` must not disturb;
    TaskError where a slot that took jobs at the first question, and is not away for this run, takes none
    after `patience` seconds. One that an operator took out of service since is as they want it. A balancer
    that cannot be asked holds up nothing.
    """

    def __init__(
        self,
        inventory: Inventory,
        opener: Opener,
        command: str,
        *,
        patience: float = PATIENCE,
        pause: float = 1.0,
    ) -> None:
        hosts = (inventory.hosts[name] for name in inventory.groups.get(GROUP, ()))
        self._names = tuple(host.name for host in hosts if software(host) == "haproxy")
        self._opener = opener
        self._command = command
        self._patience = patience
        self._pause = pause
        self._served: frozenset[tuple[str, str]] | None = None
        self._lock = threading.Lock()

    def __call__(self, away: Collection[str], wait: bool, say: Callable[[str], None]) -> None:
        """Return once a turn may begin; `away` are the slots that this run takes away, this turn's too."""
        if not self._names:
            return
        with self._lock:
            until = time.monotonic() + self._patience
            while why := self._missing(away, self._look()):
                if not wait:
                    return
                if time.monotonic() >= until:
                    raise TaskError(
                        f"{why}, {self._patience:g} s after the slots before it were done",
                        remedy="`fleet status` shows why; then run this again, or with `-e slot_ready=0`, "
                        "which waits for nobody",
                    )
                say(f"waits: {why}")
                time.sleep(self._pause)

    def _missing(self, away: Collection[str], states: Mapping[str, BalancerState]) -> str:
        """A slot that is not back, and why; empty where all are."""
        if self._served is None:
            self._served = frozenset(
                (name, server.name)
                for name, state in states.items()
                for server in state.slots()
                if server.takes_jobs
            )
        for name, slot in sorted(self._served):
            server = states[name].slot(slot) if name in states else None
            if server is None or slot in away or server.takes_jobs or server.admin is not Admin.READY:
                continue
            check = server.agent_reason or f"{server.check_status} {server.check_detail}".strip()
            return f"{name} sends no jobs to {slot} ({check})"
        return ""

    def _look(self) -> Mapping[str, BalancerState]:
        balancers = Balancers(self._names, self._opener, ask_rollouts=True)
        try:
            with balancers:
                return balancers.look()
        except FleetError:
            return {}
        finally:
            refuse(balancers.rollouts, self._command)
