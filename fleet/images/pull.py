"""Carrying a pull plan out on all hosts at once. No container is touched, so no traffic is."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial

from fleet.docker.probe import IMAGES_PROBE, parse_images
from fleet.docker.references import find_digest, repository, source_of, tag
from fleet.docker.sites import seed_port
from fleet.engine.everyone import MAX_FORKS
from fleet.engine.hostrun import LOOK_TIMEOUT, internal
from fleet.engine.look import look
from fleet.engine.runner import HostRunner
from fleet.errors import FleetError, TaskError, UnreachableError
from fleet.images import load, seed
from fleet.images.fetch import Fetch
from fleet.images.manifest import Blob
from fleet.images.plan import NAME, THERE, HostPlan, Planner, PullPlan, Target
from fleet.images.seed import Seed
from fleet.images.source import basic
from fleet.images.wire import Wire
from fleet.model.secret import Secret
from fleet.model.steps import EngineCall
from fleet.rollout.stopping import Interrupted
from fleet.ssh.remote import Remote

Listen = Callable[[str, str, int, int], None]
"""Gets a host, what it does in a word or two, and bytes done of bytes to do (0: not known).

It may raise Interrupted, which ends the pull: what came so far is kept.
"""


@dataclass(frozen=True)
class Outcome:
    """How it ended: each host's state (`there`, `pulled`, `failed`), and the errors of those that failed."""

    states: Mapping[str, str]
    errors: Mapping[str, FleetError]


