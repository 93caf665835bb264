"""What a report says of slots that `--limit` leaves out, also where it is gone on with and has no plan."""

from __future__ import annotations

from fleet.rollout.events import Began, Outcome, Sampled
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
