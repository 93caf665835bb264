"""Carries a rollout out: wave by wave to green, and back to blue when something is not as it must be.

The journal says what is done; what runs is looked at, never remembered. So the same code begins a rollout and
goes on with one whose controller died: whatever is already as it should be costs a look and no more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fleet.engine.hostrun import internal
from fleet.errors import FleetError
from fleet.rollout.acting import MAX_AT_ONCE, BalancerError
from fleet.rollout.events import Outcome, Soaking
from fleet.rollout.model import Strategy
from fleet.rollout.stopping import Interrupted
from fleet.rollout.way_back import WayBack
from fleet.rollout.world import GateError, LeaseError


class Rollout(WayBack):
    """One rollout, from where its journal stands to its end. Use `run` once."""

    def run(self, *, abort: str = "") -> Outcome:
        """To its end: green, or blue where a rung or a gate fails; with `abort` (the reason) back to blue.

        Never raises for what can happen to hosts; LeaseError where another operator has taken over.
        """
        try:
            if abort or self.progress.rolling_back:
                return self._back(abort or self.progress.rolling_back, abort=bool(abort))
            return self._forward()
        except BalancerError as error:
            self._failure = error
            return self._stopped(f"a balancer cannot be told: {error.message}")
        except LeaseError:
            raise
        except Exception as bug:
            # The fleet serves on, and an operator can go on or back: better than an exit with nothing said.
            self._failure = bug if isinstance(bug, FleetError) else internal("the rollout", bug)
            return self._stopped(self._failure.message)

    def _forward(self) -> Outcome:
        try:
            self._check()
            self._prepare()
            for number, slots in enumerate(self.header.waves, 1):
                todo = [slot for slot in slots if slot not in self.progress.accepted]
                if todo:
                    self._wave(number, todo)
            self._all_green()
            self._finish()
            return self._end("finished")
        except Interrupted:
            return self._interrupted()
        except (LeaseError, BalancerError):
            raise
        except FleetError as error:
            if isinstance(error, GateError) and error.slot:
                error.output = self._log(error.slot)
            self._failure = error
            return self._back(error.message)

    def _prepare(self) -> None:
        self._forget_what_changed()
        first = not self.progress.pulled
        if first:
            self.world.stage("before", self._variables())
        # Who goes on does it, too: images may have been cleared away since.
        done = self.progress.accepted | self.progress.admitted
        hosts = list(dict.fromkeys(each.host for each in self.header.origins if each.slot not in done))
        self.world.bring(hosts, self._say_or_stop)
        self._each(hosts, lambda host: self.world.pull(host, self._say_or_stop))
        if first:
            self._record("pulled")
            self.world.stage("after_pull", self._variables())

    def _wave(self, number: int, slots: Sequence[str]) -> None:
        last = number == len(self.header.waves)
        going = [slot for slot in slots if slot not in self.progress.admitted]
        if going:
            self._stand_beside(number, going)
            self._out(number, going)
            if number == 1:
                self._gate.baseline(going)
            if last and not self.progress.soaked and (green := self._green_serving()):
                self._soak(number, green)
            self._to_green(number, going)
        self._ramp(number, slots)
        self._record("accepted", slots, number)
        self._phase(slots, "green")
        variables = self._variables(number, slots)
        if number == 1 and not last:
            self.world.stage("canary", variables)
        self.world.stage("each_wave", variables)

    def _stand_beside(self, number: int, slots: Sequence[str]) -> None:
        """Where both have room, green has climbed every rung beside blue before blue is drained."""

        def stand(slot: str) -> None:
            self._record("beside", (slot,), number)
            self.world.beside(slot, self._say_or_stop)
            golden = self.world.climb(
                slot, "green", self.options.ready_deadline, self._say_or_stop, 1 + self.options.rehearsals
            )
            self._gate.compare(slot, golden)

        self._check()
        side = [s for s in slots if self.header.origin(s).strategy is Strategy.SIDE_BY_SIDE]
        self._each([slot for slot in side if slot not in self.progress.moved], stand)

    def _out(self, number: int, slots: Sequence[str]) -> None:
        """No jobs are left on the slots, and the floor is kept."""
        self._check()
        self._room.make(slots)
        self._record("draining", slots, number, runs=self._blue_runs(slots))
        self._phase(slots, "draining")
        began = self.world.clock()
        cut = self.world.drain(slots, self.options.drain_deadline, self._say_or_stop)
        self._record(
            "drained",
            slots,
            number,
            cut={slot: jobs for slot, jobs in cut.items() if jobs},
            seconds=round(self.world.clock() - began, 3),
        )
        self._phase(slots, "drained")

    def _blue_runs(self, slots: Sequence[str]) -> Mapping[str, str]:
        """Which run of blue's container serves before a slot is touched: that one may serve again.

        So may whatever is there where an operator holds the slot: it gets no jobs. What was accepted is
        looked at in passing: it must be there still.
        """
        runs: dict[str, str] = {}
        known = {server.slot for server in self._room.servers if server.takes_jobs}
        known |= {origin.slot for origin in self.header.origins if origin.held}
        mine = [slot for slot in slots if slot in known - self.progress.touched]
        green = self._accepted_serving()

        def look(slot: str) -> None:
            run = self.world.running(slot)
            if slot in green:
                self._check_run(slot, run)
            elif run is not None:
                runs[slot] = run[0]

        self._each([*green, *mine], look)
        return {slot: runs[slot] for slot in slots if slot in runs}

    def _green_serving(self) -> list[str]:
        """Slots that run green and serve: accepted ones, and those that were green before it began."""
        serving = {server.slot for server in self.world.servers() if server.takes_jobs}
        known = [*self._accepted_serving(), *self.header.unchanged]
        return [slot for slot in known if slot in serving]

    def _soak(self, number: int, green: Sequence[str]) -> None:
        """All traffic is green's; blue still runs, so that going back is only a word to the balancers."""
        if self.options.soak > 0:
            self._listen(Soaking(self.options.soak))
            self._gate.hold(green, (), self.options.soak)
        self._record("soaked", (), number)

    def _to_green(self, number: int, slots: Sequence[str]) -> None:
        self._check()
        self._each(slots, lambda slot: self._exchange(slot, number, "green"))

    def _ramp(self, number: int, slots: Sequence[str]) -> None:
        serving = [slot for slot in slots if not self.header.origin(slot).held]
        for percent in self.options.ramp if serving else ():
            self._check()
            others = self._others(slots)
            before = self._gate.sample()
            # What was let take more already keeps it: less of it could be less than the floor.
            weights = {server.slot: 0 for server in before}
            for server in before:
                if server.takes_jobs:
                    weights[server.slot] = max(weights[server.slot], server.weight)
            self._same_runs(serving)
            self._phase(serving, "ramping")
            self.world.admit(
                {
                    slot: max(1, round(self.header.origin(slot).weight * percent / 100), weights.get(slot, 0))
                    for slot in serving
                }
            )
            self._record("ramped", serving, number, percent=percent)
            if self.options.ramp_hold > 0 and len(self.options.ramp) > 1:
                self._gate.hold(serving, others, self.options.ramp_hold, before)

    def _others(self, slots: Sequence[str]) -> tuple[str, ...]:
        """Slots that are blue and serve: what green is compared with."""
        done = self.progress.accepted | self.progress.admitted | set(slots)
        return tuple(
            origin.slot for origin in self.header.origins if origin.slot not in done and not origin.held
        )

    def _all_green(self) -> None:
        """What was accepted must still be there; a container that died since goes back with all others."""
        self._same_runs(self._accepted_serving())

    def _finish(self) -> None:
        try:
            self.world.stage("after", self._variables())
        except FleetError as error:
            self._notes.append(f"the stage `after` failed: {error.message}")
        self._record("finished")
        # Only now: as long as somebody may abort, blue's containers are needed.
        for host in dict.fromkeys(origin.host for origin in self.header.origins):
            try:
                self.world.prune(host, self.options.retain)
            except FleetError as error:
                self._notes.append(f"old containers and images were not all removed: {error.message}")

    def _interrupted(self) -> Outcome:
        if self.wish.abort:
            return self._back("an operator aborted it", abort=True)
        self._readmit_blue()
        stopped = None if self.wish.abort else self._stopped("an operator stopped it")
        # Asked again meanwhile, perhaps while that was written down: going back is gone on with from there.
        if stopped is None or self.wish.abort:
            return self._back("an operator aborted it", abort=True)
        return stopped


__all__ = ["MAX_AT_ONCE", "BalancerError", "Rollout"]
