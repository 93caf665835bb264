"""The lease: one operator at a time may write to the balancers, and whoever loses it is told.

Every balancer has the lease under the same number, the fence, which only grows. The holder's writes carry it,
so one that was asleep while another took over is refused, whatever it believes. Expiry is by each balancer's
own clock; the holder gives up by its own, a little earlier. It lasts longer than a rollout's patience with a
balancer that cannot be reached, so that a silence which is waited for elsewhere does not end it.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from fleet.balancer import rollouts
from fleet.balancer.holder import is_alive, is_dead
from fleet.balancer.rollouts import ROOT, Claim, LeaseSeen
from fleet.balancer.rollouts_script import HELD, LATE
from fleet.errors import FleetError, StepError, TaskError
from fleet.rollout.acting import BalancerError
from fleet.rollout.reaching import OpenOne, Reach
from fleet.rollout.world import LeaseError
from fleet.ssh.remote import Result

TTL = 100
EVERY = 8.0
_RENEWAL = 5.0
"""Seconds for one renewal; a connection that does not answer by then is replaced before the next."""
_PARTING = 12.0

Waiting = Callable[[Claim, float], None]
"""Whom it waits for, and the seconds until that lease expires."""


class Lease:
    """The lease on several balancers. A context manager; `acquire` within it, its end is `release`.

    `open_one` opens a connection to a balancer by name: the lease has its own, since its renewals run beside
    everything else. `holder` is `this_process(...)`. `lost` is set once the lease is not ours any more, or
    may not be, and `reason` says why.
    """

    def __init__(
        self,
        names: Sequence[str],
        open_one: OpenOne,
        holder: Claim,
        *,
        ttl: int = TTL,
        every: float = EVERY,
        root: str = ROOT,
    ) -> None:
        self.names = tuple(sorted(names))
        self.fence = 0
        self.lost = threading.Event()
        self.reason = ""
        self._taken_over = False
        self._claim = holder
        self._ttl = ttl
        self._every = every
        self._root = root
        self._reach = {name: Reach(name, open_one) for name in self.names}
        self._renewed: dict[str, float] = {}
        self._trouble: dict[str, str] = {}
        self._stop = threading.Event()
        self._watcher: threading.Thread | None = None

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(
        self,
        *,
        wait: float = 0.0,
        take_from_dead: bool = False,
        waiting: Waiting = lambda claim, seconds: None,
    ) -> int:
        """Hold the lease on every balancer, or on none; its number.

        Another's lease is waited for up to `wait` seconds, and `waiting` is told each second; but only until
        its holder is known to live, here or by a renewal. With `take_from_dead` it is taken at once where its
        process ran on this machine and is no more. Raises LeaseError where another holds it,
        UnreachableError or StepError where a balancer cannot be told.
        """
        until = time.monotonic() + wait
        seen: dict[str, int] = {}
        while True:
            try:
                return self._try(take_from_dead)
            except _HeldError as held:
                claim, left = held.claim, until - time.monotonic()
                first = seen.setdefault(f"{held.name} {claim.holder}", claim.expires)
                if left <= 0 or claim.expires > first or is_alive(claim):
                    raise held.told() from None
                waiting(claim, held.expires_in)
                time.sleep(min(left, 1.0, max(0.1, held.expires_in)))
            except _LateError:
                time.sleep(0.05 + random.random() / 10)

    def refuse_held(self) -> None:
        """Raise LeaseError where another's lease is in force, unless its process is known to run no more."""
        try:
            self._over({name: self._look(name) for name in self.names}, take_from_dead=True)
        except _HeldError as held:
            raise held.told() from None

    def about(self, rollout: str) -> None:
        """Name the rollout that the lease is for; others read it after the next renewal."""
        self._claim = replace(self._claim, rollout=rollout)

    def check(self) -> None:
        """Raise LeaseError where another has the lease, BalancerError where it was not renewed in time."""
        if not self.fence:
            raise LeaseError("the lease is not held")
        if not self.lost.is_set() and (reason := self._overdue()):
            self._lose(reason)
        if not self.lost.is_set():
            return
        if self._taken_over:
            raise LeaseError(
                f"the lease was lost: {self.reason}",
                remedy="`fleet history` shows what goes on; what this run has done is in the journal",
            )
        raise BalancerError(
            f"the lease was lost: {self.reason}", remedy="mend that balancer, then go on with --resume"
        )

    def release(self) -> None:
        """Give the lease back where it is still ours; never raises for balancers that cannot be told."""
        self._stop.set()
        if self._watcher is not None:
            self._watcher.join()
        if self.fence:
            self._take_back(self.names)
            self.fence = 0
        for reach in self._reach.values():
            reach.close()

    def _try(self, take_from_dead: bool) -> int:
        seen = {name: self._look(name) for name in self.names}
        over = self._over(seen, take_from_dead)
        fence = 1 + max((found.fence for found in seen.values()), default=0)
        asked: list[str] = []
        try:
            for name in self.names:
                asked.append(name)
                began = _now()
                self._take(name, fence, over)
                self._renewed[name] = began
        except BaseException:
            self._take_back(asked, fence)
            raise
        self.fence = fence
        if _now() - min(self._renewed.values()) > self._every:
            self._renew_all()
        self._watcher = threading.Thread(target=self._watch, name="lease", daemon=True)
        self._watcher.start()
        return fence

    def _over(self, seen: Mapping[str, LeaseSeen], take_from_dead: bool) -> str:
        """The dead holder whose lease may be taken; empty for none. Raises where another's is in force."""
        over = ""
        for name, found in seen.items():
            held = found.held
            if held is None or held.holder == self._claim.holder:
                continue
            if not (take_from_dead and is_dead(held)):
                raise _HeldError(name, held, found.now)
            over = held.holder
        return over

    def _look(self, name: str) -> LeaseSeen:
        result = self._reach[name].run(rollouts.look_lease(self._root))
        seen = rollouts.parse_lease(result.out) if result.rc == 0 else None
        if seen is None:
            raise _failed(name, "its lease cannot be read", result)
        return seen

    def _take(self, name: str, fence: int, over: str) -> None:
        """In the order of names, so that of two who try at once one gets all."""
        step = rollouts.take(fence, self._claim, self._ttl, over=over, root=self._root)
        result = self._reach[name].run(step)
        if result.rc == HELD and (held := rollouts.parse_claim(result.out)) is not None:
            raise _HeldError(name, held, self._look(name).now)
        if result.rc == LATE:
            raise _LateError
        if result.rc != 0:
            raise _failed(name, "the lease cannot be taken", result)

    def _take_back(self, names: Sequence[str], fence: int = 0) -> None:
        for name in names:
            with contextlib.suppress(Exception):
                step = rollouts.release(fence or self.fence, self._claim, root=self._root)
                self._reach[name].run(step, timeout=_PARTING, queue=_PARTING)

    def _watch(self) -> None:
        """Renew on every balancer, each in its own thread: one that hangs holds up no other."""
        tick = min(1.0, self._every / 4)
        due = time.monotonic() + self._every
        running: dict[str, threading.Thread] = {}
        while not self._stop.wait(tick) and not self.lost.is_set():
            if reason := self._overdue():
                self._lose(reason)
            elif time.monotonic() >= due:
                due = time.monotonic() + self._every
                for name in self.names:
                    if name not in running or not running[name].is_alive():
                        running[name] = threading.Thread(target=self._renew, args=(name,), daemon=True)
                        running[name].start()

    def _renew_all(self) -> None:
        """A command of the holder before may have kept us waiting on one balancer for long."""
        for name in self.names:
            self._renew(name)

    def _renew(self, name: str) -> None:
        began = _now()
        try:
            step = rollouts.renew(self.fence, self._claim, self._ttl, root=self._root)
            result = self._reach[name].run(step, timeout=_RENEWAL)
        except Exception as error:
            self._trouble[name] = error.message if isinstance(error, FleetError) else str(error)
            return
        if result.rc == 0:
            self._renewed[name] = began
            self._trouble.pop(name, None)
        elif rollouts.is_fenced_out(result.rc):
            if not self._stop.is_set():
                self._lose(f"{name}: {taken_over(result.err)}", taken_over=True)
        else:
            self._trouble[name] = result.err.decode("utf-8", "replace").strip()

    def _overdue(self) -> str:
        now = _now()
        for name, at in list(self._renewed.items()):
            if now - at > self._ttl:
                why = self._trouble.get(name, "it did not answer, or this machine slept")
                return f"it could not be renewed on {name} for {self._ttl} s: {why}"
        return ""

    def _lose(self, reason: str, *, taken_over: bool = False) -> None:
        """For the first reason; but that another has it is worth more than that a balancer is silent."""
        if not self.lost.is_set() or (taken_over and not self._taken_over):
            self.reason, self._taken_over = reason, taken_over
            self.lost.set()


