"""The examination: one connection and one exchange for each host, side by side; then fixes, if wanted."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from fleet.doctor import connection
from fleet.doctor.model import Check, Finding, Fix, Mended, Report, Result, Verdict, bad
from fleet.doctor.patient import Patient
from fleet.engine.everyone import ask_all
from fleet.engine.hostrun import LOOK_TIMEOUT, Opener, internal
from fleet.engine.look import look
from fleet.errors import FleetError, InputError, UnreachableError
from fleet.model.facts import Facts, Probe
from fleet.model.host import Host

SETTLE = 5.0
"""Seconds between fixes and the look that follows: twice what balancers take to ask an agent, and some."""

_NOTHING = Probe("doctor.nothing", ":\n")


@dataclass(frozen=True)
class Look:
    """What a host answered, and between which moments (seconds since the epoch)."""

    facts: Facts
    before: float
    after: float


Seen = Look | FleetError


def examine(
    hosts: Sequence[Host],
    checks: Sequence[Check],
    inventory: Mapping[str, Host],
    opener: Opener,
    *,
    forks: int = 0,
    clock: Callable[[], float] = time.time,
) -> Report:
    """The report of all checks on these hosts. `inventory` are all hosts; nothing is changed.

    Raises InputError where a variable of the inventory is wrong.
    """
    asked = {host.name: probes_of(host, checks) for host in hosts}

    def one(name: str) -> Look:
        return _look(name, asked[name], opener, clock)

    seen = ask_all(asked, one, "looking at the host", at_once=forks)
    return report(hosts, checks, inventory, seen)


def probes_of(host: Host, checks: Sequence[Check]) -> tuple[Probe, ...]:
    """All questions for one host."""
    found = [
        probe
        for check in checks
        for probe in (check.probes(host) if check.concerns(host) else check.elsewhere(host))
    ]
    # Even a check of the connection alone must see that root can run a script.
    return tuple(found) or (_NOTHING,)


def report(
    hosts: Sequence[Host], checks: Sequence[Check], inventory: Mapping[str, Host], seen: Mapping[str, Seen]
) -> Report:
    """What the answers mean: one result for each check and host. Pure."""
    fleet = {name: each.facts for name, each in seen.items() if isinstance(each, Look)}
    results: list[Result] = []
    for host in hosts:
        answer = seen[host.name]
        if isinstance(answer, FleetError):
            results += connection.refused(host.name, answer)
            continue
        patient = Patient(host, answer.facts, inventory, fleet, answer.before, answer.after)
        results += [
            Result(check, host.name, _judge(check, patient)) for check in checks if check.concerns(host)
        ]
    order = {check: place for place, check in enumerate((*connection.CHECKS, *checks))}
    results.sort(key=lambda each: order[each.check])
    lost = tuple(name for name, each in seen.items() if isinstance(each, UnreachableError))
    return Report(tuple(host.name for host in hosts), tuple(results), lost)


def mend(
    findings: Sequence[Finding],
    hosts: Sequence[Host],
    checks: Sequence[Check],
    inventory: Mapping[str, Host],
    opener: Opener,
    before: Report,
    *,
    forks: int = 0,
    pause: Callable[[float], None] = time.sleep,
) -> Report:
    """Carry out the findings' fixes, each host's in their order, and examine all hosts that answered again.

    A fix that fails is told in the report; what it was to mend is found again by the new look.
    """
    by_host: dict[str, list[Finding]] = {}
    for each in findings:
        if each.trouble.fix is not None:
            by_host.setdefault(each.host, []).append(each)
    concerned = [host.name for host in hosts if host.name in by_host]
    rows = ask_all(
        concerned,
        lambda name: list(_fixing(name, by_host[name], opener)),
        "mending the host",
        at_once=forks,
        see_through=True,
    )
    done = [
        mended
        for name, row in rows.items()
        for mended in (_unmended(name, by_host[name], row) if isinstance(row, FleetError) else row)
    ]
    # Others see it, too, and not at once: balancers learn of an agent that is back when they ask it next.
    pause(SETTLE)
    answered = [host for host in hosts if host.name not in before.unreachable]
    again = examine(answered, checks, inventory, opener, forks=forks)
    kept = [each for each in before.results if each.host in before.unreachable]
    order = {check: place for place, check in enumerate((*connection.CHECKS, *checks))}
    results = sorted((*kept, *again.results), key=lambda each: order[each.check])
    unreachable = (*before.unreachable, *again.unreachable)
    return replace(before, results=tuple(results), unreachable=unreachable, mended=tuple(done))


def _look(name: str, probes: Sequence[Probe], opener: Opener, clock: Callable[[], float]) -> Look:
    remote, _ = opener(name)
    try:
        before = clock()
        facts = look(remote, probes, timeout=LOOK_TIMEOUT)
        return Look(facts, before, clock())
    finally:
        remote.close()


def _judge(check: Check, patient: Patient) -> Verdict:
    """A check's verdict; a mistake of the check's own is one trouble, and the others are told."""
    try:
        return check.judge(patient)
    except InputError as error:
        return bad("the inventory is wrong", error.remedy or "mend the inventory", error.message)
    except Exception as problem:
        mistake = internal(f"judging {check.id}", problem)
        return bad("the check itself failed", mistake.remedy, f"{mistake.message} {mistake.output}")


def _unmended(name: str, findings: Sequence[Finding], error: FleetError) -> list[Mended]:
    return [
        Mended(name, each.check.id, each.trouble.fix.what, error.message)
        for each in findings
        if each.trouble.fix is not None
    ]


def _fixing(name: str, findings: Sequence[Finding], opener: Opener) -> Iterator[Mended]:
    remote, runner = opener(name)
    try:
        done: list[Fix] = []
        for each in findings:
            fix = each.trouble.fix
            assert fix is not None
            if fix in done:
                continue
            done.append(fix)
            try:
                for step in fix.steps:
                    runner.execute(step, lambda *_: None)
                yield Mended(name, each.check.id, fix.what)
            except FleetError as error:
                yield Mended(
                    name, each.check.id, fix.what, "; ".join(filter(None, (error.message, error.output)))
                )
    finally:
        with contextlib.suppress(Exception):
            runner.close()
        remote.close()
