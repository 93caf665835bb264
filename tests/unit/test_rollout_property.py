"""Rollouts over model fleets, with faults at random steps, broken off and gone on with, in chains.

The model (tests/unit/rollout_model.py) judges every call by itself. FLEET_SOAK=1 runs ten times as many, at
random; without it every run is the same.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fleet.errors import InputError
from fleet.rollout.model import STEPS, Gates, Options, Share
from fleet.rollout.world import LeaseError
from tests.soaking import SOAK
from tests.unit.rollout_model import Fault, Fleet, Killed

LEAST = 10_000

KINDS = ("serving",) * 8 + ("held", "maint", "empty", "stopped")
SLOTS = st.tuples(st.sampled_from((1, 10, 100, 100, 256)), st.sampled_from(KINDS))
HOSTS = st.lists(st.lists(SLOTS, min_size=1, max_size=4), min_size=1, max_size=3)

OPTIONS = st.builds(
    Options,
    canary=st.sampled_from((Share(0), Share(1), Share(1), Share(50, percent=True))),
    floor=st.sampled_from((0, 25, 50, 50, 75)).map(lambda percent: Share(percent, percent=True)),
    max_unavailable=st.sampled_from((Share(1), Share(2), Share(100, percent=True))),
    rehearsals=st.integers(0, 2),
    ramp=st.sampled_from(((100,), (10, 50, 100), (30, 100))),
    ramp_hold=st.sampled_from((0.0, 3.0, 12.0)),
    soak=st.sampled_from((0.0, 7.0)),
    drain_deadline=st.sampled_from((0.0, 1.0, 60.0)),
    ready_deadline=st.just(30.0),
    retain=st.integers(0, 2),
    allow_downtime=st.sampled_from((False, False, True)),
    keep_partial=st.sampled_from((False, False, True)),
    gates=st.sampled_from((Gates(), Gates(errors=1.0), Gates(requests=3))),
)


@dataclass(frozen=True)
class Chance:
    """A fault before the fleet is known: `pick` chooses what it is about, `when` is a call and which one."""

    when: tuple[str, int]
    step: int
    kind: str
    pick: int
    how: str
    after: int

    def on(self, fleet: Fleet) -> Fault:
        """The fault on this fleet."""
        slots = list(fleet.slots)
        hosts = list(dict.fromkeys(slot.host for slot in fleet.slots.values()))
        balancers = [balancer.name for balancer in fleet.balancers]
        stages = ("before", "after_pull", "canary", "each_wave", "after", "on_failure")
        where = {"no pull": hosts, "host lost": hosts, "host back": hosts, "balancer lost": balancers}
        names = where.get(self.kind, stages if self.kind == "bad stage" else slots)
        how = self.how
        if self.kind != "bad green":
            how = "again" if len(self.how) % 2 else ""
        return Fault(self.step, self.kind, names[self.pick % len(names)], how, self.after, *self.when)


CALLS = (
    *("servers", "drain", "admit", "place", "running", "climb", "golden", "prune", "pause"),
    *(f"record {step}" for step in STEPS),
)
"""Faults that strike at such a call find what lies between two looks far oftener than those at any step."""

KIND = st.sampled_from(
    (
        *("bad green", "bad blue", "slow green", "green dies", "dies", "dies", "dies", "unseen", "no pull"),
        *("host lost", "host lost", "host back", "balancer lost", "bad stage"),
        *("stop", "stop", "kill", "kill", "takeover"),
    )
)


def chances(
    when: st.SearchStrategy[tuple[str, int]], step: st.SearchStrategy[int]
) -> st.SearchStrategy[Chance]:
    """Faults at these moments."""
    return st.builds(
        Chance,
        when=when,
        step=step,
        kind=KIND,
        pick=st.integers(0, 11),
        how=st.sampled_from(("running", "port", "shape", "memory", "golden")),
        after=st.sampled_from((0, 3, 10, 40, 200)),
    )


FAULTS = st.lists(
    st.one_of(
        chances(st.just(("", 1)), st.integers(1, 450)),
        chances(st.tuples(st.sampled_from(CALLS), st.integers(1, 6)), st.integers(1, 3)),
        chances(st.tuples(st.sampled_from(CALLS), st.integers(1, 6)), st.integers(1, 3)),
    ),
    max_size=5,
)


def ended(fleet: Fleet) -> bool:
    """The journal says that nothing more follows."""
    return bool(fleet.journal) and fleet.journal[-1].step in ("finished", "rolled-back")


class Rollouts(RuleBasedStateMachine):
    """One fleet, and the rollouts that follow one another on it."""

    ended = 0

    def __init__(self) -> None:
        super().__init__()
        self.fleet = Fleet(())
        self.open = False
        self.version = 1

    @initialize(hosts=HOSTS, balancers=st.integers(1, 3), rate=st.integers(1, 4))
    def fill(self, hosts: list[list[tuple[int, str]]], balancers: int, rate: int) -> None:
        """A fleet that serves."""
        slots = [
            (f"gpu{host}-{index}", weight, kind)
            for host, each in enumerate(hosts)
            for index, (weight, kind) in enumerate(each)
        ]
        self.fleet = Fleet(slots, balancers, rate)

    @precondition(lambda self: not self.open)
    @rule(options=OPTIONS, faults=FAULTS)
    def upgrade(self, options: Options, faults: list[Chance]) -> None:
        """A new release, where the planner lets it."""
        self.version += 1
        self.fleet.mend()
        try:
            header = self.fleet.begin(f"v{self.version}", options)
        except InputError:
            return
        if header.waves:
            self.open = True
            self._run(faults)

    @precondition(lambda self: self.open)
    @rule(faults=FAULTS)
    def resume(self, faults: list[Chance]) -> None:
        """On with it, from another machine."""
        self._run(faults)

    @precondition(lambda self: self.open)
    @rule(faults=FAULTS)
    def abort(self, faults: list[Chance]) -> None:
        """Back to blue, from another machine."""
        self._run(faults, abort="asked for")

    @precondition(lambda self: self.open)
    @rule()
    def heal(self) -> None:
        """What was broken works again."""
        self.fleet.heal()

    def teardown(self) -> None:
        """Once nothing is broken any more, every rollout comes to an end with one release everywhere."""
        if self.open:
            self.fleet.heal()
            abort = "asked for" if len(self.fleet.journal) % 2 else ""
            lost = self._run((), abort=abort)
            if self.open and self.fleet.journal[-1].detail.get("partial"):
                lost = self._run((), abort="asked for")
            assert not self.open, f"it does not end: {self.fleet.journal[-1]}"
            assert not lost

    def _run(self, faults: list[Chance] | tuple[()], abort: str = "") -> dict[str, str]:
        fleet = self.fleet
        rollout, _ = fleet.rollout([chance.on(fleet) for chance in faults])
        fence = fleet.fence
        try:
            outcome = rollout.run(abort=abort)
        except (Killed, LeaseError) as error:
            if isinstance(error, LeaseError) and fleet.fence == fence:
                raise
            self.open = not ended(fleet)
            return {}
        fleet.check_end(outcome.state, outcome.lost, outcome.cut)
        assert ended(fleet) == (outcome.state in ("finished", "rolled-back"))
        if ended(fleet):
            assert fleet.journal[-1].step == outcome.state
            self.open = False
            Rollouts.ended += 1
        return dict(outcome.lost)


def test_random_faults_break_no_invariant() -> None:
    before, Rollouts.ended = Fleet.total_steps, 0
    run_state_machine_as_test(
        Rollouts,
        settings=settings(
            max_examples=4000 if SOAK else 30,
            stateful_step_count=6,
            deadline=None,
            derandomize=not SOAK,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.explicit, Phase.generate, *(() if os.environ.get("NOSHRINK") else (Phase.shrink,))),
        ),
    )
    steps = Fleet.total_steps - before
    print(f"{steps} steps, {Rollouts.ended} rollouts came to an end")
    assert steps >= LEAST * (10 if SOAK else 1)
    assert Rollouts.ended >= 50