def _now() -> float:
    """Seconds that pass while this machine sleeps, too: the balancers do not sleep with it."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def fenced_out(error: FleetError) -> LeaseError | None:
    """What a step's error means where the step was refused; None for any other error."""
    if isinstance(error, LeaseError):
        return error
    said = error.output.encode("utf-8", "replace")
    if rollouts.REFUSED not in said:
        return None
    return LeaseError(taken_over(said), remedy="`fleet history` shows what that command does")


def taken_over(err: bytes) -> str:
    """What a refused step's stderr says, in words for an operator."""
    claim = rollouts.taken_by(err)
    if claim is None:
        return "another command has taken the lease over"
    return f"{who(claim)} has taken the lease over with `{_flat(claim.command)}`"


def who(claim: Claim) -> str:
    """The holder of a lease as an operator knows it."""
    return f"{_flat(claim.by)} on {_flat(claim.host)} (process {claim.pid})"


def _flat(text: str) -> str:
    """Text that somebody wrote, on one line and without what steers a terminal."""
    return "".join(c if c.isprintable() else " " for c in text).strip()


def _failed(name: str, what: str, result: Result) -> TaskError:
    said = result.err.decode("utf-8", "replace").strip()
    return StepError(f"{name}: {what} (exit code {result.rc})", output=said, remedy=f"mend that on {name}")


class _HeldError(Exception):
    def __init__(self, name: str, claim: Claim, now: int) -> None:
        self.name, self.claim = name, claim
        self.expires_in = max(0, claim.expires - now)
        self._age = max(0, now - claim.since)

    def told(self) -> LeaseError:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.claim.since))
        return LeaseError(
            f"{who(self.claim)} is changing the balancers: `{_flat(self.claim.command)}` holds the lease on "
            f"{self.name} since {since} ({self._age} s); it expires in {self.expires_in} s unless renewed",
            remedy="wait until that command has ended, or stop it",
        )


class _LateError(Exception):
    """Another had the lease between our look and our taking it."""
