"""Several balancers as one: each is told and asked at the same time, and one that fails leaves the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from fleet.balancer import runtime
from fleet.balancer.at_work import ROLLOUT_PROBE, AtWork, parse_at_work
from fleet.balancer.probe import RUNTIME_PROBE
from fleet.balancer.software import require_haproxy
from fleet.balancer.stats import Admin, BalancerState, ServerState, parse_balancer
from fleet.balancer.workers import InFlight
from fleet.control.line import Line, silent
from fleet.engine.everyone import MAX_FORKS
from fleet.engine.hostrun import LOOK_TIMEOUT, Opener, internal
from fleet.engine.look import look
from fleet.engine.runner import Runner
from fleet.errors import FleetError, InputError, StepError, TaskError
from fleet.inventory import Inventory
from fleet.model.steps import Run
from fleet.ssh.remote import Remote

T = TypeVar("T")

GROUP = "balancer"


class Balancers:
    """The balancers of one service over open connections. Use as a context manager.

    Every method works on all of them side by side. A balancer that fails has its error in `errors` from then
    on and is left out; when none is left, the first error is raised. `mute` tells, after `in_flight`, how
    many HAProxy processes of before a reload could not be asked, by balancer; `told`, which balancers carried
    out the last command. `guard` wraps every step that changes something. With `ask_rollouts` every look asks
    after rollouts, too. Not thread-safe.
    """

    def __init__(
        self,
        names: Sequence[str],
        opener: Opener,
        guard: Callable[[Run], Run] = lambda step: step,
        *,
        ask_rollouts: bool = False,
    ) -> None:
        self.names = tuple(names)
        self._guard = guard
        self.errors: dict[str, FleetError] = {}
        self.mute: dict[str, int] = {}
        self.told: frozenset[str] = frozenset()
        self._opener = opener
        self._open: dict[str, _Open] = {}
        self._seen: dict[str, BalancerState] = {}
        self._probes = (RUNTIME_PROBE, ROLLOUT_PROBE) if ask_rollouts else (RUNTIME_PROBE,)
        self._rollouts: dict[str, AtWork] = {}
        self._pool = ThreadPoolExecutor(max_workers=max(1, min(len(self.names), MAX_FORKS)))

    def __enter__(self) -> Balancers:
        try:
            self._open = self._each(lambda name: _Open(*self._opener(name)), self.names)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all connections; never raises, and does not wait for answers."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for each in self._open.values():
            each.close()

    def look(self) -> Mapping[str, BalancerState]:
        """Every answering balancer's state, by its name. One exchange each."""
        self._seen = self._each(self._look)
        return self._seen

    @property
    def seen(self) -> Mapping[str, BalancerState]:
        """What `look` saw last; empty before the first look."""
        return self._seen

    @property
    def rollouts(self) -> Mapping[str, AtWork]:
        """What `look` saw of rollouts, by balancer, also where HAProxy there is silent."""
        return dict(self._rollouts)

    def slots(self) -> tuple[str, ...]:
        """The slots that any balancer had a server for when last looked at, in the balancers' order."""
        return tuple(dict.fromkeys(s.name for state in self._seen.values() for s in state.slots()))

    def missing(self, slots: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
        """By balancer: the slots it had no server for when last looked at. Only those that lack some."""
        return self._those(slots, lambda server: server is None)

    def holding(self, admin: Admin, slots: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
        """By balancer: the slots it had in a state when last looked at. Only those that have some."""
        return self._those(slots, lambda server: server is not None and server.admin is admin)

    def _those(
        self, slots: Sequence[str], fits: Callable[[ServerState | None], bool]
    ) -> dict[str, tuple[str, ...]]:
        found = {
            name: tuple(slot for slot in slots if fits(state.slot(slot)))
            for name, state in self._seen.items()
        }
        return {name: slots for name, slots in found.items() if slots}

    def drain(self, slots: Sequence[str]) -> None:
        """No new job to the slots; jobs in flight go on. A server in maintenance is left so."""
        self._tell(slots, lambda names: runtime.set_admins(names, Admin.DRAIN), but=Admin.MAINT)

    def ready(self, slots: Sequence[str]) -> None:
        """New jobs to the slots again."""
        self._tell(slots, lambda names: runtime.set_admins(names, Admin.READY))

    def weight(self, slots: Sequence[str], weight: int) -> None:
        """Give the slots a weight (0 to 256) until told otherwise."""
        self._tell(slots, lambda names: runtime.set_weights(names, weight))

    def tell(self, slots: Sequence[str], step: Callable[[list[str]], Run]) -> None:
        """A step of one's own for each balancer, made for those of the slots that it has servers for."""
        self._tell(slots, step)

    def cut(self, slots: Sequence[str]) -> Mapping[str, int]:
        """End the slots' jobs in flight, old HAProxy processes' too, and count them. Open pages stay."""

        def cut(name: str) -> Counter[str]:
            opened, step = self._open[name], self._guard(runtime.cut(self._having(name, slots)))
            stdin = step.stdin if isinstance(step.stdin, bytes) else None
            result = opened.remote.run(step.argv, stdin=stdin, timeout=step.timeout)
            if result.rc:
                said = result.err.decode("utf-8", "replace").strip()
                raise StepError(f"{name}: cannot {step.title}", output=said)
            return Counter(result.out.decode().split())

        return sum(self._each(cut).values(), Counter())

    def in_flight(self, slots: Sequence[str]) -> Mapping[str, InFlight]:
        """What the slots hold, summed over all balancers and all their HAProxy processes.

        One exchange each on a process kept for it; waits up to 10 s for a HAProxy that restarts.
        """
        seen = self._each(lambda name: self._open[name].line.watch())
        self.mute = {name: watched.mute for name, watched in seen.items() if watched.mute}
        announced = Counter(
            server for server, _ in frozenset().union(*(watched.announced for watched in seen.values()))
        )
        held: dict[str, InFlight] = {}
        for slot in slots:
            each = (watched.servers.get(slot, InFlight()) for watched in seen.values())
            held[slot] = replace(sum(each, InFlight()), announced=announced[slot])
        return held

    def _look(self, name: str) -> BalancerState:
        facts = look(self._open[name].remote, self._probes, timeout=LOOK_TIMEOUT)
        if (told := facts.get(ROLLOUT_PROBE.key)) is not None:
            self._rollouts[name] = parse_at_work(told)
        state = parse_balancer(facts[RUNTIME_PROBE.key])
        if state is None:
            raise silent(name)
        if not state.slots():
            raise TaskError(f"{name}: HAProxy there balances no slots", remedy="run `fleet provision`")
        return state

    def _tell(self, slots: Sequence[str], step: Callable[[list[str]], Run], but: Admin | None = None) -> None:
        """One step a balancer, for those of the slots that it has servers for."""

        def tell(name: str) -> None:
            if names := self._having(name, slots, but):
                self._open[name].runner.execute(self._guard(step(names)), lambda *_: None)

        if not self._seen:
            self.look()
        self.told = frozenset()
        self.told = frozenset(self._each(tell))

    def _having(self, name: str, slots: Sequence[str], but: Admin | None = None) -> list[str]:
        """Those of the slots that a balancer has a server for, but for servers in a state."""
        servers = (self._seen[name].slot(slot) for slot in slots)
        return [server.name for server in servers if server is not None and server.admin is not but]

    def _each(self, action: Callable[[str], T], names: Sequence[str] = ()) -> dict[str, T]:
        """The action's results by balancer, of those where it and all before it went well."""
        results: dict[str, T] = {}
        going = [name for name in names or self._open if name not in self.errors]
        for name, future in [(name, self._pool.submit(action, name)) for name in going]:
            try:
                results[name] = future.result()
            except FleetError as error:
                self.errors[name] = error
            except Exception as error:
                self.errors[name] = internal("steering a balancer", error)
        if not results:
            raise next(iter(self.errors.values()))
        return results


class _Open:
    """What is open to one balancer."""

    def __init__(self, remote: Remote, runner: Runner) -> None:
        self.remote = remote
        self.runner = runner
        self.line = Line(remote)

    def close(self) -> None:
        self.line.close()
        self.runner.close()
        self.remote.close()


def open_balancers(inventory: Inventory, opener: Opener, command: str = "fleet drain") -> Balancers:
    """The inventory's balancers. Raises InputError where it has none, or one of them runs nginx."""
    names = inventory.groups.get(GROUP, ())
    if not names:
        raise InputError(
            f"the inventory has no host in the group `{GROUP}`",
            remedy="only HAProxy balancers of the inventory can be steered",
        )
    require_haproxy((inventory.hosts[name] for name in names), command)
    return Balancers(names, opener, ask_rollouts=True)
