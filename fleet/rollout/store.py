"""The journals on all balancers as one: written everywhere under the lease, read where most is known."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from fleet.balancer import rollouts
from fleet.balancer.holder import is_dead
from fleet.balancer.rollouts import KEEP, ROOT, RawHead
from fleet.balancer.rollouts_script import CONFLICT, GAP
from fleet.engine.everyone import ask_all, parted
from fleet.errors import FleetError, InternalError, StepError, TaskError, UnreachableError
from fleet.model.steps import Run
from fleet.rollout import journal
from fleet.rollout.acting import BalancerError
from fleet.rollout.journal import ENDS, Journal, JournalError
from fleet.rollout.lease import taken_over
from fleet.rollout.model import Entry, Header
from fleet.rollout.reaching import PATIENCE, OpenOne, Reach, cannot_be_told
from fleet.rollout.world import LeaseError
from fleet.ssh.remote import Remote, Result

AGAIN = 10.0
"""Seconds after which a balancer that could not be reached is tried again: trying takes time."""
_PAUSE = 1.0
_WRITE = 25.0
"""Seconds for one write, which may wait 20 s for a lock; a connection may be dead without being broken."""

T = TypeVar("T")


class Holding(Protocol):
    """What a writer must have; `fleet.rollout.lease.Lease` is one."""

    @property
    def fence(self) -> int:
        """The lease's number."""
        ...

    def check(self) -> None:
        """Raise LeaseError where another has it, BalancerError where it could not be renewed."""
        ...


@dataclass(frozen=True)
class Head:
    """What the ends of a rollout's journal say. `why` is the last entry that says why it did not go on.

    `count` is how many entries it has; `opened` and `fence` are the numbers under which the first and the
    last line were written; `balancers` who has it.
    """

    id: str
    header: Header
    last: Entry | None
    why: Entry | None
    count: int
    opened: int
    fence: int
    has_result: bool
    balancers: tuple[str, ...]

    @property
    def ended(self) -> bool:
        """True where nothing more follows."""
        return self.last is not None and self.last.step in ENDS


@dataclass(frozen=True)
class Read:
    """A rollout's journal, and in words which balancers have another one."""

    journal: Journal
    differ: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Silence:
    """No balancer could write since `began`; `last` is when that was tried last, and what came of it."""

    began: float
    last: float
    error: BalancerError

    def lasts(self, patience: float) -> bool:
        """True where it has gone on for so many seconds."""
        return self.last - self.began >= patience


