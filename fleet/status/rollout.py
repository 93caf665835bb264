"""Whether a rollout has begun and not ended, as the balancers' journals tell; status names it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fleet.balancer.rollouts import ROOT
from fleet.model.facts import Answer, Probe
from fleet.model.problem import Problem

_ENDS = ("finished", "rolled-back")

# The newest journal's first and last line, and the lease with the balancer's clock.
ROLLOUT_PROBE = Probe(
    "rollout.newest",
    f"""\
cd {ROOT} 2>/dev/null || exit 0
newest=
for journal in */journal; do [ -f "$journal" ] && newest=$journal; done
[ -n "$newest" ] || exit 0
head -n 1 "$newest"
tail -n 1 "$newest"
printf '{{"now": %s}}\\n' "$(date +%s)"
[ ! -s lease ] || head -n 1 lease
""",
)


@dataclass(frozen=True)
class Unfinished:
    """A rollout without an end. `going` is true where somebody holds the lease now."""

    id: str
    kind: str
    image: str
    by: str
    step: str
    going: bool


def unfinished(answer: Answer) -> Unfinished | None:
    """What the probe tells; None where the newest rollout has ended, or there is none."""
    try:
        lines = [json.loads(line) for line in answer.text.splitlines() if line.strip()]
    except ValueError:
        return None
    if not answer.ok or len(lines) < 3:
        return None
    header, last, now, *lease = lines
    if last.get("step") in _ENDS:
        return None
    going = bool(lease) and float(lease[0].get("expires", 0)) > float(now.get("now", 0))
    told = {key: str(header.get(key, "")) for key in ("id", "kind", "image", "by")}
    return Unfinished(**told, step=str(last.get("step", "")), going=going)


def rollout_problems(answers: Iterable[Answer]) -> Iterator[Problem]:
    """The rollout that waits for somebody, once, however many balancers tell of it; none that goes on."""
    found = {each.id: each for answer in answers if (each := unfinished(answer)) is not None}
    for each in found.values():
        if not each.going:
            what = f"the {each.kind} {each.id} to {each.image}, begun by {each.by}, has not ended"
            yield Problem("rollout", what, "`fleet upgrade --resume`, or `fleet upgrade --abort`")
