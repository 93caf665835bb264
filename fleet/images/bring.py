"""Bringing an image to many hosts at once, for the commands that need it there: by their sites' seeds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from fleet.docker.sites import seeds_of, site_of
from fleet.engine.hostrun import Opener
from fleet.gpu.sizes import size_text
from fleet.images.plan import Planner, PullPlan, Target
from fleet.images.pull import Outcome, Pull
from fleet.images.wire import Wire
from fleet.rollout.targets import HostTarget

Say = Callable[[str, str], None]
"""Gets a host and what it does; may raise Interrupted."""


@dataclass(frozen=True)
class Brought:
    """A pull that was carried out, and can be asked to forget what it kept."""

    plan: PullPlan
    pull: Pull
    outcome: Outcome


def bringer(opener: Opener) -> Callable[[Mapping[str, HostTarget], str, str, Say], None]:
    """What `fleet.rollout.setting.Setting` has for bringing a release's image.

    Hosts of sites without a seed are left alone: their engines pull for themselves. The function raises the
    first host's FleetError, with the others' in its output.
    """

    def by_seeds(targets: Mapping[str, HostTarget], image: str, digest: str, say: Say) -> None:
        sites = seeds_of(target.host for target in targets.values())
        seeded = {name: target for name, target in targets.items() if site_of(target.host) in sites}
        if not seeded:
            return
        errors = list(bring(seeded, opener, image, digest, say).outcome.errors.values())
        if errors:
            first, *others = errors
            first.output = "\n".join(part for part in (first.output, *map(str, others)) if part)
            raise first

    return by_seeds


def bring(
    targets: Mapping[str, Target],
    opener: Opener,
    image: str,
    digest: str,
    say: Say,
    *,
    seeding: bool = True,
    keep: Collection[str] = (),
) -> Brought:
    """Have these hosts have the image; how each of them went. Raises FleetError where none could be asked.

    `keep` are hosts whose store is kept: see `Pull`.
    """

    def listen(host: str, words: str, done: int, total: int) -> None:
        say(host, f"{words} {size_text(done)} of {size_text(total)}" if total > 1 else words)

    wires = {name: Wire(name, opener) for name in targets}
    try:
        planner = Planner(targets, wires, image)
        plan = planner.plan(digest, seeding=seeding)
        pull = Pull(plan, planner, targets, wires, listen, keep=keep)
        return Brought(plan, pull, pull.run())
    finally:
        for wire in wires.values():
            wire.end()


def forget(brought: Brought, name: str, opener: Opener) -> None:
    """Have a seed forget what it kept of this image. Raises FleetError."""
    if name not in brought.plan.hosts:
        return
    wire = Wire(name, opener)
    try:
        wire.do(lambda remote, _: brought.pull.forget(remote))
    finally:
        wire.end()
