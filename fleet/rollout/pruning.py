"""Which images a host can do without after a rollout: a pure function."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from fleet.docker.answers import Image
from fleet.docker.references import repository


def unneeded(
    images: Iterable[Image], used: Collection[str], keep: Collection[str], digests: Collection[str]
) -> tuple[str, ...]:
    """The references to remove, one by one and without force; the engine then drops what has none left.

    `used` are the ids of images that any container of the host was made from, `keep` names of the images that
    the rollout has to do with, `digests` those that this fleet ran. An image that it never ran stays, and so
    does every name that another repository gave.
    """
    mine = {repository(name) for name in keep}
    gone: list[str] = []
    for image in images:
        if image.id not in used:
            gone += _names(image, mine, digests)
    return tuple(gone)


def _names(image: Image, mine: Collection[str], digests: Collection[str]) -> tuple[str, ...]:
    every = [name for name in (*image.digests, *image.tags) if not name.startswith("<none>")]
    ours = tuple(name for name in every if repository(name) in mine)
    if image.id in digests:
        return ours if every else (image.id,)
    # With its last tag the engine drops a repository's digests by itself, so these come first.
    return ours if any(name.partition("@")[2] in digests for name in ours) else ()
