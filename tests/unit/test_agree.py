"""Balancers that were told different things about a slot are found out."""

from __future__ import annotations

from fleet.balancer.agree import disagreements
from fleet.balancer.stats import Admin, BalancerState, ServerState


def state(**slots: tuple[str, int]) -> BalancerState:
    """A balancer with these slots: name -> admin state and weight."""
    servers = tuple(
        ServerState("work", name.replace("_", "-"), "UP", Admin(admin), weight, 10)
        for name, (admin, weight) in slots.items()
    )
    shadows = tuple(ServerState("tabs", s.name, "UP", Admin.READY, 1, 1) for s in servers)
    return BalancerState("3.0", "hash", 1, 1, servers + shadows)


def found(**states: BalancerState) -> list[tuple[str, str]]:
    named = {name.replace("_", "-"): state for name, state in states.items()}
    return [(d.slot, str(d)) for d in disagreements(named)]


def test_balancers_that_say_the_same_agree() -> None:
    one = state(gpu_01_0=("ready", 10), gpu_01_1=("drain", 5))
    assert found(lb_01=one, lb_02=one) == []
    assert found(lb_01=one) == []
    assert disagreements({}) == []


def test_another_state_is_told_with_everyone_who_says_so() -> None:
    drained, ready = state(gpu_01_0=("drain", 10)), state(gpu_01_0=("ready", 10))
    assert found(lb_01=drained, lb_02=ready, lb_03=drained) == [
        ("gpu-01-0", "state is drain on lb-01 and lb-03, ready on lb-02")
    ]


def test_another_weight_counts_where_all_let_it_take_jobs() -> None:
    light, heavy = state(gpu_01_0=("ready", 3)), state(gpu_01_0=("ready", 10))
    assert found(lb_01=light, lb_02=heavy) == [("gpu-01-0", "weight is 3 on lb-01, 10 on lb-02")]
    drained = state(gpu_01_0=("drain", 3)), state(gpu_01_0=("drain", 10))
    assert found(lb_01=drained[0], lb_02=drained[1]) == []


def test_a_slot_that_one_does_not_have_is_not_its_business() -> None:
    both, one = state(gpu_01_0=("ready", 1), gpu_02_0=("maint", 1)), state(gpu_01_0=("ready", 1))
    assert found(lb_01=one, lb_02=both) == []
