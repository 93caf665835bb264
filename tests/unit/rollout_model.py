"""A fleet in memory for the executor: GPU hosts, containers, balancers, jobs and what can go wrong.

`Fleet` is the truth and judges every call by ROLLOUT's invariants, whatever the executor believes. `Connection`
is one controller's way to it, a `fleet.rollout.world.World`. Every call, and every second of a long one, is a
step at which a fault may strike. Times are model seconds; one thread at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

from fleet.errors import TaskError, UnreachableError
from fleet.rollout.executor import BalancerError, Rollout
from fleet.rollout.model import ContainerNow, Entry, Header, Options, Origin, SlotNow, Snapshot
from fleet.rollout.options import to_plain
from fleet.rollout.planner import plan
from fleet.rollout.progress import progress_of
from fleet.rollout.stopping import Wish
from fleet.rollout.world import LeaseError, RungError, ServerNow

LOAD = 4.0
"""Seconds for a container to load its model."""
GOLDEN = 0.8
"""Seconds of a golden translation."""
SLOW = 5
"""How many times as long it takes on a slow green."""
PATIENCE = 60.0
"""Seconds for a balancer to come back before a call gives up."""
RECENT = 3
"""Steps after a look in which nobody can know better than it."""


class Violation(BaseException):
    """An invariant is broken."""


class Killed(BaseException):
    """The controller is gone, in the middle of whatever it did."""


@dataclass(frozen=True)
class Fault:
    """What happens at a step (counted from 1 in a connection), or, with `call`, so many steps after such a call
    began for the `nth` time. `at` names a slot, host, balancer or stage.

    `how` is the rung that is not reached, or "again" for a container that starts anew after it died; `after`
    are jobs until a green container dies, or seconds until a balancer is back (0: never).
    """

    step: int
    kind: str
    at: str = ""
    how: str = ""
    after: float = 0
    call: str = ""
    nth: int = 1


@dataclass
class Container:
    """`run` counts its starts. `well`: this run passed every rung, or served before anybody touched it.

    `excused`: it started by itself where jobs came in, or after the last look at it.
    """

    release: str
    id: str
    running: bool = True
    run: int = 1
    loaded: float = 0.0
    well: bool = True
    excused: bool = False
    jobs: int = 0

    @property
    def name(self) -> str:
        """Which run of which container."""
        return f"{self.id} {self.run}"


@dataclass
class Slot:
    """`looked` and `changed`: when somebody last looked at what runs, and when that last changed by itself, in
    the order of such events; `look_step` is the step of the look."""

    name: str
    host: str
    weight: int
    current: Container | None = None
    kept: list[Container] = field(default_factory=list)
    touched: bool = False
    afflicted: bool = False
    looked: int = 0
    changed: int = -1
    look_step: int = 0


@dataclass
class Server:
    """A slot on one balancer; `total` is HAProxy's fading sum of the requests' milliseconds."""

    weight: int
    admin: str = "ready"
    up: bool = False
    requests: int = 0
    errors: int = 0
    total: int = 0
    jobs: int = 0

    @property
    def ready(self) -> int:
        """Its weight where it takes jobs."""
        return self.weight if self.admin == "ready" and self.up else 0


@dataclass
class Balancer:
    """`back`: when it can be told again, None where it can be told now."""

    name: str
    servers: dict[str, Server]
    back: float | None = None


@dataclass(frozen=True)
class Job:
    """One translation on its way."""

    slot: str
    server: Server
    ends: float
    began: float


class Fleet:
    """`slots` as (name, weight, kind): kind is serving, held, maint, empty or stopped. `rate`: jobs a second
    and balancer."""

    total_steps = 0

    def __init__(self, slots: Iterable[tuple[str, int, str]], balancers: int = 1, rate: int = 2) -> None:
        self.now = 1000.0
        self.steps = 0
        self.rate = rate
        self.slots: dict[str, Slot] = {}
        self.balancers = [Balancer(f"lb{number}", {}) for number in range(balancers)]
        self.hosts_lost: set[str] = set()
        self.bad: dict[str, str] = {}
        self.bad_blue: set[str] = set()
        self.slow: set[str] = set()
        self.dying: dict[str, tuple[int, bool]] = {}
        self.no_pull: set[str] = set()
        self.bad_stages: set[str] = set()
        self.unseen: set[tuple[str, str]] = set()
        self.jobs: list[Job] = []
        self.served = 0
        self.lost_jobs: Counter[str] = Counter()
        self.cut: Counter[str] = Counter()
        self.fence = 0
        self.header: Header | None = None
        self.options = Options()
        self.journal: list[Entry] = []
        self.admins: dict[tuple[str, str], str] = {}
        self._made = 0
        self._events = 0
        self._sent = 0
        self._ticked = self.now
        for name, weight, kind in slots:
            self._add(name, weight, kind)

    # What a rollout is begun with.

    def snapshot(self, wanted: str) -> Snapshot:
        """The fleet as a planner sees it."""
        return Snapshot(
            wanted, f"sha256:{wanted}", tuple(self._now(slot, wanted) for slot in self.slots.values())
        )

    def begin(self, wanted: str, options: Options) -> Header:
        """Plan, and open the journal. Raises InputError for a plan that cannot be."""
        snapshot = self.snapshot(wanted)
        made = plan(snapshot, options)
        origins = []
        for move in made.moves:
            slot = snapshot.slot(move.slot)
            current = slot.current
            release = current.release if current else ""
            origins.append(
                Origin(
                    slot.name,
                    slot.host,
                    release,
                    release,
                    release,
                    slot.weight,
                    slot.held,
                    wanted,
                    move.strategy,
                )
            )
        self.header = Header(
            id="r1",
            kind="upgrade",
            image=wanted,
            digest=made.digest,
            by="somebody",
            started=self.now,
            floor=made.floor,
            total=made.total,
            waves=tuple(wave.slots for wave in made.waves),
            origins=tuple(origins),
            options=to_plain(options),
        )
        self.options, self.journal, self.cut = options, [], Counter()
        self.admins = {
            (b.name, name): server.admin for b in self.balancers for name, server in b.servers.items()
        }
        for each in self.slots.values():
            each.touched = each.afflicted = False
            if each.current and each.current.running and not each.current.well:
                each.current.excused = True
        return self.header

    def connect(self, faults: Sequence[Fault] = (), wish: Wish | None = None) -> Connection:
        """A controller takes the lease."""
        self.fence += 1
        return Connection(self, self.fence, faults, wish or Wish())

    def rollout(
        self, faults: Sequence[Fault] = (), *, entries: Sequence[Entry] | None = None
    ) -> tuple[Rollout, Connection]:
        """An executor that goes on where the journal stands."""
        assert self.header is not None
        world = self.connect(faults)
        if entries is not None:
            self.journal = list(entries)
        progress = progress_of(self.journal)
        made = Rollout(world, self.header, self.options, progress=progress, wish=world.wish, at_once=1)
        return made, world

    # Time, jobs, checks.

    def advance(self, seconds: float) -> None:
        """Let time pass: checks, jobs that end, jobs that come."""
        until = self.now + seconds
        while self._ticked + 1 <= until:
            self._ticked += 1
            self.now = self._ticked
            self._tick()
        self.now = until

    def _tick(self) -> None:
        for balancer in self.balancers:
            if balancer.back is not None and balancer.back <= self.now:
                balancer.back = None
            for name, server in balancer.servers.items():
                server.up = self.healthy(self.slots[name]) and (balancer.name, name) not in self.unseen
        running, self.jobs = self.jobs, []
        for job in running:
            if job.ends > self.now:
                self.jobs.append(job)
            else:
                self._end(job)
        for balancer in self.balancers:
            for _ in range(self.rate):
                self._arrive(balancer)

    def _arrive(self, balancer: Balancer) -> None:
        """A job goes where there are the fewest for the weight; past a server that does not answer."""
        taking = [(name, server) for name, server in balancer.servers.items() if server.ready]
        while taking:
            name, server = min(taking, key=lambda pair: (pair[1].jobs + 1) / pair[1].weight)
            slot = self.slots[name]
            if self.healthy(slot):
                break
            server.errors += 1
            server.up = False
            taking.remove((name, server))
        else:
            self.lost_jobs["nobody served"] += 1
            return
        container = slot.current
        assert container is not None
        if slot.touched and not (container.well or container.excused):
            raise Violation(f"a job goes to {container.name} on {name}, which has not passed its rungs")
        self._sent += 1
        lasts = 1 + self._sent * 37 % 101 / 101  # a prime: any slot's jobs are as long as another's
        if name in self.slow and self._green(slot):
            lasts *= SLOW
        server.jobs += 1
        self.jobs.append(Job(name, server, self.now + lasts, self.now))

    def _end(self, job: Job) -> None:
        server = job.server
        server.jobs -= 1
        server.requests += 1
        milliseconds = round((job.ends - job.began) * 1000)
        faded = ceil(server.total / 512) if server.requests > 512 else 0
        server.total += milliseconds - faded
        self.served += 1
        slot = self.slots[job.slot]
        assert slot.current is not None
        slot.current.jobs += 1
        if job.slot in self.dying and self._green(slot):
            after, again = self.dying[job.slot]
            if slot.current.jobs >= after:
                self.die(slot, again=again)

    def healthy(self, slot: Slot) -> bool:
        """Its container answers."""
        container = slot.current
        return (
            container is not None
            and container.running
            and container.loaded <= self.now
            and slot.host not in self.hosts_lost
        )

    def in_flight(self, name: str) -> int:
        """A slot's jobs on all balancers."""
        return sum(1 for job in self.jobs if job.slot == name)

    def lose_jobs(self, name: str, reason: str) -> int:
        """End a slot's jobs before their time."""
        gone = [job for job in self.jobs if job.slot == name]
        self.jobs = [job for job in self.jobs if job.slot != name]
        for job in gone:
            job.server.jobs -= 1
            job.server.errors += reason != "cut"
        if gone:
            self.lost_jobs[reason] += len(gone)
        return len(gone)

    # What goes wrong.

    def strike(self, fault: Fault) -> None:
        """A fault that is not about the controller itself."""
        at = fault.at
        match fault.kind:
            case "bad green":
                self.bad[at] = fault.how
            case "bad blue":
                self.bad_blue.add(at)
                self.slots[at].afflicted = True
            case "slow green":
                self.slow.add(at)
            case "green dies":
                self.dying[at] = (int(fault.after), fault.how == "again")
                self.slots[at].afflicted = True
            case "dies":
                self.die(self.slots[at], again=fault.how == "again")
            case "no pull":
                self.no_pull.add(at)
            case "host lost":
                self._lose(at)
            case "host back":
                self._return(at)
            case "balancer lost":
                balancer = next(b for b in self.balancers if b.name == at)
                balancer.back = self.now + fault.after if fault.after else float("inf")
            case "unseen":
                self.unseen.add((self.balancers[-1].name, at))
            case "bad stage":
                self.bad_stages.add(at)
            case _:
                raise ValueError(fault.kind)

    def heal(self) -> None:
        """Everything works again; what is dead is started as its engine would."""
        for host in sorted(self.hosts_lost):
            self._return(host)
        for balancer in self.balancers:
            balancer.back = None
        for slot in self.slots.values():
            if slot.current and not slot.current.running and slot.afflicted:
                self._start(slot, slot.current, by_itself=True)
        for broken in (self.bad, self.bad_blue, self.slow, self.dying, self.no_pull, self.bad_stages):
            broken.clear()
        self.unseen.clear()
        self.advance(LOAD + 2)

    def mend(self) -> None:
        """Somebody brings every slot back to service by hand, between two rollouts."""
        self.heal()
        for slot in self.slots.values():
            if slot.current is None:
                slot.current = slot.kept.pop(0) if slot.kept else None
            if slot.current and not slot.current.running:
                self._start(slot, slot.current)
            if slot.current:
                slot.current.well = True
                for balancer in self.balancers:
                    server = balancer.servers[slot.name]
                    if self.admins.get((balancer.name, slot.name), "ready") == "ready":
                        server.admin, server.weight = "ready", slot.weight
        self.advance(LOAD + 2)

    def event(self) -> int:
        """The next number in the order of what happens and what is looked at."""
        self._events += 1
        return self._events

    def die(self, slot: Slot, *, again: bool) -> None:
        """Its container ends by itself."""
        if slot.current is None or not slot.current.running:
            return
        slot.current.running = False
        slot.changed, slot.afflicted = self.event(), True
        self.lose_jobs(slot.name, "died")
        if again:
            self._start(slot, slot.current, by_itself=True)

    def _lose(self, host: str) -> None:
        self.hosts_lost.add(host)
        for slot in self.slots.values():
            if slot.host == host:
                slot.changed, slot.afflicted = self.event(), True
                self.lose_jobs(slot.name, "host")

    def _return(self, host: str) -> None:
        """It started anew, and so does what ran there."""
        if host not in self.hosts_lost:
            return
        self.hosts_lost.discard(host)
        for slot in self.slots.values():
            if slot.host == host and slot.current and slot.current.running:
                self._start(slot, slot.current, by_itself=True)

    def _start(self, slot: Slot, container: Container, *, by_itself: bool = False) -> None:
        container.running = True
        container.run += 1
        container.jobs = 0
        container.well = container.excused = False
        container.loaded = self.now + LOAD
        if by_itself:
            slot.changed = self.event()
            container.excused = any(b.servers[slot.name].admin == "ready" for b in self.balancers)

    def _green(self, slot: Slot) -> bool:
        return (
            self.header is not None and slot.current is not None and slot.current.release == self.header.image
        )

    # What is changed by the executor, and judged.

    def exchange(self, slot: Slot, release: str, say: Callable[[], None]) -> Container | None:
        """The slot's container is of this release, and nothing else runs there. `say` is called in between."""
        current = slot.current
        assert self.header is not None
        if current is not None and current.release != release:
            if current.running and (jobs := self.in_flight(slot.name)):
                raise Violation(f"{slot.name} is stopped with {jobs} jobs in flight")
            if any(b.servers[slot.name].ready for b in self.balancers) and self.healthy(slot):
                raise Violation(f"{slot.name} is stopped while it takes jobs")
            current.running = False
            say()
            if current.release != self.header.image or release == self.header.image:
                slot.kept.insert(0, current)
            slot.current = None
            say()
        if not release:
            return None
        if slot.current is None:
            slot.current = next((each for each in slot.kept if each.release == release), None)
            if slot.current is not None:
                slot.kept.remove(slot.current)
            elif release == self.header.image:
                self._made += 1
                slot.current = Container(release, f"c{self._made}", running=False, run=0)
            else:
                raise TaskError(f"{slot.name}: its container of release {release} is gone")
        if not slot.current.running:
            self._start(slot, slot.current)
        return slot.current

    def ready(self) -> dict[str, dict[str, int]]:
        """By balancer and slot: the weight that takes jobs."""
        return {b.name: {name: server.ready for name, server in b.servers.items()} for b in self.balancers}

    def judge_taken(self, weights: Mapping[str, int], seen: Mapping[str, Mapping[str, int]] | None) -> None:
        """Slots go down to these weights: does enough stay, by the truth, and by what could be known?"""
        assert self.header is not None
        back = any(entry.step == "rolling-back" for entry in self.journal)
        for balancer, truth in self.ready().items():
            worst = [self._too_little(weights, truth, back)]
            if seen is not None:
                worst.append(self._too_little(weights, seen[balancer], back))
            if all(worst):
                raise Violation(f"{balancer}: {worst[0]} ({dict(weights)} of {truth})")

    def _too_little(self, weights: Mapping[str, int], ready: Mapping[str, int], back: bool) -> str:
        assert self.header is not None
        taken = [name for name, weight in weights.items() if weight < ready[name]]
        left = sum(
            min(weights[name], weight) if name in weights else weight for name, weight in ready.items()
        )
        downtime = self.options.allow_downtime or (back and not self.header.total)
        if not taken or (downtime and (back or left >= self.header.floor)):
            return ""
        if left <= 0:
            return "nobody is left to serve"
        if left < self.header.floor and not (back and len(taken) == 1):
            return f"{left} is left, the floor is {self.header.floor:g}"
        return ""

    def check_end(self, state: str, lost: Iterable[str], cut: Mapping[str, int]) -> None:
        """Where a rollout has ended, every slot is where it belongs."""
        assert self.header is not None
        lost = set(lost)
        if dict(self.cut) != dict(cut):
            raise Violation(f"{dict(self.cut)} jobs were cut, {dict(cut)} are reported")
        if unknown := set(self.lost_jobs) - {"host", "died", "cut", "nobody served"}:
            raise Violation(f"jobs were lost: {unknown}")
        for origin in self.header.origins:
            slot = self.slots[origin.slot]
            if origin.held or not slot.touched:
                for balancer in self.balancers:
                    if (has := balancer.servers[slot.name].admin) != self.admins[balancer.name, slot.name]:
                        raise Violation(f"{slot.name} is {has} on {balancer.name} and was not before")
            if slot.name in lost:
                if not slot.afflicted:
                    raise Violation(f"{slot.name} is given up and nothing ever happened to it")
            elif state == "finished":
                self._check_serves(slot, origin, origin.green)
            elif state == "rolled-back" and slot.touched:
                self._check_serves(slot, origin, origin.release)

    def _check_serves(self, slot: Slot, origin: Origin, release: str) -> None:
        current = slot.current
        if not release:
            if current is not None:
                raise Violation(f"{slot.name} has a container and had none before")
            return
        if current is None or current.release != release:
            raise Violation(f"{slot.name} has {current}, and should have {release}")
        if slot.changed > slot.looked:
            return  # it happened after the last look
        if not current.running:
            raise Violation(f"{slot.name} does not run")
        for balancer in self.balancers if not origin.held else ():
            server = balancer.servers[slot.name]
            if server.admin != "ready" or server.weight != origin.weight:
                raise Violation(f"{slot.name} has {server} on {balancer.name}")

    def _add(self, name: str, weight: int, kind: str) -> None:
        slot = Slot(name, name.rpartition("-")[0], weight)
        if kind != "empty":
            self._made += 1
            slot.current = Container("v1", f"c{self._made}", running=kind != "stopped")
        admin = {"held": "drain", "maint": "maint"}.get(kind, "ready")
        self.slots[name] = slot
        for balancer in self.balancers:
            balancer.servers[name] = Server(weight, admin, self.healthy(slot))

    def _now(self, slot: Slot, wanted: str) -> SlotNow:
        servers = [balancer.servers[slot.name] for balancer in self.balancers]
        current = slot.current
        now = None
        if current is not None:
            release = current.release
            now = ContainerNow(f"fleet-{slot.name}", current.id, release, release, release, current.running)
        return SlotNow(
            name=slot.name,
            host=slot.host,
            index=int(slot.name.rpartition("-")[2]),
            uuid=f"GPU-{slot.name}",
            gpu="L4",
            address="10.0.0.1",
            port=7860,
            weight=slot.weight,
            serves=all(server.ready for server in servers),
            wanted=wanted,
            held=any(server.admin != "ready" for server in servers),
            current=now,
        )


