"""Which images of the service a host can do without, and removing them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from fleet.docker.answers import Image
from fleet.docker.probe import (
    CONTAINERS_PROBE,
    ENGINE_PROBE,
    IMAGES_PROBE,
    parse_containers,
    parse_engine,
    parse_images,
)
from fleet.docker.references import familiar, repository
from fleet.engine.everyone import ask_all, parted
from fleet.engine.hostrun import LOOK_TIMEOUT
from fleet.engine.look import look
from fleet.engine.runner import HostRunner
from fleet.errors import FleetError, TaskError
from fleet.images.listing import Row, host_rows
from fleet.images.load import abandoned, clear, store_of
from fleet.images.wire import Wire
from fleet.model.steps import EngineCall
from fleet.rollout.pruning import unneeded
from fleet.ssh.remote import Remote


@dataclass(frozen=True)
class Pruned:
    """One host: the images that go, those that stay, what is left of pulls that never ended (bytes).

    `references` are what is removed one by one, without force; `store` where those pulls' bytes lie.
    """

    host: str
    gone: tuple[Row, ...]
    stay: tuple[Row, ...]
    references: tuple[str, ...] = ()
    store: str = ""
    leftovers: int = 0

    @property
    def changes(self) -> bool:
        """True where something is to be removed."""
        return bool(self.references or self.leftovers)


def choose(
    images: Sequence[Image],
    rows: Sequence[Row],
    in_use: Sequence[str],
    image: str,
    keep: int,
    named: Collection[str] = (),
) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """The rows that go, and the references to remove for that.

    What a container of the host was made from stays, whoever's it is and whether it runs or not: a release
    that is kept for a rollback has one. So do `image` and what else is `named`, and the `keep` newest of the
    rest, by when they were built.
    """
    names = {familiar(each) for each in (image, *named)}
    kept = {each.id for each in images if names & {*each.tags, *each.digests}}
    idle = [row for row in rows if row.id not in in_use and row.id not in kept]
    idle.sort(key=lambda row: (-row.created, row.id))
    gone = tuple(idle[keep:])
    ids = {row.id for row in gone}
    others = [each.id for each in images if each.id not in ids]
    mine = repository(image)
    digests = {
        text.partition("@")[2]
        for each in images
        if each.id in ids
        for text in each.digests
        if repository(text) == mine
    }
    loaded = {row.id for row in gone if not row.digest}
    return gone, unneeded(images, others, [image], {*digests, *loaded})


def prune(
    names: Sequence[str],
    wires: Mapping[str, Wire],
    image: str,
    *,
    keep: int,
    check: bool,
    named: Mapping[str, str],
    needed: Sequence[str] = (),
    forks: int = 0,
) -> tuple[Mapping[str, Pruned], Mapping[str, FleetError]]:
    """Look at every host and remove what it can do without of `image`'s repository; with `check` only look.

    `named` are the images that hosts are to have, by host, and `needed` what all of them need: these stay, as
    does `image`. Each host's part by its name, and the errors of those that failed.
    """

    def one(name: str) -> Pruned:
        mine = [*needed, named[name]] if named.get(name) else needed
        return wires[name].do(lambda remote, runner: _host(remote, runner, image, mine, keep, check))

    return parted(ask_all(names, one, "pruning its images", at_once=forks))


def _host(
    remote: Remote, runner: HostRunner, image: str, named: Sequence[str], keep: int, check: bool
) -> Pruned:
    facts = look(remote, (IMAGES_PROBE, CONTAINERS_PROBE, ENGINE_PROBE), timeout=LOOK_TIMEOUT)
    engine, images = parse_engine(facts[ENGINE_PROBE.key]), parse_images(facts[IMAGES_PROBE.key])
    containers = parse_containers(facts[CONTAINERS_PROBE.key])
    if engine is None or images is None or containers is None:
        raise TaskError(f"{remote.name}: the Docker Engine does not answer", remedy="run `fleet provision`")
    rows = host_rows(remote.name, images, containers, image)
    in_use: Sequence[str] = runner.ask(EngineCall("images_in_use", {}))
    gone, references = choose(images, rows, in_use, image, keep, named)
    store = store_of(engine.root_dir)
    left = abandoned(remote, store)
    stay = tuple(row for row in rows if row not in gone)
    found = Pruned(remote.name, gone, stay, references, store, left)
    if not check:
        for reference in references:
            runner.ask(EngineCall("remove_image", {"reference": reference}))
        if left:
            runner.execute(clear(store), _silent)
    return found


def _silent(text: str, done: float, total: float) -> None:
    """Nobody watches."""
