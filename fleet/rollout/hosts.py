"""One GPU host during a rollout: its connection, its containers, its images."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from threading import Lock
from typing import Any, TypeVar

from fleet.docker.answers import Container, Engine, Image
from fleet.docker.probe import (
    CONTAINERS_PROBE,
    ENGINE_PROBE,
    IMAGES_PROBE,
    image_user_probe,
    parse_containers,
    parse_engine,
    parse_images,
)
from fleet.docker.references import digests_of, find_digest, repository, source_of, tag
from fleet.engine.hostrun import LOOK_TIMEOUT, Opener
from fleet.engine.look import look
from fleet.engine.runner import HostRunner
from fleet.errors import TaskError, UnreachableError
from fleet.gpu.container import ContainerSpec, create_body, release_of
from fleet.gpu.sizes import size_text
from fleet.gpu.slots import ports_of, slots_of
from fleet.model.facts import Facts, Probe
from fleet.model.slot import Slot
from fleet.model.steps import EngineCall, Step
from fleet.rollout.confined import check_made, refuse_root
from fleet.rollout.disk import check_disk, estimate
from fleet.rollout.ports import other_port
from fleet.rollout.pruning import unneeded
from fleet.rollout.swap import beside_steps, excess, in_place, of_slot, place_steps
from fleet.rollout.targets import HostTarget
from fleet.ssh.remote import Remote

T = TypeVar("T")
Say = Callable[[str], None]
Allowed = Callable[[], None]
"""Asked just before every change of the host: raises LeaseError where it is another's by now."""

