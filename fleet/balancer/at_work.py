"""Whether a rollout is at work or waits for somebody: a question that goes along with any look."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fleet.balancer.holder import is_dead
from fleet.balancer.rollouts import ROOT, LeaseSeen, parse_lease
from fleet.model.facts import Answer, Probe

_ENDS = ("finished", "rolled-back")

# The balancer's clock and lease, as `rollouts.look_lease` tells them, but without waiting for a lock; then
# the newest journal's first and last line. All files are replaced whole, so none is read half written.
ROLLOUT_PROBE = Probe(
    "rollout.newest",
    f"""\
cd {ROOT} 2>/dev/null || exit 0
printf 'now %s\\nfence %s\\n' "$(date +%s)" "$(cat fence 2>/dev/null || echo 0)"
[ ! -s lease ] || printf 'lease %s\\n' "$(head -n 1 lease)"
newest=
for journal in */journal; do [ -f "$journal" ] && newest=$journal; done
[ -n "$newest" ] || exit 0
printf 'header %s\\nlast %s\\n' "$(head -n 1 "$newest")" "$(tail -n 1 "$newest")"
""",
)


@dataclass(frozen=True)
class Unfinished:
    """A rollout without an end. `going`: somebody holds the lease, and is not known to run no more."""

    id: str
    kind: str
    image: str
    digest: str
    by: str
    step: str
    going: bool

    @property
    def what(self) -> str:
        """What it is, in words."""
        return f"the {self.kind} {self.id} to {self.image}, begun by {self.by}, has not ended"

    @property
    def remedy(self) -> str:
        """What to do about it, where nobody goes on with it."""
        return "`fleet upgrade --resume`, or `fleet upgrade --abort`"


@dataclass(frozen=True)
class AtWork:
    """What one balancer tells: its lease, and its newest rollout where that has no end; None for neither.

    `newest` is that rollout's id, ended or not; empty for none.
    """

    lease: LeaseSeen | None = None
    unfinished: Unfinished | None = None
    newest: str = ""


def parse_at_work(answer: Answer) -> AtWork:
    """What the probe tells; a journal or lease that cannot be read is as none."""
    if not answer.ok:
        return AtWork()
    lease = parse_lease(answer.out)
    said = dict(line.partition(b" ")[::2] for line in answer.out.splitlines())
    header, last = _object(said.get(b"header", b"")), _object(said.get(b"last", b""))
    if header is None or last is None:
        return AtWork(lease)
    newest = str(header.get("id", ""))
    if last.get("step") in _ENDS:
        return AtWork(lease, newest=newest)
    told = {key: str(header.get(key, "")) for key in ("id", "kind", "image", "digest", "by")}
    going = lease is not None and lease.held is not None and not is_dead(lease.held)
    return AtWork(lease, Unfinished(**told, step=str(last.get("step", "")), going=going), newest)


def unfinished(seen: Iterable[AtWork]) -> Unfinished | None:
    """The newest rollout of all balancers, where none of them knows of its end.

    One that was away at the end still tells of it; one that was away at the beginning, of an older one.
    """
    told = list(seen)
    newest = max((each.newest for each in told), default="")
    found = [each.unfinished for each in told if each.newest == newest]
    if None in found:
        return None
    return next(iter(sorted((each for each in found if each), key=lambda each: not each.going)), None)


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        said = json.loads(line)
    except ValueError:
        return None
    return said if isinstance(said, dict) else None
