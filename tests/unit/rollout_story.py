"""Made-up rollouts, told as events with a clock of their own: what views and reports are tested with."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from fleet.rollout.events import Began, Doing, Event, Outcome, Phase, Recorded, Sampled
from fleet.rollout.model import Entry, Header, Move, Origin, Plan, PlanStep, Strategy, Wave
from fleet.rollout.world import ServerNow

STARTED = 1_795_594_500.0
WINDOW = 512
V1, V2 = "registry.example:5000/translate:v1", "registry.example:5000/translate:v2"
D1, D2 = "sha256:" + "b1" * 32, "sha256:" + "9e" * 32
LOG = """2026-11-25 08:15:41 INFO  loading madlad400-7b on cuda:0
2026-11-25 08:16:02 INFO  model loaded, 14.9 GiB
2026-11-25 08:16:03 ERROR tokenizer.json: vocabulary has 256000 entries, model has 256512
Traceback (most recent call last):
  File "/app/serve.py", line 88, in translate
IndexError: index out of range in self"""


@dataclass
class Server:
    """A slot at a balancer that counts as HAProxy does: mean times fade and are shown in whole milliseconds."""

    weight: int
    requests: int = 0
    errors: int = 0
    sum: float = 0.0
    jobs: int = 0
    takes: bool = True

    def request(self, seconds: float, error: bool = False) -> None:
        self.sum += seconds - (self.sum / WINDOW if self.requests >= WINDOW else 0)
        self.requests += 1
        self.errors += error

    def now(self, slot: str, balancer: str = "lb-01") -> ServerNow:
        known = min(self.requests, WINDOW)
        mean = round(self.sum / known, 3) if known else 0.0
        return ServerNow(
            balancer,
            slot,
            self.weight,
            takes_jobs=self.takes and self.weight > 0,
            up=True,
            held=not self.takes,
            jobs=self.jobs,
            requests=self.requests,
            errors=self.errors,
            mean=mean,
            window=WINDOW,
            process=7,
        )


@dataclass
class Story:
    """A rollout of `slots` slots in `waves`; call `play` with who listens. `clock` is the story's time."""

    waves: tuple[tuple[str, ...], ...]
    fails: str = ""
    image: str = V2
    log: str = LOG
    reason: str = "gpu-02-0: the golden translation returned '???' where 'Guten Tag' was expected"
    side_by_side: tuple[str, ...] = ()
    weight: int = 25
    rate: float = 6.0
    every: float = 0.5
    seed: int = 1
    now: float = STARTED
    entries: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.slots = [slot for wave in self.waves for slot in wave]
        self.servers = {slot: Server(self.weight, requests=900, sum=WINDOW * 1.2) for slot in self.slots}
        self.green: set[str] = set()
        total = self.weight * len(self.slots)
        origins = tuple(
            Origin(slot, self.host(slot), "rel-1", V1, D1, self.weight, False, "rel-2", self.strategy(slot))
            for slot in self.slots
        )
        self.header = Header(
            id="20261125-081500-3f2a",
            kind="upgrade",
            image=self.image,
            digest=D2,
            by="anna@ops-1",
            started=STARTED,
            floor=total / 2,
            total=total,
            waves=self.waves,
            origins=origins,
            options={"soak": 15.0, "ramp": [10, 50, 100], "floor": "50%", "canary": "1"},
        )
        self.plan = Plan(
            image=self.image,
            digest=D2,
            waves=tuple(self._plan_wave(number, slots) for number, slots in enumerate(self.waves, 1)),
            total=total,
            floor=total / 2,
            to_pull=tuple(dict.fromkeys(self.host(slot) for slot in self.slots)),
            seconds=30.0 + 50.0 * len(self.waves),
        )

    def clock(self) -> float:
        return self.now

    def host(self, slot: str) -> str:
        return slot.rpartition("-")[0]

    def strategy(self, slot: str) -> Strategy:
        return Strategy.SIDE_BY_SIDE if slot in self.side_by_side else Strategy.SWAP

    def play(self, *listeners: Callable[[Event], object], until: str = "") -> Outcome:
        """Tell everything; with `until` (step, or step and wave as "moving 2") stop the telling there."""
        try:
            return self._play(listeners, until)
        except StopIteration:
            return self._outcome("stopped", reason="an operator stopped it")

    def _play(self, listeners: tuple[Callable[[Event], object], ...], until: str) -> Outcome:
        self._listeners, self._until = listeners, until
        self._say(Began(self.header, self.plan))
        for done in (3.1, 9.8, 14.2):
            for host in self.plan.to_pull:
                self._say(Doing(host, f"pulling {done} of 14.2 GB"))
            self._pass(4)
        self._record("pulled")
        for number, wave in enumerate(self.waves, 1):
            self._out(wave, number)
            if number == len(self.waves) and number > 1:
                self._pass(15)
                self._record("soaked", wave=number)
            failed = self._change(wave, number)
            if failed:
                return self._back(wave)
            self._ramp(wave, number)
        self._record("finished")
        return self._outcome("finished")

    def _out(self, wave: tuple[str, ...], number: int) -> None:
        self._record("draining", wave, number)
        self._phase(wave, "draining")
        for slot in wave:
            self.servers[slot].takes = False
        seconds = self._pass(2 + self.random.random() * 3)
        for slot in wave:
            self.servers[slot].jobs = 0
        self._record("drained", wave, number, cut={}, seconds=round(seconds, 1))
        self._phase(wave, "drained")
        self._pass(1)

    def _change(self, wave: tuple[str, ...], number: int) -> bool:
        for slot in wave:
            self._record("moving", (slot,), number, to="green")
            self._phase((slot,), "moving")
            self._say(Doing(slot, "starting the container"))
            self._pass(0.3)
        self._pass(4)
        for slot in wave:
            self._phase((slot,), "checking")
            self._say(Doing(slot, "waiting for port 7860"))
            self._pass(0.2)
        self._pass(18)
        if self.fails in wave:
            self._phase((self.fails,), "failed")
            self._pass(1.5)
            return True
        for slot in wave:
            self._record("ready", (slot,), number, container="c0ffee", to="green", seconds=24.5)
            self.green.add(slot)
        return False

    def _ramp(self, wave: tuple[str, ...], number: int) -> None:
        for percent in (10, 50, 100):
            self._phase(wave, "ramping")
            for slot in wave:
                self.servers[slot].takes = True
                self.servers[slot].weight = max(1, round(self.weight * percent / 100))
            self._record("ramped", wave, number, percent=percent)
            self._pass(5)
        self._record("accepted", wave, number)
        self._phase(wave, "green")

    def _back(self, wave: tuple[str, ...]) -> Outcome:
        self._record("rolling-back", reason=self.reason)
        done = tuple(slot for slot in self.slots if slot in self.green and slot not in wave)
        for group in (wave, done):
            if not group:
                continue
            self._phase(group, "restoring")
            self._record("draining", group)
            for slot in group:
                self.servers[slot].takes = False
            self._pass(3)
            self._record("drained", group, cut={group[0]: 2})
            for slot in group:
                self.servers[slot].jobs = 0
                self._record("moving", (slot,), to="blue")
                self._phase((slot,), "restoring")
            self._pass(14)
            for slot in group:
                self._record("ready", (slot,), to="blue", seconds=14.0)
                self.green.discard(slot)
                self.servers[slot].takes, self.servers[slot].weight = True, self.weight
            self._record("restored", group)
            self._phase(group, "blue")
        self._pass(4)
        self._record("rolled-back", lost={})
        return self._outcome(
            "rolled-back",
            reason=self.reason,
            rung="golden translation",
            failed_slot=self.fails,
            log=self.log,
            remedy=f"look at the image: `docker run {self.image}`",
            cut={wave[0]: 2},
        )

    def _outcome(self, state: str, **more) -> Outcome:
        return Outcome(state, self.header, tuple(self.entries), self.now - STARTED, **more)

    def _pass(self, seconds: float) -> float:
        """Time goes by: jobs come and go, and the balancer is asked again and again."""
        left = seconds
        while left > 0:
            step = min(self.every, left)
            self.now += step
            left -= step
            serving = [slot for slot in self.slots if self.servers[slot].takes]
            weights = [self.servers[slot].weight for slot in serving]
            for _ in range(self._poisson(self.rate * step) if serving else 0):
                slot = self.random.choices(serving, weights)[0]
                green = slot in self.green
                time = self.random.gammavariate(8, 0.15) * (0.85 if green else 1.0)
                self.servers[slot].request(
                    time, error=bool(self.fails) and green and self.random.random() < 0.2
                )
            for slot in self.slots:
                self.servers[slot].jobs = self.random.randint(0, 2) if slot in serving else 0
            self._say(Sampled(self.now, tuple(self.servers[slot].now(slot) for slot in self.slots)))
        return seconds

    def _poisson(self, mean: float) -> int:
        count, left = 0, self.random.expovariate(1)
        while left < mean:
            count, left = count + 1, left + self.random.expovariate(1)
        return count

    def _record(self, step: str, slots: tuple[str, ...] = (), wave: int = 0, **detail) -> None:
        entry = Entry(len(self.entries) + 1, self.now, step, slots, wave, detail)
        self.entries.append(entry)
        self._say(Recorded(entry))
        if self._until in (step, f"{step} {wave}"):
            raise StopIteration

    def _phase(self, slots: tuple[str, ...], phase: str) -> None:
        for slot in slots:
            self._say(Phase(slot, phase))

    def _say(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)

    def _plan_wave(self, number: int, slots: tuple[str, ...]) -> Wave:
        kind = "canary" if number == 1 else "switch" if number == len(self.waves) else "wave"
        ready = float(self.weight * (len(self.slots) - len(slots)))
        parts = (
            ("drain", 4.0),
            ("start", 5.0),
            ("check", 20.0),
            ("ramp 10%", 5.0),
            ("ramp 50%", 5.0),
            ("ramp 100%", 5.0),
        )
        steps = tuple(PlanStep(action, slots, ready, seconds) for action, seconds in parts)
        moves = tuple(Move(slot, self.strategy(slot)) for slot in slots)
        return Wave(number, kind, moves, steps)


def small(**more) -> Story:
    """Four slots on two hosts: a canary, then the rest of a half, then the switch."""
    waves = (("gpu-01-0",), ("gpu-02-0",), ("gpu-01-1", "gpu-02-1"))
    return Story(waves, **{"side_by_side": ("gpu-02-1",), **more})


def large(slots: int = 64, **more) -> Story:
    """Many slots on hosts of eight, in five waves."""
    names = [f"gpu-{host:02}-{index}" for host in range(1, slots // 8 + 1) for index in range(8)]
    quarter = max(1, slots // 4)
    rest = [tuple(names[at : at + quarter]) for at in range(1, len(names), quarter)]
    return Story((tuple(names[:1]), *rest), **{"rate": 40.0, "every": 2.0, **more})
