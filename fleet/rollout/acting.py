"""What a rollout does on either way: exchange a container, check it, write it down, many side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

from fleet.errors import FleetError, TaskError, UnreachableError
from fleet.rollout.events import Doing, Listen, Phase, Stopping
from fleet.rollout.gating import Gate
from fleet.rollout.model import Colour, Header, Options
from fleet.rollout.progress import Progress
from fleet.rollout.room import Room
from fleet.rollout.stopping import Interrupted, Wish
from fleet.rollout.world import GateError, LeaseError, RungError, World

MAX_AT_ONCE = 32
"""Slots whose containers are exchanged and checked at the same time."""


class BalancerError(UnreachableError):
    """A balancer cannot be told: going on and going back are both unsafe, so the rollout stops."""


class Acting:
    """The state of one rollout, and its steps."""

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
        rounds = 1 + self.options.rehearsals
        if to == "blue":
            rounds = 1 if self._gate.blue_translates else 0
        elif slot in self.progress.beside:
            rounds = 1
        golden = self.world.climb(slot, to, self.options.ready_deadline, say, rounds)
        if to == "green":
            self._gate.compare(slot, golden)
        run = self.world.running(slot)
        origin = self.header.origin(slot)
        wanted = origin.green if to == "green" else origin.release
        return placed if run == (placed, wanted) else ""

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


def _named(name: str, error: FleetError) -> FleetError:
    """The error with the slot or host it is about, where its message does not say."""
    if name in error.message:
        return error
    wrapped = TaskError(
        f"{name}: {error.message}", place=error.place, output=error.output, remedy=error.remedy
    )
    wrapped.__cause__ = error
    return wrapped
