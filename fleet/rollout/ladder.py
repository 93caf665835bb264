"""The readiness ladder: what a container must show, rung by rung, before traffic goes to it.

Running, port, shape, memory, golden. Nothing here knows SSH: a `Look` is one exchange with the host, and
`Readiness` makes one out of anything that runs a script there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn, Protocol

from fleet.docker import readiness
from fleet.docker.readiness import Call, Page, Profile, Seen, Target
from fleet.errors import FleetError
from fleet.gpu.probe import GPU_PROBE, GPU_PROCESSES_PROBE, parse_gpu_processes, parse_gpus
from fleet.rollout import golden
from fleet.rollout.golden import Pair
from fleet.rollout.gpu_memory import Finding, Owner, memory_of
from fleet.rollout.shape import Shape, shape_of
from fleet.rollout.world import RungError, Say

POLL = 0.25
"""Seconds from one look to the next at least; one that waits on the host for the port takes longer itself."""

_GPU = (GPU_PROBE, GPU_PROCESSES_PROBE)
_AGAIN = 1.0
_MEMORY_TRIES = 5


class Look(Protocol):
    """One exchange with the slot's host: the container, its port, and what else is asked for."""

    def __call__(
        self, calls: Sequence[Call] = (), *, gpu: bool = False, log: bool = False, wait: bool = False
    ) -> Seen:
        """Ask once; see `fleet.docker.readiness`. Raises FleetError where the host cannot be asked."""
        ...


class Readiness:
    """Looks at one container through anything that runs a script as root on its host."""

    def __init__(self, target: Target, run: Callable[[str, float], bytes]) -> None:
        self._target = target
        self._run = run

    def __call__(
        self, calls: Sequence[Call] = (), *, gpu: bool = False, log: bool = False, wait: bool = False
    ) -> Seen:
        """One exchange. Raises what `run` raises."""
        probes = _GPU if gpu else ()
        text, seconds = readiness.script(self._target, calls, probes, log=log, wait=wait)
        return readiness.parse(self._run(text, seconds), probes)


@dataclass(frozen=True)
class Wanted:
    """What a slot's container must show.

    `owner` is the container that was started, and its GPU. `before` is the shape of the API that clients
    know, None where it does not matter. `pairs`: see `fleet.rollout.golden.pairs_for`.
    """

    slot: str
    owner: Owner
    pairs: tuple[Pair, ...] = (Pair(),)
    profile: Profile = "gradio"
    before: Shape | None = None


