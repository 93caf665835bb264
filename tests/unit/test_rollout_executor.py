"""Rollouts by example, on a model fleet that judges every call; see tests/unit/rollout_model.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from fleet.rollout.events import Event, Outcome, Soaking
from fleet.rollout.model import Options, Share
from fleet.rollout.world import LeaseError
from tests.soaking import SOAK
from tests.unit.rollout_model import Connection, Fault, Fleet, Killed

HALF = Options(soak=6.0, ready_deadline=60.0)
QUICK = replace(HALF, ramp=(50, 100), ramp_hold=1.0, soak=1.0, rehearsals=1)
ONE_BY_ONE = replace(QUICK, floor=Share(75, percent=True))
DOWN = replace(QUICK, allow_downtime=True)


def four(rate: int = 2, **kinds: str) -> Fleet:
    """Two hosts with two slots each; by name with an underscore, those that do not simply serve."""
    names = ("a-0", "a-1", "b-0", "b-1")
    return Fleet([(name, 100, kinds.get(name.replace("-", "_"), "serving")) for name in names], rate=rate)


def two() -> Fleet:
    return Fleet([("a-0", 100, "serving"), ("b-0", 100, "serving")])


def begin(fleet: Fleet, options: Options, *faults: Fault) -> Outcome:
    """A rollout from its plan to its end, judged."""
    fleet.begin("v2", options)
    return go_on(fleet, *faults)


def go_on(fleet: Fleet, *faults: Fault, abort: str = "") -> Outcome:
    """On with it, from another machine."""
    rollout, _ = fleet.rollout(faults)
    outcome = rollout.run(abort=abort)
    fleet.check_end(outcome.state, outcome.lost, outcome.cut)
    return outcome


def killed(fleet: Fleet, *faults: Fault) -> None:
    """A controller that does not come to its end."""
    with pytest.raises(Killed):
        go_on(fleet, *faults)


def step_of(make: Callable[[], Fleet], options: Options, call: str, nth: int = 1) -> int:
    """The step at which a rollout without faults makes this call the nth time."""
    fleet = make()
    fleet.begin("v2", options)
    return step_in(fleet, call, nth)


def step_in(fleet: Fleet, call: str, nth: int = 1, *faults: Fault, abort: str = "") -> int:
    """The same where faults strike, or for one that is gone on with. The fleet is used up."""
    rollout, world = fleet.rollout(faults)
    rollout.run(abort=abort)
    return [step for step, name in world.called if name == call][nth - 1]


def releases(fleet: Fleet) -> dict[str, str]:
    """What runs, by slot."""
    return {
        name: slot.current.release
        for name, slot in fleet.slots.items()
        if slot.current and slot.current.running
    }


def ready(fleet: Fleet) -> int:
    """The weight that takes jobs, on the balancer with the least."""
    return min(sum(weights.values()) for weights in fleet.ready().values())


ALL_BLUE = dict.fromkeys(("a-0", "a-1", "b-0", "b-1"), "v1")
ALL_GREEN = dict.fromkeys(ALL_BLUE, "v2")


def test_four_slots_go_as_canary_wave_and_switch_with_a_ramp_and_a_soak() -> None:
    fleet = four()

    outcome = begin(fleet, HALF)

    assert outcome.state == "finished"
    assert [
        f"{e.step} {' '.join(e.slots)} {e.detail.get('percent', '')}".strip() for e in outcome.entries
    ] == [
        "pulled",
        "draining a-0",
        "drained a-0",
        "moving a-0",
        "ready a-0",
        "ramped a-0 10",
        "ramped a-0 50",
        "ramped a-0 100",
        "accepted a-0",
        "draining a-1 b-0",
        "drained a-1 b-0",
        "moving a-1",
        "ready a-1",
        "moving b-0",
        "ready b-0",
        "ramped a-1 b-0 10",
        "ramped a-1 b-0 50",
        "ramped a-1 b-0 100",
        "accepted a-1 b-0",
        "draining b-1",
        "drained b-1",
        "soaked",
        "moving b-1",
        "ready b-1",
        "ramped b-1 10",
        "ramped b-1 50",
        "ramped b-1 100",
        "accepted b-1",
        "finished",
    ]
    assert releases(fleet) == ALL_GREEN
    assert ready(fleet) == 400
    assert not fleet.lost_jobs
    assert fleet.served > 100
    assert all([kept.release for kept in slot.kept] == ["v1"] for slot in fleet.slots.values())


def test_an_image_is_pulled_everywhere_before_anything_is_touched_and_stages_run_in_order() -> None:
    fleet = four()
    fleet.begin("v2", HALF)
    rollout, world = fleet.rollout()
    rollout.run()

    calls = [name for _, name in world.called]
    mine = [name for name in calls if name.split()[0] in ("pull", "stage", "drain", "prune")]

    assert mine == [
        "stage before",
        "pull a",
        "pull b",
        "stage after_pull",
        "drain",
        "stage canary",
        "stage each_wave",
        "drain",
        "stage each_wave",
        "drain",
        "stage each_wave",
        "stage after",
        "prune a",
        "prune b",
    ]
    assert calls.index("prune a") > calls.index("record finished")


@pytest.mark.parametrize("rung", ["running", "port", "shape", "memory", "golden"])
@pytest.mark.parametrize("slot", ["a-0", "b-0", "b-1"])
def test_a_rung_that_is_not_reached_takes_every_slot_back_to_blue(slot: str, rung: str) -> None:
    fleet = four()

    outcome = begin(fleet, HALF, Fault(1, "bad green", slot, rung))

    assert (outcome.state, outcome.rung, outcome.failed_slot) == ("rolled-back", rung, slot)
    assert outcome.log
    assert not outcome.lost
    assert releases(fleet) == ALL_BLUE
    assert ready(fleet) == 400
    assert not fleet.lost_jobs


def test_a_green_whose_golden_translation_takes_too_long_gets_no_traffic() -> None:
    fleet = four()

    outcome = begin(fleet, HALF, Fault(1, "slow green", "a-0"))

    assert (outcome.state, outcome.rung, outcome.failed_slot) == ("rolled-back", "golden", "a-0")
    assert "ramped" not in {entry.step for entry in outcome.entries}
    assert releases(fleet) == ALL_BLUE


def test_a_green_that_becomes_slow_under_traffic_fails_the_gate_for_time() -> None:
    options = replace(HALF, ramp=(50, 100), ramp_hold=60.0)
    step = step_of(lambda: four(rate=6), options, "record ramped")
    fleet = four(rate=6)

    outcome = begin(fleet, options, Fault(step, "slow green", "a-0"))

    assert (outcome.state, outcome.rung, outcome.failed_slot) == ("rolled-back", "time", "a-0")
    assert outcome.log == "the log of a-0"
    assert releases(fleet) == ALL_BLUE
    assert not fleet.lost_jobs


@pytest.mark.parametrize("how", ["", "again"])
@pytest.mark.parametrize("slot", ["a-0", "a-1", "b-1"])
def test_a_green_that_dies_after_some_jobs_takes_every_slot_back(slot: str, how: str) -> None:
    fleet = four(rate=6)

    outcome = begin(fleet, HALF, Fault(1, "green dies", slot, how, after=3))

    assert (outcome.state, outcome.failed_slot) == ("rolled-back", slot)
    assert outcome.rung in ("errors", "running")
    assert releases(fleet) == ALL_BLUE
    assert set(fleet.lost_jobs) <= {"died"}


def test_who_goes_on_has_the_hosts_pull_that_are_not_done_yet() -> None:
    """Somebody may have cleared images away meanwhile."""
    fleet = four()
    fleet.begin("v2", HALF)
    killed(fleet, Fault(step_of(four, HALF, "place b-1 green"), "kill"))
    rollout, world = fleet.rollout()

    assert rollout.run().state == "finished"

    calls = [name for _, name in world.called]
    mine = [name for name in calls if name.split()[0] in ("bring", "pull", "place")]
    assert mine == ["bring b", "pull b", "place b-1 green"]
    assert not {"stage before", "stage after_pull", "record pulled"} & set(calls)


def test_a_pull_that_fails_on_one_host_touches_nothing() -> None:
    fleet = four()

    outcome = begin(fleet, HALF, Fault(1, "no pull", "b"))

    assert outcome.state == "rolled-back"
    assert outcome.reason == "b: the registry does not give it"
    assert not any(slot.touched for slot in fleet.slots.values())
    assert releases(fleet) == ALL_BLUE


def test_a_host_lost_in_the_middle_of_a_wave_is_given_up_and_the_others_go_back() -> None:
    step = step_of(four, HALF, "place b-0 green")
    fleet = four()

    outcome = begin(fleet, HALF, Fault(step, "host lost", "b"))

    assert outcome.state == "rolled-back"
    assert "b does not answer" in outcome.reason
    assert set(outcome.lost) == {"b-0"}
    assert {name: release for name, release in releases(fleet).items() if name[0] == "a"} == {
        "a-0": "v1",
        "a-1": "v1",
    }
    assert ready(fleet) == 200
    assert set(fleet.lost_jobs) <= {"host"}


def test_a_balancer_that_is_away_for_a_while_is_waited_for() -> None:
    step = step_of(four, HALF, "admit")

    outcome = begin(four(), HALF, Fault(step, "balancer lost", "lb0", after=40))

    assert outcome.state == "finished"


@pytest.mark.parametrize("call", ["drain", "admit", "record moving", "record finished", "servers"])
def test_a_balancer_that_stays_away_stops_it_and_it_can_be_gone_on_with(call: str) -> None:
    step = step_of(four, HALF, call)
    fleet = four()

    outcome = begin(fleet, HALF, Fault(step, "balancer lost", "lb0"))

    assert outcome.state == "stopped"
    assert outcome.reason == "a balancer cannot be told: lb0 does not answer"
    fleet.heal()
    assert go_on(fleet).state == "finished"
    assert releases(fleet) == ALL_GREEN


def test_a_blue_that_does_not_come_up_again_is_given_up_and_the_others_go_back() -> None:
    fleet = four()

    outcome = begin(fleet, HALF, Fault(1, "bad blue", "a-1"), Fault(1, "bad green", "b-0", "shape"))

    assert (outcome.state, outcome.rung, outcome.failed_slot) == ("rolled-back", "shape", "b-0")
    assert outcome.lost == {"a-1": "a-1: golden is not as it must be"}
    assert ready(fleet) == 300


@pytest.mark.parametrize("stage", ["before", "after_pull", "canary", "each_wave"])
def test_a_stage_that_fails_takes_every_slot_back(stage: str) -> None:
    fleet = four()

    outcome = begin(fleet, HALF, Fault(1, "bad stage", stage))

    assert (outcome.state, outcome.reason) == ("rolled-back", f"the stage {stage} failed")
    assert releases(fleet) == ALL_BLUE
    assert ready(fleet) == 400


def test_the_last_stages_can_fail_without_harm() -> None:
    fleet = four()
    outcome = begin(fleet, HALF, Fault(1, "bad stage", "after"))
    assert outcome.state == "finished"
    assert outcome.notes == ("the stage `after` failed: the stage after failed",)

    fleet = four()
    outcome = begin(fleet, HALF, Fault(1, "bad stage", "on_failure"), Fault(1, "bad green", "a-0", "shape"))
    assert outcome.state == "rolled-back"
    assert outcome.notes == ("the stage `on_failure` failed: the stage on_failure failed",)


def test_asked_once_to_stop_it_lets_drained_blue_serve_again_and_can_be_gone_on_with() -> None:
    step = step_of(four, HALF, "drain", 2)
    fleet = four()

    outcome = begin(fleet, HALF, Fault(step + 2, "stop"))

    assert (outcome.state, outcome.reason) == ("stopped", "an operator stopped it")
    assert [entry.step for entry in outcome.entries][-3:] == ["draining", "restored", "stopped"]
    assert releases(fleet) == {**ALL_BLUE, "a-0": "v2"}
    assert ready(fleet) == 400
    assert go_on(fleet).state == "finished"


def test_asked_to_stop_in_the_soak_blue_serves_again() -> None:
    step = step_of(four, HALF, "record soaked")
    fleet = four()

    outcome = begin(fleet, HALF, Fault(step - 3, "stop"))

    assert outcome.state == "stopped"
    assert ready(fleet) == 400
    assert releases(fleet) == {**ALL_GREEN, "b-1": "v1"}
    assert go_on(fleet, abort="asked for").state == "rolled-back"
    assert releases(fleet) == ALL_BLUE


def test_asked_twice_to_stop_it_goes_back_to_blue() -> None:
    step = step_of(four, HALF, "climb b-0 green")
    fleet = four()

    outcome = begin(fleet, HALF, Fault(step, "stop"), Fault(step, "stop"))

    assert (outcome.state, outcome.reason) == ("rolled-back", "an operator aborted it")
    assert releases(fleet) == ALL_BLUE
    assert ready(fleet) == 400


@pytest.mark.parametrize("call", ["record restored", "record stopped"])
def test_asked_again_while_it_already_stops_it_goes_back_to_blue_still(call: str) -> None:
    step = step_of(four, HALF, "drain", 2)
    fleet = four()

    outcome = begin(fleet, HALF, Fault(step + 2, "stop"), Fault(1, "stop", call=call))

    assert (outcome.state, outcome.reason) == ("rolled-back", "an operator aborted it")
    assert releases(fleet) == ALL_BLUE
    assert ready(fleet) == 400


def test_keep_partial_leaves_accepted_slots_green_and_resume_tries_the_others_again() -> None:
    fleet = four()

    outcome = begin(fleet, replace(HALF, keep_partial=True), Fault(1, "bad green", "b-0", "shape"))

    assert (outcome.state, outcome.failed_slot) == ("stopped", "b-0")
    assert releases(fleet) == {**ALL_BLUE, "a-0": "v2"}
    assert ready(fleet) == 400
    fleet.heal()
    assert go_on(fleet).state == "finished"
    assert releases(fleet) == ALL_GREEN


def test_an_abort_takes_back_what_keep_partial_kept_even_when_it_is_broken_off() -> None:
    options = replace(QUICK, keep_partial=True)
    fleet = four()
    begin(fleet, options, Fault(1, "bad green", "b-1", "shape"))
    assert releases(fleet) == {**ALL_GREEN, "b-1": "v1"}

    with pytest.raises(Killed):
        go_on(fleet, Fault(12, "kill"), abort="asked for")
    outcome = go_on(fleet)

    assert (outcome.state, outcome.reason) == ("rolled-back", "asked for")
    assert releases(fleet) == ALL_BLUE


def test_keep_partial_does_not_keep_a_green_that_died() -> None:
    fleet = four()

    outcome = begin(fleet, replace(HALF, keep_partial=True), Fault(1, "green dies", "a-0", after=30))

    assert outcome.failed_slot == "a-0"
    assert releases(fleet)["a-0"] == "v1"
    assert ready(fleet) == 400


@pytest.mark.parametrize("kind", ["held", "maint"])
def test_slots_that_an_operator_holds_are_replaced_and_stay_held(kind: str) -> None:
    fleet = four(a_0=kind, b_1=kind)
    outcome = begin(fleet, HALF)
    assert outcome.state == "finished", outcome.reason
    assert releases(fleet) == ALL_GREEN
    assert ready(fleet) == 200

    fleet = four(a_0=kind, b_1=kind)
    outcome = begin(fleet, HALF, Fault(1, "bad green", "b-0", "shape"))
    assert outcome.state == "rolled-back"
    assert releases(fleet) == ALL_BLUE
    assert ready(fleet) == 200


def test_a_slot_without_a_container_serves_in_the_end_or_has_none_again() -> None:
    fleet = four(b_1="empty")
    assert begin(fleet, HALF).state == "finished"
    assert releases(fleet) == ALL_GREEN
    assert ready(fleet) == 400

    fleet = four(b_1="empty")
    assert begin(fleet, HALF, Fault(1, "bad green", "b-0", "shape")).state == "rolled-back"
    assert releases(fleet) == {"a-0": "v1", "a-1": "v1", "b-0": "v1"}
    assert ready(fleet) == 300


def test_a_wave_for_which_too_little_is_ready_is_not_begun() -> None:
    step = step_of(four, ONE_BY_ONE, "record ramped")
    fleet = four()

    outcome = begin(fleet, ONE_BY_ONE, Fault(step, "host lost", "b"))

    assert outcome.state == "rolled-back"
    assert "only 100 of the ready weight would be left on lb0, the floor is 300" in outcome.reason
    assert "out are b-0" in outcome.reason
    assert {name: release for name, release in releases(fleet).items() if name[0] == "a"} == {
        "a-0": "v1",
        "a-1": "v1",
    }


def test_jobs_that_are_cut_at_the_deadline_are_counted() -> None:
    fleet = four(rate=8)

    outcome = begin(fleet, replace(HALF, drain_deadline=0.0))

    assert outcome.state == "finished"
    assert sum(outcome.cut.values()) == fleet.lost_jobs["cut"] > 0
    assert set(fleet.lost_jobs) == {"cut"}


def test_one_slot_goes_down_only_where_that_is_allowed() -> None:
    fleet = Fleet([("a-0", 100, "serving")])

    assert begin(fleet, DOWN).state == "finished"
    assert releases(fleet) == {"a-0": "v2"}

    fleet = Fleet([("a-0", 100, "serving")])
    assert begin(fleet, DOWN, Fault(1, "bad green", "a-0", "golden")).state == "rolled-back"
    assert releases(fleet) == {"a-0": "v1"}


@pytest.mark.parametrize("call", ["place a-1 green", "drain", "admit", "record moving", "stage canary"])
def test_whoever_lost_the_lease_changes_nothing_any_more(call: str) -> None:
    step = step_of(four, HALF, call)
    fleet = four()
    fleet.begin("v2", HALF)
    rollout, _ = fleet.rollout((Fault(step, "takeover"),))

    with pytest.raises(LeaseError):
        rollout.run()

    assert go_on(fleet, abort="another operator's wish").state == "rolled-back"
    assert releases(fleet) == ALL_BLUE


def test_a_lease_lost_when_it_stops_is_told() -> None:
    step = step_of(four, HALF, "place a-0 green")
    fleet = four()
    fleet.begin("v2", HALF)
    rollout, _ = fleet.rollout((Fault(step, "takeover"), Fault(step, "stop")))

    with pytest.raises(LeaseError):
        rollout.run()


SMALL = {
    "four": (lambda: four(rate=1), QUICK),
    "mixed": (lambda: four(1, a_0="held", b_1="empty"), replace(QUICK, retain=0)),
    "one": (lambda: Fleet([("a-0", 100, "serving")], balancers=2), DOWN),
    "partial": (lambda: four(rate=1), replace(QUICK, keep_partial=True)),
}
TRIED = SMALL if SOAK else ("four", "one")
EACH = 1 if SOAK else 2
"""Every so many steps are tried."""


@pytest.mark.parametrize("name", TRIED)
@pytest.mark.parametrize("abort", ["", "asked for"], ids=["resume", "abort"])
def test_killed_at_every_single_step_it_can_be_gone_on_with(name: str, abort: str) -> None:
    make, options = SMALL[name]
    ends = 0
    for step in range(1, 2000, EACH):
        fleet = make()
        fleet.begin("v2", options)
        try:
            go_on(fleet, Fault(step, "kill"))
            break
        except Killed:
            pass
        if fleet.journal and fleet.journal[-1].step == "finished":
            continue
        outcome = go_on(fleet, abort=abort)
        assert outcome.state == ("rolled-back" if abort else "finished"), step
        assert not outcome.lost
        assert not fleet.lost_jobs or options.allow_downtime
        ends += 1
    assert ends > 50 / EACH


@pytest.mark.parametrize("name", TRIED)
def test_killed_at_every_single_step_of_the_way_back_it_still_gets_there(name: str) -> None:
    make, options = SMALL[name]
    last = list(make().slots)[-1]
    began, ends = 0, 0
    for step in range(1, 2000, EACH):
        fleet = make()
        fleet.begin("v2", options)
        try:
            go_on(fleet, Fault(1, "bad green", last, "golden"), Fault(step, "kill"))
            break
        except Killed:
            pass
        if not any(entry.step == "rolling-back" for entry in fleet.journal):
            continue
        began += 1
        if fleet.journal[-1].step in ("rolled-back", "stopped"):
            continue
        outcome = go_on(fleet)
        assert outcome.state == ("stopped" if options.keep_partial else "rolled-back"), step
        assert not outcome.lost
        ends += 1
    assert began >= ends > 20 / EACH


def test_a_green_that_died_goes_back_before_the_last_one_that_serves() -> None:
    options = replace(QUICK, ramp_hold=20.0)
    step = step_of(two, options, "record ramped", 4)
    fleet = two()

    outcome = begin(fleet, options, Fault(step + 1, "dies", "a-0"), Fault(step + 8, "dies", "a-0"))

    assert outcome.state == "rolled-back"
    assert releases(fleet) == {"a-0": "v1", "b-0": "v1"}
    assert "nobody served" not in fleet.lost_jobs


def test_the_last_one_that_serves_is_not_taken_back_while_its_fellow_is_lost() -> None:
    options = replace(QUICK, ramp_hold=20.0)
    step = step_of(two, options, "record ramped", 4)
    fleet = two()

    outcome = begin(fleet, options, Fault(step, "host lost", "a"))

    assert outcome.state == "stopped"
    assert "nobody would serve without b-0" in outcome.reason
    assert ready(fleet) > 0
    fleet.heal()
    assert go_on(fleet).state == "rolled-back"
    assert releases(fleet) == {"a-0": "v1", "b-0": "v1"}


def test_a_blue_that_was_started_anew_while_it_was_drained_is_checked_before_it_serves() -> None:
    step = step_of(four, HALF, "record soaked") - 2
    fleet = four()

    outcome = begin(fleet, HALF, Fault(step, "dies", "b-1", "again"), Fault(step + 1, "stop"))

    assert outcome.state == "stopped"
    assert fleet.ready()["lb0"]["b-1"] == 0
    assert go_on(fleet, abort="asked for").state == "rolled-back"
    assert ready(fleet) == 400


def test_a_green_that_starts_anew_between_its_rungs_and_the_last_look_is_checked_again() -> None:
    look = step_of(four, QUICK, "running a-0", 2)
    fleet = four()
    fleet.begin("v2", QUICK)
    rollout, world = fleet.rollout((Fault(look, "dies", "a-0", "again"),))

    outcome = rollout.run()

    fleet.check_end(outcome.state, outcome.lost, outcome.cut)
    assert outcome.state == "finished"
    assert [name for _, name in world.called].count("climb a-0 green") == 2


def test_going_on_does_not_take_weight_from_slots_that_had_it() -> None:
    options = replace(HALF, ramp_hold=1.0)
    fleet = four()
    fleet.begin("v2", options)
    killed(fleet, Fault(step_of(four, options, "record accepted"), "kill"))
    lowest: list[int] = []
    rollout, world = fleet.rollout()
    admit = world.admit

    def watched(weights: dict[str, int]) -> None:
        admit(weights)
        if "a-0" in weights:
            lowest.append(fleet.ready()["lb0"]["a-0"])

    world.admit = watched  # type: ignore[method-assign,assignment]

    assert rollout.run().state == "finished"
    assert lowest == [100, 100, 100]


def test_a_host_lost_just_before_its_slots_serve_again_does_not_keep_the_others_out() -> None:
    fault = Fault(1, "bad green", "b-0", "shape")
    fleet = four()
    fleet.begin("v2", HALF)
    step = step_in(fleet, "admit", 4, fault)
    fleet = four()

    outcome = begin(fleet, HALF, fault, Fault(step, "host lost", "b"))

    assert outcome.state == "rolled-back"
    assert set(outcome.lost) == {"b-0"}
    assert fleet.ready()["lb0"] == {"a-0": 100, "a-1": 100, "b-0": 0, "b-1": 0}


def test_a_soak_says_for_how_long_before_it_begins() -> None:
    fleet = four()
    fleet.begin("v2", HALF)
    rollout, _ = fleet.rollout(())
    heard: list[Event] = []
    rollout._listen = heard.append
    rollout.run()
    assert [event for event in heard if isinstance(event, Soaking)] == [Soaking(6.0)]


def test_a_soak_does_not_mind_a_slot_in_maintenance() -> None:
    fleet = four(a_0="maint")

    outcome = begin(fleet, replace(QUICK, soak=12.0))

    assert outcome.state == "finished", outcome.reason


def test_a_fleet_that_served_nobody_goes_back_to_that() -> None:
    fleet = Fleet([("a-0", 100, "empty")])
    fleet.begin("v2", QUICK)
    killed(fleet, Fault(1, "kill", call="record accepted"))

    assert go_on(fleet, abort="asked for").state == "rolled-back"
    assert releases(fleet) == {}


def test_a_green_that_started_anew_since_is_replaced_again_when_it_is_gone_on_with() -> None:
    fleet = four()
    fleet.begin("v2", QUICK)
    killed(fleet, Fault(1, "kill", call="record draining", nth=2))
    fleet.die(fleet.slots["a-0"], again=True)

    assert go_on(fleet).state == "finished"
    assert [e.slots for e in fleet.journal if e.step == "ready"].count(("a-0",)) == 2


def test_a_green_that_started_anew_since_is_found_before_another_slot_is_drained() -> None:
    fleet = four()

    outcome = begin(fleet, QUICK, Fault(1, "dies", "a-0", "again", call="stage each_wave"))

    assert (outcome.state, outcome.rung, outcome.failed_slot) == ("rolled-back", "running", "a-0")
    assert not fleet.slots["a-1"].touched


def test_a_blue_that_starts_anew_after_its_rungs_on_the_way_back_does_not_serve() -> None:
    fleet = four()
    faults = (
        Fault(1, "bad green", "a-0", "shape"),
        Fault(2, "dies", "a-0", "again", call="record ready"),
    )

    outcome = begin(fleet, QUICK, *faults)

    assert outcome.state == "rolled-back"
    assert set(outcome.lost) == {"a-0"}
    assert ready(fleet) == 300


def test_a_blue_that_started_anew_while_no_controller_was_there_is_checked_before_it_serves() -> None:
    fleet = four()
    fleet.begin("v2", QUICK)
    killed(fleet, Fault(1, "kill", call="record drained", nth=2))
    fleet.die(fleet.slots["a-1"], again=True)

    outcome = go_on(fleet, Fault(1, "stop", call="drain"))

    assert outcome.state == "stopped"
    assert fleet.ready()["lb0"] == {"a-0": 100, "a-1": 0, "b-0": 100, "b-1": 100}


def test_the_floor_is_kept_on_the_balancer_that_sees_the_least() -> None:
    fleet = Fleet([(name, 100, "serving") for name in ALL_BLUE], balancers=2)

    outcome = begin(fleet, ONE_BY_ONE, Fault(1, "unseen", "b-0", call="record pulled"))

    assert outcome.state == "rolled-back"
    assert "only 200 of the ready weight would be left on lb1, the floor is 300" in outcome.reason


def test_the_worlds_calls_are_counted() -> None:
    fleet = four()
    fleet.begin("v2", QUICK)
    rollout, world = fleet.rollout()
    rollout.run()

    steps: Sequence[int] = [step for step, _ in world.called]

    assert isinstance(world, Connection)
    assert list(steps) == sorted(steps)
    assert world.steps >= steps[-1] > 100


def test_where_blue_comes_up_nowhere_any_more_green_is_not_given_for_it() -> None:
    later = step_of(four, HALF, "golden a-0") + 1
    blues = [Fault(later, "bad blue", slot) for slot in ("a-0", "a-1", "b-0", "b-1")]
    fleet = four()

    outcome = begin(fleet, HALF, *blues, Fault(1, "bad green", "b-1", "shape"))

    assert outcome.state == "stopped"
    assert "stay green" in outcome.reason
    assert set(outcome.lost) == {"b-1"}
    assert ready(fleet) == 300
    fleet.heal()
    assert go_on(fleet).state == "finished"


def test_a_blue_that_could_not_translate_before_need_not_to_serve_again() -> None:
    blues = [Fault(1, "bad blue", slot) for slot in ("a-0", "a-1", "b-0", "b-1")]
    fleet = four()

    outcome = begin(fleet, HALF, *blues, Fault(1, "bad green", "b-1", "shape"))

    assert (outcome.state, outcome.lost) == ("rolled-back", {})
    assert ready(fleet) == 400


def test_only_slots_that_were_green_before_are_soaked_beside_those_of_the_rollout() -> None:
    fleet = four()
    fleet.begin("v2", HALF)
    assert fleet.header is not None
    fleet.header = replace(fleet.header, waves=(("a-0",),), origins=fleet.header.origins[:1])
    rollout, world = fleet.rollout(())

    rollout.run()

    # The other slots serve, and are blue: there is nothing to soak.
    assert "soaked" not in [entry.step for entry in rollout.progress.entries]
    assert not [name for _, name in world.called if name.startswith("golden b")]
