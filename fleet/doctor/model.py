"""What an examination consists of: checks, their verdicts, and the findings that people read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fleet.model.facts import Probe
from fleet.model.host import Host
from fleet.model.steps import Step

if TYPE_CHECKING:
    from fleet.doctor.patient import Patient

GROUPS = ("connection", "system", "driver", "containers", "service", "balancers")
"""The groups of checks, in the order in which one builds on the other."""

GPU_GROUP, BALANCER_GROUP = "gpu", "balancer"


@dataclass(frozen=True)
class Fix:
    """What doctor may do itself: it interrupts no job and loses nothing. `what` is in the imperative."""

    what: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Trouble:
    """One thing that is wrong on a host.

    `what` names it in words that are the same on every host that has it, so that it is told once for all of
    them; `detail` is what differs (a number, a name). `remedy` is in the imperative; `{host}` in it stands
    for the hosts. `slot` is empty where it is about the whole host.
    """

    what: str
    remedy: str
    detail: str = ""
    slot: str = ""
    fix: Fix | None = None


@dataclass(frozen=True)
class Verdict:
    """What a check found on one host: `found` in a few words, the troubles, or why it could not look.

    `at_work` is what works on the fleet now, and may be what other checks find.
    """

    found: str = ""
    troubles: tuple[Trouble, ...] = ()
    skipped: str = ""
    at_work: str = ""


def well(found: str) -> Verdict:
    """The verdict on what is as it should be."""
    return Verdict(found)


def skipped(why: str) -> Verdict:
    """The verdict where another trouble, or what the host is for, leaves nothing to look at."""
    return Verdict(skipped=why)


def bad(what: str, remedy: str, detail: str = "", *, slot: str = "", fix: Fix | None = None) -> Verdict:
    """The verdict with one trouble."""
    return Verdict(detail or what, (Trouble(what, remedy, detail, slot, fix),))


def judged(found: str, troubles: Sequence[Trouble]) -> Verdict:
    """The verdict with any number of troubles."""
    return Verdict(found, tuple(troubles))


@dataclass(frozen=True)
class Check:
    """One question about a host. `why` says what goes wrong for users where it is not so.

    `on` are the inventory groups whose hosts are asked. `elsewhere` are questions to the other hosts, without
    whose answers it cannot judge. `judge` is pure.
    """

    group: str
    name: str
    why: str
    judge: Callable[[Patient], Verdict]
    probes: Callable[[Host], Sequence[Probe]] = lambda host: ()
    on: tuple[str, ...] = (GPU_GROUP,)
    elsewhere: Callable[[Host], Sequence[Probe]] = lambda host: ()

    @property
    def id(self) -> str:
        """Its name for `--only`."""
        return f"{self.group}/{self.name}"

    def concerns(self, host: Host) -> bool:
        """True for hosts it is asked of."""
        return bool(set(self.on) & set(host.groups))


@dataclass(frozen=True)
class Result:
    """A check's verdict on one host."""

    check: Check
    host: str
    verdict: Verdict


@dataclass(frozen=True)
class Finding:
    """A trouble with where it is and why it matters."""

    check: Check
    host: str
    trouble: Trouble

    @property
    def place(self) -> str:
        """The slot, or the host."""
        return self.trouble.slot or self.host

    @property
    def remedy(self) -> str:
        """The remedy for this host."""
        return self.trouble.remedy.replace("{host}", self.host)


@dataclass(frozen=True)
class Mended:
    """A fix that was carried out; `error` says why it did not work."""

    host: str
    check: str
    what: str
    error: str = ""


@dataclass(frozen=True)
class Report:
    """A whole examination: one result per check and host; of `unreachable` hosts only their connection."""

    hosts: tuple[str, ...]
    results: tuple[Result, ...]
    unreachable: tuple[str, ...] = ()
    mended: tuple[Mended, ...] = ()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All troubles, in the order of the checks."""
        return tuple(
            Finding(each.check, each.host, trouble)
            for each in self.results
            for trouble in each.verdict.troubles
        )

    @property
    def ok(self) -> bool:
        """True where nothing is wrong."""
        return not self.findings
