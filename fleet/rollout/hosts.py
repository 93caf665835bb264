"""One GPU host during a rollout: its connection, its containers, its images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any, TypeVar

from fleet.docker.answers import Container, Engine, Image
from fleet.docker.probe import (
    CONTAINERS_PROBE,
    ENGINE_PROBE,
    IMAGES_PROBE,
    parse_containers,
    parse_engine,
    parse_images,
)
from fleet.docker.references import digests_of, repository, tag
from fleet.engine.hostrun import LOOK_TIMEOUT, Opener
from fleet.engine.look import look
from fleet.engine.runner import HostRunner
from fleet.errors import TaskError, UnreachableError
from fleet.gpu.container import ContainerSpec, create_body, release_of
from fleet.gpu.slots import ports_of, slots_of
from fleet.model.facts import Facts, Probe
from fleet.model.slot import Slot
from fleet.model.steps import EngineCall
from fleet.rollout.swap import beside_steps, excess, in_place, of_slot, place_steps
from fleet.rollout.targets import HostTarget
from fleet.ssh.remote import Remote

T = TypeVar("T")
Say = Callable[[str], None]


class GpuHost:
    """A GPU host. Connects when first needed, and once more where the connection was lost.

    Looking may be done from several threads; changing the host is done by one at a time.
    """

    def __init__(self, target: HostTarget, opener: Opener) -> None:
        self.target = target
        self.name = target.host.name
        self._opener = opener
        self._remote: Remote | None = None
        self._runner: HostRunner | None = None
        self._spec: ContainerSpec | None = None
        self._opening = Lock()
        self._changing = Lock()

    def look(self, probes: Sequence[Probe] = ()) -> Facts:
        """The answers to these probes; without any, all that its tasks ask."""
        return self._try(lambda remote, _: look(remote, probes or self.target.probes(), timeout=LOOK_TIMEOUT))

    def script(self, text: str, timeout: float) -> bytes:
        """What a sh script prints there; `timeout` in seconds."""
        return self._try(lambda remote, _: remote.script(text, timeout=timeout).out)

    def slots(self, facts: Facts) -> tuple[Slot, ...]:
        """Its slots. Raises TaskError where its driver does not answer."""
        slots = slots_of(self.target.host, facts)
        if slots is None:
            raise TaskError(
                f"{self.name}: the NVIDIA driver does not answer", remedy="see `fleet status`, mend it first"
            )
        return slots

    def engine(self, facts: Facts) -> Engine:
        """Its engine. Raises TaskError where none answers."""
        engine = parse_engine(facts[ENGINE_PROBE.key])
        if engine is None:
            raise TaskError(f"{self.name}: the Docker Engine does not answer", remedy="run `fleet provision`")
        return engine

    def spec(self, facts: Facts | None = None) -> ContainerSpec:
        """What its slots run; the engine is asked once, or known from `facts`."""
        if facts is not None or self._spec is None:
            self._spec = self.target.spec(self.engine(facts or self.look((ENGINE_PROBE,))))
        return self._spec

    def containers(self) -> tuple[Container, ...]:
        """What runs there and what is fleet's, now. Raises TaskError where no engine answers."""
        found = parse_containers(self.look((CONTAINERS_PROBE,))[CONTAINERS_PROBE.key])
        if found is None:
            raise TaskError(f"{self.name}: the Docker Engine does not answer", remedy="run `fleet provision`")
        return found

    def resolve(self, image: str) -> str:
        """The digest that the image's registry has for it now."""
        auth = self.target.auth()
        arguments = {"reference": image, **({"auth": auth} if auth else {})}
        return str(self._try(lambda _, runner: runner.ask(EngineCall("resolve", arguments))))

    def pull(self, image: str, digest: str, say: Say) -> None:
        """Have these bytes, under this name too. Touches no container; what is there is not asked for."""
        images = parse_images(self.look((IMAGES_PROBE,))[IMAGES_PROBE.key]) or ()
        if known_digests(images, image, digest):
            source = f"{repository(image)}@{digest}"
            if label := tag(image):
                with self._changing:
                    self._ask("tag", source=source, reference=f"{repository(image)}:{label}")
            say("is there already")
            return
        auth = self.target.auth()
        arguments: dict[str, Any] = {"reference": image, "digest": digest, **({"auth": auth} if auth else {})}

        def progress(text: str, done: float, total: float) -> None:
            of = f" {_size(done)} of {_size(total)}" if total else ""
            say(f"{text}{of}")

        with self._changing:
            self._try(lambda _, runner: runner.ask(EngineCall("pull", arguments), progress))

    def place(
        self,
        slot: Slot,
        release: str,
        image: str,
        digest: str,
        say: Say,
        *,
        rollout: str,
        seen: Sequence[Container],
        discard: str = "",
        starting: Callable[[], None] = lambda: None,
    ) -> tuple[Container, ...]:
        """Have the slot run this release and nothing else; see `fleet.rollout.swap`.

        A container that is made for it bears the label `fleet.rollout`; what is of the release `discard` is
        removed. `seen` is what the slot has, just looked at. `starting` is called when the one before has
        ended and the new one is about to be started. What the host has afterwards.
        """
        spec = self.spec()
        body = self._body(slot, release, image, digest, rollout)
        with self._changing:
            try:
                steps = place_steps(
                    slot, seen, release, body, stop_timeout=spec.stop_timeout, discard=discard
                )
            except ValueError as error:
                raise TaskError(
                    f"{slot.name}: its container of release {release} ({image}) is gone, and the playbook or "
                    "the inventory describes another one by now",
                    remedy="give the container its former settings again, or upgrade to that image anew",
                ) from error
            for step in steps:
                assert isinstance(step, EngineCall)
                if step.operation == "start":
                    starting()
                say(_WORDS.get(step.operation, step.operation))
                self._try(lambda _, runner, step=step: runner.ask(step))  # type: ignore[misc]
            return self.containers()

    def beside(
        self, slot: Slot, release: str, image: str, digest: str, say: Say, *, rollout: str
    ) -> tuple[Container, ...]:
        """Have a container of this release run beside the slot's own, on the port that is free of the two.

        What the host has afterwards.
        """
        with self._changing:
            containers = self.containers()
            usual, second = ports_of(self.target.host, slot)
            current = in_place(containers, slot)
            taken = {port.host_port for port in current.ports} if current else set()
            port = second if usual in taken else usual
            body = self._body(slot, release, image, digest, rollout, port)
            for step in beside_steps(slot, containers, release, port, body):
                say(_WORDS.get(step.operation, step.operation))
                self._try(lambda _, runner, step=step: runner.ask(step))  # type: ignore[misc]
            return self.containers()

    def prune(self, slots: Sequence[Slot], retain: int, keep: Sequence[str]) -> None:
        """Remove the slots' stopped containers beyond `retain` releases, then images that nothing needs.

        Only images of the repositories in `keep` (image names) are looked at.
        """
        with self._changing:
            containers = self.containers()
            for slot in slots:
                for gone in excess(of_slot(containers, slot), retain):
                    self._ask("remove", name=gone.name, force=True)
            used = {container.image_id for container in self.containers()}
            images = parse_images(self.look((IMAGES_PROBE,))[IMAGES_PROBE.key]) or ()
            for image in images:
                if image.id not in used and _of(image, keep):
                    self._ask("remove_image", reference=image.id, force=True)

    def close(self) -> None:
        """End the connection; never raises."""
        with self._opening:
            self._close()

    def _body(
        self, slot: Slot, release: str, image: str, digest: str, rollout: str, port: int | None = None
    ) -> Mapping[str, Any] | None:
        """What makes the container; None where the playbook does not describe this release."""
        spec = self.spec()
        if not release or release_of(spec, digest) != release:
            return None
        body = create_body(spec, slot, digest, port)
        labels = {**body["Labels"], "fleet.image": image, "fleet.rollout": rollout}
        return {**body, "Image": f"{repository(image)}@{digest}", "Labels": labels}

    def _ask(self, operation: str, **arguments: Any) -> None:
        self._try(lambda _, runner: runner.ask(EngineCall(operation, arguments)))

    def _try(self, do: Callable[[Remote, HostRunner], T]) -> T:
        """Do it on the open connection, or on a new one where that was lost. Every step may be repeated."""
        try:
            return do(*self._open())
        except UnreachableError:
            self.close()
            return do(*self._open())

    def _open(self) -> tuple[Remote, HostRunner]:
        with self._opening:
            if self._remote is None or self._runner is None:
                remote, runner = self._opener(self.name)
                assert isinstance(runner, HostRunner)
                self._remote, self._runner = remote, runner
            return self._remote, self._runner

    def _close(self) -> None:
        if self._runner is not None:
            self._runner.close()
        if self._remote is not None:
            self._remote.close()
        self._remote = self._runner = None


_WORDS: Mapping[str, str] = {
    "stop": "stopping the old container",
    "rename": "setting it aside",
    "remove": "removing what is left over",
    "create": "creating the container",
    "start": "starting it",
}


def known_digests(images: Sequence[Image], image: str, digest: str) -> tuple[str, ...]:
    """Every digest that the bytes go by on a host; empty where the host has them not."""
    exact = f"{repository(image)}@{digest}"
    for each in images:
        if exact in each.digests or each.id == digest:
            return digests_of(each, image)
    return ()


def _of(image: Image, names: Sequence[str]) -> bool:
    known = {repository(name) for name in names}
    return any(repository(reference) in known for reference in (*image.tags, *image.digests))


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
