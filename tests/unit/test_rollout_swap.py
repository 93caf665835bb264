"""The steps that exchange a slot's container, in every state a controller may have left behind."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from fleet.docker.answers import Container, Port
from fleet.model.slot import Slot
from fleet.model.steps import EngineCall
from fleet.rollout.swap import beside_steps, excess, in_place, kept_name, of_slot, place_steps

SLOT = Slot(host="gpu-01", index=0, uuid="GPU-a", address="10.0.0.1", port=7860)
MAIN = "fleet-gpu-01-0"
BLUE, GREEN, OLD = "b" * 16, "c" * 16, "d" * 16
BODY = {"Image": "app@sha256:1"}
_START = datetime(2026, 11, 1, tzinfo=UTC)


def container(
    release: str, name: str = MAIN, state: str = "running", age: int = 0, **more: object
) -> Container:
    made = Container(
        id=f"{release[:1]} {name} {age}",
        name=name,
        labels={"fleet.slot": "gpu-01-0", "fleet.release": release},
        state=state,
        started=_START - timedelta(minutes=age),
        gpus=("GPU-a",),
        ports=(Port(7860, "7860/tcp"),),
    )
    return replace(made, **more)  # type: ignore[arg-type]


def steps(*found: Container, to: str = GREEN, body: dict | None = BODY, discard: str = "") -> list[tuple]:
    made = place_steps(SLOT, found, to, body, stop_timeout=120, discard=discard)
    return [shown(step) for step in made]


def shown(step: object) -> tuple:
    """Operation, the container as the engine is told of it, and what else it is told."""
    assert isinstance(step, EngineCall)
    rest = dict(step.arguments)
    name = rest.pop("name")
    return (step.operation, rest.pop("id", name), *rest.values())


def test_blue_is_stopped_set_aside_and_green_made():
    blue = container(BLUE)
    assert steps(blue) == [
        ("stop", blue.id, 120),
        ("rename", blue.id, f"{MAIN}.bbbbbbbb"),
        ("create", MAIN, BODY),
        ("start", MAIN),
    ]


def test_what_exists_is_named_by_its_id_and_told_by_its_name():
    found = [container(BLUE, age=1), container(GREEN, f"{MAIN}.cccccccc", "paused"), container("", "x")]
    made = place_steps(SLOT, found, GREEN, None, stop_timeout=120)
    named = {each.id: each.name for each in found}
    assert {step.operation for step in made} == {"stop", "rename", "remove", "start"}
    assert all(named[step.arguments["id"]] == step.arguments["name"] for step in made)


@pytest.mark.parametrize(
    ("left", "rest"),
    [
        ([container(BLUE, state="exited")], ["rename", "create", "start"]),
        ([container(BLUE, f"{MAIN}.bbbbbbbb", "exited")], ["create", "start"]),
        ([container(BLUE, f"{MAIN}.bbbbbbbb", "exited"), container(GREEN, state="created")], ["start"]),
        ([container(BLUE, f"{MAIN}.bbbbbbbb", "exited"), container(GREEN)], []),
        ([container(BLUE, state="paused")], ["stop", "rename", "create", "start"]),
        ([container(BLUE, state="restarting")], ["stop", "rename", "create", "start"]),
        ([], ["create", "start"]),
    ],
)
def test_it_goes_on_from_wherever_a_controller_died(left, rest):
    assert [step[0] for step in steps(*left)] == rest


def test_a_kept_container_of_the_release_is_taken_up_again():
    kept = container(GREEN, f"{MAIN}.cccccccc", "exited", age=50)
    blue = container(BLUE)
    assert steps(blue, kept, body=None) == [
        ("stop", blue.id, 120),
        ("rename", blue.id, f"{MAIN}.bbbbbbbb"),
        ("rename", kept.id, MAIN),
        ("start", kept.id),
    ]


def test_going_back_removes_green_and_nothing_else():
    older = container(OLD, f"{MAIN}.dddddddd", "exited", age=90)
    blue = container(BLUE, f"{MAIN}.bbbbbbbb", "exited", age=50)
    green = container(GREEN)
    assert steps(older, blue, green, to=BLUE, body=None, discard=GREEN) == [
        ("stop", green.id, 120),
        ("remove", green.id),
        ("rename", blue.id, MAIN),
        ("start", blue.id),
    ]


def test_green_beside_blue_is_removed_where_blue_was_never_stopped():
    beside = container(GREEN, kept_name(SLOT, GREEN), ports=(Port(7876, "7860/tcp"),))
    assert steps(container(BLUE), beside, to=BLUE, body=None, discard=GREEN) == [
        ("stop", beside.id, 120),
        ("remove", beside.id),
    ]


def test_an_older_container_of_the_same_release_makes_room_for_the_name():
    twice = container(BLUE, f"{MAIN}.bbbbbbbb", "exited", age=50)
    blue = container(BLUE)
    assert steps(blue, twice)[:3] == [
        ("stop", blue.id, 120),
        ("remove", twice.id),
        ("rename", blue.id, f"{MAIN}.bbbbbbbb"),
    ]


def test_one_that_makes_room_for_the_name_is_stopped_before_and_not_spoken_of_after():
    blue, twice = container(BLUE, state="exited"), container(BLUE, f"{MAIN}.bbbbbbbb", age=50)
    assert steps(blue, twice) == [
        ("stop", twice.id, 120),
        ("remove", twice.id),
        ("rename", blue.id, f"{MAIN}.bbbbbbbb"),
        ("create", MAIN, BODY),
        ("start", MAIN),
    ]


def test_one_that_serves_under_the_next_name_is_set_aside_and_one_that_never_ran_goes():
    """A provision that was interrupted leaves such names."""
    blue = container(BLUE, f"{MAIN}.next")
    assert steps(blue)[:2] == [("stop", blue.id, 120), ("rename", blue.id, f"{MAIN}.bbbbbbbb")]
    # The controller may die between the two.
    assert steps(replace(blue, state="exited"))[0] == ("rename", blue.id, f"{MAIN}.bbbbbbbb")
    unused = container("other", f"{MAIN}.next", "created", started=None)
    assert steps(container(BLUE), unused)[1:3] == [
        ("remove", unused.id),
        ("rename", container(BLUE).id, f"{MAIN}.bbbbbbbb"),
    ]
    own = container(BLUE, state="exited", age=5)
    assert steps(blue, own)[1:3] == [("remove", own.id), ("rename", blue.id, f"{MAIN}.bbbbbbbb")]


def test_a_second_one_of_the_wanted_release_goes():
    second = container(GREEN, "other", age=5)
    assert steps(container(GREEN), second) == [("stop", second.id, 120), ("remove", second.id)]


def test_one_on_another_gpu_is_not_the_slots():
    moved = container(GREEN, gpus=("GPU-b",))
    assert [step[0] for step in steps(moved)] == ["stop", "remove", "create", "start"]


def test_where_nothing_ran_before_nothing_runs_again():
    kept = container(OLD, f"{MAIN}.dddddddd", "exited", age=90)
    green = container(GREEN)
    assert steps(kept, green, to="", body=None, discard=GREEN) == [
        ("stop", green.id, 120),
        ("remove", green.id),
    ]


def test_without_a_container_and_a_body_nothing_can_be_done():
    with pytest.raises(ValueError, match="no container of release"):
        steps(container(BLUE), body=None)


def test_containers_of_other_slots_and_others_are_left_alone():
    other = container(BLUE, "fleet-gpu-01-1", labels={"fleet.slot": "gpu-01-1", "fleet.release": BLUE})
    foreign = container(BLUE, "postgres", labels={})
    assert steps(other, foreign) == [("create", MAIN, BODY), ("start", MAIN)]
    assert of_slot([other, foreign], SLOT) == ()


def test_what_is_in_place_is_what_serves():
    kept = container(OLD, f"{MAIN}.dddddddd", "exited", age=90)
    blue, beside = container(BLUE, age=10), container(GREEN, f"{MAIN}.cccccccc", age=0)
    assert in_place([kept, blue, beside], SLOT) == blue
    assert in_place([kept, beside], SLOT) == beside
    assert in_place([kept, replace(blue, state="exited")], SLOT) == replace(blue, state="exited")
    assert in_place([kept], SLOT) is None


def beside(*found: Container, body: dict | None = BODY) -> list[tuple]:
    made = beside_steps(SLOT, found, GREEN, body)
    return [shown(step) for step in made]


def test_green_starts_beside_blue_on_the_other_port():
    name = f"{MAIN}.cccccccc"
    assert beside(container(BLUE)) == [("create", name, BODY), ("start", name)]
    there = container(GREEN, name, ports=(Port(7876, "7860/tcp"),))
    assert beside(container(BLUE), there) == []
    assert beside(container(BLUE), replace(there, state="exited")) == [
        ("remove", there.id),
        ("create", name, BODY),
        ("start", name),
    ]
    with pytest.raises(ValueError, match="nothing says how"):
        beside(container(BLUE), body=None)


def test_a_green_that_runs_is_never_made_anew_whichever_port_it_has():
    elsewhere = container(GREEN, f"{MAIN}.cccccccc", ports=(Port(7999, "7860/tcp"),))
    assert beside(container(BLUE, state="exited"), elsewhere) == []
    assert beside(container(GREEN)) == []


def test_a_green_that_crashes_beside_blue_is_made_anew():
    crashing = container(GREEN, f"{MAIN}.cccccccc", "restarting", ports=(Port(7876, "7860/tcp"),))
    name = crashing.name
    assert beside(container(BLUE), crashing) == [
        ("remove", crashing.id, True),
        ("create", name, BODY),
        ("start", name),
    ]


def test_the_newest_releases_are_retained_and_duplicates_go():
    kept = [
        container(BLUE, f"{MAIN}.bbbbbbbb", "exited", age=10),
        container(BLUE, f"{MAIN}.x", "exited", age=20),
        container(OLD, f"{MAIN}.dddddddd", "exited", age=30),
    ]
    mine = (container(GREEN), *kept)
    assert [each.name for each in excess(mine, 1)] == [f"{MAIN}.x", f"{MAIN}.dddddddd"]
    assert [each.name for each in excess(mine, 2)] == [f"{MAIN}.x"]
    assert [each.name for each in excess(mine, 0)] == [each.name for each in kept]
