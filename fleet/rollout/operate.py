"""An upgrade from the command to its end: look, plan, take the lease, write the header, carry it out.

`Operation` holds the connections. What it decides is in the planner, what it does in the executor.
"""

from __future__ import annotations

import getpass
import json
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fleet.balancer.holder import this_process
from fleet.balancer.rollouts import Claim, fenced, plain
from fleet.balancer.software import require_haproxy
from fleet.control.targets import host_of, select_slots
from fleet.docker.readiness import Profile
from fleet.engine.everyone import ask_all, parted
from fleet.errors import FleetError, InputError, TaskError
from fleet.rollout.events import Began, Listen, Outcome, Recorded
from fleet.rollout.executor import Rollout
from fleet.rollout.golden import Pair, pairs_for, read_pairs
from fleet.rollout.history import Row, rows_of
from fleet.rollout.hosts import GpuHost
from fleet.rollout.lease import Lease
from fleet.rollout.measured import measured, summary
from fleet.rollout.model import Entry, Header, Kind, Options, Origin, Plan
from fleet.rollout.options import from_plain, to_plain
from fleet.rollout.planner import plan
from fleet.rollout.progress import progress_of
from fleet.rollout.reaching import without_it
from fleet.rollout.sampling import Sampler
from fleet.rollout.setting import Setting
from fleet.rollout.snapshot import Seen, observe
from fleet.rollout.sshworld import SshWorld
from fleet.rollout.stages import check_stages
from fleet.rollout.steering import Steering
from fleet.rollout.stopping import Wish
from fleet.rollout.store import Store
from fleet.rollout.targets import host_targets
from fleet.ssh.remote import Remote

BALANCERS = "balancer"
_EXPIRES = 115.0
"""Seconds to wait for the lease of a controller that died elsewhere: longer than it can live."""


@dataclass(frozen=True)
class Request:
    """What is asked for. `digest` is empty where the registry is to be asked what `image` means now."""

    image: str
    options: Options
    kind: Kind = "upgrade"
    digest: str = ""
    limit: str = ""


@dataclass(frozen=True)
class Prepared:
    """A plan that can be carried out, and the fleet it was made for."""

    request: Request
    plan: Plan
    seen: Seen


@dataclass(frozen=True)
class ReleaseDetail:
    """A rollout, and which slots run its bytes now or keep a container of them, stopped."""

    row: Row
    header: Header
    runs_on: tuple[str, ...]
    kept_on: tuple[str, ...]
    result: Any = None