class Connection:
    """One controller's way to the fleet. `called` are its calls in order, each with the step at which it began."""

    def __init__(self, fleet: Fleet, fence: int, faults: Sequence[Fault], wish: Wish) -> None:
        self.fleet = fleet
        self.wish = wish
        self.called: list[tuple[int, str]] = []
        self.steps = 0
        self._fence = fence
        self._faults = sorted((each for each in faults if not each.call), key=lambda each: each.step)
        self._waiting = [each for each in faults if each.call]
        self._counts: Counter[str] = Counter()
        self._dead = False
        self._refused = False
        self._placed = 0
        self._seen: tuple[int, dict[str, dict[str, int]]] | None = None
        self._uncut: dict[str, int] = {}

    def servers(self) -> Sequence[ServerNow]:
        self._call("servers")
        self._reach_balancers()
        self._seen = (self.steps, self.fleet.ready())
        found = [
            ServerNow(
                balancer.name,
                name,
                server.weight,
                takes_jobs=server.ready > 0,
                up=server.up and server.admin != "maint",
                held=server.admin != "ready",
                jobs=server.jobs,
                requests=server.requests,
                errors=server.errors,
                mean=ceil(server.total / max(1, min(server.requests, 512))) / 1000,
            )
            for balancer in self.fleet.balancers
            for name, server in balancer.servers.items()
        ]
        self._step()
        return found

    def drain(
        self, slots: Sequence[str], deadline: float, say: Callable[[str, str], None]
    ) -> Mapping[str, int]:
        self._call("drain")
        fleet = self.fleet
        self._fenced()
        fleet.judge_taken(dict.fromkeys(slots, 0), self._known())
        self._touch(slots)
        for balancer in fleet.balancers:
            for name in slots if balancer.back is None else ():
                server = balancer.servers[name]
                server.admin = "drain" if server.admin == "ready" else server.admin
        self._reach_balancers()
        for balancer in fleet.balancers:
            for name in slots:
                server = balancer.servers[name]
                server.admin = "drain" if server.admin == "ready" else server.admin
        until = fleet.now + deadline
        while any(map(fleet.in_flight, slots)) and fleet.now < until:
            fleet.advance(1)
            self._step()
            for name in slots:
                say(name, f"{fleet.in_flight(name)} jobs in flight")
        self._reach_balancers()
        cut = {name: fleet.lose_jobs(name, "cut") for name in slots}
        self._uncut = {name: jobs for name, jobs in cut.items() if jobs}
        self._step()
        return cut

    def admit(self, weights: Mapping[str, int]) -> None:
        self._call("admit")
        fleet = self.fleet
        for name in weights:
            self._reach(name)
        self._fenced()
        self._reach_balancers()
        fleet.judge_taken(weights, self._known())
        self._touch(weights)
        for name, weight in weights.items():
            slot = fleet.slots[name]
            container = slot.current
            if fleet.header and fleet.header.origin(name).held:
                raise Violation(f"{name} is let take jobs, an operator holds it")
            if container and container.running and not container.well:
                if slot.changed < slot.looked or fleet.steps - slot.look_step > RECENT * len(fleet.slots):
                    raise Violation(f"{name} is let take jobs, {container.name} has not passed its rungs")
                container.excused = True
            for balancer in fleet.balancers:
                server = balancer.servers[name]
                server.admin, server.weight, server.up = "ready", weight, True
        self._step()

    def hold(self, slots: Sequence[str]) -> None:
        raise Violation("nobody needs this")

    def bring(self, hosts: Sequence[str], say: Callable[[str, str], None]) -> None:
        self._call(f"bring {' '.join(hosts)}")

    def pull(self, host: str, say: Callable[[str, str], None]) -> None:
        self._call(f"pull {host}")
        self._effect()
        for part in range(2):
            self._reach_host(host)
            say(host, f"pulling {part} of 2 GB")
            self.fleet.advance(2)
            self._step()
        if host in self.fleet.no_pull:
            raise TaskError("the registry does not give it")

    def place(self, slot: str, to: str, say: Callable[[str, str], None]) -> str:
        self._call(f"place {slot} {to}")
        fleet, there = self.fleet, self.fleet.slots[slot]
        assert fleet.header is not None
        origin = fleet.header.origin(slot)
        release = origin.green if to == "green" else origin.release
        self._reach(slot)
        self._touch((slot,))
        if there.current is None or there.current.release != release or not there.current.running:
            self._placed += self._fence != fleet.fence
            if self._placed > 1:
                raise Violation("a stale controller exchanges one container after the other")
            self._effect()

        def between() -> None:
            fleet.advance(1)
            self._step()
            self._reach(slot)
            say(slot, "exchanging")

        container = fleet.exchange(there, release, between)
        self._step()
        return container.name if container else ""

    def running(self, slot: str) -> tuple[str, str] | None:
        self._call(f"running {slot}")
        self._reach(slot)
        there = self.fleet.slots[slot]
        there.looked, there.look_step = self.fleet.event(), self.fleet.steps
        container = there.current
        return (container.name, container.release) if container and container.running else None

    def climb(
        self, slot: str, to: str, deadline: float, say: Callable[[str, str], None], rounds: int = 1
    ) -> float:
        self._call(f"climb {slot} {to}")
        fleet, there = self.fleet, self.fleet.slots[slot]
        until = fleet.now + deadline
        while True:
            self._reach(slot)
            say(slot, "waiting for its port")
            container = there.current
            if container is None or not container.running:
                raise RungError(slot, "running", "its container has ended", output="the end")
            if container.loaded <= fleet.now and self._rung(there) != "port":
                break
            if fleet.now >= until:
                raise RungError(slot, "port", "nothing answers", output="loading")
            fleet.advance(5 if self._rung(there) else 1)
            self._step()
        for _ in range(rounds):
            self._translate(there)
            fleet.advance(min(self._seconds(there), 2))
            self._step()
        container.well = True
        self._step()
        return self._seconds(there)

    def beside(self, slot: str, say: Callable[[str, str], None]) -> None:
        raise NotImplementedError("the model's cards have no room for two containers")

    def golden(self, slot: str, to: str = "green", times: int = 1) -> float:
        self._call(f"golden {slot}")
        self._reach(slot)
        there = self.fleet.slots[slot]
        seconds = 0.0
        for _ in range(times):
            self._translate(there)
            seconds = self._seconds(there)
            self.fleet.advance(min(seconds, 2))
            self._step()
        return seconds

    def log(self, slot: str) -> str:
        self._call(f"log {slot}")
        self._reach(slot)
        return f"the log of {slot}"

    def prune(self, host: str, retain: int) -> None:
        self._call(f"prune {host}")
        self._reach_host(host)
        self._effect()
        for slot in self.fleet.slots.values():
            if slot.host == host:
                del slot.kept[retain:]
        self._step()

    def stage(self, name: str, variables: Mapping[str, Any]) -> None:
        self._call(f"stage {name}")
        self._effect()
        if name in self.fleet.bad_stages:
            raise TaskError(f"the stage {name} failed")
        self._step()

    def record(self, step: str, slots: Sequence[str] = (), wave: int = 0, **detail: Any) -> Entry:
        self._call(f"record {step}")
        self._fenced()
        self._reach_balancers()
        fleet = self.fleet
        if step == "drained":
            if detail["cut"] != self._uncut:
                raise Violation(f"{self._uncut} jobs were cut, {detail['cut']} are told")
            fleet.cut.update(self._uncut)
            self._uncut = {}
        if fleet.journal and fleet.journal[-1].step in ("finished", "rolled-back"):
            raise Violation(f"{step} is told after the end")
        entry = Entry(len(fleet.journal) + 1, fleet.now, step, tuple(slots), wave, detail)
        fleet.journal.append(entry)
        self._step()
        return entry

    def pause(self, seconds: float) -> None:
        self._call("pause")
        left = seconds
        while left > 0 and not (self.wish.asked and left < seconds):
            self.fleet.advance(min(1.0, left))
            left -= 1.0
            self._step()

    def clock(self) -> float:
        return self.fleet.now

    def _call(self, name: str) -> None:
        self.called.append((self.steps + 1, name))
        for prefix in {name, name.split()[0]}:
            self._counts[prefix] += 1
        for fault in [each for each in self._waiting if self._counts[each.call] == each.nth]:
            self._waiting.remove(fault)
            self._faults.append(replace(fault, step=self.steps + fault.step))
            self._faults.sort(key=lambda each: each.step)
        self.fleet.advance(0.125)
        self._step()

    def _step(self) -> None:
        """Something may happen here."""
        if self._dead:
            raise Killed
        self.steps += 1
        self.fleet.steps += 1
        Fleet.total_steps += 1
        while self._faults and self._faults[0].step <= self.steps:
            fault = self._faults.pop(0)
            match fault.kind:
                case "kill":
                    self._dead = True
                    raise Killed
                case "stop":
                    self.wish.stop()
                case "takeover":
                    self.fleet.fence += 1
                case _:
                    self.fleet.strike(fault)

    def _fenced(self) -> None:
        if self._fence != self.fleet.fence:
            self._refused = True
            raise LeaseError("another operator has taken over")

    def _effect(self) -> None:
        if self._refused:
            raise Violation(f"a stale controller goes on: {self.called[-1][1]}")

    def _reach(self, slot: str) -> None:
        self._reach_host(self.fleet.slots[slot].host)

    def _reach_host(self, host: str) -> None:
        if host in self.fleet.hosts_lost:
            self.fleet.advance(3)
            raise UnreachableError(f"{host} does not answer")

    def _reach_balancers(self) -> None:
        until = self.fleet.now + PATIENCE
        while away := [b for b in self.fleet.balancers if b.back is not None]:
            if self.fleet.now >= until:
                raise BalancerError(f"{away[0].name} does not answer")
            self.fleet.advance(1)

    def _known(self) -> dict[str, dict[str, int]] | None:
        """What a recent look at the balancers told; None where that is long ago."""
        if self._seen is None or self.steps - self._seen[0] > 2 * RECENT + 2 * len(self.fleet.slots):
            return None
        return self._seen[1]

    def _touch(self, slots: Iterable[str]) -> None:
        for name in slots:
            slot = self.fleet.slots[name]
            served = [*self.fleet.ready().values(), *(self._known() or {}).values()]
            if not slot.touched and slot.current and any(weights[name] for weights in served):
                slot.current.well = True
            slot.touched = True

    def _rung(self, slot: Slot) -> str:
        """The rung that its container does not reach; empty where it reaches all."""
        if self.fleet._green(slot):
            return self.fleet.bad.get(slot.name, "")
        return "golden" if slot.name in self.fleet.bad_blue else ""

    def _translate(self, slot: Slot) -> None:
        if not self.fleet.healthy(slot):
            raise RungError(slot.name, "running", "its container has ended", output="the end")
        if rung := self._rung(slot):
            raise RungError(slot.name, rung, f"{rung} is not as it must be", output=f"the log of {slot.name}")

    def _seconds(self, slot: Slot) -> float:
        return GOLDEN * SLOW if slot.name in self.fleet.slow and self.fleet._green(slot) else GOLDEN
