"""From what balancers have to what is told: pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from fleet.balancer.keys import Key, KeySet, KeysFound
from fleet.balancer.paths import KEYS_FILE
from fleet.errors import FleetError
from fleet.keys.balancers import Seen, all_keys
from fleet.keys.model import (
    ACTIVE,
    MISSING,
    REVOKED,
    STILL_ACTIVE,
    STORED,
    UNKNOWN,
    BalancerRow,
    KeyReport,
    KeyRow,
)
from fleet.model.problem import Problem

MENDS = "the next `fleet key add` or `fleet key revoke`, or `fleet provision`, mends it"


def report(
    seen: Mapping[str, Seen], shown: Iterable[Key] | None = None, mended: Iterable[str] = ()
) -> KeyReport:
    """What the balancers have, compared with all that any of them knows. `shown`: only these keys as rows."""
    known = all_keys(seen)
    if shown is None:
        keys: Iterable[Key] = known.keys
    else:
        keys = [known.get(key.sha256) or key for key in shown]
    return KeyReport(
        keys=tuple(KeyRow.of(key, {name: _state(key, each) for name, each in seen.items()}) for key in keys),
        balancers=tuple(_row(name, each) for name, each in seen.items()),
        problems=tuple(problem for name, each in seen.items() for problem in _problems(name, each, known)),
        mended=tuple(mended),
    )


def behind(seen: Mapping[str, Seen], known: KeySet) -> tuple[str, ...]:
    """The balancers whose file or whose HAProxy has not all that is known."""
    return tuple(
        name
        for name, found in seen.items()
        if isinstance(found, KeysFound) and (found.keys != known or not found.running_is_file)
    )


def _state(key: Key, found: Seen) -> str:
    if not isinstance(found, KeysFound):
        return UNKNOWN
    here = found.keys.get(key.sha256)
    if key.revoked is not None:
        if found.accepts(key) or (here is not None and here.revoked is None):
            return STILL_ACTIVE
        return REVOKED if here is not None else MISSING
    if here is None or (found.gateway == "on" and not found.accepts(key)):
        return MISSING
    return ACTIVE if found.accepts(key) else STORED


def _row(name: str, found: Seen) -> BalancerRow:
    if isinstance(found, FleetError):
        return BalancerRow.lost(name, found)
    return BalancerRow(name, gateway=found.gateway)


def _problems(name: str, found: Seen, known: KeySet) -> Iterator[Problem]:
    if isinstance(found, FleetError):
        row = BalancerRow.lost(name, found)
        yield Problem(name, row.reason or row.state, found.remedy)
        return
    lacking = [key for key in known.active if found.keys.get(key.sha256) is None]
    if lacking:
        yield Problem(name, f"lacks {_named(lacking)}", MENDS)
    working = [key for key in known.revoked if _state(key, found) == STILL_ACTIVE]
    if working:
        verb = "still accepts" if any(found.accepts(key) for key in working) else "still has"
        yield Problem(name, f"{verb} {_named(working)}, which was revoked", MENDS)
    if found.gateway == "on":
        deaf = [key for key in found.keys.active if not found.accepts(key) and key in known.active]
        if deaf:
            yield Problem(name, f"HAProxy does not accept {_named(deaf)}, though its file has it", MENDS)
        files = {key.sha256 for key in found.keys.keys}
        added = sum(1 for sha256, _ in found.running if sha256 not in files)
        if added:
            keys = "a key" if added == 1 else f"{added} keys"
            yield Problem(name, f"HAProxy accepts {keys} that nobody added with fleet", MENDS)
    if found.strange:
        lines = "a line that is" if len(found.strange) == 1 else f"{len(found.strange)} lines that are"
        yield Problem(name, f"{KEYS_FILE} has {lines} no key; the next change removes it")
    if found.mode not in (None, "600"):
        yield Problem(name, f"{KEYS_FILE} has mode {found.mode}, not 600", MENDS)


def _named(keys: list[Key]) -> str:
    """Some keys, by name and ID: the first three, and how many more."""
    some = ", ".join(str(key) for key in keys[:3])
    return some if len(keys) <= 3 else f"{some} and {len(keys) - 3} more keys"
