"""The way back: every slot that was touched serves as before the rollout, as far as that can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fleet.errors import FleetError
from fleet.rollout.acting import Acting, BalancerError
from fleet.rollout.events import Outcome
from fleet.rollout.stopping import Interrupted
from fleet.rollout.world import LeaseError, RungError

_DOWN_DEADLINE = 10.0


class WayBack(Acting):
    """Takes slots back to blue, and tells how a rollout ended."""

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
        well = False
        while todo:
            batch = self._room.batch(todo)
            if not batch:
                return self._stopped(f"{reason}; nobody would serve without {', '.join(todo)}")
            todo = [slot for slot in todo if slot not in batch]
            failed = self._restore(batch)
            broken = [slot for slot, error in failed.items() if isinstance(error, RungError)]
            well = well or len(failed) < len(batch)
            if broken and not well and (left := [slot for slot in todo if slot in self.progress.accepted]):
                # Blue comes up nowhere any more: what serves well on green is not given for that.
                lost = "; ".join(self.progress.lost[slot] for slot in broken)
                why = f"{reason}; going back failed, too ({lost}), so {', '.join(left)} stay green"
                return self._stopped(why, partial=True)
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

    def _restore(self, slots: Sequence[str]) -> Mapping[str, FleetError]:
        """These slots: out of traffic, blue's container, its rungs, its weight. Which failed, and why."""
        self._phase(slots, "restoring")
        instant = [slot for slot in slots if self._never_moved(slot)]
        if instant:
            self._serve_as_before(instant)
        rest = [slot for slot in slots if slot not in instant]
        if not rest:
            return {}
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
        return {**failures, **anew}

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

    def _readmit_blue(self) -> None:
        """Slots that were only drained serve again meanwhile: blue still runs there, unharmed."""
        back = []
        for slot in sorted(self.progress.touched - self.progress.accepted - self.progress.admitted):
            if self._never_moved(slot):
                back.append(slot)
        if back:
            self._serve_as_before(back)

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

    def _stopped(self, reason: str, **detail: Any) -> Outcome:
        try:
            self._record("stopped", reason=reason, **detail)
        except LeaseError:
            raise
        except (FleetError, Interrupted):
            self._notes.append("the journal could not be told that it stopped")
        return self._end("stopped", reason)

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


def _ignore(_: object) -> None:
    """For a call whose answer nobody needs."""
