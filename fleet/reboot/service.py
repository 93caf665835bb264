"""The balancers around reboots: slots are emptied, and given back, under the lease."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping, Sequence

from fleet.balancer.holder import this_process
from fleet.balancer.probe import PACKAGE_PROBE, RUNTIME_PROBE, parse_package
from fleet.balancer.rollouts import Claim, fenced
from fleet.balancer.software import software
from fleet.balancer.stats import Admin, BalancerState, parse_balancer
from fleet.control.balancers import GROUP
from fleet.control.guard import refuse_last
from fleet.control.line import silent
from fleet.control.spans import in_words
from fleet.control.targets import host_of
from fleet.engine.hostrun import LOOK_TIMEOUT, Opener
from fleet.engine.look import look
from fleet.errors import InputError, TaskError
from fleet.inventory import Inventory
from fleet.reboot.model import Say
from fleet.rollout.lease import TTL, Lease
from fleet.rollout.operate import operator
from fleet.rollout.steering import Steering

_PAUSE = 1.0
_LEASE_WAIT = TTL + 10.0
ALLOW_DOWN = "--allow-down"


class Service:
    """The balancers that have slots. A context manager; nothing is asked before the first question.

    Threads may give back at the same time; all else is for one of them.
    From then on it holds the lease, so that no rollout, and no other reboot, works on the slots meanwhile.
    Raises LeaseError where another command has it, and what `Steering` raises.
    """

    def __init__(
        self, inventory: Inventory, opener: Opener, command: str, say: Say, *, allow_down: bool = False
    ) -> None:
        self._inventory = inventory
        self._opener = opener
        self._command = command
        self._say = say
        self._allow_down = allow_down
        self._lease: Lease | None = None
        self._steering: Steering | None = None
        self._asked = False
        self._one = threading.Lock()

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        if self._steering is not None:
            self._steering.close()
        if self._lease is not None:
            self._lease.release()

    def slots(self, hosts: Collection[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Of the hosts' slots: those that nobody has drained on every balancer, and those that take jobs."""
        ready: dict[str, None] = {}
        serving: dict[str, None] = {}
        for state in self._states().values():
            for server in state.slots():
                if host_of(server.name) in hosts and server.admin is Admin.READY:
                    ready[server.name] = None
                    if server.takes_jobs:
                        serving[server.name] = None
        return tuple(ready), tuple(serving)

    def weights(self) -> Mapping[str, Mapping[str, int]]:
        """By balancer and slot: the weight of those that take jobs."""
        return {
            balancer: {server.name: server.weight for server in state.slots() if server.takes_jobs}
            for balancer, state in self._states().items()
        }

    def refuse_last(self, slots: Sequence[str], hosts: Sequence[str]) -> None:
        """Raise InputError where nothing would take jobs without these slots, unless that is allowed."""
        if self._allow_down:
            return
        doing = f"rebooting {', '.join(hosts)}, and so draining"
        refuse_last(self._states(), slots, doing, f"{ALLOW_DOWN} (in a playbook, `allow_down: true`)")

    def empty(self, slots: Sequence[str], deadline: float, *, cut: bool) -> Mapping[str, int]:
        """No new jobs to the slots; by slot, the jobs that were cut at the deadline, or else are left."""
        steering = self._steered()
        return steering.drain(slots, deadline, self._say, cut_left=cut) if steering else {}

    def give_back(self, slots: Sequence[str], serving: Sequence[str], timeout: float) -> None:
        """New jobs to the slots again, once every balancer finds those up that took jobs before.

        Raises TaskError where one is not within `timeout` seconds; it is left drained.
        """
        if not slots or self._steered() is None:
            return
        if why := self._wait(serving, timeout, ready=False):
            raise TaskError(
                f"{why}, {in_words(timeout)} after its container answered; its host's slots are left drained",
                remedy="`fleet status` shows its container; then run the same command again",
            )
        self.ready(slots)
        if why := self._wait(serving, min(timeout, 30.0), ready=True):
            raise TaskError(f"{why}, though it is ready", remedy="`fleet status` shows what is wrong")

    def ready(self, slots: Sequence[str]) -> None:
        """New jobs to the slots again, at once."""
        if slots and (steering := self._steered()):
            with self._one:
                steering.ready(slots)

    def check(self) -> None:
        """Raise where the lease is not ours any more."""
        if self._lease is not None:
            self._lease.check()

    def _wait(self, slots: Sequence[str], timeout: float, *, ready: bool) -> str:
        """Until every balancer finds the slots up, and `ready`: sends jobs; what is not so at the end."""
        until = time.monotonic() + timeout
        while True:
            why = _down(self._states(), slots, ready)
            if not why or time.monotonic() >= until:
                return why
            time.sleep(_PAUSE)

    def _states(self) -> Mapping[str, BalancerState]:
        steering = self._steered()
        if steering is None:
            return {}
        with self._one:
            return steering.look()

    def _steered(self) -> Steering | None:
        """The balancers with slots, under the lease; None where there are none."""
        with self._one:
            if not self._asked:
                if names := self._serving():
                    self._take(names)
                self._asked = True
        return self._steering

    def _take(self, names: Sequence[str]) -> None:
        lease = Lease(names, lambda name: self._opener(name)[0], this_process(operator(), self._command))
        try:
            # A command that was killed has left its lease; on this machine it is known to run no more.
            lease.acquire(
                wait=_LEASE_WAIT,
                take_from_dead=True,
                waiting=lambda claim, seconds: self._say(names[0], _waits(claim, seconds)),
            )
        except BaseException:
            lease.release()
            raise
        self._lease = lease
        self._steering = Steering(names, self._opener, lambda step: fenced(step, lease.fence))

    def _serving(self) -> list[str]:
        """The balancers that have slots: one without HAProxy, or with another configuration, has none yet."""
        found = []
        for name in self._inventory.groups.get(GROUP, ()):
            if software(self._inventory.hosts[name]) != "haproxy":
                if self._allow_down:
                    continue
                raise InputError(
                    f"{name} runs nginx, which cannot be told to drain a host's slots",
                    remedy=f"{ALLOW_DOWN} (in a playbook, `allow_down: true`) reboots all the same: nginx "
                    "passes over a host that is down, and the jobs in flight there are lost; docs/nginx.md",
                )
            remote, runner = self._opener(name)
            try:
                facts = look(remote, (PACKAGE_PROBE, RUNTIME_PROBE), timeout=LOOK_TIMEOUT)
            finally:
                runner.close()
                remote.close()
            state = parse_balancer(facts[RUNTIME_PROBE.key])
            if state is None and parse_package(facts[PACKAGE_PROBE.key]) is not None:
                raise silent(name)
            if state is not None and state.slots():
                found.append(name)
        return found


def _waits(claim: Claim, seconds: float) -> str:
    return f"waiting for the lease of {claim.by}: it expires in {seconds:.0f} s"


def _down(states: Mapping[str, BalancerState], slots: Sequence[str], ready: bool) -> str:
    for balancer, state in states.items():
        for slot in slots:
            server = state.slot(slot)
            if server is None or (server.takes_jobs if ready else server.up):
                continue
            check = f"{server.check_status} {server.check_detail}".strip()
            why = server.agent_reason or (check if not server.up else f"weight {server.weight}")
            return (
                f"{balancer} sends no jobs to {slot} ({why})"
                if ready
                else f"{balancer} finds {slot} down ({why})"
            )
    return ""