class Pull:
    """One run. `rate` in bytes a second for each host, 0 for no limit; `forks` hosts at once.

    A host that fails ends alone, but for those it was to seed. `keep` are hosts whose store is left as it is
    for another pull, until `forget`.
    """

    def __init__(
        self,
        plan: PullPlan,
        planner: Planner,
        targets: Mapping[str, Target],
        wires: Mapping[str, Wire],
        listen: Listen,
        *,
        rate: int = 0,
        forks: int = 0,
        keep: Collection[str] = (),
    ) -> None:
        self._plan = plan
        self._planner = planner
        self._targets = targets
        self._wires = wires
        self._listen = listen
        self._rate = rate
        self._keep = keep
        self._forks = forks or max(1, min(len(plan.hosts), MAX_FORKS))
        self._seeds: dict[str, Seed] = {}
        self._states: dict[str, str] = dict.fromkeys(plan.failed, "failed")
        self._errors: dict[str, FleetError] = dict(plan.failed)
        self._lock = threading.Lock()
        self._going: set[Future[None]] = set()

    def run(self) -> Outcome:
        """Have every host of the plan have the image, under its name and by its digest."""
        plan, whole = self._plan, False
        pool = ThreadPoolExecutor(max_workers=self._forks)
        try:
            first = [name for name in plan.hosts if not plan.hosts[name].seed]
            # Seeds are first in line, since others wait for them.
            for name in sorted(first, key=lambda name: name not in plan.seeds):
                self._submit(pool, name)
            for name in plan.seeds:
                if name not in plan.hosts:
                    self._give_up(name)
            self._finish()
            whole = True
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for name in list(self._seeds):
                self._end_or_say(name, whole)
        return Outcome(self._states, self._errors)

    def forget(self, remote: Remote) -> None:
        """Remove from a seed's store what it fetched of this image, for itself and for others."""
        host = self._plan.hosts[remote.name]
        others = (other.manifest for other in self._served(remote.name))
        for manifest in {each.digest: each for each in (host.manifest, *others) if each}.values():
            load.forget(remote, host.store, manifest)

    def _submit(self, pool: ThreadPoolExecutor, name: str) -> None:
        with self._lock:
            self._going.add(pool.submit(self._host, pool, name))

    def _submit_served(self, pool: ThreadPoolExecutor, name: str) -> None:
        for other in self._served(name):
            self._submit(pool, other.host.name)

    def _finish(self) -> None:
        while True:
            with self._lock:
                going = set(self._going)
            if not going:
                return
            done, _ = wait(going, return_when=FIRST_COMPLETED)
            with self._lock:
                self._going -= done
            for each in done:
                each.result()

    def _host(self, pool: ThreadPoolExecutor, name: str) -> None:
        host = self._plan.hosts[name]
        try:
            self._work(host, lambda: self._submit_served(pool, name))
            self._states[name] = "there" if host.needs == THERE else "pulled"
        except Interrupted:
            raise
        except Exception as error:
            known = error if isinstance(error, FleetError) else internal(f"pulling on {name}", error)
            self._states[name], self._errors[name] = "failed", known
            self._listen(name, "failed", 0, 0)
            if name not in self._seeds:
                self._give_up(name)
        else:
            self._listen(name, "done", 1, 1)

    def _work(self, host: HostPlan, ready: Callable[[], None]) -> None:
        name = host.host.name
        wire, manifest, held = self._wires[name], host.manifest, host.held
        served = self._served(name)
        if manifest is not None and held is not None:
            own = () if host.needs in (THERE, NAME) else held.missing
            others = (blob for other in served if other.held for blob in other.held.missing)
            blobs = tuple(dict.fromkeys((*own, *others)))
            self._fetch(host, blobs)
            if served:
                self._listen(name, "seeding", 0, 0)
                self._seeds[name] = wire.do(
                    lambda remote, _: seed.start(
                        remote, host.store, blobs, host.host.address, seed_port(host.host)
                    )
                )
                ready()
            if own:
                self._listen(name, "loading", 0, 0)
                wire.do(lambda remote, _: load.load(remote, host.store, manifest, own, held.present))
        if host.needs != THERE:
            wire.do(lambda remote, runner: self._name(remote, runner, host))
        if manifest is not None and not served and name not in self._keep:
            wire.do(lambda remote, _: load.forget(remote, host.store, manifest))

    def _fetch(self, host: HostPlan, blobs: Sequence[Blob]) -> None:
        name, total = host.host.name, sum(blob.size for blob in blobs)
        if not blobs:
            return
        giver = self._seeds.get(host.seed)
        source = giver.source if giver else self._planner.source(self._plan.digest)

        def authorize(remote: Remote) -> Secret | None:
            if giver:
                return basic(giver.login.username, giver.login.password)
            return self._planner.registry(remote, self._plan.digest).authorization()

        words = f"fetching from {giver.host}" if giver else "fetching"
        best = [-1]

        def progress(done: int) -> None:
            best[0] = max(best[0], done)
            self._listen(name, words, done, total)

        def run(remote: Remote, _: HostRunner) -> None:
            Fetch(
                host.store,
                source,
                blobs,
                lambda: authorize(remote),
                ca=giver.ca if giver else "",
                rate=self._rate,
            ).run(remote, progress)

        progress(min(host.stored, total))
        before = -2
        while True:
            try:
                self._wires[name].do(run)
                return
            except UnreachableError:
                # Over a bad line many connections may be lost in hours: only what brings nothing ends.
                if best[0] <= before:
                    raise
                before = best[0]

    def _name(self, remote: Remote, runner: HostRunner, host: HostPlan) -> None:
        """Have the engine ask its registry for the digest, and give it its name.

        What it lacks by now is the manifest alone; that its own image is what the registry means is the
        engine's finding, and the login is used for this as for any pull.
        """
        name, image, digest = host.host.name, self._plan.image, self._plan.digest
        if host.needs == NAME:
            facts = look(remote, (IMAGES_PROBE,), timeout=LOOK_TIMEOUT)
            images = parse_images(facts[IMAGES_PROBE.key]) or ()
            source = source_of(find_digest(images, image, digest), image, digest)
            runner.ask(
                EngineCall("tag", {"source": source, "reference": f"{repository(image)}:{tag(image)}"})
            )
            return
        auth = self._targets[name].auth()
        arguments = {"reference": image, "digest": digest, **({"auth": auth} if auth else {})}
        runner.ask(
            EngineCall("pull", arguments),
            lambda text, done, total: self._listen(name, text, int(done), int(total)),
        )

    def _served(self, name: str) -> tuple[HostPlan, ...]:
        return self._plan.served_by(name)

    def _give_up(self, name: str) -> None:
        for other in self._served(name):
            own = other.host.name
            self._states[own] = "failed"
            self._errors[own] = TaskError(
                f"{own}: {name}, which was to seed it, failed",
                remedy="mend that host, or have every host ask the registry: --no-seed",
            )
            self._listen(own, "failed", 0, 0)

    def _end_or_say(self, name: str, whole: bool) -> None:
        """A seed that cannot be ended fails nothing: the others have their bytes, and it ends by itself."""
        try:
            self._wires[name].do(partial(self._end_seed, name, whole))
        except Exception as error:
            known = error if isinstance(error, FleetError) else internal(f"ending the seed {name}", error)
            with contextlib.suppress(Interrupted):
                hours = seed.LONGEST // 3600
                self._listen(name, f"hands the image out for up to {hours} h more: {known.message}", 0, 0)

    def _end_seed(self, name: str, whole: bool, remote: Remote, _: HostRunner) -> None:
        """It serves no more. What it fetched is removed once nobody lacks it; else the next pull goes on."""
        seed.stop(remote, self._plan.hosts[name].store)
        lacking = [each for each in self._served(name) if self._states.get(each.host.name) != "pulled"]
        if whole and not lacking and name not in self._keep:
            self.forget(remote)
