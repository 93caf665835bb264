"""Images that a playbook's hosts ask for one by one: each layer comes to a site once, by its seed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fleet.docker.sites import seeds_of, site_of
from fleet.engine.hostrun import Opener, internal
from fleet.engine.results import HostEvent, TaskFinished
from fleet.errors import FleetError, TaskError
from fleet.images.bring import Brought, bring, forget
from fleet.model.host import Host
from fleet.rollout.stopping import Interrupted

_MODULE = "docker_image"


@dataclass(frozen=True)
class HostImage:
    """A host that is to have an image, with its registry's login; implements `fleet.images.plan.Target`."""

    host: Host
    login: Mapping[str, Any] | None = None

    def auth(self) -> Mapping[str, Any] | None:
        """The login."""
        return self.login


@dataclass
class _Asked:
    """A host's wish, and how it ended."""

    target: HostImage
    image: str
    digest: str
    say: Callable[[str], None]
    stop: Callable[[], bool]
    ended: bool = False
    error: FleetError | None = None

    @property
    def name(self) -> str:
        return self.target.host.name


class Sites:
    """What `fleet.engine.run` does for the module `docker_image` where a site has a seed.

    `hosts` is the inventory's, `asking` those whose tasks ask for images in this run, at most `forks` at once
    (0: all). Hosts wait for their seed to come that far; what it fetched stays with it until `close`.
    """

    def __init__(
        self, hosts: Mapping[str, Host], opener: Opener, asking: Collection[str], *, forks: int = 0
    ) -> None:
        self._hosts = hosts
        self._opener = opener
        self._asking = asking
        self._forks = forks
        self._seeds = seeds_of(hosts.values())
        self._changed = threading.Condition()
        self._waiting: list[_Asked] = []
        self._busy: set[str] = set()
        self._passed: set[str] = set()
        self._failed: set[str] = set()
        self._digests: dict[str, str] = {}
        self._kept: list[tuple[str, Brought]] = []

    def operate(
        self, host: str, arguments: Mapping[str, Any], say: Callable[[str], None], stop: Callable[[], bool]
    ) -> None:
        """Have one host have an image; blocks until it has. Raises FleetError."""
        image, digest = str(arguments["reference"]), str(arguments.get("digest") or "")
        target = HostImage(self._hosts[host], arguments.get("auth"))
        mine = _Asked(target, image, digest, say, stop)
        batch = self._wait(mine)
        if batch:
            self._bring(batch)
        if mine.error is not None:
            raise mine.error

    def listen(self, event: object) -> None:
        """Learn from the run how far the seeds are."""
        with self._changed:
            if isinstance(event, TaskFinished):
                result = event.result
                if result.status == "failed" and not result.ignored:
                    self._failed.add(result.host)
                elif result.module == _MODULE:
                    self._passed.add(result.host)
            elif isinstance(event, HostEvent) and event.state in ("failed", "unreachable"):
                self._failed.add(event.host)
            self._changed.notify_all()

    def close(self) -> None:
        """Have the seeds forget what they kept for others; never raises."""
        for seed, brought in self._kept:
            with contextlib.suppress(FleetError):
                forget(brought, seed, self._opener)

    def _wait(self, mine: _Asked) -> list[_Asked]:
        """Until its image has been brought (empty), or it is for this host to bring that, to which others."""
        site = site_of(mine.target.host)
        with self._changed:
            self._waiting.append(mine)
            self._changed.notify_all()
            told = False
            while not mine.ended:
                if mine.stop():
                    self._waiting.remove(mine)
                    mine.error = _interrupted(mine.name)
                    return []
                if site not in self._busy and self._settled(site):
                    batch = [each for each in self._waiting if self._together(each, mine)]
                    self._waiting = [each for each in self._waiting if each not in batch]
                    self._busy.add(site)
                    return batch
                if not told:
                    mine.say(f"waiting for {self._seeds[site]}, which fetches it for its site")
                    told = True
                self._changed.wait(0.5)
        return []

    def _settled(self, site: str) -> bool:
        """Whether nobody is to wait for the seed; where waiting hosts take all forks, it cannot come."""
        seed = self._seeds[site]
        there = seed not in self._asking or seed in self._passed | self._failed
        return there or self._asks(seed) or 0 < self._forks <= len(self._waiting)

    def _asks(self, name: str) -> bool:
        return any(each.name == name for each in self._waiting)

    def _together(self, one: _Asked, other: _Asked) -> bool:
        same = (one.image, one.digest) == (other.image, other.digest)
        return same and site_of(one.target.host) == site_of(other.target.host)

    def _bring(self, batch: list[_Asked]) -> None:
        site = site_of(batch[0].target.host)
        errors: Mapping[str, FleetError] = {}
        try:
            errors = self._errors(batch, self._seeds[site])
        except Interrupted:
            errors = {each.name: _interrupted(each.name) for each in batch}
        except FleetError as error:
            errors = {each.name: error for each in batch}
        except Exception as error:
            errors = {each.name: internal("bringing the image", error) for each in batch}
        finally:
            with self._changed:
                for each in batch:
                    each.error, each.ended = errors.get(each.name), True
                self._busy.discard(site)
                self._changed.notify_all()

    def _errors(self, batch: list[_Asked], seed: str) -> Mapping[str, FleetError]:
        asked = {each.name: each for each in batch}
        first = batch[0]
        seeding = seed in asked or seed in self._passed
        if not seeding and seed in self._failed:
            return {name: _no_seed(name, seed) for name in asked}
        targets = {name: each.target for name, each in asked.items()}
        if seeding and seed not in targets:
            targets[seed] = replace(first.target, host=self._hosts[seed])

        def say(host: str, text: str) -> None:
            if first.stop():
                raise Interrupted
            if host in asked:
                asked[host].say(text)

        digest = first.digest or self._digests.get(first.image, "")
        keep = (seed,) if seeding else ()
        brought = bring(targets, self._opener, first.image, digest, say, seeding=seeding, keep=keep)
        self._digests[first.image] = brought.plan.digest
        if seeding:
            self._kept.append((seed, brought))
        errors = dict(brought.outcome.errors)
        own = errors.get(seed)
        if own is not None and seed not in asked:
            for name in asked:
                errors[name].output = str(own)
        return errors


def _interrupted(host: str) -> TaskError:
    return TaskError(
        f"{host}: the run was interrupted before the image had come",
        remedy="run this again: it goes on where it was",
    )


def _no_seed(host: str, seed: str) -> TaskError:
    return TaskError(
        f"{host}: {seed}, which was to seed its site, failed",
        remedy=f"mend {seed}, or take `image_seed` from it: each host then asks the registry itself",
    )
