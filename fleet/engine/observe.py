"""Looks at many hosts at once, changing nothing: for status and other readers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from fleet.engine.hostrun import LOOK_TIMEOUT, Opener, internal
from fleet.engine.look import look
from fleet.engine.run import MAX_FORKS
from fleet.errors import FleetError
from fleet.model.facts import Facts, Probe
from fleet.model.host import Host

Seen = Facts | FleetError


def observe(
    hosts: Sequence[Host], probes: Callable[[Host], Sequence[Probe]], opener: Opener, *, forks: int = 0
) -> Mapping[str, Seen]:
    """One connection and one exchange per host. A host that cannot be looked at has its error instead."""

    def one(host: Host) -> Seen:
        try:
            remote, _ = opener(host.name)
            try:
                return look(remote, probes(host), timeout=LOOK_TIMEOUT)
            finally:
                remote.close()
        except FleetError as error:
            return error
        except Exception as error:
            return internal("looking at the host", error)

    with ThreadPoolExecutor(max_workers=forks or max(1, min(len(hosts), MAX_FORKS))) as pool:
        return dict(zip((host.name for host in hosts), pool.map(one, hosts), strict=True))
