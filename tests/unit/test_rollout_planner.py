"""Plans by example, refusals by their words, and what holds for any fleet and options."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.errors import ExitCode, InputError, TaskError, UnreachableError
from fleet.rollout.model import (
    ContainerNow,
    Move,
    Options,
    Plan,
    PlanStep,
    Share,
    SlotNow,
    Snapshot,
    Strategy,
    Wave,
)
from fleet.rollout.planner import plan
from tests.soaking import examples

OLD, NEW = "v1", "v2"
NONE = Share(0, percent=True)
SWAP = Options(strategy="swap", soak=0)


def percent(value: float) -> Share:
    return Share(value, percent=True)


def container(name: str, release: str = OLD, *, running: bool = True, memory: int | None = None):
    return ContainerNow(
        f"fleet-{name}", f"id-{name}", "shop/model", "sha256:0", release, running, memory=memory
    )


def slot(name: str, weight: int = 100, **changes) -> SlotNow:
    host, _, index = name.rpartition("-")
    base = SlotNow(
        name=name,
        host=host,
        index=int(index),
        uuid=f"GPU-{name}",
        gpu="L4",
        address="10.0.0.1",
        port=7860 + int(index),
        weight=weight,
        serves=True,
        wanted=NEW,
        current=container(name),
    )
    return replace(base, **changes)


def down(name: str, weight: int = 100) -> SlotNow:
    return slot(name, weight, serves=False, current=container(name, running=False))


def held(name: str, weight: int = 100) -> SlotNow:
    return slot(name, weight, serves=False, held=True)


def green(name: str, weight: int = 100, **changes) -> SlotNow:
    return slot(name, weight, **{"current": container(name, NEW), **changes})


def roomy(name: str, free: int | None, used: int | None = 8192, weight: int = 100) -> SlotNow:
    return slot(name, weight, current=container(name, memory=used), memory_free=free)


def hosts(number: int, *weights: int) -> list[SlotNow]:
    """That many hosts with a slot per weight: a-0, a-1, b-0, ..."""
    return [slot(f"{'abcdefgh'[host]}-{i}", w) for host in range(number) for i, w in enumerate(weights)]


def snapshot(*slots: SlotNow, **changes) -> Snapshot:
    return Snapshot("shop/model:2", "sha256:2", tuple(slots), **changes)


def planned(*slots: SlotNow, options: Options = SWAP, **changes) -> Plan:
    return plan(snapshot(*slots), replace(options, **changes))


def waves(made: Plan) -> list[tuple[str, str]]:
    return [(wave.kind, " ".join(wave.slots)) for wave in made.waves]


def steps(wave: Wave) -> list[tuple[str, str, float]]:
    return [(step.action, " ".join(step.slots), step.ready) for step in wave.steps]


def refused(*slots: SlotNow, options: Options = SWAP, **changes) -> tuple[str, str]:
    with pytest.raises(InputError) as caught:
        planned(*slots, options=options, **changes)
    assert caught.value.exit_code is ExitCode.INVALID
    return caught.value.message, caught.value.remedy


def test_two_slots_are_a_canary_and_a_switch_with_all_that_is_done():
    made = plan(
        snapshot(
            slot("a-0"),
            slot("b-0"),
            to_pull=("b", "lb-01"),
            load_seconds=90.0,
            drain_seconds=20.0,
        ),
        Options(strategy="swap", ramp_hold=5, soak=30),
    )
    assert made == Plan(
        image="shop/model:2",
        digest="sha256:2",
        waves=(
            Wave(
                1,
                "canary",
                (Move("a-0", Strategy.SWAP, "asked for"),),
                (
                    PlanStep("drain", ("a-0",), 100, 20),
                    PlanStep("stop", ("a-0",), 100, 0),
                    PlanStep("start", ("a-0",), 100, 0),
                    PlanStep("check", ("a-0",), 100, 90),
                    PlanStep("ramp 10%", ("a-0",), 110, 5),
                    PlanStep("ramp 50%", ("a-0",), 150, 5),
                    PlanStep("ramp 100%", ("a-0",), 200, 5),
                ),
            ),
            Wave(
                2,
                "switch",
                (Move("b-0", Strategy.SWAP, "asked for"),),
                (
                    PlanStep("drain", ("b-0",), 100, 20),
                    PlanStep("soak", ("b-0",), 100, 30),
                    PlanStep("stop", ("b-0",), 100, 0),
                    PlanStep("start", ("b-0",), 100, 0),
                    PlanStep("check", ("b-0",), 100, 90),
                    PlanStep("ramp 10%", ("b-0",), 110, 5),
                    PlanStep("ramp 50%", ("b-0",), 150, 5),
                    PlanStep("ramp 100%", ("b-0",), 200, 5),
                ),
            ),
        ),
        total=200,
        floor=100,
        to_pull=("b",),
        notes=("1 host has to pull the image first: b",),
        seconds=280,
    )
    assert made.lowest == 100


@pytest.mark.parametrize(
    ("canary", "floor", "most", "expected"),
    [
        (Share(1), percent(50), percent(100), [("canary", "a-0"), ("wave", "b-0 c-0"), ("switch", "d-0")]),
        (
            Share(1),
            percent(75),
            percent(100),
            [("canary", "a-0"), ("wave", "b-0"), ("wave", "c-0"), ("switch", "d-0")],
        ),
        (Share(1), NONE, percent(100), [("canary", "a-0"), ("switch", "b-0 c-0 d-0")]),
        (Share(0), percent(50), percent(100), [("wave", "a-0 b-0"), ("switch", "c-0 d-0")]),
        (Share(0), NONE, percent(100), [("wave", "a-0 b-0 c-0"), ("switch", "d-0")]),
        (Share(2), percent(50), percent(100), [("canary", "a-0 b-0"), ("switch", "c-0 d-0")]),
        (percent(25), percent(50), percent(50), [("canary", "a-0"), ("wave", "b-0 c-0"), ("switch", "d-0")]),
        (percent(26), percent(50), percent(50), [("canary", "a-0 b-0"), ("switch", "c-0 d-0")]),
        (percent(1), NONE, Share(2), [("canary", "a-0"), ("wave", "b-0 c-0"), ("switch", "d-0")]),
        (Share(0), NONE, percent(74), [("wave", "a-0 b-0"), ("switch", "c-0 d-0")]),
        (
            Share(0),
            NONE,
            percent(1),
            [("wave", "a-0"), ("wave", "b-0"), ("wave", "c-0"), ("switch", "d-0")],
        ),
        (Share(1), Share(150), percent(100), [("canary", "a-0"), ("wave", "b-0 c-0"), ("switch", "d-0")]),
    ],
)
def test_four_equal_slots(canary, floor, most, expected):
    made = planned(*hosts(4, 100), canary=canary, floor=floor, max_unavailable=most)
    assert waves(made) == expected
    assert made.lowest >= made.floor == floor.of(400)


def test_eight_slots_of_four_hosts_go_in_the_order_of_the_inventory():
    made = planned(*hosts(4, 100, 100), canary=percent(25))
    assert waves(made) == [
        ("canary", "a-0 a-1"),
        ("wave", "b-0 b-1 c-0 c-1"),
        ("switch", "d-0 d-1"),
    ]
    assert (made.total, made.floor, made.lowest) == (800, 400, 400)


def test_slots_of_a_host_stay_together_wherever_the_snapshot_has_them():
    made = planned(slot("a-0"), slot("b-0"), slot("a-1"), slot("b-1"), canary=Share(0))
    assert waves(made) == [("wave", "a-0 a-1"), ("switch", "b-0 b-1")]


def test_the_lightest_slots_are_the_canary():
    made = planned(*hosts(2, 28, 10), canary=Share(1), floor=percent(50))
    assert waves(made) == [("canary", "a-1"), ("wave", "a-0 b-1"), ("switch", "b-0")]
    assert [wave.lowest for wave in made.waves] == [66, 38, 48]
    assert waves(planned(*hosts(2, 28, 10), canary=percent(50)))[0] == ("canary", "a-1 b-1")


def test_a_wave_takes_whatever_still_fits():
    made = planned(slot("a-0", 28), slot("a-1", 28), slot("b-0", 10), slot("b-1", 10), canary=Share(0))
    assert waves(made) == [("wave", "a-0 b-0"), ("switch", "a-1 b-1")]


def test_a_ramp_counts_the_whole_numbers_that_balancers_have():
    made = planned(slot("a-0", 28), slot("b-0", 28), slot("b-1", 2))
    assert steps(made.waves[1])[-3:] == [
        ("ramp 10%", "a-0", 33),
        ("ramp 50%", "a-0", 44),
        ("ramp 100%", "a-0", 58),
    ]
    assert steps(made.waves[0])[-3] == ("ramp 10%", "b-1", 57)


def test_without_a_ramp_nothing_is_held_and_without_a_soak_none_is_there():
    made = plan(
        snapshot(slot("a-0"), slot("b-0"), load_seconds=60.0, drain_seconds=5.0),
        replace(SWAP, ramp=(100,), soak=0),
    )
    assert [step.action for step in made.waves[1].steps] == ["drain", "stop", "start", "check", "ramp 100%"]
    assert made.seconds == 130


@pytest.mark.parametrize("known", [{"load_seconds": 60.0}, {"drain_seconds": 5.0}, {}])
def test_the_time_is_unknown_where_a_part_of_it_is(known):
    assert plan(snapshot(slot("a-0"), slot("b-0"), **known), SWAP).seconds is None


@pytest.mark.parametrize("slots", [(), (green("a-0"), green("b-0"))])
def test_a_fleet_that_runs_the_release_has_nothing_to_do(slots):
    made = plan(snapshot(*slots, to_pull=("c",)), Options())
    assert made == Plan(
        image="shop/model:2",
        digest="sha256:2",
        waves=(),
        total=100 * len(slots),
        floor=50 * len(slots),
        unchanged=tuple(each.name for each in slots),
        seconds=0,
    )


def test_a_plan_for_the_rest_of_a_fleet_counts_on_what_is_done():
    made = planned(green("a-0"), green("b-0"), slot("c-0"), slot("d-0"), canary=Share(0), soak=30)
    assert waves(made) == [("switch", "c-0 d-0")]
    assert made.unchanged == ("a-0", "b-0")
    assert steps(made.waves[0])[:2] == [("drain", "c-0 d-0", 200), ("soak", "c-0 d-0", 200)]


def test_one_slot_that_is_left_is_the_canary_and_no_more():
    made = planned(green("a-0"), slot("b-0"), soak=30)
    assert waves(made) == [("canary", "b-0")]
    assert "soak" not in [step.action for step in made.waves[0].steps]


def test_a_canary_of_more_slots_than_there_are_is_all_of_them():
    assert waves(planned(green("a-0"), green("b-0"), slot("c-0"), canary=Share(3))) == [("canary", "c-0")]


def test_a_green_container_that_is_stopped_is_moved():
    stopped = container("b-0", NEW, running=False)
    made = planned(slot("a-0"), slot("b-0", serves=False, current=stopped), slot("c-0"))
    assert waves(made) == [("canary", "a-0"), ("switch", "b-0 c-0")]


def test_a_green_slot_that_takes_no_jobs_is_left_and_told():
    made = planned(green("a-0", serves=False), slot("b-0"), slot("c-0"))
    assert made.unchanged == ("a-0",)
    assert made.total == 200
    assert made.notes == ("a-0 runs the release already and takes no jobs: see `fleet status`",)


def test_a_slot_that_is_down_costs_nothing_and_serves_after_its_wave():
    made = planned(slot("a-0"), slot("b-0"), down("c-0"), slot("d-0"), floor=percent(66))
    assert (made.total, made.floor) == (300, 198)
    assert waves(made) == [("canary", "a-0"), ("wave", "b-0 c-0"), ("switch", "d-0")]
    assert steps(made.waves[1]) == [
        ("drain", "b-0 c-0", 200),
        ("stop", "b-0", 200),
        ("start", "b-0 c-0", 200),
        ("check", "b-0 c-0", 200),
        ("ramp 10%", "b-0 c-0", 220),
        ("ramp 50%", "b-0 c-0", 300),
        ("ramp 100%", "b-0 c-0", 400),
    ]
    assert made.waves[2].lowest == 300
    assert made.notes == ("c-0 takes no jobs now: it serves once it is replaced",)


def test_a_held_slot_is_replaced_without_a_ramp_and_never_counts():
    made = planned(slot("a-0"), held("b-0"), slot("c-0"), canary=Share(1), floor=percent(50), soak=9)
    assert made.total == 200
    assert waves(made) == [("canary", "a-0"), ("switch", "b-0 c-0")]
    assert steps(made.waves[1]) == [
        ("drain", "b-0 c-0", 100),
        ("soak", "b-0 c-0", 100),
        ("stop", "b-0 c-0", 100),
        ("start", "b-0 c-0", 100),
        ("check", "b-0 c-0", 100),
        ("ramp 10%", "c-0", 110),
        ("ramp 50%", "c-0", 150),
        ("ramp 100%", "c-0", 200),
    ]
    assert made.notes == ("b-0 is drained by an operator: it is replaced and stays drained",)


def test_a_slot_that_an_operator_holds_counts_for_nothing_whatever_else_is_said_of_it():
    made = planned(slot("a-0"), slot("b-0", held=True), slot("c-0"))
    assert made.total == 200
    assert waves(made) == [("canary", "a-0"), ("switch", "b-0 c-0")]
    assert [wave.lowest for wave in made.waves] == [100, 100]


def test_a_fleet_that_serves_nothing_is_turned_at_once():
    made = plan(snapshot(down("a-0"), held("b-0"), load_seconds=60.0), replace(SWAP, soak=30))
    assert "soak" not in [step.action for step in made.waves[0].steps]
    assert waves(made) == [("switch", "a-0 b-0")]
    assert (made.total, made.floor, made.downtime) == (0, 0, False)
    assert made.waves[0].steps[0] == PlanStep("drain", ("a-0", "b-0"), 0, 0)
    assert made.seconds == 75
    assert made.notes == (
        "a-0 takes no jobs now: it serves once it is replaced",
        "b-0 is drained by an operator: it is replaced and stays drained",
        "there is no canary: none of the slots to replace serves now",
    )


def test_slots_that_are_down_go_first_where_the_others_need_them():
    made = planned(slot("a-0"), down("b-0"), canary=Share(0), floor=percent(100), soak=9)
    assert waves(made) == [("wave", "b-0"), ("switch", "a-0")]
    assert [wave.lowest for wave in made.waves] == [100, 100]


def test_a_slot_out_of_service_does_not_use_up_max_unavailable():
    made = planned(
        down("a-0"), slot("b-0"), held("c-0"), slot("d-0"), canary=Share(0), max_unavailable=Share(1)
    )
    assert waves(made) == [("wave", "a-0 b-0 c-0"), ("switch", "d-0")]


def test_hosts_that_have_to_pull_are_named():
    made = plan(snapshot(*hosts(3, 100), to_pull=("a", "c")), SWAP)
    assert made.to_pull == ("a", "c")
    assert made.notes == ("2 hosts have to pull the image first: a, c",)


# Side by side


def test_a_mixed_wave_starts_beside_before_it_drains():
    made = planned(
        slot("a-0"),
        roomy("b-0", 20480),
        roomy("b-1", 2048),
        slot("c-0"),
        options=Options(canary=Share(0), strategy="auto", soak=9, max_unavailable=Share(2)),
    )
    assert waves(made) == [("wave", "a-0 b-0"), ("switch", "b-1 c-0")]
    assert made.moves == (
        Move("a-0", Strategy.SWAP, "its GPU does not tell the memory in use"),
        Move("b-0", Strategy.SIDE_BY_SIDE, "needs 9216 MiB beside the running one, 20480 MiB are free"),
        Move("b-1", Strategy.SWAP, "needs 9216 MiB beside the running one, 2048 MiB are free"),
        Move("c-0", Strategy.SWAP, "its GPU does not tell the memory in use"),
    )
    assert steps(made.waves[0]) == [
        ("start beside", "b-0", 400),
        ("check", "b-0", 400),
        ("drain", "a-0 b-0", 200),
        ("stop", "a-0", 200),
        ("start", "a-0", 200),
        ("check", "a-0", 200),
        ("ramp 10%", "a-0 b-0", 220),
        ("ramp 50%", "a-0 b-0", 300),
        ("ramp 100%", "a-0 b-0", 400),
        ("stop", "b-0", 400),
    ]
    assert made.notes == ("3 slots are swapped: their GPUs have no known room for two containers",)


def test_a_wave_side_by_side_is_out_for_its_drain_alone():
    made = planned(roomy("a-0", 9216), roomy("b-0", 9216), options=Options(strategy="side-by-side", soak=9))
    assert [move.strategy for move in made.moves] == [Strategy.SIDE_BY_SIDE] * 2
    assert steps(made.waves[1]) == [
        ("start beside", "b-0", 200),
        ("check", "b-0", 200),
        ("drain", "b-0", 100),
        ("soak", "b-0", 100),
        ("ramp 10%", "b-0", 110),
        ("ramp 50%", "b-0", 150),
        ("ramp 100%", "b-0", 200),
        ("stop", "b-0", 200),
    ]
    assert made.notes == ()


@pytest.mark.parametrize(
    ("free", "margin", "fits"), [(9216, 1024, True), (9215, 1024, False), (8192, 0, True)]
)
def test_a_container_and_the_margin_must_fit_beside(free, margin, fits):
    made = planned(roomy("a-0", free), slot("b-0"), options=Options(memory_margin=margin))
    assert (made.moves[0].strategy is Strategy.SIDE_BY_SIDE) is fits


@pytest.mark.parametrize("free", [None, 81920])
def test_nothing_is_started_beside_a_container_whose_memory_is_not_known(free):
    made = planned(roomy("a-0", free, None), roomy("b-0", None), options=Options())
    assert {move.strategy for move in made.moves} == {Strategy.SWAP}


def test_where_no_container_runs_there_is_nothing_to_start_beside():
    slots = (roomy("a-0", 20480), down("b-0"), slot("c-0", serves=False, current=None))
    made = planned(*slots, options=Options(strategy="side-by-side", canary=Share(0), floor=NONE))
    assert made.moves == (
        Move("b-0", Strategy.SWAP, "no container runs there"),
        Move("c-0", Strategy.SWAP, "no container runs there"),
        Move("a-0", Strategy.SIDE_BY_SIDE, "needs 9216 MiB beside the running one, 20480 MiB are free"),
    )


def test_a_swap_that_is_asked_for_looks_at_no_memory():
    made = planned(roomy("a-0", 20480), roomy("b-0", 20480))
    assert made.moves == tuple(Move(name, Strategy.SWAP, "asked for") for name in ("a-0", "b-0"))


# What is refused, and what would do


def test_hosts_that_could_not_be_looked_at():
    assert_trouble(
        {"gpu-02": "no route to host"},
        "a host could not be looked at: gpu-02: no route to host",
        "mend it (`fleet doctor` says how), or leave it out with --limit 'all:!gpu-02'",
    )
    two = {"gpu-02": "no route to host", "gpu-03": "docker does not answer"}
    said = "2 hosts could not be looked at: gpu-02: no route to host; gpu-03: docker does not answer"
    remedy = "mend them (`fleet doctor` says how)"
    assert_trouble(two, said, f"{remedy}, or leave them out with --limit 'all:!gpu-02:!gpu-03'")
    # One that was reached is not unreachable; and where no slot would be left, none can be left out.
    assert_trouble(two, said, remedy, TaskError, reached=frozenset(two), slots=())


def assert_trouble(troubles, message, remedy, kind=UnreachableError, slots=None, **more):
    slots = [green("a-0")] if slots is None else slots
    with pytest.raises(kind) as caught:
        plan(replace(snapshot(*slots, troubles=troubles), **more), Options())
    assert (caught.value.message, caught.value.remedy) == (message, remedy)


MORE = "have more slots in service, or insist with --allow-downtime"


@pytest.mark.parametrize(
    ("slots", "changes", "message", "remedy"),
    [
        ([slot("a-0")], {}, "a-0 has weight 100 of 100, without it no slot is left that serves", MORE),
        (
            [slot("a-0")],
            {"floor": NONE},
            "a-0 has weight 100 of 100, without it no slot is left that serves",
            MORE,
        ),
        (
            [slot("a-0", 100), slot("b-0", 50)],
            {},
            "a-0 has weight 100 of 150, without it 50 are left, the floor is 75 (50%)",
            f"lower --floor to 33%, {MORE}",
        ),
        (
            [slot("a-0", 100), slot("b-0", 50)],
            {"floor": Share(60)},
            "a-0 has weight 100 of 150, without it 50 are left, the floor is 60",
            f"lower --floor to 33%, {MORE}",
        ),
        (
            [slot("a-0", 10), slot("b-0", 1)],
            {},
            "a-0 has weight 10 of 11, without it 1 is left, the floor is 5.5 (50%)",
            f"lower --floor to 9%, {MORE}",
        ),
        (
            hosts(4, 100),
            {"floor": percent(100)},
            "a-0 has weight 100 of 400, without it 300 are left, the floor is 400 (100%)",
            f"lower --floor to 75%, {MORE}",
        ),
        (
            [slot("a-0"), held("b-0")],
            {},
            "a-0 has weight 100 of 100, without it no slot is left that serves",
            MORE,
        ),
        (
            hosts(2, 100),
            {"floor": Share(250)},
            "weight 200 is ready now, the floor is 250",
            "lower --floor to 50%, bring more slots into service first, or insist with --allow-downtime",
        ),
        (
            [down("a-0")],
            {"floor": Share(50)},
            "weight 0 is ready now, the floor is 50",
            "lower --floor to 0, bring more slots into service first, or insist with --allow-downtime",
        ),
        (
            hosts(4, 10),
            {"floor": Share(50)},
            "weight 40 is ready now, the floor is 50",
            "write --floor 50% for a share of it, lower --floor to 75%, bring more slots into service first, "
            "or insist with --allow-downtime",
        ),
        (
            hosts(4, 100),
            {"canary": Share(3)},
            "the canary is 3 slots (a-0, b-0, c-0) with weight 300 of 400, without them 100 are left, "
            "the floor is 200 (50%)",
            "use --canary 2, or lower --floor to 25%",
        ),
        (
            hosts(4, 100),
            {"canary": percent(100), "floor": NONE},
            "the canary is 4 slots (a-0, b-0, c-0, d-0) with weight 400 of 400, without them no slot is left "
            "that serves",
            "use --canary 3",
        ),
        (
            [slot("a-0"), down("b-0")],
            {},
            "the canary is 1 slot (a-0) with weight 100 of 100, without it no slot is left that serves",
            "use --canary 0",
        ),
        (
            [slot("a-0"), down("b-0")],
            {"allow_downtime": True},
            "the canary is 1 slot (a-0) with weight 100 of 100, without it no slot is left that serves",
            "use --canary 0",
        ),
        (
            hosts(8, 100),
            {"canary": percent(50), "max_unavailable": percent(25)},
            "the canary is 4 slots, and --max-unavailable 25% lets 2 of 8 be out at once",
            "use --canary 2, or raise --max-unavailable to 4",
        ),
        (
            hosts(8, 100),
            {"canary": Share(6), "max_unavailable": Share(5)},
            "the canary is 6 slots, and --max-unavailable 5 lets 5 of 8 be out at once",
            "use --canary 4",
        ),
    ],
)
def test_a_plan_that_breaks_its_promises_is_refused(slots, changes, message, remedy):
    assert refused(*slots, **changes) == (message, remedy)


@pytest.mark.parametrize(
    ("slots", "asked", "possible"),
    [
        ([slot("a-0", 100), slot("b-0", 50)], {}, {"floor": percent(33)}),
        (hosts(4, 100), {"floor": percent(100)}, {"floor": percent(75)}),
        (hosts(4, 100), {"canary": Share(3)}, {"canary": Share(2)}),
        (hosts(4, 100), {"canary": Share(3)}, {"floor": percent(25)}),
        ([slot("a-0"), down("b-0")], {}, {"canary": Share(0)}),
        (hosts(8, 100), {"canary": Share(4), "max_unavailable": Share(2)}, {"max_unavailable": Share(4)}),
        ([slot("a-0")], {}, {"allow_downtime": True}),
    ],
)
def test_what_a_refusal_names_would_do(slots, asked, possible):
    refused(*slots, **asked)
    made = planned(*slots, **{**asked, **possible})
    assert sorted(move.slot for move in made.moves) == sorted(each.name for each in slots)


def test_no_room_for_two_containers_is_refused_where_it_was_asked_for():
    asked = Options(strategy="side-by-side")
    slots = (roomy("a-0", 2048), roomy("b-0", None), roomy("c-0", 20480), down("d-0"))
    assert refused(*slots, options=asked) == (
        "no room for two containers side by side: a-0 lacks 7168 MiB; "
        "b-0 has a GPU that does not tell the memory in use",
        "use --strategy auto, which swaps where there is no room, or --strategy swap",
    )
    assert len(planned(*slots, options=replace(asked, strategy="auto")).moves) == 4


# With --allow-downtime


def test_a_fleet_of_one_slot_is_down_while_it_is_replaced():
    made = planned(slot("a-0"), allow_downtime=True)
    assert waves(made) == [("canary", "a-0")]
    assert (made.total, made.floor, made.lowest, made.downtime) == (100, 0, 0, True)
    assert made.notes == ("the service is down while a-0 is replaced",)
    assert waves(planned(slot("a-0"), allow_downtime=True, canary=Share(0))) == [("switch", "a-0")]


def test_nothing_is_given_up_where_the_floor_can_be_held():
    slots = hosts(4, 100)
    assert planned(*slots, allow_downtime=True) == planned(*slots)
    made = planned(*slots, allow_downtime=True, floor=NONE)
    assert waves(made) == [("canary", "a-0"), ("switch", "b-0 c-0 d-0")]
    assert (made.lowest, made.downtime) == (100, False)


def test_no_more_is_given_up_than_must_be():
    slots = (slot("a-0", 100), slot("b-0", 10), slot("b-1", 10))
    made = planned(*slots, allow_downtime=True)
    assert waves(made) == [("canary", "b-0"), ("wave", "b-1"), ("switch", "a-0")]
    assert [wave.lowest for wave in made.waves] == [110, 110, 20]
    assert (made.floor, made.downtime) == (0, True)
    assert made.notes == ("weight 20 is left while a-0 is replaced, the floor is 60 (50%)",)


def test_slots_go_one_by_one_where_none_can_be_spared():
    made = planned(*hosts(4, 100), allow_downtime=True, floor=percent(100), canary=Share(0))
    assert waves(made) == [("wave", "a-0"), ("wave", "b-0"), ("wave", "c-0"), ("switch", "d-0")]
    assert (made.lowest, made.downtime) == (300, True)


def test_a_floor_above_what_is_ready_is_told():
    made = planned(down("a-0"), floor=Share(50), allow_downtime=True)
    assert made.notes == (
        "weight 0 is ready now, the floor is 50",
        "a-0 takes no jobs now: it serves once it is replaced",
        "there is no canary: none of the slots to replace serves now",
    )
    assert made.downtime is True
    made = planned(*hosts(3, 100), floor=Share(400), allow_downtime=True)
    assert made.notes == ("weight 300 is ready now, the floor is 400",)


# For any fleet and options

memories = st.none() | st.integers(0, 40000)


@st.composite
def fleets(draw) -> Snapshot:
    slots = []
    for host in range(draw(st.integers(0, 4))):
        for index in range(draw(st.integers(1, 3))):
            name = f"gpu-{host}-{index}"
            release = draw(st.sampled_from((OLD, OLD, OLD, NEW)))
            current = container(name, release, running=draw(st.booleans()), memory=draw(memories))
            state = draw(st.sampled_from(("serves", "serves", "serves", "down", "held")))
            if state == "serves":
                current = replace(current, running=True)
            slots.append(
                slot(
                    name,
                    draw(st.sampled_from((1, 10, 28, 100, 256))),
                    serves=state == "serves",
                    held=state == "held",
                    current=current if state == "serves" or draw(st.booleans()) else None,
                    memory_free=draw(memories),
                )
            )
    slots = draw(st.permutations(slots))
    seconds = st.none() | st.floats(0, 1000)
    return snapshot(*slots, load_seconds=draw(seconds), drain_seconds=draw(seconds))


def shares(most: int, *, least: int = 0):
    return st.builds(percent, st.integers(least, 100)) | st.builds(Share, st.integers(least, most))


any_options = st.builds(
    Options,
    canary=shares(13),
    floor=shares(1500) | st.builds(percent, st.floats(0, 100)),
    max_unavailable=shares(13, least=1),
    ramp=st.sampled_from(((100,), (10, 50, 100), (1, 100))),
    soak=st.sampled_from((0.0, 30.0)),
    strategy=st.sampled_from(("auto", "swap", "side-by-side")),
    allow_downtime=st.booleans(),
    memory_margin=st.integers(0, 4096),
)


def outcome(fleet: Snapshot, options: Options) -> Plan | tuple[str, str]:
    try:
        return plan(fleet, options)
    except InputError as error:
        return error.message, error.remedy


@settings(max_examples=examples(100, 400))
@given(fleets(), any_options)
def test_a_plan_is_refused_with_a_remedy_or_keeps_every_promise(fleet, options):
    made = outcome(fleet, options)
    assert outcome(fleet, options) == made
    if not isinstance(made, Plan):
        message, remedy = made
        assert message
        assert remedy
        for possible in named(remedy):
            assert isinstance(outcome(fleet, replace(options, **possible)), Plan)
        return
    keeps_every_promise(made, fleet, options)


def named(remedy: str) -> list[dict[str, Share]]:
    """The options that a remedy gives with a value."""
    words = re.findall(r"--(canary|floor|max-unavailable)(?: to)? ([0-9]+)(%?)", remedy)
    return [{name.replace("-", "_"): Share(int(number), bool(sign))} for name, number, sign in words]


def keeps_every_promise(made: Plan, fleet: Snapshot, options: Options) -> None:
    moved = [move.slot for move in made.moves]
    assert sorted(moved) == sorted(each.name for each in fleet.slots if not each.green)
    assert sorted((*moved, *made.unchanged)) == sorted(each.name for each in fleet.slots)
    assert [wave.number for wave in made.waves] == list(range(1, len(made.waves) + 1))
    serving = {each.name: each.weight for each in fleet.slots if each.serves}
    asked = options.floor.of(sum(serving.values()))
    assert made.floor == (0 if made.downtime else asked)
    assert options.allow_downtime or not made.downtime
    most = max(1, int(options.max_unavailable.of(len(fleet.slots))))
    for wave in made.waves:
        assert wave.slots
        assert sum(name in serving for name in wave.slots) <= most
        for step in wave.steps:
            assert made.downtime or step.ready >= asked
            assert made.downtime or step.ready > 0 or not serving
    kinds = [wave.kind for wave in made.waves]
    canary = options.canary.value > 0 and any(name in serving for name in moved)
    assert kinds[:1] == (["canary"] if canary else kinds[:1])
    assert kinds.count("canary") == canary
    assert not kinds or kinds[-1] == "switch" or kinds == ["canary"]
    assert kinds.count("switch") == (len(kinds) > canary)
    follows_its_steps(made, fleet)


def follows_its_steps(made: Plan, fleet: Snapshot) -> None:
    """The ready weights are those of a fleet to which the steps are done one after the other."""
    weights = {each.name: each.weight for each in fleet.slots}
    ready = {each.name: float(each.weight) for each in fleet.slots if each.serves}
    runs = {each.name for each in fleet.slots if each.current and each.current.running}
    beside: set[str] = set()
    checked: set[str] = set()
    for step in (step for wave in made.waves for step in wave.steps):
        slots = set(step.slots)
        match step.action.split():
            case ["drain"]:
                ready.update(dict.fromkeys(slots, 0.0))
            case ["start", "beside"]:
                assert slots <= runs
                beside |= slots
            case ["stop"]:
                assert slots <= runs
                assert slots <= checked or not any(ready.get(name) for name in slots)
                runs -= slots - checked
            case ["start"]:
                assert not slots & runs
                runs |= slots
            case ["check"]:
                checked |= slots
            case ["ramp", share]:
                assert slots <= checked
                part = int(share.removesuffix("%")) / 100
                ready.update({name: max(1, round(weights[name] * part)) for name in slots})
            case other:
                assert other == ["soak"]
        assert step.ready == sum(ready.values())
    held_ones = {each.name for each in fleet.slots if each.held}
    assert checked == {move.slot for move in made.moves}
    assert beside == {move.slot for move in made.moves if move.strategy is Strategy.SIDE_BY_SIDE}
    for name in checked:
        assert ready.get(name, 0.0) == (0 if name in held_ones else weights[name])


TAKEN = "port 7876 is taken by the container grafana"
MIXED = Options(canary=Share(0), soak=0)


def standing(name: str, port: int, *, free: int = 16000, taken: str = TAKEN) -> SlotNow:
    """A slot whose card has room for two, its container on this port, and its other port taken."""
    return slot(
        name,
        current=replace(container(name, memory=8192), port=port),
        memory_free=free,
        port_taken=taken,
    )


def test_a_slot_whose_second_port_is_taken_is_swapped_and_the_plan_says_why():
    slots = (standing("a-0", 7860), standing("b-0", 7860, taken=""))
    made = plan(Snapshot("shop/model", "sha256:1", slots), MIXED)
    assert {move.slot: move.strategy for move in made.moves} == {
        "a-0": Strategy.SWAP,
        "b-0": Strategy.SIDE_BY_SIDE,
    }
    assert made.notes == (f"a-0 is swapped, not replaced side by side: {TAKEN}",)


def test_side_by_side_is_refused_before_anything_changes_where_the_second_port_is_taken():
    slots = (standing("a-0", 7860), standing("b-0", 7860, taken=""))
    with pytest.raises(InputError, match=f"cannot have its port: a-0: {TAKEN}") as refused:
        plan(Snapshot("shop/model", "sha256:1", slots), replace(MIXED, strategy="side-by-side"))
    assert "slot_port_beside" in refused.value.remedy


@pytest.mark.parametrize("strategy", ["auto", "swap", "side-by-side"])
def test_a_slot_on_its_second_port_cannot_move_where_the_usual_one_is_taken(strategy):
    second = standing("a-0", 7876, taken="port 7860 is taken by a process of the host")
    slots = (second, standing("b-0", 7860, taken=""))
    with pytest.raises(InputError, match="a-0: port 7860 is taken by a process"):
        plan(Snapshot("shop/model", "sha256:1", slots), replace(MIXED, strategy=strategy))


def test_a_taken_second_port_is_nothing_to_a_swap():
    slots = (standing("a-0", 7860), standing("b-0", 7860))
    made = plan(Snapshot("shop/model", "sha256:1", slots), replace(MIXED, strategy="swap"))
    assert made.notes == ()
    assert {move.strategy for move in made.moves} == {Strategy.SWAP}
