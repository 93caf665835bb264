"""What a balancer has and runs against what it should: a diff, differences in words, and remarks."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass

from fleet.balancer.stats import Admin
from fleet.lb.survey import Planned


@dataclass(frozen=True)
class Difference:
    """One balancer's differences.

    `config` is a unified diff of the configuration, empty where there is none; `others` are the further
    changes a push would make, each with its diff. `remarks` say what is so without being a difference:
    decisions at run time that stay, and what runs until a push.
    """

    host: str
    config: str
    others: tuple[tuple[str, str], ...]
    remarks: tuple[str, ...]

    @property
    def any(self) -> bool:
        """True where a push would change something."""
        return bool(self.config or self.others)


def difference(planned: Planned) -> Difference:
    """The differences of a balancer that could be planned."""
    assert planned.rendered is not None
    config = _unified(planned)
    others = tuple(
        (change.summary, change.diff)
        for change in planned.changes
        if not (config and planned.writes_config(change))
    )
    return Difference(planned.host, config, others, tuple(_remarks(planned)))


def _unified(planned: Planned) -> str:
    old, new = planned.now.deployed, planned.rendered or ""
    if old == new:
        return ""
    name = f"{planned.host}:{planned.path}"
    lines = difflib.unified_diff(
        (old or "").splitlines(),
        new.splitlines(),
        "/dev/null" if old is None else name,
        name,
        "" if old is None else f"deployed {_whose(planned)}",
        f"rendered {planned.hash or ''}".rstrip(),
        lineterm="",
    )
    return "".join(f"{line}\n" for line in lines)


def _whose(planned: Planned) -> str:
    bears = planned.now.file_hash
    if bears is None:
        return "by somebody else"
    return f"{bears}{', edited since' if planned.now.edited else ''}"


def _remarks(planned: Planned) -> Iterator[str]:
    now, name = planned.now, planned.software.name
    if not now.answers:
        yield f"{name} does not run, or does not answer"
        return
    if now.hash is None:
        yield f"{name} runs a configuration that is not fleet's"
    elif now.hash != now.file_hash:
        yield f"{name} runs {now.hash}, not the {now.file_hash or 'unmarked configuration'} of {planned.path}"
    for server in now.servers.slots() if now.servers else ():
        if server.admin is not Admin.READY:
            word = "drained" if server.admin is Admin.DRAIN else "in maintenance"
            other = server.weight != server.configured_weight
            weight = f" with weight {server.weight} instead of {server.configured_weight}" if other else ""
            yield f"{server.name} is {word}{weight}; a push leaves it so"
