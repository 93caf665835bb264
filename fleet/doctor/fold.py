"""The same trouble on many hosts is one trouble."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fleet.doctor.model import Check, Finding

FEW = 6
"""So many hosts are named in a command; of more the reader puts in the names."""


@dataclass(frozen=True)
class Folded:
    """A trouble and all places that have it; `places` are names, each with what differs there."""

    check: Check
    what: str
    places: tuple[tuple[str, str], ...]
    hosts: tuple[str, ...]
    remedy: str
    fixable: int


def fold(findings: Iterable[Finding]) -> tuple[Folded, ...]:
    """Findings of one check in the same words together, in the order of their first."""
    by_words: dict[tuple[str, str], list[Finding]] = {}
    for each in findings:
        by_words.setdefault((each.check.id, each.trouble.what), []).append(each)
    return tuple(_one(group) for group in by_words.values())


def _one(group: list[Finding]) -> Folded:
    hosts = tuple(dict.fromkeys(each.host for each in group))
    remedies = list(dict.fromkeys(each.trouble.remedy for each in group))
    names = ",".join(hosts) if len(hosts) <= FEW else "HOST"
    if len(remedies) == 1:
        remedy = remedies[0].replace("{host}", names)
    else:
        remedy = f"{group[0].remedy} (for {group[0].place}; likewise for the others)"
    return Folded(
        group[0].check,
        group[0].trouble.what,
        tuple((each.place, each.trouble.detail) for each in group),
        hosts,
        remedy,
        len({each.host for each in group if each.trouble.fix is not None}),
    )
