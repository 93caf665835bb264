"""Image references: what a name like `registry.example:5000/app:v1` means on a host."""

from __future__ import annotations

from collections.abc import Iterable

from fleet.docker.answers import Image


def familiar(reference: str) -> str:
    """A reference as the engine lists it: without Docker Hub's name, with the tag `latest` spelt out."""
    short = reference.removeprefix("docker.io/").removeprefix("library/")
    if "@" in short:
        return f"{repository(short)}@{short.partition('@')[2]}"
    return short if repository(short) != short else f"{short}:latest"


def repository(reference: str) -> str:
    """A reference without tag and digest; a registry's port is no tag."""
    short = reference.partition("@")[0].removeprefix("docker.io/").removeprefix("library/")
    head, colon, tag = short.rpartition(":")
    return head if colon and "/" not in tag else short


def tag(reference: str) -> str:
    """The tag of a reference; empty where only a digest names the image."""
    name = reference.partition("@")[0].rpartition("/")[2]
    return name.partition(":")[2] or ("" if "@" in reference else "latest")


def find_image(images: Iterable[Image], reference: str) -> Image | None:
    """The local image a reference means, by tag, digest or id."""
    wanted = familiar(reference)
    for image in images:
        if image.id == reference or wanted in image.tags or wanted in image.digests:
            return image
    return None


def digests_of(image: Image, reference: str) -> tuple[str, ...]:
    """Every digest the image goes by, the best first: its repository's, then its own id.

    A registry may know an image by an index's and by a manifest's digest, and one that was loaded from a
    file by none. Whichever a container was labelled with, the bytes are the same.
    """
    wanted = repository(reference)
    known = (digest.partition("@") for digest in image.digests)
    return (*sorted(digest for name, _, digest in known if name == wanted), image.id)


def find_digest(images: Iterable[Image], reference: str, digest: str) -> Image | None:
    """The local image with these bytes: its repository's digest is this one, or its own id is."""
    exact = f"{repository(reference)}@{digest}"
    return next((image for image in images if exact in image.digests or image.id == digest), None)


def source_of(image: Image | None, reference: str, digest: str) -> str:
    """What the engine is told to mean these bytes; `image` is what `find_digest` found.

    One that was loaded from a file is known by no registry's digest, so its id has to do.
    """
    exact = f"{repository(reference)}@{digest}"
    return image.id if image is not None and exact not in image.digests else exact
