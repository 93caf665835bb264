"""Looks at many hosts at once, changing nothing: for status and other readers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from fleet.engine.everyone import ask_all
from fleet.engine.hostrun import LOOK_TIMEOUT, Opener
from fleet.engine.look import look
from fleet.errors import FleetError
from fleet.model.facts import Facts, Probe
from fleet.model.host import Host

Seen = Facts | FleetError


def observe(
    hosts: Sequence[Host], probes: Callable[[Host], Sequence[Probe]], opener: Opener, *, forks: int = 0
) -> Mapping[str, Seen]:
    """One connection and one exchange per host. A host that cannot be looked at has its error instead."""

    by_name = {host.name: host for host in hosts}

    def one(name: str) -> Facts:
        remote, _ = opener(name)
        try:
            return look(remote, probes(by_name[name]), timeout=LOOK_TIMEOUT)
        finally:
            remote.close()

    return ask_all(by_name, one, "looking at the host", at_once=forks)
