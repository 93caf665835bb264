"""Emptying slots for a rollout: what is counted, what is waited for, and for how long; with fake balancers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from fleet.balancer.workers import InFlight
from fleet.errors import FleetError, UnreachableError
from fleet.rollout import steering
from fleet.rollout.acting import BalancerError
from fleet.rollout.steering import Steering

A, B = "g1-0", "g1-1"


class Fleet:
    """What the balancers hold, and the time, which passes only by sleeping."""

    def __init__(self, **jobs: int) -> None:
        self.now = 0.0
        self.jobs = {A: 0, B: 0, **{name.replace("_", "-"): count for name, count in jobs.items()}}
        self.uncuttable: set[str] = set()
        self.mute: dict[str, int] = {}
        self.away: set[str] = set()
        self.later: list[tuple[float, Callable[[], object]]] = []
        self.opened = 0
        self.drained_at: list[float] = []
        self.cut_at: list[float] = []
        self.said: list[tuple[str, str]] = []

    def at(self, when: float, what: Callable[[], object]) -> None:
        self.later.append((when, what))

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 0.001)
        for each in [each for each in self.later if each[0] <= self.now]:
            self.later.remove(each)
            each[1]()

    def say(self, place: str, text: str) -> None:
        self.said.append((place, text))

    def drain(self, deadline: float) -> Mapping[str, int]:
        return Steering(("lb-1", "lb-2"), lambda name: None, lambda step: step).drain(  # type: ignore[arg-type, return-value]
            (A, B), deadline, self.say
        )


class FakeBalancers:
    """As `fleet.control.Balancers`, for one fleet: one that is away fails, and is left out from then on."""

    fleet: Fleet

    def __init__(self, names: Sequence[str], *_: object) -> None:
        self.names = tuple(names)
        self.errors: dict[str, FleetError] = {}
        self.mute: dict[str, int] = {}
        self.told: frozenset[str] = frozenset(names)

    def __enter__(self) -> FakeBalancers:
        self.fleet.opened += 1
        self._ask()
        return self

    def close(self) -> None:
        pass

    def look(self) -> Mapping[str, Any]:
        self._ask()
        return {}

    def drain(self, slots: Sequence[str]) -> None:
        self._ask()
        self.fleet.drained_at.append(self.fleet.now)

    def in_flight(self, slots: Sequence[str]) -> Mapping[str, InFlight]:
        self._ask()
        self.mute = dict(self.fleet.mute)
        return {slot: InFlight(self.fleet.jobs[slot]) for slot in slots}

    def cut(self, slots: Sequence[str]) -> Mapping[str, int]:
        self._ask()
        self.fleet.cut_at.append(self.fleet.now)
        ended = {slot: self.fleet.jobs[slot] for slot in slots if slot not in self.fleet.uncuttable}
        self.fleet.jobs.update(dict.fromkeys(ended, 0))
        return ended

    def missing(self, slots: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
        return {}

    def holding(self, *_: object) -> Mapping[str, tuple[str, ...]]:
        return {}

    def _ask(self) -> None:
        for name in self.fleet.away - set(self.errors):
            self.errors[name] = UnreachableError(f"{name}: connection lost")
        if len(self.errors) == len(self.names):
            raise next(iter(self.errors.values()))


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Fleet:
    fleet = Fleet()
    monkeypatch.setattr(FakeBalancers, "fleet", fleet, raising=False)
    clock = SimpleNamespace(monotonic=lambda: fleet.now, sleep=fleet.sleep)
    monkeypatch.setattr(steering, "Balancers", FakeBalancers)
    monkeypatch.setattr(steering, "time", clock)
    monkeypatch.setattr(importlib.import_module("fleet.control.drain"), "time", clock)
    return fleet


def test_slots_without_jobs_are_empty_at_once(fleet: Fleet) -> None:
    assert fleet.drain(600.0) == {A: 0, B: 0}
    assert fleet.now < 2


def test_jobs_that_are_ended_at_the_deadline_are_counted_by_slot(fleet: Fleet) -> None:
    fleet.jobs[A] = 3
    assert fleet.drain(30.0) == {A: 3, B: 0}
    assert min(fleet.cut_at) >= 30


def test_jobs_that_could_not_be_ended_are_counted_too_since_the_container_stops(fleet: Fleet) -> None:
    fleet.jobs[A], fleet.jobs[B] = 2, 1
    fleet.uncuttable = {A}
    assert fleet.drain(30.0) == {A: 2, B: 1}
    assert (A, "2 jobs in flight") in fleet.said


def test_old_processes_that_cannot_be_asked_are_waited_for(fleet: Fleet) -> None:
    fleet.mute = {"lb-2": 1}
    fleet.at(40.0, fleet.mute.clear)
    assert fleet.drain(600.0) == {A: 0, B: 0}
    assert 40 <= fleet.now < 45
    assert fleet.cut_at == []
    waits = [text for place, text in fleet.said if place == "lb-2"]
    assert waits
    assert len(waits) == len(set(waits))
    assert "1 old HAProxy process" in waits[0]


def test_at_the_deadline_nobody_waits_for_old_processes_and_that_is_said(fleet: Fleet) -> None:
    fleet.mute = {"lb-1": 2}
    assert fleet.drain(60.0) == {A: 0, B: 0}
    assert 60 <= fleet.now < 65
    place, text = fleet.said[-1]
    assert place == "lb-1"
    assert "2 old HAProxy processes" in text
    assert "60 s" in text


def test_jobs_that_come_to_light_while_old_processes_are_waited_for_have_until_the_deadline(
    fleet: Fleet,
) -> None:
    fleet.mute = {"lb-1": 1}
    fleet.at(20.0, lambda: (fleet.mute.clear(), fleet.jobs.update({A: 1})))
    fleet.at(50.0, lambda: fleet.jobs.update({A: 0}))
    assert fleet.drain(60.0) == {A: 0, B: 0}
    assert 50 <= fleet.now < 55


def test_a_balancer_that_goes_away_during_a_long_drain_has_its_minute(fleet: Fleet) -> None:
    fleet.jobs[A] = 1
    fleet.at(200.0, lambda: fleet.away.add("lb-2"))
    fleet.at(240.0, fleet.away.clear)
    fleet.at(300.0, lambda: fleet.jobs.update({A: 0}))
    assert fleet.drain(600.0) == {A: 0, B: 0}
    assert 300 <= fleet.now < 305
    assert max(fleet.drained_at) >= 240


def test_a_balancer_that_stays_away_stops_a_drain_after_a_minute_and_not_at_its_deadline(
    fleet: Fleet,
) -> None:
    fleet.jobs[A] = 1
    fleet.at(200.0, lambda: fleet.away.add("lb-2"))
    with pytest.raises(BalancerError, match="lb-2"):
        fleet.drain(600.0)
    assert 255 <= fleet.now < 270


def test_a_balancer_that_came_back_leaves_no_more_than_what_is_left_of_the_deadline(fleet: Fleet) -> None:
    fleet.jobs[A] = 1
    fleet.at(580.0, lambda: fleet.away.add("lb-2"))
    fleet.at(590.0, fleet.away.clear)
    assert fleet.drain(600.0) == {A: 1, B: 0}
    assert 600 <= fleet.now < 610
