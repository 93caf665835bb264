"""What a report says of slots that `--limit` leaves out, also where it is gone on with and has no plan."""

from __future__ import annotations

from fleet.rollout.events import Began, Outcome, Phase, Sampled
from fleet.rollout.model import Header, Origin
from fleet.rollout.report.timeline import Timeline
from fleet.rollout.report.verdict import serving
from fleet.rollout.world import ServerNow


def test_slots_that_are_left_out_are_not_counted_as_green() -> None:
    origin = Origin("a-0", "a", "b1", "app:v1", "sha256:1", 10, False, "g1")
    header = Header(
        "r", "upgrade", "app:v2", "sha256:2", "me", 100.0, 10.0, 30, (("a-0",),), (origin,), ("a-1",)
    )
    timeline = Timeline(lambda: 110.0)
    timeline(Began(header))
    servers = tuple(ServerNow("lb", slot, 10, True, True, False) for slot in ("a-0", "a-1", "b-0"))
    timeline(Sampled(105.0, servers))
    report = timeline.report(Outcome("rolled-back", header, (), 10.0))
    # a-1 was green before it began; b-0 is nobody's business here.
    assert serving(report) == "1 slot runs app:v2, 1 slot runs app:v1"


def test_slots_that_it_stopped_at_are_named_and_not_counted() -> None:
    origins = tuple(
        Origin(name, "a", "b1", "app:v1", "sha256:1", 10, False, "g1")
        for name in ("a-0", "a-1", "a-2", "a-3")
    )
    names = tuple(origin.slot for origin in origins)
    header = Header("r", "upgrade", "app:v2", "sha256:2", "me", 100.0, 10.0, 40, (names,), origins, ())
    timeline = Timeline(lambda: 110.0)
    timeline(Began(header))
    for name, phase in (("a-0", "green"), ("a-1", "ramping"), ("a-2", "moving"), ("a-3", "blue")):
        timeline(Phase(name, phase))
    report = timeline.report(Outcome("stopped", header, (), 10.0))
    assert serving(report) == (
        "2 slots run app:v2, 1 slot runs app:v1, not in service: a-2, below its weight: a-1"
    )
