"""What `fleet image pull` would do: what the image weighs, what each host lacks, who gets it from whom."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar

from fleet.docker.answers import Engine, Image
from fleet.docker.probe import ENGINE_PROBE, IMAGES_PROBE, parse_engine, parse_images
from fleet.docker.pulling import RegistryLogin
from fleet.docker.references import familiar, find_digest, tag
from fleet.docker.shared import Shared
from fleet.docker.sites import seeds_of, site_of
from fleet.engine.everyone import MAX_FORKS, ask_all, parted
from fleet.engine.runner import HostRunner
from fleet.errors import FleetError, TaskError
from fleet.images.ask import HostRegistry
from fleet.images.fetch import stored
from fleet.images.layers import LAYERS_PROBE, Held, check_room, held, parse_layers, whole_size
from fleet.images.load import store_of
from fleet.images.manifest import Manifest
from fleet.images.source import Source, source_of
from fleet.images.wire import Wire
from fleet.model.facts import Facts
from fleet.model.host import Host
from fleet.model.steps import EngineCall
from fleet.rollout.disk import free_script, parse_free
from fleet.ssh.remote import Remote

T = TypeVar("T")


class Target(Protocol):
    """A host that is to have an image, and the login that it is fetched with."""

    @property
    def host(self) -> Host:
        """The host."""
        ...

    def auth(self) -> Mapping[str, Any] | None:
        """`username` and `password` (a Secret); None without a login."""
        ...


THERE, NAME, PULL = "there", "name", "pull"
"""What a host needs: nothing; only the tag; the image."""


@dataclass(frozen=True)
class HostPlan:
    """One host. `seed` names the host of its site that it gets the image from, empty for the registry.

    `held` and `manifest` are None where nothing is to be fetched for it, or where the engine is to do it.
    """

    host: Host
    needs: str
    store: str = ""
    held: Held | None = None
    manifest: Manifest | None = None
    stored: int = 0
    seed: str = ""


@dataclass(frozen=True)
class PullPlan:
    """All hosts by name, in the inventory's order; those that cannot be worked on have an error instead."""

    image: str
    digest: str
    size: int
    layers: int
    hosts: Mapping[str, HostPlan]
    failed: Mapping[str, FleetError]

    def served_by(self, seed: str) -> tuple[HostPlan, ...]:
        """The hosts that get the image from this one."""
        return tuple(each for each in self.hosts.values() if each.seed == seed)

    @property
    def seeds(self) -> tuple[str, ...]:
        """The hosts that others get the image from."""
        return tuple(dict.fromkeys(each.seed for each in self.hosts.values() if each.seed))


@dataclass(frozen=True)
class _Seen:
    """What a host said: its engine, its images, their layers."""

    facts: Facts
    engine: Engine
    images: tuple[Image, ...]


