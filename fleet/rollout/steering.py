"""The balancers during a rollout: what they have, and what they are told as long as the lease is held."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from fleet.balancer import runtime
from fleet.balancer.stats import Admin, BalancerState, ServerState
from fleet.control import Balancers, Wait, drain
from fleet.control.model import SlotDrain
from fleet.engine.hostrun import Opener
from fleet.errors import FleetError
from fleet.model.steps import Run
from fleet.rollout.acting import BalancerError
from fleet.rollout.lease import fenced_out
from fleet.rollout.reaching import PATIENCE, cannot_be_told
from fleet.rollout.world import Say, ServerNow

T = TypeVar("T")

_PAUSE = 1.0
_MUTE_PAUSE = 2.0


class Steering:
    """Tells and asks all balancers, or none: one that stays silent for a minute stops the rollout.

    `guard` wraps every change with the check that the lease is still ours. One thread at a time.
    """

    def __init__(
        self, names: Sequence[str], opener: Opener, guard: Callable[[Run], Run] = lambda step: step
    ) -> None:
        self._names = tuple(names)
        self._opener = opener
        self._guard = guard
        self._open: Balancers | None = None
        self._heard = 0.0

    def look(self, patience: float = PATIENCE) -> Mapping[str, BalancerState]:
        """Every balancer's state. Raises BalancerError where one stays silent for `patience` seconds."""
        return self._all(lambda balancers: balancers.look(), patience)

    def servers(self, patience: float = PATIENCE) -> tuple[ServerNow, ...]:
        """Every slot on every balancer; raises as `look`."""
        return servers_of(self.look(patience))

    def drain(
        self, slots: Sequence[str], deadline: float, say: Say, *, cut_left: bool = True
    ) -> Mapping[str, int]:
        """Empty the slots; by slot, how many jobs were ended at the deadline (seconds), or are left there.

        What is left ends with the slot's container; without `cut_left` none is ended here. HAProxy processes
        of before a reload that cannot be asked what they hold are waited for until the deadline, and said;
        without `cut_left` BalancerError is raised then.
        """
        until = time.monotonic() + deadline
        cut = dict.fromkeys(slots, 0)
        left: dict[str, int] = {}

        def empty(balancers: Balancers) -> Mapping[str, int]:
            def listen(states: Sequence[SlotDrain]) -> None:
                # Its jobs are not seen any more: it is asked anew before others are waited for.
                if balancers.errors:
                    raise next(iter(balancers.errors.values()))
                self._heard = time.monotonic()
                for state in states:
                    jobs = f"{state.jobs} {'job' if state.jobs == 1 else 'jobs'} in flight"
                    say(state.name, "drained" if state.state == "drained" else jobs)

            wait = Wait(max(0.0, until - time.monotonic()), cut=cut_left)
            done = drain(balancers, slots, wait, listen, force=True)
            if done.interrupted:
                raise KeyboardInterrupt
            for slot in done.slots:
                cut[slot.name] += slot.cut
            left.clear()
            left.update({slot.name: slot.jobs for slot in done.left})
            return {report.name: report.mute for report in done.balancers if report.mute}

        told: dict[str, str] = {}
        while (mute := self._all(empty)) and (rest := until - time.monotonic()) > 0:
            for name, count in mute.items():
                text = f"waiting for {_old(count)} that cannot be asked what they hold"
                if told.get(name) != text:
                    told[name] = text
                    say(name, text)
            time.sleep(min(_MUTE_PAUSE, rest))
        if mute and not cut_left:
            name, count = next(iter(mute.items()))
            raise BalancerError(
                f"{name}: {_old(count)} cannot be asked what they hold after {deadline:g} s",
                remedy="wait longer, or have the jobs ended that may be there",
            )
        for name, count in mute.items():
            say(name, f"not waiting any more, after {deadline:g} s, for {_old(count)}: jobs there may be cut")
        return {name: jobs + left.get(name, 0) for name, jobs in cut.items()}

    def hold(self, slots: Sequence[str]) -> None:
        """No new jobs to the slots; nobody waits."""
        self._all(lambda balancers: balancers.drain(slots))

    def ready(self, slots: Sequence[str]) -> None:
        """New jobs to the slots again, with the weights they have."""
        self._all(lambda balancers: balancers.ready(slots))

    def admit(self, weights: Mapping[str, int], endpoints: Mapping[str, tuple[str, int]]) -> None:
        """New jobs to the slots with these weights, at these addresses and ports, at once."""

        def tell(balancers: Balancers) -> None:
            states = balancers.seen or balancers.look()
            for slot, (address, port) in endpoints.items():
                if any(_port(state.slot(slot)) not in (None, port) for state in states.values()):
                    balancers.tell((slot,), lambda names: runtime.set_endpoint(names[0], address, port))  # noqa: B023
            balancers.tell(
                tuple(weights), lambda names: runtime.admit({name: weights[name] for name in names})
            )

        self._all(tell)

    def close(self) -> None:
        """End the connections; never raises."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _all(self, do: Callable[[Balancers], T], patience: float = PATIENCE) -> T:
        """Do it with every balancer; anew where one failed, until they were not all heard of for a minute."""
        self._heard = time.monotonic()
        while True:
            error: FleetError | None = None
            try:
                balancers = self._balancers()
                result = do(balancers)
                error = next(iter(balancers.errors.values()), None)
                if error is None:
                    return result
            except FleetError as failed:
                error = failed
            self.close()
            fatal = fenced_out(error)
            if fatal is not None:
                raise fatal
            if time.monotonic() - self._heard >= patience:
                raise cannot_be_told(error) from error
            time.sleep(_PAUSE)

    def _balancers(self) -> Balancers:
        if self._open is None:
            opened = Balancers(self._names, self._opener, self._guard)
            opened.__enter__()
            self._open = opened
            if opened.errors:
                raise next(iter(opened.errors.values()))
        return self._open


def servers_of(states: Mapping[str, BalancerState]) -> tuple[ServerNow, ...]:
    """The balancers' states as an executor reads them."""
    return tuple(
        _server(balancer, state, server) for balancer, state in states.items() for server in state.slots()
    )


def _server(balancer: str, state: BalancerState, server: ServerState) -> ServerNow:
    return ServerNow(
        balancer=balancer,
        slot=server.name,
        weight=server.weight,
        takes_jobs=server.takes_jobs,
        up=server.up,
        held=server.admin is not Admin.READY,
        jobs=server.sessions,
        requests=server.answers,
        errors=server.responses_5xx + server.connection_errors + server.response_errors,
        mean=server.total_time / 1000,
        process=state.started,
        why=_why(server),
    )


def _why(server: ServerState) -> str:
    if server.admin is not Admin.READY:
        return {"drain": "drained", "maint": "in maintenance"}[server.admin.value]
    if not server.up:
        return server.agent_reason or f"down: {server.check_status} {server.check_detail}".strip()
    return "" if server.weight else (server.agent_reason or "weight 0")


def _old(count: int) -> str:
    return f"{count} old HAProxy {'process' if count == 1 else 'processes'}"


def _port(server: ServerState | None) -> int | None:
    """The port a balancer sends to; None where it has no such server, or does not tell."""
    _, colon, port = (server.address if server else "").rpartition(":")
    return int(port) if colon and port.isdigit() else None