def climb(
    look: Look,
    wanted: Wanted,
    deadline: float,
    say: Say,
    rounds: int = 1,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> float:
    """Wait until every rung holds, for `deadline` seconds; the mean seconds of a golden round, if any.

    A model that loads with its first job has no memory before: then the memory is judged after the golden
    translation. Raises RungError with the container's log.
    """
    wanted = replace(wanted, pairs=wanted.pairs * rounds)
    ladder = _Ladder(look, wanted, deadline, say, sleep, clock)
    seen = ladder.port()
    ladder.shape(seen)
    loaded = ladder.memory()
    seconds = ladder.golden()
    if not loaded and rounds:
        ladder.memory_at_last()
    return seconds / max(rounds, 1)


def translate(
    look: Look, wanted: Wanted, times: int = 1, *, sleep: Callable[[float], None] = time.sleep
) -> float:
    """The golden translations alone, `times` over in one exchange; the mean seconds of one round.

    A missing or wrong answer is asked for once more. Raises RungError.
    """
    rounds = replace(wanted, pairs=wanted.pairs * times)
    ladder = _Ladder(look, rounds, 0.0, lambda slot, text: None, sleep, time.monotonic)
    return ladder.golden() / max(times, 1)


def shape_before(look: Look) -> Shape | None:
    """The shape of the API a slot offers now; None where it does not tell."""
    return shape_of(look().page.body)


def memory_now(look: Look) -> Mapping[str, int | None]:
    """The memory in use on every GPU of the host, in MiB by UUID; what `Owner.before` is to hold."""
    seen = look(gpu=True)
    gpus = parse_gpus(seen.facts[GPU_PROBE.key]) if GPU_PROBE.key in seen.facts else None
    return {gpu.uuid: gpu.memory_used for gpu in gpus or ()}


class _Ladder:
    def __init__(
        self,
        look: Look,
        wanted: Wanted,
        deadline: float,
        say: Say,
        sleep: Callable[[float], None],
        clock: Callable[[], float],
    ) -> None:
        self._look, self._wanted, self._say = look, wanted, say
        self._sleep, self._clock = sleep, clock
        self._began = clock()
        self._deadline = deadline
        self._models = b""
        self._looks = 0
        self._memory = ""

    def port(self) -> Seen:
        while True:
            began = self._clock()
            seen = self._running(self._look(wait=True))
            trouble = self._port_trouble(seen.page)
            if not trouble:
                return seen
            if self._left() <= 0:
                how = "answers, but not as it should," if seen.page.status else "has not answered"
                self.fail(
                    "port",
                    f"its port {how} after {self._passed():.0f} s: {trouble}",
                    "see the container's log; a model that loads for longer needs a longer --ready-deadline",
                )
            self._say(self._wanted.slot, f"loading for {self._passed():.0f} s")
            self._sleep(max(POLL - (self._clock() - began), 0.0))

    def shape(self, seen: Seen) -> None:
        if self._wanted.before is None or self._wanted.profile != "gradio":
            return
        now = shape_of(seen.page.body)
        lacks = now.lacks(self._wanted.before) if now else ("its /config cannot be read",)
        if lacks:
            self.fail(
                "shape",
                f"the API is not as before: {'; '.join(lacks)}",
                "open pages and clients would fail; use an image whose API has what the present one has",
            )

    def memory(self) -> bool:
        """Whether its memory is where it must be; False where it has none yet."""
        seen = self._running(self._look(gpu=True))
        finding = self._finding(seen)
        self._memory = finding.text
        if finding.state == "wrong":
            self.fail(
                "memory",
                finding.text,
                "the image must use the GPU it is given, not one that it chooses: see its CUDA settings",
            )
        if finding.state == "unknown":
            self._say(self._wanted.slot, f"memory unknown: {finding.text}")
        return finding.state != "none"

    def memory_at_last(self) -> None:
        """After a translation the memory must be there; a busy nvidia-smi is asked a few times."""
        for _ in range(_MEMORY_TRIES):
            if self.memory():
                return
            self._sleep(_AGAIN)
        self.fail(
            "memory",
            f"it translates, yet no memory of it is found on its GPU: {self._memory}",
            "the model may run on the CPU: see the container's log, and whether the image finds CUDA",
        )

    def golden(self) -> float:
        wrongs = tries = 0
        while True:
            patience = max(self._left(), 1.0) if self._deadline else float("inf")
            calls = golden.calls(self._wanted.pairs, self._wanted.profile, patience, self._models)
            if not calls:
                return 0.0
            self._say(self._wanted.slot, "golden translation")
            tries += 1
            seen = self._running(self._look(calls))
            found = golden.score(self._wanted.pairs, seen.replies)
            if not found.wrong and not found.missing:
                return found.seconds
            wrongs += bool(found.wrong)
            if wrongs > 1:
                self.fail(
                    "golden",
                    f"wrong translation, twice: {found.wrong}",
                    "check the image, or set `golden` to sentences that this model answers",
                )
            if self._left() <= _AGAIN and tries > 1:
                self.fail(
                    "golden",
                    f"no right translation after {self._passed():.0f} s; "
                    f"the last try, {found.missing or found.wrong}",
                    "see the container's log; `deadline` of `golden` is how long one translation may take",
                )
            self._say(self._wanted.slot, f"no golden translation for {self._passed():.0f} s")
            self._sleep(_AGAIN)

    def fail(self, rung: str, message: str, remedy: str) -> NoReturn:
        try:
            log = self._look(log=True).log
        except FleetError as error:
            log = f"(its log could not be read: {error})"
        lines = log.strip().splitlines()[-readiness.LOG_LINES :]
        raise RungError(self._wanted.slot, rung, message, output="\n".join(lines), remedy=remedy)

    def _running(self, seen: Seen) -> Seen:
        """The same look, if the container it shows is the one that was started, and still the first time."""
        state = seen.state
        remedy = (
            "see the end of its log for why it ended; going back removes the container, and the rest of it"
        )
        if seen.engine == 404:
            self.fail("running", "the container is not there any more", "has somebody else removed it?")
        self._looks += 1
        if state is None:
            if self._left() <= 0 and self._looks > 1:
                self.fail(
                    "running",
                    "Docker on its host does not tell how the container is",
                    "`systemctl status docker` on the host",
                )
            return Seen(page=Page(0, trouble="Docker does not answer"))
        if state.id != self._wanted.owner.container:
            self.fail("running", "another container has taken its place", "is a second upgrade at work?")
        if state.oom_killed:
            self.fail("running", "it was killed: out of memory (of the host, not of the GPU)", remedy)
        if state.restarts or state.status == "restarting":
            self.fail(
                "running",
                f"it does not stay up: it ended with exit code {state.exit_code} and was restarted",
                remedy,
            )
        if state.status not in ("running", "created"):
            error = f": {state.error}" if state.error else ""
            self.fail("running", f"it is {state.status}, with exit code {state.exit_code}{error}", remedy)
        if state.status == "created" and self._left() <= 0:
            self.fail("running", f"it has not started within {self._passed():.0f} s", remedy)
        return seen

    def _port_trouble(self, page: Page) -> str:
        profile = self._wanted.profile
        if not page.status:
            return page.trouble or "no answer"
        if profile == "openai":
            self._models = page.body
            # A server that wants a key for the list is up all the same.
            named = page.status == 401 or (page.status == 200 and golden.listed(page.body))
            return "" if named else f"/v1/models lists no model (HTTP {page.status})"
        if profile == "http":
            return "" if page.status < 500 else f"HTTP {page.status}"
        if page.status != 200:
            return f"HTTP {page.status} on /config"
        return "" if shape_of(page.body) else "its /config describes no Gradio page"

    def _finding(self, seen: Seen) -> Finding:
        gpus = parse_gpus(seen.facts[GPU_PROBE.key]) if GPU_PROBE.key in seen.facts else None
        processes = None
        if GPU_PROCESSES_PROBE.key in seen.facts:
            processes = parse_gpu_processes(seen.facts[GPU_PROCESSES_PROBE.key])
        return memory_of(self._wanted.owner, gpus, processes)

    def _passed(self) -> float:
        return self._clock() - self._began

    def _left(self) -> float:
        return self._deadline - self._passed()
