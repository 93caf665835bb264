"""Carries a rollout out: wave by wave to green, and back to blue when something is not as it must be.

The journal says what is done; what runs is looked at, never remembered. So the same code begins a rollout and
goes on with one whose controller died: whatever is already as it should be costs a look and no more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

from fleet.errors import FleetError, TaskError, UnreachableError
from fleet.rollout.events import Doing, Listen, Outcome, Phase, Stopping
from fleet.rollout.gating import Gate
from fleet.rollout.model import Colour, Header, Options, Strategy
from fleet.rollout.progress import Progress
from fleet.rollout.room import Room
from fleet.rollout.stopping import Interrupted, Wish
from fleet.rollout.world import GateError, LeaseError, RungError, World

MAX_AT_ONCE = 32
"""Slots whose containers are exchanged and checked at the same time."""

_DOWN_DEADLINE = 10.0


class BalancerError(UnreachableError):
    """A balancer cannot be told: going on and going back are both unsafe, so the rollout stops."""


class Rollout:
    """One rollout, from where its journal stands to its end. Use `run` once."""

    def __init__(
        self,
        world: World,
        header: Header,
        options: Options,
        *,
        progress: Progress | None = None,
        listen: Listen = lambda _: None,
        wish: Wish | None = None,
        at_once: int = MAX_AT_ONCE,
    ) -> None:
        self.world = world
        self.header = header
        self.options = options
        self.progress = progress or Progress()
        self.wish = wish or Wish()
        self._listen = listen
        self._at_once = at_once
        self._lock = Lock()
        self._gate = Gate(world, options.gates, self._wait)
        self._room = Room(world, header, options, self._wait)
        self._began = world.clock()
        self._failure: FleetError | None = None
        self._notes: list[str] = []

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

    def _forward(self) -> Outcome:
        try:
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
        if self.progress.pulled:
            return
        self.world.stage("before", self._variables())
        hosts = list(dict.fromkeys(origin.host for origin in self.header.origins))
        self._each(hosts, lambda host: self.world.pull(host, self._say_or_stop))
        self._record("pulled")
        self.world.stage("after_pull", self._variables())

    def _forget_what_changed(self, *, keep_going: bool = False) -> None:
        """What was accepted counts only while the same run of the same container is there.

        With `keep_going`, what cannot be looked at does not count either.
        """
        for slot in sorted(self.progress.accepted | self.progress.admitted):
            try:
                now = self.world.running(slot)
            except FleetError:
                if not keep_going:
                    raise
                now = None
            if now is None or now != (self.progress.ready.get(slot, ""), self.header.origin(slot).green):
                self.progress.accepted.discard(slot)
                self.progress.admitted.discard(slot)

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
        touched = {origin.slot for origin in self.header.origins}
        others = {server.slot for server in self.world.servers() if server.takes_jobs} - touched
        return [*self._accepted_serving(), *sorted(others)]

    def _soak(self, number: int, green: Sequence[str]) -> None:
        """All traffic is green's; blue still runs, so that going back is only a word to the balancers."""
        if self.options.soak > 0:
            self._gate.hold(green, (), self.options.soak)
        self._record("soaked", (), number)

    def _to_green(self, number: int, slots: Sequence[str]) -> None:
        self._check()
        self._each(slots, lambda slot: self._exchange(slot, number, "green"))

    def _exchange(self, slot: str, number: int, to: Colour) -> None:
        """The slot's container is the one of this colour, and it has passed every rung."""
        say = self._say_or_stop if to == "green" else self._say
        self._record("moving", (slot,), number, to=to)
        self._phase((slot,), "moving" if to == "green" else "restoring")
        began = self.world.clock()
        placed = self.world.place(slot, to, say)
        if to == "green":
            self._phase((slot,), "checking")
        elif not self.header.origin(slot).release:
            return  # nothing ran there before
        run = self._climb(slot, to, say, placed) or self._climb(slot, to, say)
        if not run:
            raise RungError(
                slot,
                "running",
                "its container ended, was started anew, or another took its place, while it was checked",
                output=self._log(slot),
            )
        seconds = round(self.world.clock() - began, 3)
        self._record("ready", (slot,), number, container=run, to=to, seconds=seconds)

    def _climb(self, slot: str, to: Colour, say: Callable[[str, str], None], placed: str = "") -> str:
        """The run of its container that passed every rung; empty where that is not the one that runs now.

        `placed` is the run that was just started, else it is looked at.
        """
        if not placed and (before := self.world.running(slot)) is not None:
            placed = before[0]
        rehearsed = to == "blue" or slot in self.progress.beside
        rounds = 1 if rehearsed else 1 + self.options.rehearsals
        golden = self.world.climb(slot, to, self.options.ready_deadline, say, rounds)
        if to == "green":
            self._gate.compare(slot, golden)
        run = self.world.running(slot)
        origin = self.header.origin(slot)
        wanted = origin.green if to == "green" else origin.release
        return placed if run == (placed, wanted) else ""

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

    def _same_runs(self, slots: Sequence[str]) -> None:
        """No traffic to a container that has not passed readiness since it started."""
        self._each(slots, lambda slot: self._check_run(slot, self.world.running(slot)))

    def _check_run(self, slot: str, run: tuple[str, str] | None) -> None:
        if run is None or run[0] != self.progress.ready.get(slot):
            raise RungError(
                slot,
                "running",
                "its container ended, or was started anew, after it was checked",
                output=self._log(slot),
                remedy="its log may tell why; it takes no jobs until it was checked again",
            )

    def _accepted_serving(self) -> list[str]:
        return [o.slot for o in self.header.origins if o.slot in self.progress.accepted and not o.held]

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
        if self.wish.abort:
            return self._back("an operator aborted it", abort=True)
        return self._stopped("an operator stopped it")

    def _readmit_blue(self) -> None:
        """Slots that were only drained serve again meanwhile: blue still runs there, unharmed."""
        back = []
        for slot in sorted(self.progress.touched - self.progress.accepted - self.progress.admitted):
            if self._never_moved(slot):
                back.append(slot)
        if back:
            self._serve_as_before(back)

    def _stopped(self, reason: str, **detail: Any) -> Outcome:
        try:
            self._record("stopped", reason=reason, **detail)
        except LeaseError:
            raise
        except (FleetError, Interrupted):
            self._notes.append("the journal could not be told that it stopped")
        return self._end("stopped", reason)

    def _back(self, reason: str, *, abort: bool = False) -> Outcome:
        """Every slot that was touched serves blue again; what cannot is lost, and the others go on.

        Slots that serve nobody go first, so that as much as can be is there when the others are taken.
        `abort`: somebody asked for it, and then nothing stays green, whatever the options say.
        """
        if not self.progress.rolling_back or (abort and not self.progress.aborted):
            self._record("rolling-back", reason=reason, abort=abort)
        try:
            self.world.stage("on_failure", {**self._variables(), "reason": reason})
        except FleetError as error:
            self._notes.append(f"the stage `on_failure` failed: {error.message}")
        keeps = self.options.keep_partial and not self.progress.aborted
        if keeps:
            self._forget_what_changed(keep_going=True)
        accepted = [
            slot for wave in reversed(self.header.waves) for slot in wave if slot in self.progress.accepted
        ]
        self._clear_beside()
        todo = sorted(self.progress.touched - self.progress.accepted) + ([] if keeps else accepted)
        while todo:
            batch = self._room.batch(todo)
            if not batch:
                return self._stopped(f"{reason}; nobody would serve without {', '.join(todo)}")
            todo = [slot for slot in todo if slot not in batch]
            self._restore(batch)
        if keeps and accepted:
            return self._stopped(reason, partial=True)
        self._record("rolled-back", lost=dict(self.progress.lost))
        return self._end("rolled-back", reason)

    def _clear_beside(self) -> None:
        """Green goes where it only stood beside blue, which serves on."""
        side = sorted(self.progress.beside - self.progress.moved)
        failures = self._each(
            side, lambda slot: _ignore(self.world.place(slot, "blue", self._say)), keep_going=True
        )
        for slot, error in failures.items():
            self._notes.append(f"{slot}: green's container beside blue's is still there: {error.message}")

    def _restore(self, slots: Sequence[str]) -> None:
        """These slots: out of traffic, blue's container, its rungs, its weight."""
        if not slots:
            return
        self._phase(slots, "restoring")
        instant = [slot for slot in slots if self._never_moved(slot)]
        if instant:
            self._serve_as_before(instant)
        rest = [slot for slot in slots if slot not in instant]
        if not rest:
            return
        self._record("draining", rest)
        cut = self._drain_back(rest)
        self._record("drained", rest, cut={slot: jobs for slot, jobs in cut.items() if jobs})
        failures = self._each(rest, lambda slot: self._exchange(slot, 0, "blue"), keep_going=True)
        well = [slot for slot in rest if slot not in failures]
        anew = self._each(
            [slot for slot in well if self.header.origin(slot).release],
            lambda slot: self._same_runs((slot,)),
            keep_going=True,
        )
        self._lose({**failures, **anew})
        self._serve_as_before([slot for slot in well if slot not in anew])

    def _lose(self, failures: Mapping[str, FleetError]) -> None:
        for slot, error in failures.items():
            self.progress.lost[slot] = error.message
            self._phase((slot,), "lost")

    def _drain_back(self, slots: Sequence[str]) -> Mapping[str, int]:
        """Nothing comes any more from a slot that is down: its jobs are not waited for as long as others."""
        up = {server.slot for server in self._room.servers if server.up}
        cut: dict[str, int] = {}
        for group, deadline in (
            ([slot for slot in slots if slot not in up], min(_DOWN_DEADLINE, self.options.drain_deadline)),
            ([slot for slot in slots if slot in up], self.options.drain_deadline),
        ):
            if group:
                cut.update(self.world.drain(group, deadline, self._say))
        return cut

    def _never_moved(self, slot: str) -> bool:
        """True where blue's container was never stopped, and still is in the run that served before."""
        if slot in self.progress.moved:
            return False
        try:
            run = self.world.running(slot)
        except FleetError:
            return False
        wanted = (self.progress.blue.get(slot, ""), self.header.origin(slot).release)
        return run is not None and run == wanted

    def _serve_as_before(self, slots: Sequence[str]) -> None:
        if not slots:
            return
        origins = [self.header.origin(slot) for slot in slots]
        failures = self._admit({o.slot: o.weight for o in origins if not o.held and o.release})
        self._lose(failures)
        if back := [slot for slot in slots if slot not in failures]:
            self._record("restored", back)
            self._phase(back, "blue")

    def _admit(self, weights: Mapping[str, int]) -> Mapping[str, FleetError]:
        """Let them take jobs, and where one cannot (its host is gone), the others; the errors by slot."""
        failures: dict[str, FleetError] = {}
        try:
            if weights:
                self.world.admit(weights)
        except (LeaseError, BalancerError):
            raise
        except FleetError as error:
            if len(weights) == 1:
                return dict.fromkeys(weights, error)
            for slot, weight in weights.items():
                failures.update(self._admit({slot: weight}))
        return failures

    def _end(self, state: str, reason: str = "") -> Outcome:
        failure = self._failure
        return Outcome(
            state=state,
            header=self.header,
            entries=tuple(self.progress.entries),
            seconds=self.world.clock() - self._began,
            reason=reason,
            rung=getattr(failure, "rung", "") or getattr(failure, "gate", ""),
            failed_slot=getattr(failure, "slot", ""),
            log=failure.output if failure else "",
            remedy=failure.remedy if failure else "",
            cut=dict(self.progress.cut),
            lost=dict(self.progress.lost),
            notes=tuple(self._notes),
        )

    def _variables(self, wave: int = 0, slots: Sequence[str] = ()) -> dict[str, Any]:
        header = self.header
        slots = slots or [origin.slot for origin in header.origins]
        hosts = dict.fromkeys(header.origin(slot).host for slot in slots)
        return {
            "id": header.id,
            "kind": header.kind,
            "image": header.image,
            "digest": header.digest,
            "wave": wave,
            "slots": list(slots),
            "hosts": list(hosts),
            "reason": "",
        }

    def _record(self, step: str, slots: Sequence[str] = (), wave: int = 0, **detail: Any) -> None:
        with self._lock:
            self.progress.follow(self.world.record(step, slots, wave, **detail))

    def _each(
        self, names: Sequence[str], do: Callable[[str], None], *, keep_going: bool = False
    ) -> Mapping[str, FleetError]:
        """Do it for all, side by side. All end before the first error is raised; or errors are returned."""
        failures: dict[str, FleetError] = {}
        pool = ThreadPoolExecutor(max_workers=max(1, min(len(names), self._at_once)))
        try:
            futures = {name: pool.submit(do, name) for name in names}
            interrupted = False
            for name, future in futures.items():
                try:
                    future.result()
                except Interrupted:
                    interrupted = True
                except FleetError as error:
                    failures[name] = error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        for fatal in failures.values():
            if isinstance(fatal, LeaseError | BalancerError):
                raise fatal
        if failures and not keep_going:
            name, first = next(iter(failures.items()))
            self._phase(tuple(name for name in failures if self._is_slot(name)), "failed")
            raise first if isinstance(first, RungError | GateError) else _named(name, first)
        if interrupted:
            raise Interrupted
        return failures

    def _log(self, slot: str) -> str:
        """The end of its container's log, for whoever reads why it failed."""
        try:
            return self.world.log(slot)
        except FleetError as error:
            return f"(its log could not be read: {error.message})"

    def _is_slot(self, name: str) -> bool:
        return any(origin.slot == name for origin in self.header.origins)

    def _phase(self, slots: Sequence[str], phase: str) -> None:
        for slot in slots:
            self._listen(Phase(slot, phase))

    def _say(self, place: str, text: str) -> None:
        self._listen(Doing(place, text))

    def _say_or_stop(self, place: str, text: str) -> None:
        self._say(place, text)
        self._check()

    def _check(self) -> None:
        try:
            self.wish.check()
        except Interrupted:
            self._listen(Stopping("abort" if self.wish.abort else "stop"))
            raise

    def _wait(self, seconds: float) -> None:
        self._check()
        self.world.pause(seconds)
        self._check()


def _ignore(_: object) -> None:
    """For a call whose answer nobody needs."""


def _named(name: str, error: FleetError) -> FleetError:
    """The error with the slot or host it is about, where its message does not say."""
    if name in error.message:
        return error
    wrapped = TaskError(
        f"{name}: {error.message}", place=error.place, output=error.output, remedy=error.remedy
    )
    wrapped.__cause__ = error
    return wrapped