class Planner:
    """Asks hosts and the registry. `engine` leaves layers to the engine; `seeding` heeds `image_seed`."""

    def __init__(
        self, targets: Mapping[str, Target], wires: Mapping[str, Wire], image: str, *, forks: int = 0
    ) -> None:
        self._targets = targets
        self._wires = wires
        self._image = image
        self._forks = forks or max(1, min(len(targets), MAX_FORKS))
        self._shared = Shared()
        self._failed: dict[str, FleetError] = {}

    def plan(self, digest: str = "", *, engine: bool = False, seeding: bool = True) -> PullPlan:
        """The plan. Raises FleetError where no host could ask the registry; changes nothing."""
        self._failed = {}
        by_site = seeds_of([target.host for target in self._targets.values()]) if seeding else {}
        seen = self._each(self._targets, self._see)
        digest = digest or self._image.partition("@")[2] or self._resolve(seen, engine)
        wholes = (whole_size(each.images, self._image, digest) for each in seen.values())
        unpacked = next((size for size in wholes if size), None)
        done = {
            name: HostPlan(self._targets[name].host, needs, store_of(seen[name].engine.root_dir))
            for name in seen
            if (needs := self._needs(seen[name], digest)) != PULL or engine
        }
        rest = {name: seen[name] for name in seen if name not in done}
        # A seed that has the image already must fetch what the others lack.
        seeds = {by_site[site_of(self._targets[name].host)] for name in rest if self._seed(name, by_site)}
        asked = {**rest, **{name: seen[name] for name in seeds if name in seen}}
        planned = self._each(asked, lambda name: self._weigh(name, seen[name], digest, unpacked))
        hosts = {
            name: planned.get(name) or done[name]
            for name in self._targets
            if (name in planned or name in done) and name not in self._failed
        }
        for name in rest:
            seed = self._seed(name, by_site)
            if name in hosts and seed:
                hosts[name] = replace(hosts[name], seed=seed)
        for seed in {host.seed for host in hosts.values()} & set(hosts):
            self._check_seed(hosts, seed)
        hosts = {name: host for name, host in hosts.items() if name not in self._failed}
        some = next((each.manifest for each in hosts.values() if each.manifest), None)
        return PullPlan(
            self._image,
            digest,
            some.size if some else 0,
            len(some.layers) if some else 0,
            hosts,
            self._failed,
        )

    def source(self, digest: str) -> Source:
        """The image in its registry."""
        return source_of(self._image, digest)

    def registry(self, remote: Remote, digest: str) -> HostRegistry:
        """The image's registry as a host reaches it, with the playbook's login."""
        return HostRegistry(remote, self.source(digest), login_of(self._targets[remote.name]))

    def _see(self, name: str) -> _Seen:
        facts = self._wires[name].look(IMAGES_PROBE, ENGINE_PROBE, LAYERS_PROBE)
        engine, images = parse_engine(facts[ENGINE_PROBE.key]), parse_images(facts[IMAGES_PROBE.key])
        if engine is None or images is None:
            raise TaskError(f"{name}: the Docker Engine does not answer", remedy="run `fleet provision`")
        return _Seen(facts, engine, images)

    def _resolve(self, seen: Mapping[str, _Seen], by_engine: bool) -> str:
        """The digest that the registry has for the tag now: one answer for all hosts."""
        last: FleetError = TaskError(
            "no host could be asked",
            output="\n".join(str(error) for error in self._failed.values()),
            remedy="`fleet status` shows what is wrong",
        )
        for name in seen:
            try:
                return self._wires[name].do(partial(self._ask, name, seen[name].engine, by_engine))
            except FleetError as error:
                last = error
        raise last

    def _ask(self, name: str, engine: Engine, by_engine: bool, remote: Remote, runner: HostRunner) -> str:
        if not by_engine:
            return self._manifest(remote, "", engine)[0]
        auth = self._targets[name].auth()
        return str(
            runner.ask(EngineCall("resolve", {"reference": self._image, **({"auth": auth} if auth else {})}))
        )

    def _needs(self, seen: _Seen, digest: str) -> str:
        found = find_digest(seen.images, self._image, digest)
        if found is None:
            return PULL
        named = not tag(self._image) or familiar(self._image.partition("@")[0]) in found.tags
        return THERE if named else NAME

    def _seed(self, name: str, by_site: Mapping[str, str]) -> str:
        seed = by_site.get(site_of(self._targets[name].host), "")
        return "" if seed == name else seed

    def _check_seed(self, hosts: Mapping[str, HostPlan], name: str) -> None:
        """A seed stores what others lack, too."""
        host = hosts[name]
        assert host.held is not None
        others = (other.held for other in hosts.values() if other.seed == name and other.held)
        more = {blob for held in others for blob in held.missing} - set(host.held.missing)
        needed = host.held.needed + sum(blob.size for blob in more) * 11 // 10
        try:
            check_room(name, host.store.rpartition("/")[0], replace(host.held, needed=needed))
        except FleetError as error:
            self._failed[name] = error

    def _manifest(self, remote: Remote, digest: str, engine: Engine) -> tuple[str, Manifest, tuple[str, ...]]:
        def ask() -> tuple[str, Manifest, tuple[str, ...]]:
            registry = self.registry(remote, digest)
            authorization = registry.authorization()
            top, manifest = registry.manifest(engine.architecture, authorization)
            return top, manifest, registry.diff_ids(manifest, authorization)

        found = self._shared.once((digest, engine.architecture), ask)
        # What a tag means is known by its digest from now on.
        return self._shared.once((found[0], engine.architecture), lambda: found)

    def _weigh(self, name: str, seen: _Seen, digest: str, unpacked: int | None) -> HostPlan:
        store = store_of(seen.engine.root_dir)

        def ask(remote: Remote) -> HostPlan:
            _, manifest, diff_ids = self._manifest(remote, digest, seen.engine)
            out = remote.script(free_script(seen.engine.root_dir), timeout=60).out
            there = stored(remote, store)
            found = held(
                manifest,
                diff_ids,
                parse_layers(seen.facts[LAYERS_PROBE.key]),
                seen.engine,
                free=parse_free(out),
                unpacked=unpacked,
                stored=sum(there.get(blob.hex, 0) for blob in manifest.blobs),
            )
            check_room(name, seen.engine.root_dir, found)
            had = sum(min(there.get(blob.hex, 0), blob.size) for blob in found.missing)
            needs = self._needs(seen, digest)
            return HostPlan(self._targets[name].host, needs, store, found, manifest, had)

        return self._wires[name].do(lambda remote, _: ask(remote))

    def _each(self, names: Sequence[str] | Mapping[str, object], work: Callable[[str], T]) -> dict[str, T]:
        """Every host's answer, side by side; one that fails has its error in `_failed`."""

        found, failed = parted(ask_all(names, work, "planning the pull", at_once=self._forks))
        self._failed.update(failed)
        return found


def login_of(target: Target) -> RegistryLogin | None:
    """The login that the playbook's `docker_image` uses; None without one."""
    auth = target.auth()
    return RegistryLogin(str(auth["username"]), auth["password"]) if auth else None
