"""Holds green against blue while a step lasts, and before it gets any traffic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from fleet.rollout.gates import Verdict, changes, judge, judge_golden
from fleet.rollout.model import Gates
from fleet.rollout.world import GateError, RungError, ServerNow, World

EVERY = 5.0
"""Seconds between two judgements of a step that lasts longer."""
_AGAIN = 2.0


class Gate:
    """`wait` lets time pass, and may raise where somebody asked to stop."""

    def __init__(self, world: World, gates: Gates, wait: Callable[[float], None]) -> None:
        self._world = world
        self._gates = gates
        self._wait = wait
        self._golden: float | None = None
        self.blue_translates = True
        self._usual: Mapping[str, float] = {}

    def baseline(self, slots: Sequence[str]) -> None:
        """What blue takes: a golden translation on an empty slot, and the mean time of each slot's requests.

        A blue that cannot translate is no reason to keep it: then there is nothing to compare with, and it
        need not translate to serve again (`blue_translates`).
        """
        self._usual = {
            server.slot: server.mean
            for server in self._world.servers()
            if server.requests >= self._gates.requests and server.mean > 0
        }
        for slot in slots[:1]:
            try:
                self._golden = self._world.golden(slot, "blue")
            except RungError:
                self._golden, self.blue_translates = None, False

    def compare(self, slot: str, golden: float) -> None:
        """Raise GateError where golden translations of these seconds are slower than blue's by much."""
        self._raise(judge_golden(slot, golden, self._golden, self._gates))

    def sample(self) -> Sequence[ServerNow]:
        """The balancers' numbers now, to be held against later ones."""
        return self._world.servers()

    def hold(
        self,
        green: Sequence[str],
        blue: Sequence[str],
        seconds: float,
        before: Sequence[ServerNow] = (),
    ) -> None:
        """Let a step last, and judge green's slots by what happened since `before` (else since now).

        Without traffic to judge by, the golden translation is made. Raises GateError, RungError.
        """
        before = before or self.sample()
        until = self._world.clock() + seconds
        while True:
            left = until - self._world.clock()
            self._wait(min(EVERY, max(left, 0.0)))
            verdict = self._judge(green, blue, before)
            if self._world.clock() >= until:
                break
        for slot in verdict.slots if verdict.state == "no numbers" else ():
            self._world.golden(slot)

    def _judge(self, green: Sequence[str], blue: Sequence[str], before: Sequence[ServerNow]) -> Verdict:
        after = self.sample()
        if down := _down(after, green):
            self._wait(_AGAIN)
            after = self.sample()
            if still := {slot: why for slot, why in _down(after, green).items() if slot in down}:
                slot, why = next(iter(still.items()))
                raise GateError("errors", f"{slot}: the balancers find it down: {why}", slot=slot)
        deltas = changes(before, after)
        verdict = judge(
            [deltas[slot] for slot in green if slot in deltas],
            [deltas[slot] for slot in blue if slot in deltas],
            self._gates,
            self._usual,
        )
        self._raise(verdict)
        return verdict

    @staticmethod
    def _raise(verdict: Verdict) -> None:
        if verdict.error is not None:
            raise verdict.error


def _down(servers: Sequence[ServerNow], slots: Sequence[str]) -> dict[str, str]:
    """Slots that a balancer finds down though nobody drained them there, with the reason."""
    return {
        server.slot: f"{server.why} ({server.balancer})"
        for server in servers
        if server.slot in slots and not server.up
    }
