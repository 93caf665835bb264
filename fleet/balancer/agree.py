"""Whether several balancers were told the same about each slot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fleet.balancer.stats import Admin, BalancerState, ServerState


@dataclass(frozen=True)
class Disagreement:
    """A slot about which balancers were told different things.

    `what` is "state" or "weight"; `said` each balancer's word for it, by the balancer's name in the order
    given: ready, drain or maint, or a number.
    """

    slot: str
    what: str
    said: Mapping[str, str]

    def __str__(self) -> str:
        parts: dict[str, list[str]] = {}
        for balancer, word in self.said.items():
            parts.setdefault(word, []).append(balancer)
        return f"{self.what} is " + ", ".join(f"{word} on {' and '.join(who)}" for word, who in parts.items())


def disagreements(states: Mapping[str, BalancerState]) -> list[Disagreement]:
    """What balancers, by name, do not agree about: a slot's state, or its weight where it takes jobs on all.

    Commands go to every balancer; one that was down meanwhile comes back with what it had saved. Whether a
    health check passes is each balancer's own finding and no disagreement; nor is a slot that one of them
    does not have. The result is in the order of the first balancer's slots.
    """
    by_slot: dict[str, dict[str, ServerState]] = {}
    for balancer, state in states.items():
        for server in state.slots():
            by_slot.setdefault(server.name, {})[balancer] = server
    found: list[Disagreement] = []
    for slot, servers in by_slot.items():
        admin = {balancer: server.admin.value for balancer, server in servers.items()}
        weight = {balancer: str(server.weight) for balancer, server in servers.items()}
        if len(set(admin.values())) > 1:
            found.append(Disagreement(slot, "state", admin))
        elif set(admin.values()) == {Admin.READY.value} and len(set(weight.values())) > 1:
            found.append(Disagreement(slot, "weight", weight))
    return found
