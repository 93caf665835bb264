"""From all hosts' answers to one status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fleet.balancer import nginx_probe
from fleet.balancer.probe import RUNTIME_PROBE
from fleet.balancer.software import software
from fleet.balancer.stats import BalancerState, parse_balancer
from fleet.errors import FleetError, TaskError
from fleet.model.facts import Answer, Facts
from fleet.model.host import Host
from fleet.status.balancers import (
    agent_problems,
    balancer_problems,
    disagreement_problems,
    gateway_problems,
    servers,
)
from fleet.status.hosts import report
from fleet.status.model import ServerStatus, Status
from fleet.status.nginx import nginx_problems
from fleet.status.probe import BALANCER_GROUP, GPU_GROUP
from fleet.status.rollout import ROLLOUT_PROBE, rollout_problems, unfinished_first


def summarise(
    hosts: Sequence[Host], seen: Mapping[str, Facts | FleetError], *, whole: bool = False
) -> Status:
    """The status of the hosts, in their order. `whole` tells that they are all hosts of the inventory.

    A host without answers is a row that says so. Raises InputError where a variable of a host is wrong.
    """
    missing = TaskError("it was not looked at")
    reports = [report(host, seen.get(host.name, missing)) for host in hosts]
    slots = [slot for each in reports for slot in each.slots]
    problems = [problem for each in reports for problem in each.problems]
    rows: list[ServerStatus] = []
    # A balancer's server is nobody's where its host told its slots, or where every GPU host did.
    known = {slot.host for slot in slots}
    complete = whole and all(host.name in known for host in hosts if GPU_GROUP in host.groups)
    states: dict[str, BalancerState] = {}
    for host in hosts:
        facts = seen.get(host.name)
        if BALANCER_GROUP not in host.groups or not isinstance(facts, Facts):
            continue
        if software(host) == "nginx":
            nginx = nginx_probe.parse_runtime(facts.get(nginx_probe.RUNTIME_PROBE.key, Answer(255)))
            problems += nginx_problems(host.name, nginx, slots, known, complete)
            continue
        state = parse_balancer(facts[RUNTIME_PROBE.key]) if RUNTIME_PROBE.key in facts else None
        if state is not None:
            rows += servers(host.name, state)
            states[host.name] = state
        problems += balancer_problems(host.name, state, slots, known, complete)
    problems += agent_problems(states)
    problems += disagreement_problems(states)
    problems += gateway_problems(states)
    answers = (facts.get(ROLLOUT_PROBE.key) for facts in seen.values() if isinstance(facts, Facts))
    waiting = list(rollout_problems(answer for answer in answers if answer is not None))
    if waiting:
        problems = [unfinished_first(problem, waiting[0]) for problem in problems]
    problems += waiting
    return Status(
        hosts=tuple(each.host for each in reports),
        slots=tuple(slots),
        servers=tuple(rows),
        problems=tuple(problems),
    )
