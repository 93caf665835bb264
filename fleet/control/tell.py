"""Ready and weight: tell all balancers, look again, and say what is not as wanted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fleet.balancer.stats import Admin, BalancerState, ServerState
from fleet.control.balancers import Balancers
from fleet.control.guard import refuse_last
from fleet.control.model import Told
from fleet.control.reports import reports
from fleet.model.problem import Problem

_Servers = Mapping[str, Mapping[str, ServerState]]


def ready(balancers: Balancers, slots: Sequence[str]) -> Told:
    """Let slots take jobs again on all balancers. Problems are slots that do not, and why."""
    before = _servers(balancers.look(), slots)
    balancers.ready(slots)
    after = _servers(balancers.look(), slots)
    problems = tuple(_not_ready(after))
    return Told(tuple(slots), before, after, reports(balancers, slots), Admin.READY, problems)


def weight(balancers: Balancers, slots: Sequence[str], wanted: int, *, force: bool = False) -> Told:
    """Give slots a weight (0 to 256) on all balancers.

    Raises InputError where the service would be down (weight 0 without `force`).
    """
    states = balancers.look()
    if wanted == 0 and not force:
        refuse_last(states, slots, "weight 0 for")
    before = _servers(states, slots)
    balancers.weight(slots, wanted)
    after = _servers(balancers.look(), slots)
    problems = tuple(
        Problem(slot, f"its weight on {balancer} is {server.weight}", "run the command again")
        for slot, servers in after.items()
        for balancer, server in servers.items()
        if server.weight != wanted
    )
    held = (
        _held(slot, server)
        for slot, servers in before.items()
        for balancer, server in servers.items()
        if server.agent_holds and server.agent_reason
    )
    problems += tuple({problem.place: problem for problem in held}.values())
    return Told(tuple(slots), before, after, reports(balancers, slots), wanted, problems)


def show(balancers: Balancers, slots: Sequence[str]) -> Told:
    """The slots as the balancers have them; nothing is told."""
    servers = _servers(balancers.look(), slots)
    return Told(tuple(slots), servers, servers, reports(balancers, slots))


def _servers(states: Mapping[str, BalancerState], slots: Sequence[str]) -> _Servers:
    return {
        slot: {name: server for name, state in states.items() if (server := state.slot(slot)) is not None}
        for slot in slots
    }


def _held(slot: str, server: ServerState) -> Problem:
    """What a slot's agent lowered, it lowers again within seconds."""
    host = slot.rpartition("-")[0]
    return Problem(
        slot,
        f"its agent holds its weight at {server.weight}: {server.agent_reason}",
        f"mend that first, then `fleet-gpu-agent accept {slot}` on {host}; docs/agent.md",
    )


def _not_ready(servers: _Servers) -> Iterator[Problem]:
    for slot, by_balancer in servers.items():
        for balancer, server in by_balancer.items():
            if server.admin is not Admin.READY:
                yield Problem(slot, f"it is still {server.word} on {balancer}", "run the command again")
            elif not server.up:
                check = f"{server.check_status} {server.check_detail}".strip()
                yield Problem(
                    slot,
                    f"it is ready, but {balancer} finds it down: {check}",
                    "it takes jobs once its health checks pass; `fleet status` shows its container",
                )
            elif server.agent_holds and server.agent_reason:
                yield _held(slot, server)
            elif server.weight == 0:
                yield Problem(
                    slot,
                    f"it is ready, but its weight on {balancer} is 0, so it gets no jobs",
                    f"`fleet weight {slot} {server.configured_weight or 1}`",
                )
