"""Whether a rollout has begun and not ended, as the balancers' journals tell; status names it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from fleet.balancer.at_work import ROLLOUT_PROBE, parse_at_work, unfinished
from fleet.model.facts import Answer
from fleet.model.problem import Problem

__all__ = ["ROLLOUT_PROBE", "rollout_problems", "unfinished_first"]


def rollout_problems(answers: Iterable[Answer]) -> Iterator[Problem]:
    """The rollout that waits for somebody, once, however many balancers tell of it; none that goes on."""
    found = unfinished(map(parse_at_work, answers))
    if found is not None and not found.going:
        yield Problem("rollout", found.what, found.remedy)


def unfinished_first(problem: Problem, waiting: Problem) -> Problem:
    """The problem with the rollout's remedy, where its own is a provision: until then that is refused."""
    if not problem.remedy.startswith("run `fleet provision`"):
        return problem
    return replace(problem, remedy=f"end the rollout first: {waiting.remedy}")
