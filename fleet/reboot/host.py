"""One host around its reboot: what it is asked, what is kept on its disk, and the wait until it is whole."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fleet.control.spans import in_words
from fleet.docker import readiness
from fleet.docker.answers import Container
from fleet.docker.probe import CONTAINERS_PROBE, parse_containers
from fleet.engine.hostrun import LOOK_TIMEOUT, Opener
from fleet.engine.look import look, merged
from fleet.errors import FleetError, StepError, TaskError, UnreachableError
from fleet.gpu.probe import GPU_PROBE, driver_problem, parse_gpus
from fleet.model.facts import Answer, Facts, Probe
from fleet.modules._reboot import REBOOT_PROBE, STATE_FILE, Begun, RebootSeen, parse_reboot, state_text
from fleet.reboot.model import GivenUpError, NotBackError
from fleet.ssh.remote import Remote

PAUSE = 2.0
"""Seconds between two attempts to reach a host that starts, or two looks at what starts there."""

_DOCKER_PROBE = Probe("reboot.docker", "command -v dockerd >/dev/null\n")
_PROBES = (REBOOT_PROBE, CONTAINERS_PROBE, _DOCKER_PROBE)
_HANGS = Answer(124, f"nvidia-smi has no answer within {LOOK_TIMEOUT:g} s".encode())
_ORDER = ("sh", "-c", "sync; exec systemctl reboot")
_MEND = (
    "look at the host's console; once it is back and whole, run the same command again. Where it stays as it "
    "is: `rm {file}` there, and `fleet ready {host}`"
)


@dataclass(frozen=True)
class HostSeen:
    """What a host tells: of reboots, its GPUs' UUIDs and its slots' containers; None where nobody answers."""

    reboot: RebootSeen
    gpus: frozenset[str] | None
    containers: tuple[Container, ...] | None
    trouble: str = ""
    docker: bool = True

    @property
    def serves(self) -> bool:
        """True where it has slots, or nobody can tell."""
        if self.containers is None:
            return self.docker
        return any(each.slot is not None for each in self.containers)

    @property
    def cards(self) -> frozenset[str]:
        """The GPUs by their UUIDs: those that the driver lists, and those that a running container was given.

        A card that fell off the bus is no more in the list, or takes the whole driver along.
        """
        given = (gpu for each in self.running.values() for gpu in each.gpus if gpu.startswith("GPU-"))
        return frozenset((*(self.gpus or ()), *given))

    @property
    def running(self) -> Mapping[str, Container]:
        """The running containers, by their slot."""
        found = self.containers or ()
        return {each.slot: each for each in found if each.slot is not None and each.running}


class HostSide:
    """A host by its name, over a connection that is opened when needed. Not thread-safe, but for `give_up`.

    Methods raise UnreachableError where it cannot be reached, TaskError where it does not do as told.
    """

    def __init__(self, name: str, opener: Opener, *, system: bool = True, pause: float | None = None) -> None:
        self.name = name
        self._opener = opener
        self._system = system
        self._pause = PAUSE if pause is None else pause
        self._remote: Remote | None = None
        self._over = threading.Event()

    def look(self) -> HostSeen:
        """Ask everything, in one exchange; the rest alone where the driver hangs, which a reboot may end."""
        try:
            facts = self._ask(GPU_PROBE, *_PROBES)
        except StepError:
            facts = merged(Facts({GPU_PROBE.key: _HANGS}), self._ask(*_PROBES))
        return _seen(facts, self._system)

    def remember(self, begun: Begun) -> None:
        """Keep what was drained, and what must be there again, on the host's disk."""
        text = state_text(begun).encode()
        self._connected().upload(STATE_FILE, text, mode="0600", owner="root", group="root")

    def forget(self) -> None:
        """The reboot has ended, or was never begun."""
        result = self._connected().run(("rm", "-f", STATE_FILE), timeout=30)
        if result.rc:
            raise TaskError(f"{self.name}: {STATE_FILE} cannot be removed", output=_text(result.err))

    def order(self) -> None:
        """Reboot. The connection may end before the answer comes."""
        try:
            result = self._connected().run(_ORDER, timeout=60)
        except (UnreachableError, StepError):
            return
        finally:
            self.close()
        if result.rc > 0:
            raise TaskError(
                f"{self.name}: `systemctl reboot` ended with {result.rc}", output=_text(result.err)
            )

    def wait_back(self, begun: Begun, timeout: float, say: Callable[[str], None]) -> None:
        """Until it answers with another boot id. Raises NotBackError, or TaskError where it never went."""
        until = time.monotonic() + timeout
        last: FleetError | None = None
        while True:
            try:
                boot_id = self._boot_id()
                if boot_id != begun.boot_id:
                    return
                last = None
            except (UnreachableError, StepError) as error:
                if last is None:
                    say("rebooting")
                last = error
            self.close()
            if time.monotonic() >= until:
                break
            self._sleep(until)
        after = f"{in_words(timeout)} after it was told to reboot"
        remedy = _MEND.format(file=STATE_FILE, host=self.name)
        if last is None:
            raise TaskError(f"{self.name} still runs with the same boot id {after}", remedy=remedy)
        raise NotBackError(
            f"{self.name} has not come back {after}: {last.message.removeprefix(f'{self.name}: ')}",
            output=last.output,
            remedy=remedy,
        )

    def wait_whole(self, begun: Begun, timeout: float, say: Callable[[str], None]) -> None:
        """Until all its GPUs are there again and its containers answer. Raises TaskError with what is not."""
        until = time.monotonic() + timeout
        missing = ""
        while True:
            try:
                missing = self._missing(begun)
            except (UnreachableError, StepError) as error:
                missing = error.message.removeprefix(f"{self.name}: ")
                self.close()
            if not missing:
                return
            say(f"waiting: {missing}")
            if time.monotonic() >= until:
                break
            self._sleep(until)
        raise TaskError(
            f"{self.name} is back, but not whole {in_words(timeout)} later: {missing}",
            remedy=_MEND.format(file=STATE_FILE, host=self.name),
        )

    def give_up(self) -> None:
        """End a wait that another thread is in, with a GivenUpError there."""
        self._over.set()

    def close(self) -> None:
        """End the connection; never raises."""
        if self._remote is not None:
            self._remote.close()
            self._remote = None

    def _sleep(self, until: float) -> None:
        if self._over.wait(min(self._pause, max(0.05, until - time.monotonic()))):
            raise GivenUpError(f"{self.name}: nobody waits for it any more", remedy="run this again")

    def _ask(self, *probes: Probe) -> Facts:
        try:
            return look(self._connected(), probes, timeout=LOOK_TIMEOUT)
        except FleetError:
            self.close()
            raise

    def _connected(self) -> Remote:
        if self._remote is None:
            self._remote, runner = self._opener(self.name)
            runner.close()
        return self._remote

    def _boot_id(self) -> str:
        facts = look(self._connected(), (REBOOT_PROBE,), timeout=30)
        return parse_reboot(facts[REBOOT_PROBE.key]).boot_id or "unknown"

    def _missing(self, begun: Begun) -> str:
        """What is not as it was, in words; empty where all is."""
        seen = self.look()
        if begun.gpus:
            if seen.gpus is None:
                return f"the NVIDIA driver does not answer: {seen.trouble}"
            if lost := [uuid for uuid in begun.gpus if uuid not in seen.gpus]:
                found = f"nvidia-smi lists {len(seen.gpus)} of {len(begun.gpus)}"
                return f"{'a GPU is' if len(lost) == 1 else 'GPUs are'} missing: {', '.join(lost)} ({found})"
        if begun.containers and seen.containers is None:
            return "the Docker Engine does not answer"
        for slot in begun.containers:
            container = seen.running.get(slot)
            if container is None:
                states = [each.state for each in seen.containers or () if each.slot == slot]
                return f"the container of {slot} {'is ' + states[0] if states else 'is gone'}"
            if trouble := self._silent(container):
                return f"{container.name} does not answer: {trouble}"
        return ""

    def _silent(self, container: Container) -> str:
        """Why the container's port does not answer; empty where it does, whatever it says."""
        if not container.ports:
            return ""
        port = container.ports[0]
        text, seconds = readiness.script(readiness.Target(container.name, port.host_port, port.local))
        result = self._connected().script(text, timeout=seconds)
        return readiness.parse(result.out).page.trouble


def _seen(facts: Facts, system: bool) -> HostSeen:
    gpus = parse_gpus(facts[GPU_PROBE.key])
    return HostSeen(
        parse_reboot(facts[REBOOT_PROBE.key], system=system),
        None if gpus is None else frozenset(gpu.uuid for gpu in gpus),
        parse_containers(facts[CONTAINERS_PROBE.key]),
        driver_problem(facts[GPU_PROBE.key]) or "",
        facts[_DOCKER_PROBE.key].ok,
    )


def _text(said: bytes) -> str:
    return said.decode("utf-8", "replace").strip()
