"""What other commands do while a rollout is at work: they stand back, so that it alone tells the balancers.

They take no lease themselves. Theirs is a look, over connections and in exchanges that they make anyway.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from fleet.balancer.at_work import ROLLOUT_PROBE, AtWork, parse_at_work, unfinished
from fleet.balancer.holder import is_dead, is_mine
from fleet.balancer.rollouts import Claim
from fleet.balancer.software import software
from fleet.control.balancers import GROUP
from fleet.docker.references import repository
from fleet.engine.everyone import MAX_FORKS
from fleet.engine.hostrun import LOOK_TIMEOUT, Opener
from fleet.engine.look import look
from fleet.engine.runner import Runner
from fleet.errors import FleetError
from fleet.inventory import Inventory
from fleet.rollout.lease import who
from fleet.rollout.world import LeaseError
from fleet.ssh.remote import Remote


def refuse(seen: Mapping[str, AtWork], command: str, *, insist: bool = False) -> None:
    """Raise LeaseError where a lease is in force on a balancer, unless its process is known to run no more.

    `command` (such as `fleet ready`) is what is refused; `insist` says whether it has a --force.
    """
    if (found := _held(seen)) is None:
        return
    name, claim, age = found
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(claim.since))
    force = ", or insist with --force" if insist else ""
    raise LeaseError(
        f"`{command}` would change what another command works on: {who(claim)} holds the lease on {name} "
        f"since {since} ({age} s) with `{_flat(claim.command)}`",
        remedy=f"wait for its end (`fleet status` shows the slots meanwhile){force}",
    )


def waiting(seen: Mapping[str, AtWork]) -> str:
    """A line about a rollout that has not ended and that nobody goes on with; empty where there is none."""
    if _held(seen) is not None:
        return ""
    found = unfinished(seen.values())
    return _flat(f"{found.what}: {found.remedy}") if found else ""


def images_needed(seen: Mapping[str, AtWork]) -> tuple[str, ...]:
    """The image of a rollout that has not ended, by name and by digest: who goes on needs it."""
    found = unfinished(seen.values())
    return (found.image, f"{repository(found.image)}@{found.digest}") if found else ()


class FirstLook:
    """The inventory's HAProxy balancers, asked side by side before a run. A context manager.

    `seen` are those that answered: one that does not is the run's to tell. `open` is an opener for the run:
    it hands over the connections of this look, each once, and a connection's error once instead of a second
    attempt; the others it opens. Connections nobody asked for are closed at the end.
    """

    def __init__(self, inventory: Inventory, opener: Opener) -> None:
        self.seen: dict[str, AtWork] = {}
        hosts = (inventory.hosts[name] for name in inventory.groups.get(GROUP, ()))
        self._names = tuple(host.name for host in hosts if software(host) == "haproxy")
        self._opener = opener
        self._kept: dict[str, tuple[Remote, Runner]] = {}
        self._errors: dict[str, FleetError] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> FirstLook:
        pool = ThreadPoolExecutor(max_workers=max(1, min(len(self._names), MAX_FORKS)))
        try:
            for name, seen in zip(self._names, pool.map(self._ask, self._names), strict=True):
                if seen is not None:
                    self.seen[name] = seen
        except BaseException:
            self.__exit__()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            kept, self._kept = self._kept, {}
        for remote, runner in kept.values():
            runner.close()
            remote.close()

    def open(self, name: str) -> tuple[Remote, Runner]:
        """Open a host, or hand over what the look had opened. Raises what the opener raises."""
        with self._lock:
            kept, error = self._kept.pop(name, None), self._errors.pop(name, None)
        if error is not None:
            raise error
        return kept or self._opener(name)

    def _ask(self, name: str) -> AtWork | None:
        try:
            remote, runner = self._opener(name)
        except FleetError as error:
            self._errors[name] = error
            return None
        except Exception:
            return None  # the run opens it again, and tells
        try:
            facts = look(remote, (ROLLOUT_PROBE,), timeout=LOOK_TIMEOUT)
        except Exception:
            remote.close()
            return None
        self._kept[name] = remote, runner
        return parse_at_work(facts[ROLLOUT_PROBE.key])


def _flat(text: str) -> str:
    """What a balancer keeps, on one line and without what steers a terminal."""
    return "".join(c if c.isprintable() else " " for c in text).strip()


def _held(seen: Mapping[str, AtWork]) -> tuple[str, Claim, int] | None:
    """A lease of others in force: the balancer's name, the lease, and its age in seconds."""
    for name, each in seen.items():
        lease = each.lease
        if lease is None or lease.held is None or is_dead(lease.held) or is_mine(lease.held):
            continue
        return name, lease.held, max(0, lease.now - lease.held.since)
    return None