class Store:
    """The rollouts kept on several balancers.

    `remotes` are open connections, which stay the caller's; one that breaks is replaced by `open_one`. A
    balancer that fails has its error in `errors` until it is up to date again, and the others go on; when
    none is left, an error is raised. `lease` is needed for writing. May be used by several threads, which
    wait for each other.
    """

    def __init__(
        self,
        remotes: Mapping[str, Remote],
        lease: Holding | None = None,
        *,
        open_one: OpenOne | None = None,
        root: str = ROOT,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.errors: dict[str, FleetError] = {}
        self.unreadable: dict[str, FleetError] = {}
        self._reach = {name: Reach(name, open_one, remote) for name, remote in remotes.items()}
        self._lease = lease
        self._reopens = open_one is not None
        self._root = root
        self._clock = clock
        self._pause = pause
        self._failed: dict[str, float] = {}
        self._silence: _Silence | None = None
        self._lock = threading.RLock()
        self._id = ""
        self._lines: list[bytes] = []
        self._has: dict[str, int] = {}

    def heads(self) -> tuple[Head, ...]:
        """Every rollout, the newest first. One exchange a balancer.

        What cannot be read anywhere is left out, and has its error in `unreadable`, by id.
        """
        step = rollouts.read_heads(self._root)
        with self._lock:
            found = self._each(lambda name: rollouts.parse_heads(self._ask(name, step).out)[1], reading=True)
            self.unreadable = {}
        best: dict[str, Head] = {}
        for name, raw in ((name, raw) for name, raws in found.items() for raw in raws):
            try:
                head = _head(name, raw)
            except JournalError as error:
                self.unreadable[raw.id] = error
                continue
            best[raw.id] = _joined(best[raw.id], head) if raw.id in best else head
        for id in best:
            self.unreadable.pop(id, None)
        return tuple(sorted(best.values(), key=_age, reverse=True))

    def unfinished(self) -> Head | None:
        """The newest rollout, where it has no end; one that another came after is not gone on with.

        Raises JournalError where what seems the newest cannot be read.
        """
        heads = self.heads()
        for id, error in self.unreadable.items():
            if not heads or id > heads[0].id:
                raise error
        return heads[0] if heads and not heads[0].ended else None

    def read(self, id: str) -> Read:
        """A whole journal: of several that differ, the longest of those written to last.

        Raises JournalError where no balancer has a readable one, TaskError where none has any.
        """

        def ask(name: str) -> Journal | None:
            data = self._ask(name, rollouts.read_journal(id, self._root)).out
            return journal.decode(data, f"{name}: {id}/journal") if data else None

        with self._lock:
            found = {name: each for name, each in self._each(ask, reading=True).items() if each is not None}
        if not found:
            unread = [error for error in self.errors.values() if isinstance(error, JournalError)]
            if unread:
                raise unread[0]
            raise TaskError(f"no balancer has a rollout {id}", remedy="`fleet history` lists them")
        best = max(found, key=lambda name: (journal.fence_of(found[name].lines[-1]), len(found[name].lines)))
        return Read(found[best], journal.differences(best, found))

    def result(self, id: str) -> bytes | None:
        """A rollout's result, as it was written; None where there is none."""
        with self._lock:
            found = self._each(
                lambda name: self._ask(name, rollouts.read_result(id, self._root)).out, reading=True
            )
        return next((document for document in found.values() if document), None)

    def running(self) -> str:
        """The rollout that a lease in force names; empty for none, or where its process is known dead."""
        step = rollouts.look_lease(self._root)
        with self._lock:
            found = self._each(lambda name: rollouts.parse_lease(self._ask(name, step).out), reading=True)
        held = [seen.held for seen in found.values() if seen and seen.held and not is_dead(seen.held)]
        return max(held, key=lambda claim: claim.fence).rollout if held else ""

    @property
    def next_number(self) -> int:
        """The number of the next entry."""
        return len(self._lines)

    def begin(self, header: Header) -> None:
        """Open a rollout's journal. Raises as `append`, but without patience: the balancer's own error."""
        with self._lock:
            self._start(header.id, [journal.encode_header(header, self._fence())])
            self._each(self._bring)

    def go_on(self, read: Journal) -> None:
        """Have later entries follow this journal, and all balancers have it. Raises as `begin`."""
        with self._lock:
            self._start(read.header.id, list(read.lines))
            self._each(self._bring)

    def append(self, entry: Entry, patience: float = PATIENCE) -> None:
        """Add an entry to the journal of every balancer; one that lacks earlier ones gets them first.

        One balancer that has it is enough; where none could write it, it is tried again until that has been
        so for `patience` seconds. Raises LeaseError where another has taken over (then it may stand on some
        balancers), BalancerError where none could write it. Repeating it is harmless.
        """
        with self._lock:
            line = journal.encode_entry(entry, self._fence())
            repeated = entry.number == len(self._lines) - 1 and self._lines[-1] == line
            if not repeated and entry.number != len(self._lines):
                raise ValueError(f"entry {entry.number} where {len(self._lines)} belongs")
            if not repeated:
                self._lines.append(line)
            try:
                self._bring_any(patience)
            except FleetError:
                if not repeated and len(self._lines) not in self._has.values():
                    self._lines.pop()
                raise

    def finish(self, document: bytes, keep: int = KEEP) -> None:
        """Write the rollout's result, and forget all but the newest `keep` rollouts. Raises as `begin`."""

        def write(name: str) -> None:
            self._bring(name)
            step = rollouts.finish(self._id, self._fence(), document, keep=keep, root=self._root)
            self._ask(name, step)

        with self._lock:
            self._each(write)

    def close(self) -> None:
        """End the connections that were opened here."""
        for reach in self._reach.values():
            reach.close()

    def _start(self, id: str, lines: list[bytes]) -> None:
        self._id, self._lines, self._has = id, lines, {}

    def _fence(self) -> int:
        if self._lease is None:
            raise LeaseError("only the holder of the lease writes the journal")
        self._lease.check()
        return self._lease.fence

    def _bring_any(self, patience: float) -> None:
        """Have our journal on a balancer at least.

        The patience is one for all who write: who waited for their turn meanwhile do not wait again.
        """
        self._fence()
        silence = self._silence
        if silence and silence.lasts(patience) and self._clock() - silence.last <= _PAUSE:
            raise silence.error
        while True:
            began = self._clock()
            try:
                self._each(self._bring)
                self._silence = None
                return
            except (LeaseError, BalancerError):
                raise
            except FleetError as error:
                silence = _Silence(silence.began if silence else began, self._clock(), cannot_be_told(error))
                self._silence = silence
                if silence.lasts(patience):
                    raise silence.error from error
            self._pause(_PAUSE)

    def _bring(self, name: str) -> None:
        """Have one balancer's journal be ours. What it has is compared where that is not known."""
        fence, total = self._fence(), len(self._lines)
        result = self._append(name, fence, min(self._has.pop(name, 0), total - 1))
        if result.rc == GAP:
            result = self._append(name, fence, 0)
        if result.rc == CONFLICT:
            step = rollouts.replace_journal(self._id, fence, self._lines, root=self._root)
            result = self._reach[name].run(step, timeout=_WRITE)
        _done(name, "the journal could not be written", result)
        self._has[name] = total

    def _append(self, name: str, fence: int, first: int) -> Result:
        step = rollouts.append(self._id, fence, first, self._lines[first:], root=self._root)
        return self._reach[name].run(step, timeout=_WRITE)

    def _ask(self, name: str, step: Run) -> Result:
        result = self._reach[name].run(step)
        _done(name, f"could not {step.title}", result)
        return result

    def _each(self, action: Callable[[str], T], *, reading: bool = False) -> dict[str, T]:
        """The action's results by balancer; that the lease is lost goes before all other errors.

        Ctrl-C waits for what is being written, but for no answer while `reading`.
        """
        names = [name for name in self._reach if self._due(name)] or list(self._reach)
        results, failed = parted(ask_all(names, action, "asking a balancer", see_through=not reading))
        for name in results:
            self.errors.pop(name, None)
            self._failed.pop(name, None)
        final = (LeaseError, BalancerError, InternalError)
        told = [error for error in failed.values() if isinstance(error, final)]
        for name, error in failed.items():
            if error in told:
                continue
            self.errors[name] = error
            if isinstance(error, UnreachableError):
                self._failed[name] = self._clock()
        if told:
            raise next((error for error in told if isinstance(error, LeaseError)), told[0])
        if not results:
            raise next(iter(self.errors.values()), TaskError("there is no balancer"))
        return results

    def _due(self, name: str) -> bool:
        at = self._failed.get(name)
        return at is None or not self._reopens or self._clock() - at >= AGAIN


def _head(name: str, raw: RawHead) -> Head:
    where = f"{name}: {raw.id}/journal"
    header = journal.decode_header(raw.header, f"{where}, line 1")
    last = journal.decode_entry(raw.last, f"{where}, line {raw.lines}") if raw.last else None
    return Head(
        id=raw.id,
        header=header,
        last=last,
        why=journal.decode_entry(raw.why, where) if raw.why else None,
        count=raw.lines - 1,
        opened=journal.fence_of(raw.header),
        fence=journal.fence_of(raw.last or raw.header),
        has_result=raw.has_result,
        balancers=(name,),
    )


def _joined(one: Head, other: Head) -> Head:
    """A rollout's head as two balancers have it: of the one that was written to last."""
    newer = max(one, other, key=lambda head: (head.fence, head.count))
    return replace(
        newer,
        has_result=one.has_result or other.has_result,
        balancers=(*one.balancers, *other.balancers),
    )


def _age(head: Head) -> tuple[int, float, str]:
    """The number tells the order; clocks of different operators may not."""
    return head.opened, head.header.started, head.id


def _done(name: str, what: str, result: Result) -> None:
    if rollouts.is_fenced_out(result.rc):
        raise LeaseError(
            f"{name}: {taken_over(result.err)}", remedy="`fleet history` shows what that command does"
        )
    if result.rc != 0:
        said = result.err.decode("utf-8", "replace").strip()
        raise StepError(f"{name}: {what} (exit code {result.rc})", output=said, remedy=f"mend that on {name}")