class Operation:
    """The connections of one command. Use as a context manager.

    With `reading` alone, balancers that cannot be reached are left out as long as one can: what they keep of
    rollouts is the same. A rollout needs them all.
    """

    def __init__(self, setting: Setting, *, reading: bool = False) -> None:
        names = setting.inventory.groups.get(BALANCERS, ())
        if not names:
            raise InputError(
                "the inventory has no host in the group `balancer`",
                remedy="an upgrade needs HAProxy balancers to drain slots with",
            )
        require_haproxy((setting.inventory.hosts[name] for name in names), "fleet upgrade")
        self.setting = setting
        self._names = tuple(names)
        self._reading = reading
        self._steering = Steering(names, setting.opener)
        self._remotes: dict[str, Remote] = {}
        self._image = ""
        self._hosts: Mapping[str, GpuHost] = {}

    def __enter__(self) -> Operation:
        self._remotes, failed = parted(ask_all(self._names, self._open_one, "connecting to the balancer"))
        if failed and not (self._reading and self._remotes):
            self.__exit__()
            error = next(iter(failed.values()))
            error.remedy = without_it(error)
            raise error
        return self

    def __exit__(self, *_: object) -> None:
        self._steering.close()
        for host in self._hosts.values():
            host.close()
        for remote in self._remotes.values():
            remote.close()

    @property
    def store(self) -> Store:
        """What the balancers keep of rollouts, to be read."""
        return Store(self._remotes, open_one=self._open_one)

    def history(self) -> tuple[Row, ...]:
        """Every rollout that the balancers know, the newest first."""
        store = self.store
        return rows_of(store.heads(), store.running())

    def refuse_held(self) -> None:
        """Raise LeaseError where another operator is at work now."""
        with Lease(self._names, self._open_one, this_process(operator(), "")) as lease:
            lease.refuse_held()

    def unfinished(self) -> Header | None:
        """The rollout that has begun and not ended, if there is one."""
        head = self.store.unfinished()
        return head.header if head else None

    def release(self, row: Row) -> ReleaseDetail:
        """Everything that is known of one rollout's release."""
        store = self.store
        header = store.read(row.id).journal.header
        result = store.result(row.id)
        self._connect(row.image)
        seen = observe(self._hosts, {}, row.image, row.digest)
        slots = seen.snapshot.slots
        return ReleaseDetail(
            row,
            header,
            tuple(
                s.name for s in slots if s.current and s.current.running and s.current.digest == row.digest
            ),
            tuple(s.name for s in slots if any(kept.digest == row.digest for kept in s.kept)),
            json.loads(result) if result else None,
        )

    def prepare(self, request: Request) -> Prepared:
        """Look at the whole fleet and plan. Nothing is changed.

        Raises InputError for a plan that would break its promises and for mistakes in the golden translations
        or the user's own tasks, UnreachableError where no host answers.
        """
        states = self._steering.look(patience=0.0)
        self._connect(request.image)
        digest = request.digest or request.image.partition("@")[2] or self._resolve(request.image)
        names = tuple(dict.fromkeys(s.name for state in states.values() for s in state.slots()))
        chosen = self._chosen(request.limit, names)
        seen = observe(self._hosts, states, request.image, digest, chosen)
        load, drain = self._measured()
        concerned = {host_of(name) for name in names if chosen(name)} | (
            set() if request.limit else set(self._hosts)
        )
        troubles = {host: why for host, why in seen.snapshot.troubles.items() if host in concerned}
        snapshot = replace(seen.snapshot, troubles=troubles, load_seconds=load, drain_seconds=drain)
        prepared = Prepared(request, plan(snapshot, request.options), replace(seen, snapshot=snapshot))
        self._goldens(seen.profile)
        if prepared.plan.waves:
            self._check_stages(_header(prepared))
        return prepared

    def _check_stages(self, header: Header) -> None:
        """Find the mistakes in the user's own tasks before anything is touched."""
        samples = [
            {
                "id": header.id,
                "kind": header.kind,
                "image": header.image,
                "digest": header.digest,
                "wave": number,
                "slots": list(slots),
                "hosts": list(dict.fromkeys(header.origin(slot).host for slot in slots)),
            }
            for number, slots in enumerate(header.waves, 1)
        ]
        check_stages(self.setting.defaults.stages, self.setting.inventory, samples)

    def carry_out(
        self, prepared: Prepared, listen: Listen, wish: Wish, waiting: Callable[[str], None]
    ) -> Outcome:
        """Begin the rollout and see it through. Raises LeaseError where another operator has the lease."""
        request = prepared.request
        header = _header(prepared)
        with self._lease(header) as lease:
            lease.acquire(take_from_dead=True, waiting=_said(waiting))
            store = Store(self._remotes, lease, open_one=self._open_one)
            if (other := store.unfinished()) is not None:
                raise unfinished_error(other.header)
            self._check_unchanged(prepared)
            store.begin(header)
            listen(Began(header, prepared.plan))
            return self._run(header, (), request.options, prepared.seen, lease, store, listen, wish)

    def _check_unchanged(self, prepared: Prepared) -> None:
        """Between the plan and the lease somebody may have worked on the fleet."""
        digest = prepared.plan.digest
        again = self.prepare(replace(prepared.request, digest=digest))
        if again.plan.waves != prepared.plan.waves or _header(again).origins != _header(prepared).origins:
            raise TaskError(
                "the fleet is not as it was when this was planned",
                remedy="look at the new plan: run it again",
            )

    def go_on(
        self, header: Header, listen: Listen, wish: Wish, waiting: Callable[[str], None], *, abort: str = ""
    ) -> Outcome:
        """Go on with a rollout that has begun, on this machine or another; with `abort`, back to blue."""
        options = from_plain(header.options)
        with self._lease(header) as lease:
            lease.acquire(take_from_dead=True, wait=_EXPIRES, waiting=_said(waiting))
            store = Store(self._remotes, lease, open_one=self._open_one)
            read = store.read(header.id)
            header, entries = read.journal.header, read.journal.entries
            progress = progress_of(entries)
            if progress.ended:
                raise TaskError(f"{header.id} has ended meanwhile: {progress.ended}")
            store.go_on(read.journal)
            states = self._steering.look(patience=0.0)
            self._connect(header.image)
            if unknown := sorted({origin.host for origin in header.origins} - set(self._hosts)):
                raise InputError(
                    f"{', '.join(unknown)} {'is' if len(unknown) == 1 else 'are'} part of {header.id}, "
                    "and not of this inventory",
                    remedy="use the inventory that it began with",
                )
            mine = {origin.slot for origin in header.origins}
            seen = observe(self._hosts, states, header.image, header.digest, mine.__contains__)
            if not (abort or progress.rolling_back):
                _check_same(header, seen)
            listen(Began(header))
            for entry in entries:
                listen(Recorded(entry))
            return self._run(header, entries, options, seen, lease, store, listen, wish, abort=abort)

    def _run(
        self,
        header: Header,
        entries: Sequence[Entry],
        options: Options,
        seen: Seen,
        lease: Lease,
        store: Store,
        listen: Listen,
        wish: Wish,
        *,
        abort: str = "",
    ) -> Outcome:
        world = SshWorld(
            header=header,
            hosts=self._hosts,
            seen=seen,
            steering=Steering(self._names, self.setting.opener, lambda step: fenced(step, lease.fence)),
            store=store,
            allowed=lease.check,
            goldens=self._goldens(seen.profile),
            setting=self.setting,
            listen=listen,
            wish=wish,
        )
        with world, Sampler(Steering(self._names, self.setting.opener), listen):
            rollout = Rollout(world, header, options, progress=progress_of(entries), listen=listen, wish=wish)
            outcome = rollout.run(abort=abort)
        if outcome.state == "stopped":
            return outcome
        try:
            store.finish(plain(summary(outcome)))
        except FleetError as error:
            note = f"its result could not be written on the balancers: {error.message}"
            outcome = replace(outcome, notes=(*outcome.notes, note))
        return outcome

    def _lease(self, header: Header) -> Lease:
        holder = this_process(header.by, f"fleet {header.kind} {header.image}", header.id)
        return Lease(self._names, self._open_one, holder)

    def _open_one(self, name: str) -> Remote:
        return self.setting.opener(name)[0]

    def _goldens(self, profile: Profile) -> tuple[Pair, ...]:
        """What playbooks/upgrade.yml says, else the inventory, else the default for this profile."""
        if given := self.setting.defaults.golden:
            return read_pairs(list(given), "`golden` in playbooks/upgrade.yml")
        return pairs_for(self.setting.inventory, profile)

    def _measured(self) -> tuple[float | None, float | None]:
        """What loading and draining took in the newest rollout that finished."""
        store = self.store
        done = next((head for head in store.heads() if head.last and head.last.step == "finished"), None)
        return measured(store.result(done.id)) if done else (None, None)

    def _connect(self, image: str) -> None:
        if image == self._image:
            return
        setting = self.setting
        targets = host_targets(setting.book, setting.inventory, image, setting.run)
        self._image = image
        self._hosts = {name: GpuHost(target, setting.opener) for name, target in targets.items()}

    def _resolve(self, image: str) -> str:
        """What the image's name means now, asked by the first host that can."""
        first: FleetError | None = None
        for host in self._hosts.values():
            try:
                return host.resolve(image)
            except FleetError as error:
                first = first or error
        assert first is not None
        raise first

    def _chosen(self, limit: str, slots: Sequence[str]) -> Callable[[str], bool]:
        if not limit:
            return lambda slot: True
        chosen = set(select_slots((limit,), slots, self.setting.inventory))
        return chosen.__contains__