_LOSSES = 2
"""So many losses of the connection a change may go on after."""


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
        """Have these bytes, under this name too. Touches no container; what is there is not asked for.

        Raises TaskError where there is hardly the room for them, or where they would run as root against the
        playbook's word.
        """
        facts = self.look((IMAGES_PROBE, CONTAINERS_PROBE, ENGINE_PROBE))
        engine = self.engine(facts)
        images = parse_images(facts[IMAGES_PROBE.key]) or ()
        if (found := find_digest(images, image, digest)) is not None:
            if label := tag(image):
                source = source_of(found, image, digest)
                with self._changing:
                    self._ask("tag", source=source, reference=f"{repository(image)}:{label}")
            self._refuse_root(image, digest, facts)
            say("is there already")
            return
        needed = estimate(images, parse_containers(facts[CONTAINERS_PROBE.key]) or (), image)
        check_disk(self.name, engine.root_dir, needed, self.script)
        auth = self.target.auth()
        arguments: dict[str, Any] = {"reference": image, "digest": digest, **({"auth": auth} if auth else {})}

        def progress(text: str, done: float, total: float) -> None:
            say(f"{text} {size_text(done)} of {size_text(total)}" if total else text)

        with self._changing:
            self._try(lambda _, runner: runner.ask(EngineCall("pull", arguments), progress))
        self._refuse_root(image, digest, facts)

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
        allowed: Allowed = lambda: None,
    ) -> tuple[Container, ...]:
        """Have the slot run this release and nothing else; see `fleet.rollout.swap`.

        A container that is made for it bears the label `fleet.rollout`; what is of the release `discard` is
        removed. `seen` is what the slot has, just looked at. `starting` is called when the one before has
        ended and the new one is about to be started. What the host has afterwards.
        """
        timeout = self.spec().stop_timeout

        def steps(found: Sequence[Container]) -> Sequence[Step]:
            try:
                return place_steps(slot, found, release, body, stop_timeout=timeout, discard=discard)
            except ValueError as error:
                raise _undescribed(slot, release, image) from error

        with self._changing:
            body = self._body(slot, release, image, digest, rollout)
            found = self._carry_out(steps, seen, say, allowed, starting)
        check_made(self.name, self.spec, of_slot(found, slot), release, seen)
        return found

    def beside(
        self,
        slot: Slot,
        release: str,
        image: str,
        digest: str,
        say: Say,
        *,
        rollout: str,
        allowed: Allowed = lambda: None,
    ) -> tuple[Container, ...]:
        """Have a container of this release run beside the slot's own, on the port that is free of the two.

        What the host has afterwards.
        """

        def steps(found: Sequence[Container]) -> Sequence[Step]:
            port = other_port(ports_of(self.target.host, slot), in_place(found, slot))
            body = self._body(slot, release, image, digest, rollout, port)
            try:
                return beside_steps(slot, found, release, body)
            except ValueError as error:
                raise _undescribed(slot, release, image) from error

        with self._changing:
            seen = self.containers()
            found = self._carry_out(steps, seen, say, allowed)
        check_made(self.name, self.spec, of_slot(found, slot), release, seen)
        return found

    def prune(
        self,
        slots: Sequence[Slot],
        retain: int,
        keep: Sequence[str],
        digests: Collection[str] = (),
        allowed: Allowed = lambda: None,
    ) -> None:
        """Remove the slots' stopped containers beyond `retain` releases, then images that nothing needs.

        Images go where they are of the repositories in `keep` (image names), this fleet ran them (`digests`,
        and what the slots' containers are labelled with) and no container of the host, whoever's, was made
        from them.
        """

        def steps(found: Sequence[Container]) -> Sequence[Step]:
            gone = [each for slot in slots for each in excess(of_slot(found, slot), retain)]
            return [EngineCall("remove", {"name": each.name, "id": each.id}) for each in gone]

        with self._changing:
            found = self.containers()
            labels = (each.labels for slot in slots for each in of_slot(found, slot))
            ran = {*digests, *(label["fleet.digest"] for label in labels if label.get("fleet.digest"))}
            self._carry_out(steps, found, lambda _: None, allowed)
            images = parse_images(self.look((IMAGES_PROBE,))[IMAGES_PROBE.key]) or ()
            used = self._ask("images_in_use")
            for reference in unneeded(images, used, keep, ran):
                self._ask("remove_image", allowed, reference=reference)

    def close(self) -> None:
        """End the connection; never raises."""
        with self._opening:
            self._close()

    def _refuse_root(self, image: str, digest: str, facts: Facts) -> None:
        spec = self.spec(facts)
        if spec.non_root:
            images = parse_images(self.look((IMAGES_PROBE,))[IMAGES_PROBE.key]) or ()
            probe = image_user_probe(source_of(find_digest(images, image, digest), image, digest))
            refuse_root(self.name, spec, image, self.look((probe,))[probe.key])

    def _body(
        self, slot: Slot, release: str, image: str, digest: str, rollout: str, port: int | None = None
    ) -> Mapping[str, Any] | None:
        """What makes the container; None where the playbook does not describe this release."""
        spec = self.spec()
        if not release or release_of(spec, digest) != release:
            return None
        body = create_body(spec, slot, digest, port)
        labels = {**body["Labels"], "fleet.image": image, "fleet.rollout": rollout}
        images = parse_images(self.look((IMAGES_PROBE,))[IMAGES_PROBE.key]) or ()
        source = source_of(find_digest(images, image, digest), image, digest)
        return {**body, "Image": source, "Labels": labels}

    def _carry_out(
        self,
        steps: Callable[[Sequence[Container]], Sequence[Step]],
        seen: Sequence[Container],
        say: Say,
        allowed: Allowed,
        starting: Callable[[], None] = lambda: None,
    ) -> tuple[Container, ...]:
        """Do the steps that lead on from what is `seen`; what the host has afterwards.

        Whether a step was done when the connection was lost is looked at, for most cannot be done twice.
        """
        for losses in range(_LOSSES + 1):
            try:
                for step in steps(seen):
                    assert isinstance(step, EngineCall)
                    if step.operation == "start":
                        starting()
                    say(_WORDS.get(step.operation, step.operation))
                    self._once(lambda _, runner, step=step: runner.ask(step), allowed)  # type: ignore[misc]
                break
            except UnreachableError:
                if losses == _LOSSES:
                    raise
                seen = self.containers()
                allowed()
        return self.containers()

    def _ask(self, operation: str, allowed: Allowed = lambda: None, /, **arguments: Any) -> Any:
        return self._try(lambda _, runner: runner.ask(EngineCall(operation, arguments)), allowed)

    def _try(self, do: Callable[[Remote, HostRunner], T], allowed: Allowed = lambda: None) -> T:
        """Do it, once more where the connection was lost: only what may be done twice, such as a look."""
        try:
            return self._once(do, allowed)
        except UnreachableError:
            return self._once(do, allowed)

    def _once(self, do: Callable[[Remote, HostRunner], T], allowed: Allowed) -> T:
        """Do it on the open connection, or on a new one; one that fails is closed."""
        remote, runner = self._open()
        # Only now: to open a connection may take as long as somebody else needs to take the lease over.
        allowed()
        try:
            return do(remote, runner)
        except UnreachableError:
            with self._opening:
                # Another thread may have closed it before us, and opened the next one.
                if self._remote is remote:
                    self._close()
            raise

    def _open(self) -> tuple[Remote, HostRunner]:
        with self._opening:
            if self._remote is None or self._runner is None:
                remote, runner = self._opener(self.name)
                assert isinstance(runner, HostRunner)
                self._remote, self._runner = remote, runner
            return self._remote, self._runner

    def _close(self) -> None:
        remote, runner = self._remote, self._runner
        self._remote = self._runner = None
        if runner is not None:
            with contextlib.suppress(Exception):
                runner.close()
        if remote is not None:
            remote.close()


_WORDS: Mapping[str, str] = {
    "stop": "stopping the old container",
    "rename": "setting it aside",
    "remove": "removing what is left over",
    "create": "creating the container",
    "start": "starting it",
}


def known_digests(images: Sequence[Image], image: str, digest: str) -> tuple[str, ...]:
    """Every digest that the bytes go by on a host; empty where the host has them not."""
    found = find_digest(images, image, digest)
    return digests_of(found, image) if found is not None else ()


def _undescribed(slot: Slot, release: str, image: str) -> TaskError:
    return TaskError(
        f"{slot.name}: its container of release {release} ({image}) is gone, and the playbook or "
        "the inventory describes another one by now",
        remedy="give the container its former settings again, or upgrade to that image anew",
    )
