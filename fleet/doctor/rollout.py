"""An upgrade at work, or one that nobody goes on with: what other checks find may be its doing."""

from __future__ import annotations

from fleet.balancer.at_work import ROLLOUT_PROBE, Unfinished, parse_at_work, unfinished
from fleet.balancer.software import software
from fleet.doctor.model import BALANCER_GROUP, Check, Report, Trouble, Verdict, judged, well
from fleet.doctor.patient import ABSENT, Patient
from fleet.model.facts import Probe
from fleet.model.host import Host

NAME = "rollout"


def rollout_probes(host: Host) -> tuple[Probe, ...]:
    """The question for the balancer's newest rollout; nginx keeps none."""
    return (ROLLOUT_PROBE,) if software(host) == "haproxy" else ()


def check_rollout(patient: Patient) -> Verdict:
    """No rollout waits for somebody."""
    if not rollout_probes(patient.host):
        return well("nginx keeps none")
    # Another balancer may know of its end.
    seen = (parse_at_work(facts.get(ROLLOUT_PROBE.key, ABSENT)) for facts in patient.fleet.values())
    found = unfinished(seen)
    if found is None or parse_at_work(patient.facts.get(ROLLOUT_PROBE.key, ABSENT)).unfinished is None:
        return well("none has begun and not ended")
    if found.going:
        return Verdict(f"at work: {_words(found)}", at_work=_words(found))
    trouble = Trouble("an upgrade has not ended, and nobody goes on with it", found.remedy, _words(found))
    return judged(_words(found), (trouble,))


def note(report: Report) -> str:
    """What a reader of the other findings must know; empty where no upgrade has anything to do with them."""
    mine = [each for each in report.results if each.check.name == NAME]
    if all(each.check.name == NAME for each in report.findings):
        return ""
    for each in mine:
        if what := each.verdict.at_work:
            return f"{what} is at work: what it holds out of traffic is told here, too; look again at its end"
    if any(each.verdict.troubles for each in mine):
        return "end the upgrade first: what it holds out of traffic is told here, too"
    return ""


def _words(found: Unfinished) -> str:
    return f"the {found.kind} {found.id} to {found.image}, begun by {found.by}"


CHECKS = (
    Check(
        "balancers",
        NAME,
        "slots that it holds take no jobs, and other upgrades are refused",
        check_rollout,
        rollout_probes,
        (BALANCER_GROUP,),
    ),
)
