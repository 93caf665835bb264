"""All balancers at once: connected to once, asked, then changed over the same connections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType

from fleet.balancer.keys import KEYS_PROBE, KeySet, KeysFound, merge, parse_keys, sync
from fleet.balancer.software import require_haproxy
from fleet.engine.everyone import ask_all
from fleet.engine.hostrun import LOOK_TIMEOUT, Opener
from fleet.engine.look import look
from fleet.errors import FleetError, InputError, StepError, TaskError
from fleet.inventory import Inventory
from fleet.model.facts import Answer
from fleet.model.host import Host
from fleet.ssh.remote import Remote

Seen = KeysFound | FleetError
_DOING = "working on the keys"


def balancers_of(inventory: Inventory) -> tuple[Host, ...]:
    """The hosts that keep keys. Raises InputError where there is none, or one runs nginx."""
    hosts = tuple(host for host in inventory.hosts.values() if "balancer" in host.groups)
    if not hosts:
        raise InputError(
            "there is no balancer to keep keys", remedy="name one in the inventory's group `balancer`"
        )
    require_haproxy(hosts, "fleet key")
    return hosts


class Balancers:
    """Connections to balancers. One that cannot be worked on has its error instead of an answer."""

    def __init__(self, hosts: Sequence[Host], opener: Opener) -> None:
        self._names = [host.name for host in hosts]
        self._open = opener
        self._remotes: dict[str, Remote] = {}
        self._looked: list[str] = []

    def __enter__(self) -> Balancers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for remote in self._remotes.values():
            remote.close()

    def look(self) -> Mapping[str, Seen]:
        """Connect to every balancer and ask what keys it has."""
        seen = ask_all(self._names, self._look, _DOING)
        self._looked = [name for name, found in seen.items() if isinstance(found, KeysFound)]
        return seen

    def bring(self, keys: KeySet) -> Mapping[str, Seen]:
        """Have every balancer that answered join these keys to its own; what each has afterwards."""
        return ask_all(self._looked, lambda name: self._bring(name, keys), _DOING, see_through=True)

    def _look(self, name: str) -> KeysFound:
        remote, _ = self._open(name)
        self._remotes[name] = remote
        return _understood(name, look(remote, [KEYS_PROBE], timeout=LOOK_TIMEOUT)[KEYS_PROBE.key])

    def _bring(self, name: str, keys: KeySet) -> KeysFound:
        step = sync(keys)
        assert isinstance(step.stdin, bytes)
        result = self._remotes[name].run(step.argv, stdin=step.stdin, timeout=step.timeout)
        if result.rc != 0:
            said = result.err.decode("utf-8", "replace").strip()
            last = said.splitlines()[-1] if said else f"the change ended with {result.rc}"
            raise StepError(last, output=said, remedy="mend that, and run the command again")
        return _understood(name, Answer(result.rc, result.out))


def all_keys(seen: Mapping[str, Seen]) -> KeySet:
    """The keys of all balancers that answered."""
    return merge(found.keys for found in seen.values() if isinstance(found, KeysFound))


def _understood(name: str, answer: Answer) -> KeysFound:
    found = parse_keys(answer)
    if found is None:
        raise TaskError(f"{name}: it does not tell its keys", output=answer.text[:500])
    return found
