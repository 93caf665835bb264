"""How each balancer took what it was told."""

from __future__ import annotations

from collections.abc import Sequence

from fleet.balancer.stats import Admin
from fleet.control.balancers import Balancers
from fleet.control.model import BalancerReport


def reports(balancers: Balancers, slots: Sequence[str], *, maint: bool = False) -> tuple[BalancerReport, ...]:
    """One report a balancer, in the inventory's order; `maint` asks for servers in maintenance, too."""
    missing = balancers.missing(slots)
    kept = balancers.holding(Admin.MAINT, slots) if maint else {}
    return tuple(
        BalancerReport(
            name,
            name in balancers.told,
            balancers.errors.get(name),
            missing.get(name, ()),
            kept.get(name, ()),
            balancers.mute.get(name, 0),
        )
        for name in balancers.names
    )
