"""The three things done with keys: see them, add one, revoke some."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from fleet.balancer.keys import Key, KeySet, KeysFound, merge
from fleet.errors import FleetError, InputError, TaskError, UnreachableError
from fleet.keys.balancers import Balancers, Seen, all_keys
from fleet.keys.model import Added, KeyReport, Revoked
from fleet.keys.report import behind, report
from fleet.keys.words import check_name, check_who, fingerprint, new_secret
from fleet.model.secret import Secret


def list_keys(balancers: Balancers) -> KeyReport:
    """All keys, revoked ones too, and where the balancers disagree; changes nothing."""
    seen = balancers.look()
    _known(seen, "answers")
    return report(seen)


def add_key(balancers: Balancers, name: str, keep: Callable[[Secret], None] | None = None) -> Added:
    """Make a key and have every balancer that can be reached accept it.

    `keep` gets the key before any balancer does, so that none is accepted which could not be written down.
    Raises InputError for a name that cannot be, and the balancers' error where none of them took the key.
    """
    check_name(name)
    seen = balancers.look()
    known = _known(seen, "answers")
    taken = {key.id for key in known.keys}
    secret = new_secret()
    while fingerprint(secret)[:8] in taken:
        secret = new_secret()
    if keep is not None:
        keep(secret)
    sha256 = fingerprint(secret)
    key = Key(sha256, name, sha256[:8], _now())
    after = _bring(balancers, seen, merge((known, KeySet((key,)))))
    _known(after, "took the change")
    return Added(
        secret=secret,
        key=key,
        report=report(after, [key], _mended(seen, known, after)),
        same_name=tuple(other for other in known.active if other.name == name),
    )


def revoke_keys(balancers: Balancers, who: str, *, every: bool = False) -> Revoked:
    """Have no balancer accept a key any more; `who` is its ID, or its name. `every`: all keys of the name.

    A key that was revoked before is no mistake: balancers that still accept it are told again. Raises
    InputError where there is no such key, or where the name has several and `every` is not set; the
    balancers' error where none could be reached or changed.
    """
    check_who(who)
    seen = balancers.look()
    known = _known(seen, "answers")
    chosen = _choose(known, who, every, [name for name, each in seen.items() if isinstance(each, FleetError)])
    already = all(key.revoked for key in chosen)
    now = _now()
    gone = tuple(key if key.revoked else replace(key, revoked=now) for key in chosen)
    after = _bring(balancers, seen, merge((known, KeySet.of(gone))))
    _known(after, "took the change")
    return Revoked(gone, report(after, gone, _mended(seen, known, after)), already)


def _choose(known: KeySet, who: str, every: bool, lost: list[str]) -> tuple[Key, ...]:
    same_id = [key for key in known.keys if key.id == who]
    if same_id:
        return tuple(same_id)
    named = [key for key in known.keys if key.name == who]
    active = [key for key in named if key.revoked is None]
    if not named:
        where = f" among those of the balancers that answered ({', '.join(lost)} did not)" if lost else ""
        raise InputError(f"there is no key of name or ID {who}{where}", remedy="`fleet key list` shows all")
    if len(active) > 1 and not every:
        each = ", ".join(f"{key.id} (of {key.created[:10]})" for key in active)
        raise InputError(
            f"{who} has {len(active)} keys: {each}",
            remedy=f"name the one by its ID, or use --all to revoke all {len(active)}",
        )
    return tuple(active or named)


def _known(seen: Mapping[str, Seen], did: str) -> KeySet:
    """All keys. Raises where no balancer did what was asked: nothing can be said or done then."""
    errors = {name: each for name, each in seen.items() if isinstance(each, FleetError)}
    if len(errors) < len(seen):
        return all_keys(seen)
    lines = [f"{name}: {error.message.removeprefix(f'{name}: ')}" for name, error in errors.items()]
    remedy = next((error.remedy for error in errors.values() if error.remedy), "")
    lost = all(isinstance(error, UnreachableError) for error in errors.values())
    kind = UnreachableError if lost else TaskError
    raise kind(f"no balancer {did}", output="\n".join(lines), remedy=remedy)


def _bring(balancers: Balancers, seen: Mapping[str, Seen], wanted: KeySet) -> Mapping[str, Seen]:
    """What the balancers have after the change; one that was not looked at keeps its error."""
    changed = balancers.bring(wanted)
    return {
        name: each if isinstance(each, FleetError) else changed.get(name, each) for name, each in seen.items()
    }


def _mended(before: Mapping[str, Seen], known: KeySet, after: Mapping[str, Seen]) -> tuple[str, ...]:
    return tuple(name for name in behind(before, known) if isinstance(after[name], KeysFound))


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
