"""What no command does by accident: take the last slots that take jobs out of the service."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from fleet.balancer.stats import BalancerState
from fleet.errors import InputError


def refuse_last(
    states: Mapping[str, BalancerState], slots: Sequence[str], doing: str, insist: str = "--force"
) -> None:
    """Raise InputError where no slot would take jobs any more on a balancer on which one does now.

    `insist` is what the message names to do it all the same.
    """
    for balancer, state in states.items():
        taking = [server.name for server in state.slots() if server.takes_jobs]
        if taking and set(taking) <= set(slots):
            raise InputError(
                f"the service would be down: {doing} {', '.join(taking)} leaves {balancer} no slot "
                f"that takes jobs{_others(state, slots)}",
                remedy=f"bring another slot back first (`fleet ready`), or insist with {insist}",
            )


def _others(state: BalancerState, slots: Collection[str]) -> str:
    others = [
        f"{server.name} {'has weight 0' if server.weight == 0 else 'is ' + _word(server.word)}"
        for server in state.slots()
        if server.name not in slots
    ]
    return f" ({', '.join(others)})" if others else ""


def _word(state: str) -> str:
    return {"drain": "drained", "maint": "in maintenance"}.get(state, state)