def _said(waiting: Callable[[str], None]) -> Callable[[Claim, float], None]:
    """The lease's word of whom it waits for, as a line."""
    return lambda claim, seconds: waiting(
        f"waiting for the lease of {claim.by}: it expires in {seconds:.0f} s"
    )


def new_id(now: float) -> str:
    """A rollout's name: when it began (UTC), and four letters that tell it from another of that second."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{secrets.token_hex(2)}"


def operator() -> str:
    """Who runs this command, for the lease and the journal: user@machine."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def unfinished_error(header: Header) -> InputError:
    """The refusal to begin a rollout beside one that has not ended."""
    when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(header.started))
    return InputError(
        f"the {header.kind} {header.id} to {header.image}, begun by {header.by} at {when} UTC, has not ended",
        remedy="go on with it: `fleet upgrade --resume`, or go back: `fleet upgrade --abort`",
    )


def _header(prepared: Prepared) -> Header:
    request, made = prepared.request, prepared.plan
    now = time.time()
    origins: list[Origin] = []
    for move in made.moves:
        slot = prepared.seen.snapshot.slot(move.slot)
        current = slot.current
        origins.append(
            Origin(
                slot=slot.name,
                host=slot.host,
                release=current.release if current else "",
                image=current.image if current else "",
                digest=current.digest if current else "",
                weight=slot.weight,
                held=slot.held,
                green=slot.wanted,
                strategy=move.strategy,
            )
        )
    return Header(
        id=new_id(now),
        kind=request.kind,
        image=request.image,
        digest=made.digest,
        by=operator(),
        started=now,
        floor=made.floor,
        total=made.total,
        waves=tuple(wave.slots for wave in made.waves),
        origins=tuple(origins),
        unchanged=made.unchanged,
        options=to_plain(request.options),
        kinds=tuple(wave.kind for wave in made.waves),
        left_out=tuple(slot.name for slot in prepared.seen.snapshot.slots if slot.left_out),
    )


def _check_same(header: Header, seen: Seen) -> None:
    """Going on must start what the rollout began with, or half of the fleet would run something else."""
    for slot in seen.snapshot.slots:
        if not slot.left_out and slot.wanted != header.origin(slot.name).green:
            raise TaskError(
                f"{slot.name}: the playbook or the inventory describes another container than when "
                f"{header.id} began ({slot.wanted} instead of {header.origin(slot.name).green})",
                remedy="bring them back to what they were and go on, or go back with --abort",
            )
