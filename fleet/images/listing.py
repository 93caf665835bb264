"""What images of the service the hosts have: one row for each on each host. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fleet.docker.answers import Container, Image
from fleet.docker.probe import CONTAINERS_PROBE, IMAGES_PROBE, parse_containers, parse_images
from fleet.docker.references import familiar, find_image, repository
from fleet.engine.observe import Seen
from fleet.errors import FleetError
from fleet.model.facts import Probe
from fleet.model.host import Host
from fleet.model.problem import Problem

PROBES: tuple[Probe, ...] = (IMAGES_PROBE, CONTAINERS_PROBE)


@dataclass(frozen=True)
class Row:
    """One image on one host. `digest` is its repository's, empty for one loaded from a file.

    `size` in bytes on disk, which layers shared with other images count in, too. `used` are the slots that
    run it, `kept` the releases of stopped containers that a rollback would start.
    """

    host: str
    id: str
    names: tuple[str, ...]
    digest: str
    size: int
    created: int = 0
    used: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    wanted: bool = False


@dataclass(frozen=True)
class Listing:
    """All rows, what is wrong, and the hosts that could not be asked."""

    image: str
    rows: tuple[Row, ...]
    problems: tuple[Problem, ...] = ()
    failed: Mapping[str, FleetError] = field(default_factory=dict)


def listing(hosts: Sequence[Host], seen: Mapping[str, Seen], image: str) -> Listing:
    """The images of `image`'s repository on these hosts, those that run first."""
    rows: list[Row] = []
    problems: list[Problem] = []
    failed: dict[str, FleetError] = {}
    wanted: dict[str, Image | None] = {}
    for host in hosts:
        facts = seen[host.name]
        if isinstance(facts, FleetError):
            failed[host.name] = facts
            problems.append(Problem(host.name, facts.message.removeprefix(f"{host.name}: "), facts.remedy))
            continue
        images = parse_images(facts[IMAGES_PROBE.key])
        if images is None:
            problems.append(Problem(host.name, "the Docker Engine does not answer", "run `fleet provision`"))
            continue
        containers = parse_containers(facts[CONTAINERS_PROBE.key]) or ()
        wanted[host.name] = find_image(images, image)
        rows += host_rows(host.name, images, containers, image)
    return Listing(image, tuple(rows), (*problems, *_problems(wanted, image)), failed)


def host_rows(
    host: str, images: Iterable[Image], containers: Sequence[Container], image: str
) -> tuple[Row, ...]:
    """One host's images of the service, those that run first, then the newest."""
    mine = repository(image)
    rows = []
    for each in images:
        names = tuple(name for name in each.tags if repository(name) == mine)
        digests = [text.partition("@")[2] for text in each.digests if repository(text) == mine]
        users = [container for container in containers if container.image_id == each.id and container.slot]
        # One without any name was this repository's: only so can a slot of the service run it.
        if not (names or digests or (users and not each.tags and not each.digests)):
            continue
        rows.append(
            Row(
                host,
                each.id,
                names,
                sorted(digests)[0] if digests else "",
                each.size,
                each.created,
                tuple(sorted({c.slot or "" for c in users if c.running})),
                tuple(sorted({c.labels.get("fleet.release", "?")[:8] for c in users if not c.running})),
                familiar(image) in each.tags or familiar(image) in each.digests,
            )
        )
    return tuple(sorted(rows, key=lambda row: (not row.used, not row.kept, -row.created, row.id)))


def _problems(wanted: Mapping[str, Image | None], image: str) -> Iterable[Problem]:
    digests = {name: _digest(found, image) for name, found in wanted.items() if found is not None}
    common = Counter(digests.values()).most_common(1)
    for name, found in wanted.items():
        if found is None:
            yield Problem(name, f"it lacks {image}", f"`fleet image pull {image}`")
        elif digests[name] != common[0][0]:
            yield Problem(
                name,
                f"its {image} is {_short(digests[name])}, that of most others {_short(common[0][0])}",
                f"`fleet image pull {image}` gives all the same",
            )


def _digest(image: Image, name: str) -> str:
    mine = repository(name)
    found = sorted(text.partition("@")[2] for text in image.digests if repository(text) == mine)
    return found[0] if found else image.id


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]
